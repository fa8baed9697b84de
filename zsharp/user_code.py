"""Imports and calls what users bring: `module:function` in a folder of theirs, and tells their errors as theirs."""

import hashlib
import importlib
import importlib.util
import inspect
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from zsharp.names import did_you_mean

IMPORT_LIMIT_S = 120
"""How long an import, or building a model once, may take before it is called hung."""

_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_OURS = ("zsharp", "tune_jobs")


class UserCodeError(ValueError):
    """Code of the user's that cannot be used: which, what is wrong, and what is expected."""


class TookTooLongError(UserCodeError):
    """Code of the user's that did not return in time."""


def is_reference(name: str) -> bool:
    """Returns whether the text has the form `module:function`, such as `nets:mixer` or `my.nets:Mixer`."""
    return _REFERENCE.fullmatch(name) is not None


def load_callable(reference: str, folders: Sequence[str | Path] = ()) -> Callable[..., Any]:
    """Returns the function or class that `module:name` stands for.

    The module is looked for in `folders`, then among the installed packages. What it prints while it is imported
    goes to the error output. If its file has changed since this process imported it, it is imported again.

    Raises:
        UserCodeError: If there is no such module or name, the import fails, or what it names cannot be called.
    """
    if not is_reference(reference):
        raise UserCodeError(f"{reference!r} is not of the form module:function, such as nets:mixer")
    module_name, _, name = reference.partition(":")
    module = _import(module_name, [Path(folder).expanduser().absolute() for folder in folders])
    if not hasattr(module, name):
        names = [
            known
            for known, value in vars(module).items()
            if callable(value) and known[0] != "_" and getattr(value, "__module__", None) == module_name
        ]
        raise UserCodeError(
            f"{reference}: {module.__file__} has no {name!r}; {did_you_mean(name, names)}"
            f"it has: {', '.join(names) or 'no functions'}"
        )
    target = getattr(module, name)
    if not callable(target):
        raise UserCodeError(
            f"{reference}: {name} is of type {type(target).__name__}; expected a function or a class"
        )
    return target  # type: ignore[no-any-return]


def accepted(
    function: Callable[..., Any], offered: Mapping[str, Any], label: str, section: str = "model"
) -> dict[str, Any]:
    """Returns those of the offered arguments that a function's signature takes.

    Args:
        label: What the function is called in messages.
        section: Where a job gives the function's arguments.

    Raises:
        UserCodeError: If it needs an argument that is not offered, or takes one by position only.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a function written in C
        return dict(offered)
    for parameter in parameters:
        if parameter.default is not parameter.empty or parameter.kind in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            continue
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise UserCodeError(
                f"{label}: takes {parameter.name!r} by position only; arguments are passed by name"
            )
        if parameter.name not in offered:
            raise UserCodeError(
                f"{label}: needs an argument {parameter.name!r}; it is passed {', '.join(offered) or 'none'}. "
                f"Give it a default, or a value with `{section}: {{{parameter.name}: ...}}`"
            )
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return dict(offered)
    return {parameter.name: offered[parameter.name] for parameter in parameters if parameter.name in offered}


def takes(function: Callable[..., Any], name: str) -> bool:
    """Returns whether a function's signature takes an argument of this name."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # a function written in C
        return True
    return name in parameters or any(other.kind is other.VAR_KEYWORD for other in parameters.values())


def unused_argument(function: Callable[..., Any], name: str, label: str) -> UserCodeError:
    """Returns the error for an argument that a function's signature does not take."""
    taken = list(inspect.signature(function).parameters)
    takes = ", ".join(taken) or "none"
    return UserCodeError(f"{label}: has no argument {name!r}; {did_you_mean(name, taken)}takes: {takes}")


@contextmanager
def told_as_theirs(
    label: str, folders: Sequence[str | Path] = (), *, limit_s: float | None = IMPORT_LIMIT_S
) -> Iterator[None]:
    """Turns whatever the user's code raises into a `UserCodeError` that names it and their file and line.

    A `UserCodeError` passes unchanged. What the code prints goes to the error output.
    """
    try:
        with redirect_stdout(sys.stderr), nullcontext() if limit_s is None else _time_limit(label, limit_s):
            yield
    except UserCodeError:
        raise
    except SystemExit as error:
        raise UserCodeError(f"{label}: calls sys.exit({error.code!r}){_where(error, folders)}") from error
    except Exception as error:
        text = traceback.format_exception_only(error)[-1].strip().splitlines()
        raise UserCodeError(f"{label}: {text[0]}{_where(error, folders)}") from error


def user_traceback(error: BaseException, folders: Sequence[str | Path]) -> str:
    """Returns an error's traceback, cut to the files below `folders`; all of it if none of its lines is there."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_below(frame.filename, folders)]
    lines = traceback.format_list(own or frames)
    return "".join(["Traceback (most recent call last):\n", *lines, *traceback.format_exception_only(error)])


def loaded_files(folders: Sequence[str | Path]) -> dict[str, Path]:
    """Returns the source files below `folders` that this process has imported, by their names relative to theirs."""
    files = {}
    resolved = [_resolved(folder) for folder in folders]
    for _, file in _not_installed():
        for folder in resolved:
            if file.is_relative_to(folder) and "site-packages" not in file.parts:
                files[file.relative_to(folder).as_posix()] = file
                break
    return dict(sorted(files.items()))


def code_checksum(files: Mapping[str, Path]) -> str:
    """Returns the SHA-256 of source files, with their names; the same on every machine."""
    return bytes_checksum({name: file.read_bytes() for name, file in files.items()})


def bytes_checksum(files: Mapping[str, bytes]) -> str:
    """Returns the same of files given by their contents."""
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def has_module(folder: Path, top: str) -> bool:
    """Returns whether a folder has a module or package of this name, without dots."""
    return (folder / f"{top}.py").is_file() or (folder / top / "__init__.py").is_file()


_imported: dict[Path, str] = {}
"""The checksum that each file of a user's had when it was imported."""


