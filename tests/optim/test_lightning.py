"""Inside PyTorch Lightning: manual and automatic optimization equal a plain loop."""

from contextlib import nullcontext

import pytest
import pytorch_lightning as pl
import torch
from small_nets import batches, classifier, closure_for, loss_of, same

from zsharp.optim import frozen_batch_norm, make_optimizer

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers:UserWarning",  # Lightning's advice on loaders
    "ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning",  # its use of torch
    "ignore:The `srun` command is available:UserWarning",  # where Slurm is installed
)
NUM = 6


class Manual(pl.LightningModule):
    """As in docs/optimizers.md."""

    automatic_optimization = False

    def __init__(self, method="zsharp"):
        super().__init__()
        self.net, self.method = classifier(batch_norm=True), method
        self.logged, self.passes = [], []

    def configure_optimizers(self):
        optimizer = make_optimizer(self.net.parameters(), self.method, "adamw", lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]

    def loss(self, batch):
        is_second = self.optimizers().is_perturbed
        self.passes.append(is_second)
        with frozen_batch_norm(self) if is_second else nullcontext():
            return loss_of(self.net, batch)

    def training_step(self, batch, _):
        optimizer = self.optimizers()

        def closure():
            optimizer.zero_grad()
            loss = self.loss(batch)
            self.manual_backward(loss)
            return loss

        self.log("train_loss", optimizer.step(closure))

    def on_train_batch_end(self, *_):
        self.logged.append(self.trainer.callback_metrics["train_loss"].clone())

    def on_train_epoch_end(self):
        if not self.automatic_optimization:
            self.lr_schedulers().step()


class Automatic(Manual):
    automatic_optimization = True

    def training_step(self, batch, _):
        loss = self.loss(batch)
        if not self.optimizers().is_perturbed:
            self.log("train_loss", loss)
        return loss


def fit(module, folder, epochs=2, checkpoint=None, **settings):
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, max_epochs=epochs, **settings,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(batches(NUM), batch_size=None)
    trainer.fit(module, loader, ckpt_path=checkpoint)
    return trainer


def plain(method="zsharp", epochs=2, clip=None):
    """The same without Lightning."""
    model = classifier(batch_norm=True)
    optimizer = make_optimizer(model.parameters(), method, "adamw", lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    losses = []
    for _ in range(epochs):
        for batch in batches(NUM):

            def closure(batch=batch):
                loss = closure_for(model, optimizer, batch)()
                if clip:
                    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
                return loss

            losses.append(optimizer.step(closure, model=model))
        scheduler.step()
    return model, losses


@pytest.mark.parametrize("method", ["sam", "zsharp", "zsharp_friendly_sam"])
@pytest.mark.parametrize("kind", [Manual, Automatic])
def test_both_optimizations_equal_a_plain_loop(kind, method, tmp_path):
    module = kind(method)
    trainer = fit(module, tmp_path)
    model, losses = plain(method)
    assert same(module.net.state_dict().values(), model.state_dict().values())  # batch norm included
    assert same(module.logged, losses)
    assert module.passes == [False, True] * (2 * NUM)
    assert trainer.global_step == 2 * NUM


def test_gradient_clipping_of_the_trainer(tmp_path):
    module = Automatic()
    fit(module, tmp_path, gradient_clip_val=0.05)
    assert same(module.net.parameters(), plain(clip=0.05)[0].parameters())
    assert not same(module.net.parameters(), plain()[0].parameters())


def test_a_checkpoint_of_the_trainer_resumes_bit_for_bit(tmp_path):
    first = Manual("friendly_sam")
    fit(first, tmp_path, epochs=1).save_checkpoint(tmp_path / "one.ckpt")
    second = Manual("friendly_sam")
    fit(second, tmp_path, checkpoint=tmp_path / "one.ckpt")
    assert same(second.net.state_dict().values(), plain("friendly_sam")[0].state_dict().values())
