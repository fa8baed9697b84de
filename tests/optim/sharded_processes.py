"""What each of several processes does for `test_sharded.py`."""

from copy import deepcopy

import torch
import torch.distributed as dist
from small_nets import SHARP, batches, classifier, closure_for, loss_of
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from zsharp.optim import SAM, SharpnessAware, make_optimizer
from zsharp.optim.methods import Rules

NUM_STEPS = 20
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
RULES = {
    **{method: method for method in [*SHARP, "msam", "zsharp_stale_sam"]},
    "pooled": Rules("sam", "zscore", threshold="global"),
    "adaptive": Rules("asam", "magnitude", norm="layer", one_dim="dense"),
}


def build(model, rules):
    settings = {"lr": 0.1, "momentum": 0.9}
    if isinstance(rules, str):
        return make_optimizer(model.parameters(), rules, "sgd", **settings)
    return SharpnessAware(model.parameters(), torch.optim.SGD, rules=rules, rho=0.05, q_p=0.7, **settings)


def sharded_classifier(dtype, mesh=None):
    model = classifier(width=13).to(dtype)  # divides by no number of processes
    fully_shard(model.first, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def whole(tensors):
    return [t.full_tensor() if isinstance(t, DTensor) else t.clone() for t in tensors]


def run(rank, size, folder):
    return {
        "perturbed": {name: perturb(rules) for name, rules in RULES.items()},
        "trained": {name: train(rank, size, rules) for name, rules in RULES.items()},
        "moved over": {name: move_over(rank, size, RULES[name]) for name in ("friendly_sam", "random_sam")},
        "replicated": train_replicated(rank, size) if size == 4 else None,
        "refused": refused(size),
    }


def perturb(rules):
    """Gradients that are equal in all processes average to themselves, exactly: w + e, and what was observed."""
    model = sharded_classifier(torch.float32)
    optimizer = build(model, rules)
    loss_of(model, batches(1)[0]).backward()
    optimizer.first_step(zero_grad=True)
    moved = whole(p.detach() for p in model.parameters())
    last = optimizer.last
    optimizer.restore()
    restored = whole(p.detach() for p in model.parameters())
    return moved, restored, last.kept, last.norm, last.grad_norm


def train(rank, size, rules, model=None, optimizer=None, begin=0, end=NUM_STEPS):
    model = model or sharded_classifier(torch.float64)
    optimizer = optimizer or build(model, rules)
    for x, y in batches(NUM_STEPS)[begin:end]:
        optimizer.step(
            closure_for(model, optimizer, (x.chunk(size)[rank].double(), y.chunk(size)[rank])), model=model
        )
    return whole(p.detach() for p in model.parameters())


def move_over(rank, size, rules):
    """Half of the steps sharded; the state goes to a model in one piece, and from there to a sharded one."""
    model = sharded_classifier(torch.float64)
    optimizer = build(model, rules)
    train(rank, size, rules, model, optimizer, end=NUM_STEPS // 2)
    weights, state = (
        get_model_state_dict(model, options=WHOLE),
        get_optimizer_state_dict(model, optimizer, options=WHOLE),
    )
    given = [(weights, state)] if rank == 0 else [None]
    dist.broadcast_object_list(given)
    weights, state = given[0]

    alone = classifier(width=13).double()
    own = build(alone, rules)
    set_model_state_dict(alone, weights)
    set_optimizer_state_dict(alone, own, state)
    # Copies: the next steps change the weights and the state in place.
    back_weights, back_state = deepcopy((get_model_state_dict(alone), get_optimizer_state_dict(alone, own)))
    for x, y in batches(NUM_STEPS)[NUM_STEPS // 2 :]:
        own.step(closure_for(alone, own, (x.double(), y)))

    again = sharded_classifier(torch.float64)
    other = build(again, rules)
    set_model_state_dict(again, back_weights, options=WHOLE)
    set_optimizer_state_dict(again, other, back_state, options=WHOLE)
    sharded = train(rank, size, rules, again, other, begin=NUM_STEPS // 2)
    return whole(p.detach() for p in alone.parameters()), sharded


def train_replicated(rank, size):
    """Two copies of two shards each (HSDP)."""
    model = sharded_classifier(
        torch.float64, init_device_mesh("cpu", (2, 2), mesh_dim_names=("copies", "shards"))
    )
    return train(rank, size, "zsharp", model)


def refused(size):
    mesh = init_device_mesh("cpu", (size,))
    tensor = torch.ones(8, 8)
    cases = {
        "replicated": [distribute_tensor(tensor, mesh, [Replicate()])],
        "mixed": [distribute_tensor(tensor, mesh, [Shard(0)]), tensor],
    }
    if size == 4:
        cases["twice"] = [distribute_tensor(tensor, init_device_mesh("cpu", (2, 2)), [Shard(0), Shard(1)])]
    errors = {}
    for name, params in cases.items():
        try:
            SAM([torch.nn.Parameter(p) for p in params], torch.optim.SGD, lr=0.1)
        except TypeError as error:
            errors[name] = str(error)
    return errors
