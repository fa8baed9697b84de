"""The kernels' cutoffs equal those of a sort in numpy: interpreted on the CPU, compiled on a GPU.

Triton reads TRITON_INTERPRET when it is imported, so this file runs itself as a script for the former.
"""

import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from zsharp.optim.triton import cutoffs as triton_cutoffs
from zsharp.optim.triton import tables as triton_tables
from zsharp.optim.triton.cutoffs import cutoffs, is_available
from zsharp.optim.triton.kept import apply_kept, measure_kept

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
needs_gpu = pytest.mark.gpu

SIZES = (1, 2, 3, 5, 17, 101, 1000, 2048, 5000)  # 0.29 * 100 is a little less than 29
PERCENTILES = (0.0, 0.29, 0.5, 0.75, 0.95, 0.99, 0.999)
KINDS = ("zscore", "magnitude")
VGG16 = [(64, 3, 3, 3), (64, 64, 3, 3), (128, 64, 3, 3), (128, 128, 3, 3), (256, 128, 3, 3)]
VGG16 += [(256, 256, 3, 3)] * 2 + [(512, 256, 3, 3)] + [(512, 512, 3, 3)] * 5
VGG16 += [(c,) for c in (64, 128, 256, 512) for _ in range(6)] + [(10, 512), (10,)]


def twin(grad: Tensor, q_p: float, kind: str) -> tuple[np.float32, np.float32]:
    """Centre and cutoff, by definition."""
    values = grad.float().cpu().reshape(-1).numpy()
    num = values.size
    if num == 0:
        return np.float32(0), np.float32(0)
    with np.errstate(invalid="ignore", over="ignore"):
        mean = np.float32(values.sum(dtype=np.float64) / num)
        centre = mean if kind == "zscore" else np.float32(0)
        deviations = np.sort(np.abs(values - centre))
    return centre, np.float32(-1) if q_p == 0 else deviations[int(np.floor(q_p * (num - 1) + 1e-6))]


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def to_gpu(value: Tensor) -> Tensor:
    """A copy with the same strides and offset, which `Tensor.cuda` does not always keep."""
    storage = value.untyped_storage().cuda()
    empty = torch.empty(0, dtype=value.dtype, device="cuda")
    return empty.set_(storage, value.storage_offset(), value.shape, value.stride())


def distributions(num: int) -> list[Tensor]:
    normal = torch.randn(num, generator=random(1))
    student = torch.distributions.StudentT(torch.tensor(2.0))
    torch.manual_seed(2)
    zeros = torch.where(torch.rand(num, generator=random(3)) < 0.6, 0.0, normal)
    alternating = torch.tensor([-1.0, 1.0]).repeat(num)[:num]
    return [
        student.sample((num,)),
        zeros,
        torch.full((num,), 0.7),
        (normal * 4).round() / 4,
        alternating * torch.arange(num).div(num / 4).floor(),
        normal * 1e-41,
        normal * 1e-20,
        normal.clamp(-3, 3) * 1e38,
        normal + 1000,
    ]


def mixed_list() -> list[Tensor]:
    """Twelve gradients of three dtypes and several memory orders."""
    source = random(4)

    def normal(*shape: int) -> Tensor:
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


