"""Starts a run where its trunk ended, and trains the trunk again if its checkpoint was lost."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tune_jobs.search.checkpoints import Checkpoints

if TYPE_CHECKING:
    from tune_jobs.search.own_loop import LoopRun
    from tune_jobs.search.team import TeamRun
    from zsharp.training import Training
    from zsharp.training.spec import TrialSpec

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trunk:
    """A trunk that a run starts from."""

    name: str  # of its checkpoint
    spec: "TrialSpec"  # what it trains
    num_epochs: int  # so many epochs of it


def from_trunk(
    build: "Callable[[TrialSpec], Training | LoopRun | TeamRun]",
    spec: "TrialSpec",
    trunk: "Trunk",
    checkpoints: Checkpoints,
) -> "Training | TeamRun":
    """Returns the run of `spec` at the end of its trunk, which is trained again if its checkpoint was lost.

    Args:
        build: Makes a run at its first epoch.

    Raises:
        RuntimeError: If the trunk had to be trained again, and diverged.
    """
    run = _own(build(spec))
    if not _is_loaded(run, trunk, checkpoints):
        if (problem := train_trunk(build, trunk, checkpoints)) is not None:
            raise RuntimeError(problem)
        run = _own(build(spec))
        if not _is_loaded(run, trunk, checkpoints):
            raise OSError(f"{trunk.name}: its checkpoint could not be read back")
    return run


def train_trunk(
    build: "Callable[[TrialSpec], Training | LoopRun | TeamRun]", trunk: "Trunk", checkpoints: Checkpoints
) -> str | None:
    """Trains a trunk to its end, from its checkpoint if there is one; returns why it did not get there, or None."""
    run = build(trunk.spec)
    file = checkpoints.fetch(trunk.name)
    if file is not None:
        try:
            run.load(file)
        except ValueError as error:
            _logger.warning("%s starts again from its first epoch: %s", trunk.name, error)
            run = build(trunk.spec)
    while run.epoch < trunk.num_epochs:
        if run.run_epoch()["diverged"]:
            return f"{trunk.name} diverged at epoch {run.epoch}"
        checkpoints.store(trunk.name, run.save)
    return None


def _is_loaded(run: "Training | TeamRun", trunk: "Trunk", checkpoints: Checkpoints) -> bool:
    file = checkpoints.fetch(trunk.name)
    if file is None:
        return False
    try:
        run.load(file, trunk.spec)
    except ValueError as error:
        _logger.warning("%s is trained again: %s", trunk.name, error)
        return False
    return run.epoch == trunk.num_epochs


def _own(run: "Training | LoopRun | TeamRun") -> "Training | TeamRun":
    from tune_jobs.search.own_loop import LoopRun

    assert not isinstance(run, LoopRun), "jobs with a loop of the user's own have no trunk"
    return run
