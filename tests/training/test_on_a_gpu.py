"""On a GPU: a replayed step is the step, a run repeats itself bit for bit, nothing waits, memory goes back."""

import gc
from dataclasses import replace

import pytest
import torch
from small_runs import AUGMENT, is_same, measured, small_spec, whole_state, with_data

from zsharp.data import prepare
from zsharp.data.training_data import TrainingData
from zsharp.optim import METHODS
from zsharp.training import AugmentSpec, Training

pytestmark = pytest.mark.gpu

EVERYTHING = {"clip_grad_norm": 0.5, "ema_decay": 0.9, "label_smoothing": 0.1, "augment": AUGMENT}
CASES = [
    *(pytest.param(method, "resnet8", {}, id=method) for method in METHODS),
    *(
        pytest.param(method, "resnet8", {"base_optimizer": base}, id=f"{method}-{base}")
        for method in ("base", "zsharp", "friendly_sam")
        for base in ("sgd", "adam")
    ),
    pytest.param("zsharp", "vit_tiny", {"precision": "bf16"}, id="vit-bf16"),
    pytest.param("random_sam", "vit_tiny", {}, id="vit-random_sam"),
    pytest.param("zsharp_friendly_sam", "resnet8", EVERYTHING, id="everything-on"),
    pytest.param("base", "resnet8", EVERYTHING | {"precision": "bf16"}, id="everything-on-bf16"),
]


@pytest.mark.parametrize(("method", "architecture", "settings"), CASES)
def test_replayed_steps_are_the_steps(method, architecture, settings):
    spec = small_spec(method, architecture, epochs=3, **settings)
    one_by_one = Training(spec, use_graph=False)
    expected = [one_by_one.run_epoch() for _ in range(3)]
    assert one_by_one._graph is None
    wanted = whole_state(one_by_one)
    replayed = Training(spec)
    assert measured([replayed.run_epoch() for _ in range(3)]) == measured(expected)
    assert replayed._graph is not None
    assert is_same(whole_state(replayed), wanted)


@pytest.mark.parametrize(("method", "architecture", "settings"), CASES)
def test_continuing_is_bit_identical(method, architecture, settings, tmp_path):
    spec = small_spec(method, architecture, epochs=4, **settings)
    whole = Training(spec)
    reports = [whole.run_epoch() for _ in range(4)]
    expected = whole_state(whole)
    first = Training(spec)
    again = [first.run_epoch() for _ in range(2)]
    first.save(tmp_path / "checkpoint.pt")
    second = Training(spec)
    torch.manual_seed(99)
    second.load(tmp_path / "checkpoint.pt")
    again += [second.run_epoch() for _ in range(2)]
    assert measured(again) == measured(reports)
    assert is_same(whole_state(second), expected)
    first.load(tmp_path / "checkpoint.pt")  # it has captured already
    assert measured([first.run_epoch() for _ in range(2)]) == measured(reports[2:])


@pytest.mark.parametrize("architecture", ["resnet20", "vgg11_bn", "vit_7_8_8_384"])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_large_models_repeat_themselves(architecture, precision):
    """On images of CIFAR-10's size, where faster kernels with sums in any order are at hand."""
    data = random_images()
    spec = small_spec("zsharp", architecture, precision=precision, batch_size=128)
    runs = [Training(spec, data) for _ in range(2)]
    reports = [measured([run.run_epoch() for _ in range(2)]) for run in runs]
    assert reports[0] == reports[1]
    assert is_same(*(run.model.state_dict() for run in runs))


def random_images(num=2560):
    info = prepare("digits").info
    info = replace(info, image_shape=(3, 32, 32), mean=(0.5,) * 3, std=(0.25,) * 3, checksum="random")
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (num, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(10, (num,), generator=generator)
    rows = torch.arange(num)
    return TrainingData(info, *(part.cuda() for part in (images, labels, rows[128:], rows[:128])))


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("use_graph", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_steps_wait_for_nothing(method, use_graph):
    training = Training(small_spec(method, augment=AUGMENT), use_graph=use_graph)
    training.run_epoch()
    try:
        torch.cuda.set_sync_debug_mode("error")
        rates = training._device_rates[: training.task.steps_per_epoch]
        assert sum(1 for _ in training._take_steps(training.task.batches(0), rates)) == len(rates)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_images_on_the_host_give_the_same_run():
    spec = small_spec("zsharp", epochs=3, **EVERYTHING)
    runs = [Training(with_data(spec, on_device=choice)) for choice in ("always", "never")]
    reports = [measured([run.run_epoch() for _ in range(3)]) for run in runs]
    assert [run.data.images.device.type for run in runs] == ["cuda", "cpu"]
    assert reports[0] == reports[1]
    assert is_same(*(whole_state(run) for run in runs))
    assert runs[0].test() == runs[1].test()


def test_randaugment_runs_without_a_graph():
    training = Training(small_spec(augment=AugmentSpec(randaugment=1)))
    assert training.run_epoch()["train_loss"] > 0
    assert training._graph is None


def test_a_run_gives_its_memory_back():
    def one():
        training = Training(small_spec("zsharp", "vgg11_bn"), random_images(512))
        training.run_epoch()

    one()
    gc.collect()
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        one()
    gc.collect()
    assert torch.cuda.memory_allocated() <= before + 2**20
