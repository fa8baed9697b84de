"""Inside Hugging Face Accelerate: a prepared loop equals a plain one, and what does not work is shown."""

import accelerate
import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState, GradientState, PartialState
from small_nets import batches, classifier, closure_for, loss_of, same, weights
from torch.amp import GradScaler

from zsharp.optim import frozen_batch_norm, make_optimizer

NUM = 6
METHODS = ["sam", "zsharp", "zsharp_friendly_sam"]


@pytest.fixture(autouse=True)
def fresh_state():
    """Accelerate's settings are one for the process."""
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def build(method):
    torch.manual_seed(0)
    model = classifier(batch_norm=True)
    optimizer = make_optimizer(model.parameters(), method, "adamw", lr=0.01)
    return model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)


def plain(method):
    model, optimizer, scheduler = build(method)
    losses = []
    for batch in batches(NUM):
        losses.append(optimizer.step(closure_for(model, optimizer, batch), model=model))
        scheduler.step()
    return model, losses


def prepare(method, **kwargs):
    accelerator = accelerate.Accelerator(cpu=True, **kwargs)
    loader = torch.utils.data.DataLoader(batches(NUM), batch_size=None)
    return accelerator, *accelerator.prepare(*build(method), loader)


@pytest.mark.parametrize("form", ["optimizer.optimizer.step", "two steps"])
@pytest.mark.parametrize("method", METHODS)
def test_a_prepared_loop_equals_a_plain_one(method, form):
    accelerator, model, optimizer, scheduler, loader = prepare(method)
    for batch in loader:

        def closure(batch=batch):
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            accelerator.backward(loss)
            return loss

        inner = optimizer.optimizer  # ours: the wrapper passes on neither `model` nor first_step
        if form == "two steps":
            closure()
            inner.first_step(zero_grad=True)
            with frozen_batch_norm(model):
                closure()
            inner.second_step()
        else:
            inner.step(closure, model=model)
        scheduler.step()
    expected, _ = plain(method)
    assert same(accelerator.unwrap_model(model).state_dict().values(), expected.state_dict().values())
    assert optimizer.param_groups[0]["lr"] == 0.01 * 0.5 ** (NUM // 2)


def test_the_wrappers_own_step_runs_both_passes_but_knows_no_model():
    accelerator, model, optimizer, scheduler, loader = prepare("zsharp")
    passes = []
    for batch in loader:

        def closure(batch=batch):
            optimizer.zero_grad()
            passes.append(optimizer.optimizer.is_perturbed)
            loss = loss_of(model, batch)
            accelerator.backward(loss)
            return loss

        optimizer.step(closure)
        scheduler.step()
    expected, _ = plain("zsharp")
    assert same(model.parameters(), expected.parameters())
    assert passes == [False, True] * NUM
    assert int(model.norm.num_batches_tracked) == 2 * NUM  # why the other form is recommended


def test_a_saved_state_goes_on_bit_for_bit(tmp_path):
    accelerator, model, optimizer, scheduler, loader = prepare("friendly_sam")
    halves = list(loader)[: NUM // 2], list(loader)[NUM // 2 :]

    def train(data):
        for batch in data:
            optimizer.optimizer.step(closure_for(model, optimizer, batch), model=model)
            scheduler.step()

    train(halves[0])
    accelerator.save_state(str(tmp_path))
    train(halves[1])
    first = weights(model)
    accelerator.load_state(str(tmp_path))
    assert not same(model.parameters(), first)
    train(halves[1])
    assert same(model.parameters(), first)
    assert same(model.parameters(), plain("friendly_sam")[0].parameters())


def test_bfloat16_is_close():
    accelerator, model, optimizer, scheduler, loader = prepare("zsharp", mixed_precision="bf16")
    losses = []
    for batch in loader:

        def closure(batch=batch):
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            accelerator.backward(loss)
            return loss

        losses.append(optimizer.optimizer.step(closure, model=model))
        scheduler.step()
    _, expected = plain("zsharp")
    assert not torch.equal(torch.stack(losses), torch.stack(expected))
    torch.testing.assert_close(torch.stack(losses), torch.stack(expected), rtol=0.02, atol=0.0)


def test_its_accumulation_takes_no_closure_that_runs_twice():
    """`accumulate` skips `step` until the last micro-batch, whose closure cannot repeat those before."""
    accelerator, model, optimizer, _, loader = prepare("sam", gradient_accumulation_steps=2)
    passes = []
    for batch in loader:
        with accelerator.accumulate(model):

            def closure(batch=batch):
                passes.append(1)
                loss = loss_of(model, batch)
                accelerator.backward(loss)
                return loss

            optimizer.step(closure)
            optimizer.zero_grad()
    assert len(passes) == NUM


def test_float16_needs_the_scaler_handed_to_the_optimizer_itself():
    """On a CPU Accelerate makes no scaler, so its wrapper is given one here as it would on a GPU."""
    accelerate.Accelerator(cpu=True)
    model, own, scheduler = build("sam")
    scaler = GradScaler("cpu")
    optimizer = AcceleratedOptimizer(own, scaler=scaler)
    losses = []
    for batch in batches(NUM):

        def closure(batch=batch):
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            scaler.scale(loss).backward()
            return loss

        losses.append(optimizer.optimizer.step(closure, model=model, scaler=scaler))
        scaler.update()
        scheduler.step()
    assert same(losses, plain("sam")[1])  # a power of two changes no bit
    optimizer.optimizer.zero_grad()
    with pytest.raises(AssertionError, match="No inf checks were recorded"):  # unscales before any pass
        optimizer.step(closure)
