"""Two and four real processes with FSDP2: an optimizer over shards computes what one over whole tensors does."""

import pytest
import sharded_processes
import torch
from processes import run_in_group
from sharded_processes import NUM_STEPS, RULES, build
from small_nets import batches, classifier, close, closure_for, loss_of, same, weights


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def ranks(request, tmp_path_factory):
    """What each process returned, by rank."""
    return run_in_group(sharded_processes.run, request.param, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", RULES)
def test_the_same_components_move_bit_for_bit(ranks, name):
    model = classifier(width=13)
    optimizer = build(model, RULES[name])
    before = weights(model)
    loss_of(model, batches(1)[0]).backward()
    optimizer.first_step()
    for rank in ranks:
        moved, restored, kept, norm, grad_norm = rank["perturbed"][name]
        assert same(restored, before)
        masks = [p != w for p, w in zip(moved, before, strict=True)]
        assert same(masks, [p != w for p, w in zip(weights(model), before, strict=True)])
        assert torch.equal(kept, optimizer.last.kept)
        close(moved, weights(model), rtol=1e-5)
        close([norm, grad_norm], [optimizer.last.norm, optimizer.last.grad_norm], rtol=1e-5)


@pytest.mark.parametrize("name", RULES)
def test_training_is_that_of_one_process_on_the_whole_batch(ranks, name):
    model = classifier(width=13).double()
    optimizer = build(model, RULES[name])
    for x, y in batches(NUM_STEPS):
        optimizer.step(closure_for(model, optimizer, (x.double(), y)))
    for rank in ranks:
        close(rank["trained"][name], weights(model))


@pytest.mark.parametrize("name", ["friendly_sam", "random_sam"])
def test_a_state_goes_from_shards_to_whole_tensors_and_back(ranks, name):
    for rank in ranks:
        for trained in rank["moved over"][name]:
            close(trained, rank["trained"][name])


def test_copies_of_shards_count_once(ranks):
    if len(ranks) < 4:
        pytest.skip("two copies of two shards take four processes")
    for rank in ranks:
        close(rank["replicated"], rank["trained"]["zsharp"])


def test_other_ways_of_sharding_are_refused(ranks):
    for rank in ranks:
        refused = rank["refused"]
        assert set(refused) == {"replicated", "mixed", *(["twice"] if len(ranks) == 4 else [])}
        assert "tensor parallelism" in refused["replicated"] and "1 are not sharded" in refused["mixed"]
