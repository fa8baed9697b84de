"""Collects what a result depends on besides its job: versions, source commit and hardware."""

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from zsharp.cpu import cpu_model, num_cpus

PACKAGES = ("zsharp-tune", "torch", "torchvision", "ray", "optuna", "numpy", "pandas", "pyarrow")
SENT_FROM = "sent_from.json"  # beside this file where `tune-jobs submit` has sent it


def provenance(gpus: Sequence[str] = ()) -> dict[str, Any]:
    """Returns JSON-able facts about this process; None where a fact is unknown.

    The keys are `package_versions` (of those installed), `python_version`, `git_commit` and `git_dirty` (None
    where git does not track this package; dirty means changed or new files in it or in a package beside it)
    and `hardware`: `cpu_model`, `num_cpus` (that this process may use), `memory_bytes`, `gpus`.

    Args:
        gpus: names of the GPUs, which the caller knows without our importing torch.
    """
    commit, dirty = _sent_from() or git_state(Path(__file__))
    return {
        "package_versions": {name: number for name in PACKAGES if (number := _version(name))},
        "python_version": platform.python_version(),
        "git_commit": commit,
        "git_dirty": dirty,
        "hardware": {
            "cpu_model": cpu_model(),
            "num_cpus": num_cpus(),
            "memory_bytes": psutil.virtual_memory().total,
            "gpus": list(gpus),
        },
    }


def _sent_from() -> tuple[str | None, bool | None] | None:
    """Returns the `git_state` of the machine that sent this copy of our code, None if nobody sent it."""
    try:
        commit, dirty = json.loads(Path(__file__).with_name(SENT_FROM).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return commit, dirty


def git_state(source: Path) -> tuple[str | None, bool | None]:
    """Returns the commit that a package's source file is checked out from, and if the tree differs from it.

    (None, None) unless git tracks that very file: what is installed below somebody's checkout is no part of it.

    Args:
        source: a file directly in the package; its sibling packages count as the tree.
    """
    folder = source.resolve().parent
    if _git(folder, "ls-files", "--error-unmatch", "--", source.name) is None:
        return None, None
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    packages = sorted(path.parent.name for path in folder.parent.glob("*/__init__.py"))
    changes = _git(folder.parent, "status", "--porcelain", "--", *packages)
    if commit is None or changes is None:
        return None, None
    return commit, changes != ""


def git_state_of(files: Sequence[Path]) -> tuple[str | None, bool | None]:
    """Returns the commit that the first of some files is checked out from, and if any of them differs from it.

    (None, None) unless git tracks the first.
    """
    if not files or _git(files[0].parent, "ls-files", "--error-unmatch", "--", files[0].name) is None:
        return None, None
    commit = _git(files[0].parent, "rev-parse", "--verify", "HEAD")
    changes = _git(files[0].parent, "status", "--porcelain", "--", *map(str, files))
    return (None, None) if commit is None or changes is None else (commit, changes != "")


def _git(folder: Path, *arguments: str) -> str | None:
    # GIT_DIR and its like, set inside a hook, would point to another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
