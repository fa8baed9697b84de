"""Under torch.compile: the same weights as without, and no graph break in our files."""

from pathlib import Path

import pytest
import torch
from slow_twin import num_kept
from small_nets import batches, close, loss_of, same, two_steps, weights

import zsharp.optim
from zsharp.optim import make_optimizer

pytestmark = pytest.mark.filterwarnings(
    "ignore:.torch.jit.script_method. is deprecated:DeprecationWarning",  # torch's compiler, of torch
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning",  # the compiler's own look at it
    "ignore:Dynamo does not know how to trace the builtin:UserWarning",  # torch.Generator, where it draws
)
HERE = str(Path(zsharp.optim.__file__).parent)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def build(method, base="sgd", **kwargs):
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 4).double()
    lr = torch.tensor(0.1)  # a float would be compiled in
    return model, make_optimizer(model.parameters(), method, base, lr=lr, **kwargs)


def full_step(model, optimizer, batch):
    return two_steps(model, optimizer, (batch[0].double(), batch[1]))


def test_no_graph_break_is_ours():
    """Those that remain are `backward` in the function and one that torch puts before its own optimizers' step."""
    model, optimizer = build("zsharp_official")
    (batch,) = batches(1)
    report = torch._dynamo.explain(lambda x, y: full_step(model, optimizer, (x, y)))(*batch)
    files = [reason.user_stack[-1].filename for reason in report.break_reasons]
    assert files
    assert not [name for name in files if name.startswith(HERE)]
    assert {Path(name).name for name in files} <= {"small_nets.py", "optimizer.py"}


# Together they have every rule of the others: a scaled gradient, a running one, a filter over all layers.
@pytest.mark.parametrize("method", ["asam", "friendly_sam", "zsharp_official", "msam", "zsharp_stale_sam"])
def test_the_ascent_is_one_graph(method):
    (model, optimizer), (twin, eager) = (build(method, momentum=0.9) for _ in range(2))
    for pair in ((model, optimizer), (twin, eager)):  # those of one pass go by the step before
        full_step(*pair, batches(1)[0])
    first = torch.compile(lambda: optimizer.first_step(zero_grad=True), backend="eager", fullgraph=True)
    restore = torch.compile(optimizer.restore, backend="eager", fullgraph=True)
    start = weights(model)
    for batch in batches(3):
        for m in (model, twin):
            loss_of(m, (batch[0].double(), batch[1])).backward()
        first()
        eager.first_step(zero_grad=True)
        assert optimizer.is_perturbed
        assert all(p.grad is None for p in model.parameters())
        assert not same(model.parameters(), start)
        close(weights(model), weights(twin), 1e-8)
        restore()
        eager.restore()
        assert same(model.parameters(), start)


def test_settings_and_number_of_steps_may_change_without_compiling_again():
    """Weights stay those of eager steps; a warning of the scheduler (its step came first) would be an error."""
    rho, q_p = torch.tensor(0.1), torch.tensor(0.9, dtype=torch.float64)
    runs = [build("zsharp", rho=rho, q_p=q_p) for _ in range(2)]
    (model, optimizer), (twin, eager) = runs
    schedulers = [torch.optim.lr_scheduler.StepLR(each, 1, 0.5) for _, each in runs]
    step = torch.compile(lambda x, y: full_step(model, optimizer, (x, y)), backend="eager")
    graphs = []
    for i, batch in enumerate(batches(5)):
        rho.fill_(0.1 / (i + 1))
        q_p.fill_(0.9 - 0.1 * i)
        torch.testing.assert_close(step(*batch), full_step(twin, eager, batch))
        for scheduler in schedulers:
            scheduler.step()
        assert float(optimizer.last.norm) == pytest.approx(float(rho), rel=1e-5)
        expected = [num_kept(p.numel(), float(q_p)) for p in model.parameters()]
        assert optimizer.last.kept.tolist() == expected
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[3] == graphs[4]
    assert graphs[0] > 0
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.1 * 0.5**5)
    close(weights(model), weights(twin), 1e-8)


def test_the_random_filter_draws_outside_the_graph():
    model, optimizer = build("random_sam")
    first = torch.compile(lambda: optimizer.first_step(zero_grad=True), backend="eager")
    for x, y in batches(2):
        loss_of(model, (x.double(), y)).backward()
        first()
        optimizer.restore()
    expected = [num_kept(p.numel(), 0.95) for p in model.parameters()]
    assert optimizer.last.kept.tolist() == expected