def _import(name: str, folders: Sequence[Path]) -> ModuleType:
    top = name.partition(".")[0]
    owners = list(dict.fromkeys(folder.resolve() for folder in folders if has_module(folder, top)))
    if owners:
        _check_name(top, owners[0])
    if len(owners) > 1:
        raise UserCodeError(
            f"{name}: there is a module {top!r} in {owners[0]} and in {owners[1]}; rename one"
        )
    if owners:
        _forget_changed(owners[0], top)
        _check_not_hidden(top, owners[0])
        for folder in dict.fromkeys([owners[0], *(folder.resolve() for folder in folders)]):
            if str(folder) not in sys.path:
                sys.path.append(str(folder))  # at the end: it hides no module of Python's or ours
        importlib.invalidate_caches()
    elif top not in sys.modules and importlib.util.find_spec(top) is None:
        near = [file.stem for folder in folders if folder.is_dir() for file in folder.glob("*.py")]
        looked = ", ".join(map(str, folders)) or "no folder"
        raise UserCodeError(
            f"no module {top!r} in {looked}, and none is installed; {did_you_mean(top, near)}"
            "`code: [FOLDER]` in the job says where else to look"
        )
    with told_as_theirs(f"importing {name}", folders, limit_s=IMPORT_LIMIT_S):
        module = importlib.import_module(name)
    if owners:
        for file in loaded_files(folders).values():
            _imported.setdefault(file, code_checksum({"": file}))
    return module


def _check_name(top: str, owner: Path) -> None:
    """Refuses a module whose name Python or this program has."""
    if top in sys.stdlib_module_names or top in _OURS:
        whose = "Python" if top in sys.stdlib_module_names else "this program"
        raise UserCodeError(f"{owner / top}: {whose} has a module {top!r} of its own; rename yours")


def _check_not_hidden(top: str, owner: Path) -> None:
    """Refuses a module whose name an installed package has, which would be imported in its place."""
    other = _file_of(sys.modules[top]) if top in sys.modules else None
    if other is None and top not in sys.modules and (spec := importlib.util.find_spec(top)) is not None:
        other = Path(spec.origin).resolve() if spec.origin else None
    if other is not None and not other.is_relative_to(owner):
        raise UserCodeError(f"{owner / top}: another module {top!r} comes first, {other}; rename yours")


def _forget_changed(owner: Path, top: str) -> None:
    """Has the modules of a folder imported again if one of them has changed, or if another folder's is loaded."""
    loaded = sys.modules.get(top)
    file = None if loaded is None else _file_of(loaded)
    is_anothers = file in _imported and not (file and file.is_relative_to(owner))
    old = [file for file, checksum in _imported.items() if is_anothers or not _is_current(file, checksum)]
    if not old:
        return
    for name, own in list(_not_installed()):
        if own in _imported:
            del sys.modules[name]
    if is_anothers and file is not None:
        sys.path[:] = [entry for entry in sys.path if not entry or not file.is_relative_to(_resolved(entry))]
    _imported.clear()


def _is_current(file: Path, checksum: str) -> bool:
    return file.is_file() and code_checksum({"": file}) == checksum


def _not_installed() -> Iterator[tuple[str, Path]]:
    """Yields names and files of the modules that may be the user's; to resolve all paths takes half a second."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in sys.stdlib_module_names:
            continue
        if "site-packages" in str(getattr(module, "__file__", None)):
            continue
        if (file := _file_of(module)) is not None:
            yield name, file


def _file_of(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or not file.endswith(".py") or not Path(file).is_absolute():
        return None  # some modules, such as torch.classes, claim a file that is not there
    return Path(file).resolve()


def _resolved(folder: str | Path) -> Path:
    return Path(folder).expanduser().resolve()


def _is_below(file: str, folders: Sequence[str | Path]) -> bool:
    path = Path(file).resolve()
    return "site-packages" not in path.parts and any(path.is_relative_to(_resolved(f)) for f in folders)


def _where(error: BaseException, folders: Sequence[str | Path]) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}, line {error.lineno})"
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if _is_below(frame.filename, folders)
    ]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


@contextmanager
def _time_limit(label: str, limit_s: float) -> Iterator[None]:
    """Ends what hangs, where that can be done: in the main thread. Another's alarm goes on afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise TookTooLongError(f"{label}: took longer than {limit_s} s; expected it to return at once")

    started_s = time.monotonic()
    before = signal.signal(signal.SIGALRM, stop)
    left_s, _ = signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left_s:
            signal.setitimer(signal.ITIMER_REAL, max(0.001, left_s - (time.monotonic() - started_s)))
