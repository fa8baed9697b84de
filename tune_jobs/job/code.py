"""The source files of a user's own that a job imports: collected, kept in the search folder, and found on workers."""

import atexit
import inspect
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from tune_jobs.errors import JobError, Problem
from tune_jobs.job.spec import JobSpec
from zsharp.user_code import bytes_checksum, has_module, is_reference, loaded_files

FOLDER_NAME = "code"
"""Of the copy in a search folder."""

_MAX_BYTES = 20 * 2**20


@dataclass(frozen=True)
class OwnCode:
    """What a job imported from its `code` folders."""

    folders: tuple[str, ...]  # as the job names them
    files: Mapping[str, bytes]  # by name: the number of the folder, then the path in it, such as `0/nets.py`

    @classmethod
    def imported(cls, job: JobSpec) -> Self:
        """Collects what this process has imported from the job's folders.

        Raises:
            JobError: If it is too much to send to workers.
        """
        files: dict[str, bytes] = {}
        taken: set[Path] = set()
        # A folder may lie in another: each file belongs to the innermost.
        for number, folder in sorted(enumerate(job.code), key=lambda item: -len(Path(item[1]).parts)):
            for name, file in loaded_files([folder]).items():
                if file not in taken:
                    taken.add(file)
                    files[f"{number}/{name}"] = file.read_bytes()
        size = sum(map(len, files.values()))
        if size > _MAX_BYTES:
            largest = sorted(files, key=lambda name: -len(files[name]))[:5]
            message = (
                f"{size / 2**20:.0f} MiB of code were imported from them; expected at most 20; largest: "
            )
            raise JobError([Problem("code", list(job.code), message + ", ".join(largest))])
        return cls(job.code, files)

    @classmethod
    def kept(cls, folder: Path, job: JobSpec) -> Self:
        """Reads the copy in a search folder; empty if there is none."""
        copy = folder / FOLDER_NAME
        files = {
            file.relative_to(copy).as_posix(): file.read_bytes()
            for file in sorted(copy.rglob("*.py"))
            if file.is_file() and not file.is_symlink()
        }
        return cls(job.code, files)

    @property
    def checksum(self) -> str | None:
        """The SHA-256 of names and contents, wherever the folders are; None of no files."""
        return bytes_checksum(self.files) if self.files else None

    def keep(self, folder: Path) -> None:
        """Writes the copy in a search folder."""
        self._write(folder / FOLDER_NAME)

    def folders_here(self) -> tuple[str, ...]:
        """Returns the folders to import from on this machine: the job's own if they hold these files, else copies."""
        if all(self._is_here(name) for name in self.files):
            return self.folders
        copy = Path(tempfile.mkdtemp(prefix="tune-jobs-code-"))
        atexit.register(shutil.rmtree, copy, ignore_errors=True)
        self._write(copy)
        return tuple(str(copy / str(number)) for number in range(len(self.folders)))

    def _is_here(self, name: str) -> bool:
        number, _, path = name.partition("/")
        try:
            return (Path(self.folders[int(number)]) / path).read_bytes() == self.files[name]
        except (OSError, IndexError, ValueError):
            return False

    def _write(self, folder: Path) -> None:
        for name, content in self.files.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)


@dataclass(frozen=True)
class Named:
    """A class or function as a job names it."""

    reference: str
    folders: tuple[str, ...]  # where to import it from
    by_value: Callable[..., Any] | None  # what to send to workers if they cannot import it
    source: str  # its own text, where it cannot be imported


def name_object(target: Callable[..., Any]) -> Named:
    """Returns how a job names a class or function that a program or a notebook passes.

    What a module defines is imported by every worker. What the main program or a function defines is sent to them, and
    has to be passed again to resume.
    """
    qualified = getattr(target, "__qualname__", type(target).__name__)
    name = "".join(char for char in qualified.rpartition(".")[2] if char.isidentifier()) or "task"
    module = sys.modules.get(target.__module__)
    file = getattr(module, "__file__", None)
    if (
        module is not None
        and file
        and module.__name__ != "__main__"
        and getattr(module, name, None) is target
    ):
        depth = module.__name__.count(".") + (Path(file).name == "__init__.py")
        return Named(f"{module.__name__}:{name}", (str(Path(file).resolve().parents[depth]),), None, "")
    try:
        source = inspect.getsource(target)
    except (OSError, TypeError):  # typed at a prompt
        source = ""
    return Named(f"{target.__module__}:{name}", (), target, source)


def check_own_code(job: JobSpec) -> None:
    """Raises JobError if a module that the job names is neither in its folders nor installed; imports nothing."""
    for reference in own_references(job):
        top = _top_of(reference)
        if not any(has_module(Path(folder), top) for folder in job.code) and find_spec(top) is None:
            message = f"no module {top!r} in {', '.join(job.code)}; `code: [FOLDER]` says where else to look"
            raise JobError([Problem("code", reference, message)])


def has_named_module(job: JobSpec, folder: Path) -> bool:
    """Returns whether a folder has a module that the job names."""
    return any(has_module(folder, _top_of(reference)) for reference in own_references(job))


def _top_of(reference: str) -> str:
    return reference.partition(":")[0].partition(".")[0]


def own_references(job: JobSpec) -> tuple[str, ...]:
    """Returns what a job names of the user's own, as `module:function`."""
    named = (job.task, job.train.loop, job.data.name, *job.architectures)
    return tuple(name for name in named if name is not None and is_reference(name))


def uses_own_code(job: JobSpec) -> bool:
    """Returns whether a job names a function or class of the user's own."""
    return bool(own_references(job))
