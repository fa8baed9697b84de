"""The checkpoints of a search: one file a trial, of running trials and of the best ones only."""

import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from zipfile import ZipFile

from tune_jobs.storage import RemoteFolder, is_address

FOLDER_NAME = "checkpoints"


class Checkpoints:
    """The checkpoints in a search folder.

    Workers store them after every epoch, before they report it; so that of a trial is at most one epoch ahead of the
    ledger, unless it was lost.

    Args:
        place: The search folder: a path that all workers see, or an address.

    Attributes:
        place: The same, as every process of this machine can open it.
        folder: Where this process reads and writes the files.
    """

    def __init__(self, place: str | Path) -> None:
        self._remote = RemoteFolder(str(place)) if is_address(place) else None
        if self._remote is None:
            self.place = str(Path(place).absolute())
            self.folder = Path(self.place) / FOLDER_NAME
        else:
            self.place = str(place)
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
        """Stores a trial's checkpoint in place of the one before.

        Args:
            trial_id: The trial.
            save: Writes it to a path, whole or not at all.
        """
        file = self.file(trial_id)
        file.parent.mkdir(parents=True, exist_ok=True)
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
