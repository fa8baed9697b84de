"""What each of two gloo processes does for `test_distributed.py`; what it finds is saved for the test to read."""

import os

import torch
import torch.distributed as dist
from small_nets import batches, classifier, closure_for, loss_of, weights
from torch.amp import GradScaler
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from zsharp.optim import SAM, make_optimizer

NUM_STEPS = 3
METHODS = ["sam", "asam", "zsharp", "zsharp_official", "friendly_sam"]


def shards(rank):
    """Every other half of the batches."""
    return [(x.chunk(2)[rank].double(), y.chunk(2)[rank]) for x, y in batches(NUM_STEPS)]


def run(rank, port, folder):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    found = {
        "local": {method: train(rank, method) for method in METHODS},
        "synchronised": {method: train(rank, method, sync_ascent=True) for method in METHODS},
        "by hand": {method: train_by_hand(rank, method) for method in METHODS},
        "batch norm": train(rank, "zsharp", batch_norm=True),
        "overflow": overflow_on_one(rank),
        "refused": refuse_sharded(),
        "lightning": train_in_lightning(rank, port),
    }
    torch.save(found, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


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
    found = []
    for i, (x, y) in enumerate(shards(rank)[:3]):

        def closure(x=x, y=y, is_bad=i == 1 and rank == 1):
            optimizer.zero_grad()
            loss = loss_of(parallel, (x.float(), y))
            scaler.scale(loss * (1e38 if is_bad and not optimizer.is_perturbed else 1.0)).backward()
            return loss

        optimizer.step(closure, model=parallel, scaler=scaler)
        scaler.update()
        found.append((weights(model), [g.clone() for g in optimizer._progress.running.values.values()]))
    return found, scaler.get_scale()


def refuse_sharded():
    """What is said to parameters of FSDP2 and both kinds of FSDP, when building and when adding a group."""
    sharded = classifier()
    fully_shard(sharded)
    models = {
        "FSDP2": sharded,
        "flat": FullyShardedDataParallel(classifier(), device_id=torch.device("cpu")),
        "views": FullyShardedDataParallel(classifier(), device_id=torch.device("cpu"), use_orig_params=True),
    }
    found = {"is DTensor": all(isinstance(p, DTensor) for p in sharded.parameters())}
    for name, model in models.items():
        whole = classifier(seed=1)
        for way in ("build", "add"):
            try:
                if way == "build":
                    SAM(model.parameters(), torch.optim.SGD, lr=0.1)
                else:
                    optimizer = SAM(whole.parameters(), torch.optim.SGD, lr=0.1)
                    optimizer.add_param_group({"params": model.parameters()})
                found[name, way] = "taken"
            except TypeError as error:
                found[name, way] = str(error)
            if way == "add":
                found[name, "groups"] = len(optimizer.param_groups)
    return found


def train_in_lightning(rank, port):
    """Lightning's own DDP, in the processes that are there, each with its shards."""
    import pytorch_lightning as pl
    from pytorch_lightning.plugins.environments import LightningEnvironment
    from pytorch_lightning.strategies import DDPStrategy

    class Module(pl.LightningModule):
        automatic_optimization = False

        def __init__(self):
            super().__init__()
            self.net = classifier().double()

        def configure_optimizers(self):
            return make_optimizer(self.net.parameters(), "zsharp", "sgd", lr=0.1, momentum=0.9)

        def training_step(self, batch, _):
            optimizer = self.optimizers()

            def closure():
                optimizer.zero_grad()
                loss = loss_of(self.net, batch)
                self.manual_backward(loss)
                return loss

            optimizer.step(closure)

    os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    module = Module()
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, max_epochs=1, logger=False, enable_checkpointing=False,
        strategy=DDPStrategy(cluster_environment=LightningEnvironment(), process_group_backend="gloo"),
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(shards(rank), batch_size=None))
    return weights(module.net)
