"""What each of two processes does for `test_distributed.py`."""

import torch
from small_nets import batches, classifier, closure_for, loss_of, weights
from torch.amp import GradScaler
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel

from zsharp.optim import SAM, make_optimizer

NUM_STEPS = 3
OF_TWO_PASSES = ["sam", "asam", "zsharp", "zsharp_official", "friendly_sam"]
METHODS = [*OF_TWO_PASSES, "msam", "zsharp_stale_sam"]


def shards(rank):
    """Every other half of the batches."""
    return [(x.chunk(2)[rank].double(), y.chunk(2)[rank]) for x, y in batches(NUM_STEPS)]


def run(rank, size, folder):
    return {
        "local": {method: train(rank, method) for method in METHODS},
        "synchronised": {method: train(rank, method, sync_ascent=True) for method in METHODS},
        "by hand": {method: train_by_hand(rank, method) for method in METHODS},
        "batch norm": train(rank, "zsharp", batch_norm=True),
        "overflow": overflow_on_one(rank),
        "refused": refuse_flattened(),
    }


def train(rank, method, sync_ascent=False, batch_norm=False):
    model = classifier(batch_norm=batch_norm).double()
    parallel = DistributedDataParallel(model)
    optimizer = make_optimizer(model.parameters(), method, "sgd", lr=0.1, momentum=0.9)
    for batch in shards(rank):
        optimizer.step(closure_for(parallel, optimizer, batch), model=parallel, sync_ascent=sync_ascent)
    return list(model.state_dict().values())


def train_by_hand(rank, method):
    model = classifier().double()
    parallel = DistributedDataParallel(model)
    optimizer = make_optimizer(model.parameters(), method, "sgd", lr=0.1, momentum=0.9)
    for batch in shards(rank):
        optimizer.zero_grad()
        if not optimizer.is_one_pass:
            with parallel.no_sync():
                loss_of(parallel, batch).backward()
        optimizer.first_step(zero_grad=True)
        loss_of(parallel, batch).backward()
        optimizer.second_step(zero_grad=True)
    return weights(model)


def overflow_on_one(rank):
    """The second of three steps overflows in the first pass of the second process alone."""
    model = classifier()
    parallel = DistributedDataParallel(model)
    optimizer = make_optimizer(model.parameters(), "friendly_sam", "sgd", lr=0.1)
    scaler = GradScaler("cpu", init_scale=1024.0)
    results = []
    for i, (x, y) in enumerate(shards(rank)[:3]):

        def closure(x=x, y=y, is_bad=i == 1 and rank == 1):
            optimizer.zero_grad()
            loss = loss_of(parallel, (x.float(), y))
            scaler.scale(loss * (1e38 if is_bad and not optimizer.is_perturbed else 1.0)).backward()
            return loss

        optimizer.step(closure, model=parallel, scaler=scaler)
        scaler.update()
        results.append((weights(model), [g.clone() for g in optimizer._progress.running.values.values()]))
    return results, scaler.get_scale()


def refuse_flattened():
    """For both kinds of the older FSDP: the errors when building and adding, and the groups left."""
    cpu = torch.device("cpu")
    models = {
        "flat": FullyShardedDataParallel(classifier(), device_id=cpu),
        "views": FullyShardedDataParallel(classifier(), device_id=cpu, use_orig_params=True),
    }
    refused = {}
    for name, model in models.items():
        optimizer = SAM(classifier(seed=1).parameters(), torch.optim.SGD, lr=0.1)
        errors = []
        for act in (
            lambda model=model: SAM(model.parameters(), torch.optim.SGD, lr=0.1),
            lambda model=model, to=optimizer: to.add_param_group({"params": model.parameters()}),
        ):
            try:
                act()
            except TypeError as error:
                errors.append(str(error))
        refused[name] = (*errors, len(optimizer.param_groups))
    return refused