def not_finite() -> list[Tensor]:
    normal = torch.randn(300, generator=random(5))
    with_nan, with_inf, with_both, nearly_all = (normal.clone() for _ in range(4))
    with_nan[::50] = torch.nan
    with_inf[7] = -torch.inf
    with_both[:3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    nearly_all[1:] = torch.nan
    return [with_nan, with_inf, with_both, nearly_all, normal.abs() * torch.inf]


def cases() -> dict[str, tuple[Callable[[], list[Tensor]], float, str, int]]:
    """Name to gradients, percentile, kind, block size."""
    sources: dict[str, tuple[Callable[[], list[Tensor]], Sequence[float], int]] = {
        "sizes": (
            lambda: [torch.randn(n, generator=random(n)) for n in SIZES],
            PERCENTILES,
            2048,
        ),
        "distributions": (lambda: distributions(1500), (0.29, 0.75, 0.99), 2048),
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
# The interpreter is slow: each percentile with one kind.
INTERPRETED = [name for i, name in enumerate(CASES) if i % 4 in (0, 3)]


def assert_equal(found: tuple[Tensor, Tensor], grads: Sequence[Tensor], q_p: float, kind: str) -> None:
    expected = np.array([twin(grad, q_p, kind) for grad in grads], dtype=np.float32).T
    centres, values = (part.cpu().numpy() for part in found)
    assert centres.dtype == values.dtype == np.float32
    np.testing.assert_array_equal(centres, expected[0])
    np.testing.assert_array_equal(values, expected[1])


def to_move(device: str) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Parameters, gradients and backups; some gradients lie otherwise in memory than their parameter."""
    grads = [grad if device == "cpu" else to_gpu(grad) for grad in mixed_list()]
    params = [torch.randn(grad.shape, generator=random(i)).to(grad) for i, grad in enumerate(grads)]
    params[3] = params[3].contiguous(memory_format=torch.channels_last)
    return params, grads, [torch.empty_like(param) for param in params]


def applied(device: str, **settings: int) -> dict[str, Any]:
    params, grads, backups = to_move(device)
    centres, values = cutoffs(grads, 0.5, "zscore", **settings)
    values[0] = -1
    squares, counts = measure_kept(grads, centres, values, **settings)
    factors = torch.linspace(0.1, 2, len(grads)).to(device)
    apply_kept(params, grads, backups, centres, values, factors, **settings)
    return {"params": params, "backups": backups, "squares": squares, "counts": counts}


def assert_applied(found: dict[str, Any], bfloat16_rounding: float = 0.0) -> None:
    params, grads, _ = to_move("cpu")
    factors = torch.linspace(0.1, 2, len(grads))
    for i, (param, grad) in enumerate(zip(params, grads, strict=True)):
        centre, value = (torch.tensor(number) for number in twin(grad, 0.5, "zscore"))
        value = torch.tensor(-1.0) if i == 0 else value
        is_kept = (grad.float() - centre).abs() > value
        assert found["counts"][i] == is_kept.sum()
        assert found["squares"][i].item() == pytest.approx(
            grad[is_kept].double().square().sum().item(), 1e-12
        )
        assert torch.equal(found["backups"][i].cpu(), param)
        moved = param.float() + torch.where(is_kept, grad.float() * factors[i], 0)
        rounding = bfloat16_rounding if param.dtype == torch.bfloat16 else 0.0
        torch.testing.assert_close(found["params"][i].cpu(), moved.to(param.dtype), rtol=rounding, atol=0)
    assert found["squares"].dtype == torch.float64 and found["counts"].dtype == torch.int64


def interpreted() -> dict[str, Any]:
    """Every case through the interpreter, and some with other settings than the default."""
    devices = [is_available(torch.device(name)) for name in ("cpu", "cuda")]
    answers: dict[str, Any] = {"available": devices, "is triton imported": "triton" in sys.modules}
    for i, name in enumerate(INTERPRETED):
        make, q_p, kind, block = CASES[name]
        given = q_p if i % 3 else torch.tensor(q_p, dtype=torch.float64)
        answers[name] = cutoffs(make(), given, kind, block=block)
    grads = [torch.randn(1500, generator=random(6)), torch.zeros(300)]
    answers["applied"] = applied("cpu", block=1024)
    triton_tables.MAX_CHUNKS = 2
    answers["several blocks a chunk"] = cutoffs(grads, 0.5, "zscore", block=512)
    triton_tables.WIDE = 1000
    answers["64-bit counts"] = cutoffs(grads, 0.5, "zscore", block=512)
    triton_cutoffs._SPARSE_SHARE = 1
    answers["atomics only"] = cutoffs(grads, 0.5, "zscore", block=512)
    triton_cutoffs._SPARSE_SHARE = 2**20
    answers["histograms only"] = cutoffs(grads, 0.5, "zscore", block=512)
    try:
        cutoffs([torch.zeros(3, dtype=torch.float64)], 0.5, "zscore")
    except ValueError as error:
        answers["message"] = str(error)
    return answers


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("interpreted") / "answers.pt"
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", __file__, str(path)]
    subprocess.run(command, env=environment, check=True, timeout=200)
    loaded: dict[str, Any] = torch.load(path)
    return loaded


@pytest.mark.parametrize("name", INTERPRETED)
def test_interpreted_kernels_equal_a_sort(answers: dict[str, Any], name: str) -> None:
    make, q_p, kind, _ = CASES[name]
    assert_equal(answers[name], make(), q_p, kind)


@pytest.mark.parametrize(
    "name", ["several blocks a chunk", "64-bit counts", "atomics only", "histograms only"]
)
def test_settings_do_not_change_the_result(answers: dict[str, Any], name: str) -> None:
    grads = [torch.randn(1500, generator=random(6)), torch.zeros(300)]
    assert_equal(answers[name], grads, 0.5, "zscore")


def test_kept_components_are_measured_and_applied(answers: dict[str, Any]) -> None:
    assert_applied(answers["applied"], bfloat16_rounding=2**-7)  # the interpreter truncates


def test_other_dtypes_are_refused(answers: dict[str, Any]) -> None:
    assert "torch.float64; valid: torch.float32, torch.float16, torch.bfloat16" in answers["message"]


def test_nothing_is_kept_of_a_gradient_whose_mean_is_not_finite(answers: dict[str, Any]) -> None:
    centres, values = answers["not_finite-zscore-0.99"]
    for grad, centre, value in zip(not_finite(), centres, values, strict=True):
        assert not ((grad - centre).abs() > value).any()


def test_is_available_asks_for_cuda_and_does_not_import_triton(answers: dict[str, Any]) -> None:
    assert answers["available"] == [False, True]
    assert not answers["is triton imported"]


def test_kernels_compile_for_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter accepts what the compiler does not; compiling needs no GPU."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget

    from zsharp.optim.triton import kernels

    def compiled(kernel: Any, **constants: Any) -> str:
        types = {"pointers": "*i64", "tensors": "*i64", "chunks": "*i64", "ranks": "*i64", "counts": "*i32"}
        types |= {"partials": "*fp64", "q_p": "*fp64", "prefixes": "*i32"}
        types |= {"centres": "*fp32", "cutoffs": "*fp32", "factors": "*fp32", "squares": "*fp64"}
        types |= {"targets": "*i64", "grads": "*i64", "backups": "*i64"}
        types |= {"parts": "*fp64", "part_counts": "*i64"}
        signature = {name: "constexpr" if name in constants else types[name] for name in kernel.arg_names}
        source = triton.compiler.ASTSource(kernel, signature, constexprs=constants)
        target = GPUTarget("cuda", 90, 32)
        text: str = triton.compile(source, target=target, options=triton_cutoffs.OPTIONS).asm["ptx"]
        return text

    layout = {"dtype": tl.bfloat16, "align": 16, "block": 2048, "has_centre": True}
    num_bins = triton_cutoffs.NUM_BINS
    assert "ld.global.v4" in compiled(kernels.sum_chunks, **layout, num_bins=num_bins)
    for turn in range(triton_cutoffs.NUM_TURNS):
        text = compiled(kernels.count_digits, **layout, **triton_cutoffs.turn_settings(turn))
        assert ".ftz" not in text  # denormals would be lost
        assert "fma" not in text  # the rank would be rounded differently
    last = triton_cutoffs.turn_settings(triton_cutoffs.NUM_TURNS - 1)
    names = ("num_bins", "turn", "previous_bits", "previous_offset")
    compiled(kernels.write_cutoffs, **{name: last[name] for name in names})
    del layout["has_centre"]
    compiled(kernels.measure_chunks, **layout)
    compiled(kernels.reduce_chunks, block=1024)
    text = compiled(kernels.move_chunks, **layout)
    assert "st.global.v4" in text and "cvt.rn.bf16" in text


def test_no_argument_hides_a_name_of_tritons_launcher() -> None:
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


@needs_gpu
@pytest.mark.parametrize("name", CASES)
def test_gpu_kernels_equal_a_sort(name: str) -> None:
    make, q_p, kind, _ = CASES[name]
    grads = [to_gpu(grad) for grad in make()]
    assert_equal(cutoffs(grads, q_p, kind), grads, q_p, kind)
    q_tensor = torch.tensor(q_p, dtype=torch.float64, device="cuda")
    assert_equal(cutoffs(grads, q_tensor, kind), grads, q_p, kind)


@needs_gpu
@pytest.mark.parametrize("kind", KINDS)
def test_gpu_vgg16(kind: str) -> None:
    assert is_available(torch.device("cuda"))
    grads = [torch.randn(shape, generator=random(i)).cuda() for i, shape in enumerate(VGG16)]
    first = cutoffs(grads, 0.95, kind)
    assert_equal(first, grads, 0.95, kind)
    for _ in range(3):
        again = cutoffs(grads, 0.95, kind)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@needs_gpu
def test_gpu_more_than_2_to_the_24_elements() -> None:
    grads = [torch.randn(2**24 + 5, generator=random(8)).cuda(), torch.ones(3, device="cuda")]
    for q_p in (0.5, 0.999):
        assert_equal(cutoffs(grads, q_p, "zscore"), grads, q_p, "zscore")


@needs_gpu
def test_gpu_more_than_2_to_the_31_elements() -> None:
    grad = torch.zeros(2**31 + 9, device="cuda", dtype=torch.bfloat16)
    grad[-8:] = torch.arange(1, 9)
    centres, values = cutoffs([grad], (grad.numel() - 4) / (grad.numel() - 1), "magnitude")
    assert centres.tolist() == [0] and values.tolist() == [5]


@needs_gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_gpu_without_a_host_synchronisation() -> None:
    q_p = torch.tensor(0.75, dtype=torch.float64, device="cuda")
    grads = [to_gpu(grad) for grad in mixed_list()]
    cutoffs(grads, q_p, "zscore")
    others = [grad.clone() for grad in grads]
    try:
        torch.cuda.set_sync_debug_mode("error")
        found = [cutoffs(values, q_p, "zscore") for values in (grads, others)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for values in found:
        assert_equal(values, grads, 0.75, "zscore")


@needs_gpu
def test_gpu_graph_follows_new_gradients_and_percentiles() -> None:
    q_p = torch.tensor(0.5, dtype=torch.float64, device="cuda")
    grads = [torch.zeros(shape, device="cuda") for shape in ((64, 32), (7,), (3, 50000))]
    grads.append(torch.zeros(4000, dtype=torch.bfloat16, device="cuda"))
    cutoffs(grads, q_p, "zscore")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = cutoffs(grads, q_p, "zscore")
    for i in range(2 * triton_tables.MAX_TABLES):  # what the graph reads outlives the cache
        cutoffs([torch.zeros(10 + i, device="cuda")], 0.5, "zscore")
    for seed, value in enumerate((0.0, 0.29, 0.95, 0.999)):
        for grad in grads:
            grad.copy_(torch.randn(grad.shape, generator=random(seed)))
        q_p.fill_(value)
        graph.replay()
        assert_equal(found, grads, value, "zscore")


@needs_gpu
def test_gpu_kept_components_are_measured_and_applied() -> None:
    assert_applied(applied("cuda"))


@needs_gpu
def test_gpu_ascent_in_a_graph() -> None:
    params = [torch.zeros(shape, device="cuda") for shape in ((64, 32), (7,), (3, 50000))]
    grads, backups = ([torch.zeros_like(param) for param in params] for _ in range(2))

    def ascend() -> Tensor:
        centres, values = cutoffs(grads, 0.75, "zscore")
        squares, counts = measure_kept(grads, centres, values)
        factors = (0.1 / squares.sum().sqrt()).float().expand(len(grads)).contiguous()
        apply_kept(params, grads, backups, centres, values, factors)
        return counts

    ascend()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        counts = ascend()
    for seed in range(3):
        for value in (*params, *grads):
            value.copy_(torch.randn(value.shape, generator=random(seed)))
        before = [param.clone() for param in params]
        graph.replay()
        assert all(torch.equal(a, b) for a, b in zip(before, backups, strict=True))
        assert counts.tolist() == [n - 1 - int(0.75 * (n - 1)) for n in (2048, 7, 150000)]
        steps = [(a - b).double().square().sum() for a, b in zip(params, backups, strict=True)]
        assert torch.stack(steps).sum().sqrt().item() == pytest.approx(0.1, 1e-3)


@needs_gpu
def test_gpu_graph_needs_a_call_before() -> None:
    cutoffs([torch.ones(5, device="cuda")], 0.5, "zscore")
    grads = [torch.ones(12345, device="cuda")]
    with (
        pytest.raises(RuntimeError, match="not seen before the capture"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        cutoffs(grads, 0.5, "zscore")


@needs_gpu
def test_gpu_other_streams() -> None:
    grads = [torch.randn(100000, generator=random(9)).cuda() for _ in range(4)]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(4)]
    found = []
    for _ in range(5):
        for stream in streams:
            with torch.cuda.stream(stream):
                found.append(cutoffs(grads, 0.95, "zscore"))
    torch.cuda.synchronize()
    for values in found:
        assert_equal(values, grads, 0.95, "zscore")


if __name__ == "__main__":
    with np.errstate(all="ignore"):  # the interpreter computes in numpy
        torch.save(interpreted(), sys.argv[1])
