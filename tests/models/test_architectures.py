"""Every row of the table of architectures, through the same contract."""

import copy
import re
import subprocess
import sys

import pytest
import torch

from zsharp.models import ARCHITECTURES, Architecture, build_model, check_architecture

CIFAR = (3, 32, 32)
NUM_PARAMETERS = {  # for 3x32x32 images and 10 classes
    "resnet8": 75_290,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
    "resnet18": 11_173_962,
    "vgg11_bn": 9_231_114,
    "vgg13_bn": 9_416_010,
    "vgg16_bn": 14_728_266,
    "vgg19_bn": 20_040_522,
    "vit_tiny": 148_170,
    "vit_7_8_8_384": 6_268_810,
    "vit_7_8_12_768": 8_335_882,
}
# He et al. 2015, table 6, for the ResNets; for the others, what the ZSharp authors' code and ViT-CIFAR have.
PUBLISHED_MILLIONS = {
    "resnet20": "0.27",
    "resnet32": "0.46",
    "resnet44": "0.66",
    "resnet56": "0.85",
    "resnet110": "1.7",
    "vgg16_bn": "14.7",
    "vit_7_8_8_384": "6.3",
    "vit_7_8_12_768": "8.3",
}
REFUSED = {  # architecture -> shapes that it cannot take, and what its message must say is valid
    **{name: ([(3, 3, 32), (1, 2, 2)], "at least 4") for name in NUM_PARAMETERS if name.startswith("resnet")},
    "resnet18": ([(3, 7, 32), (1, 4, 4)], "at least 8"),
    **{
        name: ([(1, 28, 28), (3, 32, 31)], "at least 32") for name in NUM_PARAMETERS if name.startswith("vgg")
    },
    "vit_tiny": ([(1, 30, 30), (3, 32, 36)], "multiple of 4"),
    "vit_7_8_8_384": ([(1, 28, 28), (3, 32, 40)], "multiple of 8"),
    "vit_7_8_12_768": ([(1, 28, 28), (3, 40, 32)], "multiple of 8"),
}
ACCEPTED = [  # architecture, a shape at or near the edge of what it can take
    ("resnet20", (3, 4, 4)),
    ("resnet20", (1, 5, 9)),
    ("resnet18", (3, 8, 11)),
    ("vgg11_bn", (2, 32, 47)),
    ("vit_tiny", (1, 4, 4)),
    ("vit_tiny", (5, 12, 12)),
    ("vit_7_8_8_384", (4, 8, 8)),
]
# The others are deeper or wider.
ONE_OF_EACH_KIND = ["resnet8", "resnet18", "vgg11_bn", "vit_tiny", "vit_7_8_8_384"]
every_architecture = pytest.mark.parametrize("name", list(ARCHITECTURES))


def _num_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def _takes(name, image_shape):
    try:
        check_architecture(name, image_shape)
    except ValueError:
        return False
    return True


def test_the_table_is_the_one_tested_here():
    assert list(ARCHITECTURES) == list(NUM_PARAMETERS) and set(REFUSED) == set(NUM_PARAMETERS)
    assert all(isinstance(row, Architecture) and row.name == name for name, row in ARCHITECTURES.items())
    assert {row.family for row in ARCHITECTURES.values()} == {"resnet", "vgg", "vit"}


@every_architecture
def test_number_of_parameters(name):
    num_parameters = _num_parameters(build_model(name, CIFAR, 10))
    assert num_parameters == NUM_PARAMETERS[name]
    summary = ARCHITECTURES[name].summary
    assert "\n" not in summary and f" {num_parameters / 1e6:.2f} M parameters" in summary
    if name in PUBLISHED_MILLIONS:
        digits = len(PUBLISHED_MILLIONS[name].split(".")[1])
        assert f"{num_parameters / 1e6:.{digits}f}" == PUBLISHED_MILLIONS[name]


@pytest.mark.parametrize(
    ("image_shape", "num_classes"),
    [((1, 28, 28), 10), ((1, 8, 8), 10), ((3, 64, 64), 200)],
    ids=["mnist", "digits", "tiny_imagenet"],
)
def test_logits_have_one_column_a_class(image_shape, num_classes):
    names = [name for name in ONE_OF_EACH_KIND if _takes(name, image_shape)]
    assert len(names) >= 3
    for name in names:
        model = build_model(name, image_shape, num_classes).eval()
        with torch.no_grad():
            logits = model(torch.randn(1, *image_shape))
        assert logits.shape == (1, num_classes) and logits.isfinite().all(), name


