"""Inside Hugging Face Accelerate: a prepared loop equals a plain one, in every form that its wrapper allows."""

import accelerate
import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState, GradientState, PartialState
from small_nets import batches, classifier, closure_for, loss_of, same, weights
from torch.amp import GradScaler

from zsharp.optim import frozen_batch_norm, make_optimizer

NUM = 6


@pytest.fixture(autouse=True)
def fresh_state():
    """Accelerate's settings are shared by the process."""
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


def prepare(method):
    accelerator = accelerate.Accelerator(cpu=True)
    loader = torch.utils.data.DataLoader(batches(NUM), batch_size=None)
    return accelerator, *accelerator.prepare(*build(method), loader)


@pytest.mark.parametrize("form", ["optimizer.optimizer.step", "two steps", "optimizer.step"])
@pytest.mark.parametrize("method", ["sam", "zsharp", "zsharp_friendly_sam"])
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
        elif form == "optimizer.step":
            optimizer.step(closure)
        else:
            inner.step(closure, model=model)
        scheduler.step()
    expected, _ = plain(method)
    trained = accelerator.unwrap_model(model)
    assert same(trained.parameters(), expected.parameters())
    if form == "optimizer.step":  # why the other forms are recommended
        assert int(trained.norm.num_batches_tracked) == 2 * NUM
    else:
        assert same(trained.buffers(), expected.buffers())
    assert optimizer.param_groups[0]["lr"] == 0.01 * 0.5 ** (NUM // 2)


def test_a_saved_state_resumes_bit_for_bit(tmp_path):
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
