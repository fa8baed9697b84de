"""Weights & Biases: a group for each search, a run for it and one for each trial, with ids of ours.

Online, the server says how many steps a run has, so what was sent is not sent again. Offline runs are folders of the
machine, and a folder cannot be appended to: a trial's is written when it has ended, in place of an earlier one. Which
trials are complete stands in `wandb/tune_jobs.json` in the search folder; without it every trial is looked at again.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb

from tune_jobs.trackers.rows import SearchRow, TrialRow, decision_text, is_notable, is_running, measures
from zsharp.atomic import atomic_write

_STATES = "tune_jobs.json"


class Wandb:
    """Runs of Weights & Biases, offline unless `WANDB_API_KEY` or `WANDB_MODE` says otherwise.

    Args:
        project: PROJECT, or ENTITY/PROJECT.
        folder: The search folder; W&B writes to `wandb/` there.
    """

    def __init__(self, project: str, folder: Path) -> None:
        self._entity, _, self._project = project.rpartition("/")
        self._folder = folder
        self._file = folder / "wandb" / _STATES
        self._mode = os.environ.get("WANDB_MODE") or (
            "online" if os.environ.get("WANDB_API_KEY") else "offline"
        )
        self._open: dict[str, wandb.Run] = {}
        self._states: dict[str, str] | None = None

    def states(self, search: SearchRow) -> Mapping[str, str]:
        """Returns the states in the file, if they are of this search in this project."""
        if self._states is None:
            try:
                noted = json.loads(self._file.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                noted = {}
            same = noted.get("target") == self._target(search)
            self._states = dict(noted["states"]) if same else {}
        return self._states

    def num_written(self, search: SearchRow, trial: TrialRow) -> int:
        """Returns the step that the run is at; of a trial that waits for its end, all."""
        if self._mode == "offline" and not trial.has_ended:
            return trial.num_reports
        return max(
            0, int(self._run(search, trial).step) - 1
        )  # the next step is asked for, epochs count from 1

    def write(
        self, search: SearchRow, trial: TrialRow, reports: Sequence[Mapping[str, Any]], state: str
    ) -> None:
        """Adds a step for each epoch, with the gradient evaluations as one of its values."""
        assert self._states is not None, "states are read first"
        if self._mode == "offline" and not trial.has_ended:
            self._states[trial.id] = state
            return
        run = self._run(search, trial)
        for report in reports:
            row: dict[str, Any] = {"epoch": report["epoch"], **measures(report)}
            if is_notable(report):
                row["decision"] = decision_text(report)
            run.log(row, step=report["epoch"])
        run.summary.update(trial.ending)
        if trial.has_ended:
            del self._open[trial.id]
            run.finish(exit_code=int(trial.status == "failed"))
            self._note(search, trial.id, state)
        else:
            self._states[trial.id] = state

    def write_search(self, search: SearchRow, state: str, page: Path | None) -> None:
        """Writes the settings of the search and its facts, and its report as a file of the run."""
        if self._mode == "offline" and search.status == "running":
            assert self._states is not None, "states are read first"
            self._states[""] = state
            return
        run = self._begin(search, search.id, search.name, "search", {**search.settings, **search.facts})
        run.summary.update({"status": search.status, **{f"trials.{k}": n for k, n in search.counts.items()}})
        if page is not None:
            copy = Path(run.dir) / "report.html"
            shutil.copyfile(page, copy)
            run.save(str(copy), base_path=run.dir, policy="now")
        run.finish()
        self._note(search, "", state)

    def close(self) -> None:
        """Ends this process's part of the runs of trials that still run."""
        for run in self._open.values():
            run.finish()
        self._open.clear()
        self._states = None

    def _run(self, search: SearchRow, trial: TrialRow) -> wandb.Run:
        if trial.id not in self._open:
            name = f"{search.id}-{trial.id}"
            self._open[trial.id] = self._begin(search, name, trial.id, "trial", trial.params)
        return self._open[trial.id]

    def _begin(
        self, search: SearchRow, name: str, shown: str, kind: str, config: Mapping[str, Any]
    ) -> wandb.Run:
        run_id = "".join(char if char.isalnum() or char in "_-." else "_" for char in name)
        if self._mode == "offline":
            for old in (self._folder / "wandb").glob(f"offline-run-*-{run_id}"):
                shutil.rmtree(old)
        # Nothing of this process: runs stand for trials that other processes train.
        settings = wandb.Settings(
            silent=True,
            console="off",
            x_disable_stats=True,
            x_disable_meta=True,
            disable_git=True,
            disable_code=True,
            save_code=False,
        )
        return wandb.init(
            project=self._project,
            entity=self._entity or None,
            dir=str(self._folder),
            id=run_id,
            name=shown,
            group=f"{search.name}-{search.id}",
            job_type=kind,
            config=dict(config),
            mode="offline" if self._mode == "offline" else "online",
            resume="allow",
            reinit="create_new",
            allow_val_change=True,
            settings=settings,
        )

    def _target(self, search: SearchRow) -> list[str]:
        return [search.id, self._entity, self._project, self._mode]

    def _note(self, search: SearchRow, name: str, state: str) -> None:
        assert self._states is not None, "states are read first"
        self._states[name] = state
        # Trials that run are not complete, and what this process has of them the next one has not.
        complete = {
            key: value
            for key, value in self._states.items()
            if key not in self._open and not is_running(value)
        }
        self._file.parent.mkdir(exist_ok=True)
        with atomic_write(self._file) as unfinished:
            unfinished.write_text(
                json.dumps({"target": self._target(search), "states": complete}), encoding="utf-8"
            )