@pytest.mark.parametrize(("name", "image_shape"), ACCEPTED)
def test_the_smallest_and_odd_shapes_train(name, image_shape):
    model = build_model(name, image_shape, 3)
    model(torch.randn(4, *image_shape)).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@every_architecture
def test_gradients_reach_every_parameter_from_the_first_step(name):
    torch.manual_seed(0)
    model = build_model(name, CIFAR, 10)
    logits = model(torch.randn(4, *CIFAR))
    assert logits.shape == (4, 10)
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 3, 6, 9])).backward()
    for module in model.modules():
        for key, parameter in module.named_parameters(recurse=False):
            assert parameter.grad.isfinite().all(), key
            removed_by_the_norm = (
                isinstance(module, torch.nn.Conv2d) and name.startswith("vgg") and key == "bias"
            )
            assert parameter.grad.any() or removed_by_the_norm, (module, key)


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_a_seed_fixes_the_weights(name):
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(build_model(name, CIFAR, 10).state_dict())
    first, again, other = states
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@every_architecture
def test_shapes_that_it_cannot_take_are_refused(name):
    shapes, valid = REFUSED[name]
    for shape in shapes:
        for refuse in (lambda s: check_architecture(name, s), lambda s: build_model(name, s, 10)):
            with pytest.raises(ValueError, match=valid) as error:
                refuse(shape)
            assert repr(name) in str(error.value) and " x ".join(map(str, shape)) in str(error.value)


@pytest.mark.parametrize("image_shape", [(32, 32), (3, 0, 32), (3, 32.0, 32), (0, 32, 32), (1, 3, 32, 32)])
@pytest.mark.parametrize("name", ["resnet20", "vit_tiny"])
def test_a_shape_is_three_positive_whole_numbers(name, image_shape):
    with pytest.raises(ValueError, match=re.escape(repr(image_shape))) as error:
        check_architecture(name, image_shape)
    assert repr(name) in str(error.value) and "channels, height, width" in str(error.value)


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ("ResNet20", "resnet20"),
        ("resnet-110", "resnet110"),
        ("vgg16", "vgg16_bn"),
        ("vit_7_8_384", "vit_7_8_8_384"),
    ],
)
def test_an_unknown_name_gets_the_nearest_and_the_list(given, nearest):
    with pytest.raises(ValueError, match=f"unknown architecture '{given}'; did you mean {nearest}") as error:
        build_model(given, CIFAR, 10)
    assert all(name in str(error.value) for name in ARCHITECTURES)


def test_a_name_like_no_other_gets_the_list_only():
    with pytest.raises(ValueError, match=r"unknown architecture '\?'; valid: resnet8, resnet20, "):
        check_architecture("?", CIFAR)


def test_one_class_is_refused():
    with pytest.raises(ValueError, match=r"'resnet8': the number of classes must be at least 2, not 1"):
        build_model("resnet8", CIFAR, 1)


@pytest.mark.parametrize("name", ["resnet8", "resnet18", "vgg11_bn", "vit_tiny"])
def test_channels_last_changes_only_the_layout(name):
    torch.manual_seed(0)
    model = build_model(name, CIFAR, 10).double()
    images = torch.randn(2, *CIFAR, dtype=torch.float64)
    twin = copy.deepcopy(model).to(memory_format=torch.channels_last)
    logits = twin(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(logits, model(images))


@pytest.mark.parametrize("name", ["resnet8", "vit_tiny"])
def test_one_graph_without_breaks(name):
    model = build_model(name, (1, 8, 8), 10)
    images = torch.randn(2, 1, 8, 8)
    expected = copy.deepcopy(model)(images)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), expected)


def test_the_table_opens_without_torchvision_or_a_tuner():
    heavy = ["torchvision", "sklearn", "pyarrow", "ray", "optuna", "pandas"]
    code = (
        "import sys; from zsharp.models import check_architecture; check_architecture('resnet8', (1, 8, 8)); "
        f"assert 'torch' in sys.modules; print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
