"""Cutoffs of Triton's kernels are those of a sort, and ascents those of the CPU: interpreted, and on a GPU.

Triton reads TRITON_INTERPRET when it is imported, so this file runs itself as a script for the former.
"""

import inspect
import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from small_nets import with_percentile
from torch import nn

from zsharp.optim import make_optimizer
from zsharp.optim.ascent import ascent
from zsharp.optim.triton import ascent as triton_ascent
from zsharp.optim.triton import cutoffs as triton_cutoffs
from zsharp.optim.triton import tables as triton_tables
from zsharp.optim.triton.cutoffs import cutoffs, is_available
from zsharp.optim.triton.kept import apply_kept, measure_kept
from zsharp.optim.triton.tables import filled_after_capture

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")

SIZES = (1, 2, 3, 5, 17, 101, 2048, 2500)  # 0.29 * 100 is a little less than 29
PERCENTILES = (0.0, 0.29, 0.75, 0.95, 0.999)
KINDS = ("zscore", "magnitude")
METHODS = ["zsharp", "zsharp_official", "magnitude_sam", "zsharp_friendly_sam"]
NUM_STEPS = 2
# Set one after the other; none of them changes a result.
SETTINGS = {
    "several blocks a chunk": (triton_tables, "MAX_CHUNKS", 2),
    "64-bit counts": (triton_tables, "WIDE", 1000),
    "atomics only": (triton_cutoffs, "_SPARSE_SHARE", 1),
    "histograms only": (triton_cutoffs, "_SPARSE_SHARE", 2**20),
}
OF_SETTINGS = [torch.randn(1500, generator=torch.Generator().manual_seed(6)), torch.zeros(300)]
VGG16 = [(64, 3, 3, 3), (64, 64, 3, 3), (128, 64, 3, 3), (128, 128, 3, 3), (256, 128, 3, 3)]
VGG16 += [(256, 256, 3, 3)] * 2 + [(512, 256, 3, 3)] + [(512, 512, 3, 3)] * 5
VGG16 += [(c,) for c in (64, 128, 256, 512) for _ in range(6)] + [(10, 512), (10,)]


def twin(grad, q_p, kind):
    """Centre and cutoff, by definition."""
    values = grad.float().cpu().reshape(-1).numpy()
    if values.size == 0:
        return np.float32(0), np.float32(0)
    with np.errstate(invalid="ignore", over="ignore"):
        mean = np.float32(values.sum(dtype=np.float64) / values.size)
        centre = mean if kind == "zscore" else np.float32(0)
        deviations = np.sort(np.abs(values - centre))
    return centre, np.float32(-1) if q_p == 0 else deviations[int(np.floor(q_p * (values.size - 1) + 1e-6))]


def random(seed):
    return torch.Generator().manual_seed(seed)


def to_gpu(value):
    """A copy with the same strides and offset, which `Tensor.cuda` does not always keep."""
    storage = value.untyped_storage().cuda()
    empty = torch.empty(0, dtype=value.dtype, device="cuda")
    return empty.set_(storage, value.storage_offset(), value.shape, value.stride())


def distributions(num):
    normal = torch.randn(num, generator=random(1))
    torch.manual_seed(2)
    return [
        torch.distributions.StudentT(torch.tensor(2.0)).sample((num,)),
        torch.where(torch.rand(num, generator=random(3)) < 0.6, 0.0, normal),
        torch.full((num,), 0.7),
        (normal * 4).round() / 4,
        torch.tensor([-1.0, 1.0]).repeat(num)[:num] * torch.arange(num).div(num / 4).floor(),
        normal * 1e-41,
        normal * 1e-20,
        normal.clamp(-3, 3) * 1e38,
        normal + 1000,
    ]


