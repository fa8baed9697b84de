"""The checkpoints of a search: one file a trial, of unfinished trials and of the best ones only."""

import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from zipfile import ZipFile

from tune_jobs.search.folder import SearchFolder
from tune_jobs.search.trial import LiveTrial

FOLDER_NAME = "checkpoints"


class Retention:
    """Keeps the checkpoints of unfinished trials and of each study's best, and drops each of the others once.

    Those of trunks are all kept: trials start from them, also those by which the search is extended. Of finalists' own
    trials none is.
    """

    def __init__(self, checkpoints: "Checkpoints", trials: Mapping[str, LiveTrial], num_best: int) -> None:
        self.checkpoints = checkpoints
        self._trials, self._num_best = trials, num_best

    def end_trial(self, trial: LiveTrial) -> None:
        """Drops what the end of a trial makes superfluous: its checkpoint, or that of the one it outdid."""
        if trial.status != "completed" or trial.finalist_of is not None:
            self.checkpoints.drop(trial.trial_id)
            return
        if trial.is_trunk:
            return
        ranked = self._ranked(trial.study)
        if trial not in ranked[: self._num_best]:
            self.checkpoints.drop(trial.trial_id)
        elif len(ranked) > self._num_best:
            # It was the last of the best until now; those behind it were dropped before.
            self.checkpoints.drop(ranked[self._num_best].trial_id)

    def clean(self) -> None:
        """Drops all that are not needed, and what killed workers left half written."""
        kept = {
            trial.trial_id
            for trial in self._trials.values()
            if trial.is_unfinished or (trial.is_trunk and trial.status == "completed")
        }
        for study in {trial.study for trial in self._trials.values() if trial.is_searched}:
            kept.update(trial.trial_id for trial in self._ranked(study)[: self._num_best])
        self.checkpoints.keep_only(kept)

    def _ranked(self, study: str) -> list[LiveTrial]:
        """Returns a study's completed trials, the best first; of equals, the one that started first."""
        completed = [
            trial for trial in self._trials.values() if trial.study == study and trial.status == "completed"
        ]
        return sorted(completed, key=lambda trial: trial.merit, reverse=True)


class Checkpoints:
    """The checkpoints in a search folder.

    A worker stores one after every epoch, before it reports the epoch. So a trial's checkpoint is at most one epoch
    ahead of the ledger, unless the ledger's last reports were lost.

    Args:
        folder: The search folder, which all workers can reach.

    Attributes:
        folder: Where this process reads and writes the files.
    """

    def __init__(self, folder: SearchFolder) -> None:
        self._remote = folder.remote
        if self._remote is None:
            self.folder = folder.local / FOLDER_NAME
        else:
            self._scratch = tempfile.TemporaryDirectory(prefix="tune-jobs-checkpoints-")
            self.folder = Path(self._scratch.name)

    def file(self, trial_id: str) -> Path:
        """Returns where the checkpoint of a trial is, or would be, on this machine."""
        return self.folder / f"{trial_id}.pt"

    def exists(self, trial_id: str) -> bool:
        """Whether there is one."""
        return self.file(trial_id).name in self._names()

    def fetch(self, trial_id: str) -> Path | None:
        """Returns a file of this machine with the checkpoint of a trial, None if there is none."""
        file = self.file(trial_id)
        if self._remote is not None:
            return file if self._remote.pull(f"{FOLDER_NAME}/{file.name}", file) else None
        return file if file.exists() else None

    def store(self, trial_id: str, save: Callable[[Path], None]) -> None:
        """Stores a trial's checkpoint, replacing the last one.

        `save` writes it to a path, whole or not at all. A search folder that is gone is not made again.
        """
        file = self.file(trial_id)
        file.parent.mkdir(exist_ok=True)
        save(file)
        if self._remote is not None:
            self._remote.push(file, f"{FOLDER_NAME}/{file.name}")

    def drop(self, trial_id: str) -> None:
        """Deletes a trial's checkpoint, if there is one."""
        self._delete([self.file(trial_id).name])

    def keep_only(self, trial_ids: Collection[str]) -> None:
        """Deletes the checkpoints of all other trials, and what killed workers left half written."""
        wanted = {self.file(trial_id).name for trial_id in trial_ids}
        self._delete([name for name in self._names() if name not in wanted])

    def drop_damaged(self, trial_id: str) -> str | None:
        """Deletes a trial's checkpoint if it cannot be read.

        Returns:
            What was wrong with it, None if it is whole or missing.
        """
        file = self.fetch(trial_id)
        if file is None:
            return None
        try:
            with ZipFile(file) as archive:
                damaged = archive.testzip()
        except Exception as error:  # zipfile raises a different type for every kind of damage
            damaged = str(error) or type(error).__name__
        if damaged is not None:
            self.drop(trial_id)
            return f"{file.name} was damaged ({damaged})"
        return None

    def _names(self) -> list[str]:
        if self._remote is not None:
            return self._remote.names(FOLDER_NAME)
        return [file.name for file in self.folder.iterdir()] if self.folder.is_dir() else []

    def _delete(self, names: list[str]) -> None:
        for name in names:
            (self.folder / name).unlink(missing_ok=True)
        if self._remote is not None:
            self._remote.delete(f"{FOLDER_NAME}/{name}" for name in names)
