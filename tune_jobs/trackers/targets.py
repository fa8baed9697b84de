"""Which trackers a job asks for, which one a command names, and how each is made."""

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from tune_jobs.errors import NOTHING, JobError, Problem
from tune_jobs.job.checks import TRACKER_PACKAGES, has_credentials
from tune_jobs.trackers.tracker import Tracker

Kind = Literal["tensorboard", "mlflow", "wandb"]


def asked_for(job: Mapping[str, Any]) -> dict[Kind, str]:
    """Returns where a resolved job wants to be shown, by tracker: an address, a project, or "" for TensorBoard."""
    track = job.get("track") or {}  # 0.1 had none
    targets: dict[Kind, str] = {"tensorboard": ""} if track.get("tensorboard") else {}
    return targets | {kind: track[kind] for kind in ("mlflow", "wandb") if track.get(kind)}


def target_of(kind: Kind, job: Mapping[str, Any]) -> str:
    """Returns where a search is to be exported to: as its job says, or else as the environment does.

    The environment's MLflow server comes first: the folder may be a stranger's, and credentials are sent there.

    Raises:
        JobError: If neither does, or the tracker's package is not installed.
    """
    package = TRACKER_PACKAGES[kind]
    if find_spec(package) is None:
        text = f"{package} is not installed; install it with: pip install 'zsharp-tune[{kind}]'"
        raise JobError([Problem("--to", kind, text)])
    address = os.environ.get("MLFLOW_TRACKING_URI")
    if kind == "mlflow" and address:
        return address
    if (target := asked_for(job).get(kind)) is not None or kind == "tensorboard":
        return target or ""
    if kind == "wandb":
        return os.environ.get("WANDB_PROJECT") or str(job["name"])
    text = "no server to send to; set MLFLOW_TRACKING_URI, or `track: {mlflow: URI}` in the job"
    raise JobError([Problem("--to", NOTHING, text)])


def make_tracker(kind: Kind, target: str, folder: Path) -> Tracker:
    """Returns a tracker for the search in a local folder; its package is imported only now."""
    match kind:
        case "tensorboard":
            from tune_jobs.trackers.tensorboard import TensorBoard

            return TensorBoard(folder / "tensorboard")
        case "mlflow":
            from tune_jobs.trackers.mlflow import Mlflow

            return Mlflow(target)
        case "wandb":
            from tune_jobs.trackers.wandb import Wandb

            return Wandb(target, folder)


def shown_target(kind: Kind, target: str, folder: Path) -> str:
    """Returns where a tracker's runs are, for messages, without credentials."""
    if kind == "tensorboard":
        return str(folder / "tensorboard")
    return "the server of MLFLOW_TRACKING_URI" if has_credentials(target) else target
