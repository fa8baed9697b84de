"""The checkpoints of a search: one file a trial, of running trials and of the best ones only."""

from collections.abc import Collection
from pathlib import Path
from zipfile import ZipFile

FOLDER_NAME = "checkpoints"


class Checkpoints:
    """The checkpoints in a search folder.

    Workers write them after every epoch, before they report it; so the file of a trial is at most one epoch ahead of
    the ledger, unless it was lost.

    Args:
        folder: The search folder, which all workers see under this path.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute() / FOLDER_NAME

    def file(self, trial_id: str) -> Path:
        """Returns where the checkpoint of a trial is, or would be."""
        return self.folder / f"{trial_id}.pt"

    def drop(self, trial_id: str) -> None:
        """Deletes a trial's checkpoint, if there is one."""
        self.file(trial_id).unlink(missing_ok=True)

    def keep_only(self, trial_ids: Collection[str]) -> None:
        """Deletes the checkpoints of all other trials, and what killed workers left half written."""
        wanted = {self.file(trial_id) for trial_id in trial_ids}
        for file in self.folder.iterdir() if self.folder.is_dir() else ():
            if file not in wanted:
                file.unlink(missing_ok=True)

    def drop_damaged(self, trial_id: str) -> str | None:
        """Deletes a trial's checkpoint if it cannot be read.

        Returns:
            What was wrong with it, None if it is whole or missing.
        """
        file = self.file(trial_id)
        if not file.exists():
            return None
        try:
            with ZipFile(file) as archive:
                damaged = archive.testzip()
        except Exception as error:  # zipfile raises a different type for every kind of damage
            damaged = str(error) or type(error).__name__
        if damaged is not None:
            file.unlink()
            return f"{file.name} was damaged ({damaged})"
        return None
