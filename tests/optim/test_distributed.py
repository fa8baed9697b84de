"""Two real processes: what `DistributedDataParallel` computes, and what parameters of the older FSDP are told."""

from functools import partial

import numpy as np
import pytest
import slow_twin
import torch
import two_processes
from processes import run_in_group
from small_nets import batches, classifier, close, closure_for, gradients, same, weights
from two_processes import METHODS, NUM_STEPS, OF_TWO_PASSES, shards

from zsharp.optim import METHODS as TABLE
from zsharp.optim import frozen_batch_norm, make_optimizer


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each process returned, by rank."""
    return run_in_group(two_processes.run, 2, tmp_path_factory.mktemp("ranks"))


def build(method, **kwargs):
    model = classifier(**kwargs).double()
    return model, make_optimizer(model.parameters(), method, "sgd", lr=0.1, momentum=0.9)


@pytest.mark.parametrize("method", METHODS)
def test_weights_stay_the_same_on_both_processes(ranks, method):
    ways = ("local", "by hand", "synchronised")
    local, by_hand, synchronised = ([rank[way][method] for rank in ranks] for way in ways)
    assert same(*local) and same(*synchronised)
    assert same(by_hand[0], local[0]) and same(by_hand[1], local[1])
    assert not same(local[0], weights(classifier().double()))


# Friendly-SAM's running gradient is each process's own.
@pytest.mark.parametrize("method", [method for method in OF_TWO_PASSES if method != "friendly_sam"])
def test_by_default_each_process_ascends_along_its_own_gradient(ranks, method):
    model, _ = build(method)
    descent = slow_twin.Descent("sgd", 0.1)
    w = [p.numpy() for p in weights(model)]
    for one, two in zip(shards(0), shards(1), strict=True):
        up = []
        for shard in (one, two):
            e = slow_twin.perturb_by(TABLE[method], w, gradients(model, w, shard)[0])
            up.append(gradients(model, [wi + ei for wi, ei in zip(w, e, strict=True)], shard)[0])
        w = descent.step(w, [np.mean(pair, axis=0) for pair in zip(*up, strict=True)])
    close(ranks[0]["local"][method], w)


@pytest.mark.parametrize("method", METHODS)
def test_a_synchronised_ascent_is_one_process_on_the_whole_batch(ranks, method):
    model, optimizer = build(method)
    for x, y in batches(NUM_STEPS):
        optimizer.step(closure_for(model, optimizer, (x.double(), y)))
    close(ranks[0]["synchronised"][method], weights(model))
    ways = (ranks[0][way][method][1] for way in ("synchronised", "local"))
    # Momentum and the gradient of the step before are averaged in any case.
    assert torch.allclose(*ways, rtol=1e-6) == (method not in OF_TWO_PASSES)


def test_batch_norm_sees_each_batch_once_on_every_process(ranks):
    """The processes' statistics are the first one's: DDP hands them round before each forward pass."""
    model, optimizer = build("zsharp", batch_norm=True)

    def unseen(closure):
        with frozen_batch_norm(model):
            return closure()

    for one, two in zip(shards(0), shards(1), strict=True):
        first, second = (closure_for(model, optimizer, shard) for shard in (one, two))
        optimizer.step_groups([first, partial(unseen, second)], model=model)
    close(ranks[0]["batch norm"], list(model.state_dict().values()))
    for name, one, two in zip(model.state_dict(), *(rank["batch norm"] for rank in ranks), strict=True):
        assert torch.equal(one, two) or "running" in name
        assert not name.endswith("num_batches_tracked") or int(two) == NUM_STEPS


def test_an_overflow_in_one_process_is_a_step_left_out_in_both(ranks):
    for steps, scale in (rank["overflow"] for rank in ranks):
        (before, running), (after, running_after), (last, _) = steps
        assert same(after, before)
        assert same(running_after, running)
        assert not same(last, after)
        assert all(p.isfinite().all() for p in last)
        assert scale == 512.0
    assert same(*(rank["overflow"][0][-1][0] for rank in ranks))


def test_flattened_parameters_are_refused_and_nothing_is_added(ranks):
    for refused in (rank["refused"] for rank in ranks):
        assert list(refused) == ["flat", "views"]
        for built, added, num_groups in refused.values():
            assert "a parameter is flattened" in built and built == added
            assert num_groups == 1