def mixed_list():
    """Twelve gradients of three dtypes and several memory orders."""
    source = random(4)

    def normal(*shape):
        return torch.randn(shape, generator=source)

    channels_last = normal(4, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    return [
        normal(64),
        normal(16, 32).bfloat16(),
        normal(0, 3),
        channels_last,
        normal(33, 17).half().t(),
        normal(1),
        normal(4, 6, 10)[:, ::2, 1:],  # gaps
        normal(7).expand(3, 7),  # overlap
        normal(2100)[1:],  # not aligned to 16 bytes
        channels_last.bfloat16(),
        normal(600).bfloat16() * 0 + 1.5,
        torch.tensor(-2.0),
    ]


def not_finite():
    normal = torch.randn(300, generator=random(5))
    with_nan, with_inf, with_both, nearly_all = (normal.clone() for _ in range(4))
    with_nan[::50] = torch.nan
    with_inf[7] = -torch.inf
    with_both[:3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    nearly_all[1:] = torch.nan
    return [with_nan, with_inf, with_both, nearly_all, normal.abs() * torch.inf]


def cases():
    """Name to gradients, percentile, kind, block size."""
    sources = {
        "sizes": (lambda: [torch.randn(n, generator=random(n)) for n in SIZES], PERCENTILES, 2048),
        "distributions": (lambda: distributions(700), (0.29, 0.75, 0.99), 1024),
        "mixed": (mixed_list, (0.0, 0.75), 1024),
        "not_finite": (not_finite, (0.0, 0.5, 0.99), 512),
    }
    return {
        f"{name}-{kind}-{q_p}": (make, q_p, kind, block)
        for name, (make, percentiles, block) in sources.items()
        for q_p in percentiles
        for kind in KINDS
    }


CASES = cases()
# The interpreter is slow: each list of gradients with both kinds.
INTERPRETED = [name for i, name in enumerate(CASES) if i in (0, 3, 8, 12, 15, 19, 22, 25)]


def assert_equal(results, grads, q_p, kind):
    expected = np.array([twin(grad, q_p, kind) for grad in grads], dtype=np.float32).T
    for part, wanted in zip(results, expected, strict=True):
        np.testing.assert_array_equal(part.cpu().numpy(), wanted, strict=True)


def to_move(device):
    """Parameters, gradients and backups; some gradients lie otherwise in memory than their parameter."""
    grads = [grad if device == "cpu" else to_gpu(grad) for grad in mixed_list()]
    params = [torch.randn(grad.shape, generator=random(i)).to(grad) for i, grad in enumerate(grads)]
    params[3] = params[3].contiguous(memory_format=torch.channels_last)
    return params, grads, [torch.empty_like(param) for param in params]


def applied(device, **settings):
    params, grads, backups = to_move(device)
    centres, values = cutoffs(grads, 0.5, "zscore", **settings)
    values[0] = -1
    squares, counts = measure_kept(grads, centres, values, **settings)
    factors = torch.linspace(0.1, 2, len(grads)).to(device)
    apply_kept(params, grads, backups, centres, values, factors, **settings)
    return {"params": params, "backups": backups, "squares": squares, "counts": counts}


def assert_applied(results, bfloat16_rounding=0.0):
    params, grads, _ = to_move("cpu")
    factors = torch.linspace(0.1, 2, len(grads))
    assert results["squares"].dtype == torch.float64 and results["counts"].dtype == torch.int64
    for i, (param, grad) in enumerate(zip(params, grads, strict=True)):
        centre, value = (torch.tensor(number) for number in twin(grad, 0.5, "zscore"))
        is_kept = (grad.float() - centre).abs() > (value if i else -1)
        assert results["counts"][i] == is_kept.sum()
        square = grad[is_kept].double().square().sum().item()
        assert results["squares"][i].item() == pytest.approx(square, 1e-12)
        assert torch.equal(results["backups"][i].cpu(), param)
        moved = param.float() + torch.where(is_kept, grad.float() * factors[i], 0)
        rounding = bfloat16_rounding if param.dtype == torch.bfloat16 else 0.0
        torch.testing.assert_close(results["params"][i].cpu(), moved.to(param.dtype), rtol=rounding, atol=0)


def ascents(method, device="cpu"):
    """Weights at w + e and back, what was observed, for a small net with 1-D and single-element tensors."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Linear(60, 5))
    model.register_parameter("gain", nn.Parameter(torch.ones(1)))
    model = model.to(memory_format=torch.channels_last).to(device)
    optimizer = make_optimizer(model.parameters(), method, "sgd", lr=0.1, **with_percentile(method, 0.8))
    results = []
    for step in range(NUM_STEPS):
        generator = torch.Generator().manual_seed(step)
        for param in model.parameters():
            param.grad = torch.randn(param.shape, generator=generator).to(device)
            if step == 1 and param.ndim == 1:
                param.grad.fill_(0.5)  # all equal: nothing of these is kept
        before = [param.detach().clone() for param in model.parameters()]
        optimizer.first_step()
        perturbed = [param.detach().clone().cpu() for param in model.parameters()]
        last = optimizer.last
        results.append(
            (perturbed, [x.cpu() for x in (last.norm, last.kept, last.kept_fraction, last.grad_norm)])
        )
        optimizer.restore()
        assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    return results


def interpreted():
    """Every case through the interpreter, some with other settings than the default; and whole ascents."""
    devices = [is_available(torch.device(name)) for name in ("cpu", "cuda")]
    answers = {"available": devices, "is triton imported": "triton" in sys.modules}
    for i, name in enumerate(INTERPRETED):
        make, q_p, kind, block = CASES[name]
        given = q_p if i % 3 else torch.tensor(q_p, dtype=torch.float64)
        answers[name] = cutoffs(make(), given, kind, block=block)
    answers["applied"] = applied("cpu", block=1024)
    ascend, calls = triton_ascent.ascend, []

    def ascend_in_small_blocks(layers, backups, home):  # several chunks for the largest tensor
        calls.append(len(layers))
        return ascend(layers, backups, home, block=256)

    triton_ascent.is_available = lambda device: True
    ascent._is_host = lambda devices: False
    triton_ascent.ascend = ascend_in_small_blocks
    answers["ascents"] = {method: ascents(method) for method in METHODS[:3]}
    assert len(calls) == NUM_STEPS * 3, "the kernels ran"
    for name, (module, constant, value) in SETTINGS.items():
        setattr(module, constant, value)
        answers[name] = cutoffs(OF_SETTINGS, 0.5, "zscore", block=512)
    try:
        cutoffs([torch.zeros(3, dtype=torch.float64)], 0.5, "zscore")
    except ValueError as error:
        answers["message"] = str(error)
    return answers


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    path = tmp_path_factory.mktemp("interpreted") / "answers.pt"
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", __file__, str(path)]
    subprocess.run(command, env=environment, check=True, timeout=200)
    return torch.load(path)


@pytest.mark.parametrize("name", INTERPRETED)
def test_interpreted_kernels_equal_a_sort(answers, name):
    make, q_p, kind, _ = CASES[name]
    assert_equal(answers[name], make(), q_p, kind)


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_do_not_change_the_result(answers, name):
    assert_equal(answers[name], OF_SETTINGS, 0.5, "zscore")


@pytest.mark.parametrize("method", METHODS[:3])
def test_interpreted_kernels_move_the_weights_as_the_cpu_does(answers, method):
    torch.testing.assert_close(answers["ascents"][method], ascents(method), rtol=1e-5, atol=1e-7)


def test_kept_components_are_measured_and_applied(answers):
    assert_applied(answers["applied"], bfloat16_rounding=2**-7)  # the interpreter truncates


def test_other_dtypes_are_refused_and_availability_imports_no_triton(answers):
    assert "torch.float64; valid: torch.float32, torch.float16, torch.bfloat16" in answers["message"]
    assert answers["available"] == [False, True]
    assert not answers["is triton imported"]


def test_kernels_compile_for_a_gpu(tmp_path, monkeypatch):
    """The interpreter accepts what the compiler does not; compiling needs no GPU."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget

    from zsharp.optim.triton import kernels

    names = {
        "*i64": "pointers tensors chunks ranks targets grads backups part_counts",
        "*i32": "counts prefixes",
        "*fp64": "partials q_p squares parts",
        "*fp32": "centres cutoffs factors",
    }
    types = {name: kind for kind, of in names.items() for name in of.split()}

    def compiled(kernel, **constants):
        signature = {name: "constexpr" if name in constants else types[name] for name in kernel.arg_names}
        source = triton.compiler.ASTSource(kernel, signature, constexprs=constants)
        target = GPUTarget("cuda", 90, 32)
        return triton.compile(source, target=target, options=triton_cutoffs.OPTIONS).asm["ptx"]

    layout = {"dtype": tl.bfloat16, "align": 16, "block": 2048}
    num_bins = triton_cutoffs.NUM_BINS
    assert "ld.global.v4" in compiled(kernels.sum_chunks, **layout, has_centre=True, num_bins=num_bins)
    for turn in range(triton_cutoffs.NUM_TURNS):
        settings = triton_cutoffs.turn_settings(turn)
        text = compiled(kernels.count_digits, **layout, has_centre=True, **settings)
        assert ".ftz" not in text  # denormals would be lost
        assert "fma" not in text  # the rank would be rounded differently
    wanted = ("num_bins", "turn", "previous_bits", "previous_offset")
    compiled(kernels.write_cutoffs, **{name: settings[name] for name in wanted})
    compiled(kernels.measure_chunks, **layout)
    compiled(kernels.reduce_chunks, block=1024)
    text = compiled(kernels.move_chunks, **layout)
    assert "st.global.v4" in text and "cvt.rn.bf16" in text


def test_no_argument_hides_a_name_of_tritons_launcher():
    """It is generated code with variables of its own; a kernel's argument `params` took the place of one."""
    from triton.runtime import jit

    from zsharp.optim.triton import kernels

    code = inspect.getsource(jit.create_function_from_signature)
    own = {"params", "specialization", "options", "backend", "specialize_impl"}
    assert all(name in code for name in own), "Triton has other names now"
    jitted = [kernel for kernel in vars(kernels).values() if isinstance(kernel, jit.JITFunction)]
    assert len(jitted) > 5
    for kernel in jitted:
        assert not own & set(kernel.arg_names), kernel


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_gpu_kernels_equal_a_sort(name):
    make, q_p, kind, _ = CASES[name]
    grads = [to_gpu(grad) for grad in make()]
    assert_equal(cutoffs(grads, q_p, kind), grads, q_p, kind)
    q_tensor = torch.tensor(q_p, dtype=torch.float64, device="cuda")
    assert_equal(cutoffs(grads, q_tensor, kind), grads, q_p, kind)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_gpu_vgg16_on_several_streams(kind):
    grads = [torch.randn(shape, generator=random(i)).cuda() for i, shape in enumerate(VGG16)]
    torch.cuda.synchronize()
    results = []
    for _ in range(4):
        with torch.cuda.stream(torch.cuda.Stream()):
            results.append(cutoffs(grads, 0.95, kind))
    torch.cuda.synchronize()
    for values in results:
        assert_equal(values, grads, 0.95, kind)


@pytest.mark.gpu
def test_gpu_more_than_2_to_the_24_elements():
    grads = [torch.randn(2**24 + 5, generator=random(8)).cuda(), torch.ones(3, device="cuda")]
    for q_p in (0.5, 0.999):
        assert_equal(cutoffs(grads, q_p, "zscore"), grads, q_p, "zscore")


@pytest.mark.gpu
def test_gpu_more_than_2_to_the_31_elements():
    grad = torch.zeros(2**31 + 9, device="cuda", dtype=torch.bfloat16)
    grad[-8:] = torch.arange(1, 9)
    centres, values = cutoffs([grad], (grad.numel() - 4) / (grad.numel() - 1), "magnitude")
    assert centres.tolist() == [0] and values.tolist() == [5]


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_a_gpu_moves_the_weights_as_the_cpu_does(method):
    torch.testing.assert_close(ascents(method, "cuda"), ascents(method), rtol=1e-5, atol=1e-7)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_gpu_without_a_host_synchronisation():
    q_p = torch.tensor(0.75, dtype=torch.float64, device="cuda")
    grads = [to_gpu(grad) for grad in mixed_list()]
    others = [grad.clone() for grad in grads]
    cutoffs(grads, q_p, "zscore")
    try:
        torch.cuda.set_sync_debug_mode("error")
        results = [cutoffs(values, q_p, "zscore") for values in (grads, others)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for values in results:
        assert_equal(values, grads, 0.75, "zscore")


@pytest.mark.gpu
def test_gpu_graph_follows_new_gradients_and_percentiles():
    q_p = torch.tensor(0.5, dtype=torch.float64, device="cuda")
    grads = [torch.zeros(shape, device="cuda") for shape in ((64, 32), (7,), (3, 50000))]
    grads.append(torch.zeros(4000, dtype=torch.bfloat16, device="cuda"))
    cutoffs(grads, q_p, "zscore")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = cutoffs(grads, q_p, "zscore")
    for i in range(2 * triton_tables.MAX_TABLES):  # what the graph reads outlives the cache
        cutoffs([torch.zeros(10 + i, device="cuda")], 0.5, "zscore")
    for seed, value in enumerate((0.0, 0.29, 0.95, 0.999)):
        for grad in grads:
            grad.copy_(torch.randn(grad.shape, generator=random(seed)))
        q_p.fill_(value)
        graph.replay()
        assert_equal(results, grads, value, "zscore")


@pytest.mark.gpu
def test_gpu_kept_components_are_measured_and_applied():
    assert_applied(applied("cuda"))


@pytest.mark.gpu
def test_gpu_graph_needs_a_call_before():
    cutoffs([torch.ones(5, device="cuda")], 0.5, "zscore")
    grads = [torch.ones(12345, device="cuda")]
    with (
        pytest.raises(RuntimeError, match="not seen before the capture"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        cutoffs(grads, 0.5, "zscore")


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["sam", "random_sam", *METHODS])
def test_a_graph_holds_a_step_whose_settings_are_plain_numbers(method):
    """A number copied from the host is waited for, which a capture refuses."""
    torch.manual_seed(0)
    model = nn.Linear(40, 30).cuda()
    optimizer = make_optimizer(model.parameters(), method, "sgd", lr=0.1)
    inputs = torch.randn(16, 40, device="cuda")

    def step():
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.first_step(zero_grad=True)
        model(inputs).square().mean().backward()
        optimizer.second_step()

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(2):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    for generator in optimizer.generators:
        graph.register_generator_state(generator)
    with filled_after_capture(inputs.device) as tables, torch.cuda.graph(graph):
        step()
    before = model(inputs).square().mean()
    for _ in range(3):
        graph.replay()
    assert model(inputs).square().mean() < before
    assert tables.numel() > 0


if __name__ == "__main__":
    with np.errstate(all="ignore"):  # the interpreter computes in numpy
        torch.save(interpreted(), sys.argv[1])
