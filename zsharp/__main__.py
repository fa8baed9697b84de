"""`python -m zsharp`: trains one model from the command line, without a tuner."""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from zsharp.cpu import num_cpus
from zsharp.home import ensure_home
from zsharp.run_output import result_facts, run_facts, show_json, show_text
from zsharp.settings import settings_of

if TYPE_CHECKING:
    from zsharp.training import Training, TrialSpec

_DONE, _FAILED, _BAD_INPUT, _INTERRUPTED = 0, 1, 2, 130
_DEFAULTS = {"epochs": 10, "batch_size": 64, "warmup_epochs": 1.0}
"""For a first try, instead of those of `TrainSpec`."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(_BAD_INPUT, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    options = _build_parser().parse_args(arguments)
    try:
        if options.list:
            return _list(options.json)
        try:
            ensure_home()
            training = _prepare(options)
        except (ValueError, OSError) as error:
            return _complain(str(error), _BAD_INPUT)
        return _train(training, options)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            # The reader has gone. Without this, the flush at exit would fail too.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _complain(str(error), _FAILED)
    except KeyboardInterrupt:
        file = options.checkpoint
        hint = "nothing was saved: --checkpoint FILE saves each epoch"
        if file is not None and file.exists():
            hint = f"finished epochs are in {file}: run the same command to continue"
        return _complain(f"interrupted; {hint}", _INTERRUPTED)


def _build_parser() -> _Parser:
    from zsharp.training.spec import DataSpec, InitSpec, TrainSpec

    parser = _Parser("python -m zsharp", description="Trains one model.", allow_abbrev=False)
    add = parser.add_argument
    add("--list", action="store_true", help="list methods, architectures and data sets, and exit")
    add("--data", dest="name", default="digits", help="name of the data set (default: %(default)s)")
    _add_settings(parser, DataSpec)
    folders = "folder that module:function is looked up in; repeatable (default: this one)"
    add("--code", action="append", default=[], metavar="FOLDER", help=folders)
    add("--architecture", default="resnet8", help="(default: %(default)s)")
    add("--method", default="zsharp", help="(default: %(default)s)")
    add("--lr", type=float, help="peak learning rate (default: 0.003)")
    add("--rho", type=float, help="radius of the perturbation (default: the method's)")
    add(
        "--q-p",
        type=float,
        help="quantile in [0, 1) below which components are dropped (default: the method's)",
    )
    add("--param", action="append", default=[], metavar="NAME=VALUE", help="any other parameter; repeatable")
    _add_settings(parser, TrainSpec)
    _add_settings(parser, InitSpec)
    add("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    add("--threads", type=int, help="CPU threads (default: OMP_NUM_THREADS, or all cores of this process)")
    resumes = "save here after each epoch; continue from it if it exists"
    add("--checkpoint", type=Path, metavar="FILE", help=resumes)
    add("--test", action="store_true", help="evaluate on the test set at the end")
    flatness = "measure how flat the loss is at the end (docs/sharpness.md)"
    add("--sharpness", action="store_true", help=flatness)
    add("--json", action="store_true", help="print one JSON object per line")
    return parser


def _add_settings(parser: _Parser, declaration: type) -> None:
    """Adds an option for each setting of a dataclass but its name."""
    defaults = vars(declaration()) | _DEFAULTS
    for setting in settings_of(declaration).values():
        option = f"--{setting.name.replace('_', '-')}"
        summary = setting.summary.partition("; null ")[0].replace("%", "%%")
        default = defaults[setting.name]
        if setting.kind is bool:
            parser.add_argument(option, action="store_true", help=summary)
        elif setting.kind in (tuple, Mapping):
            shape = "NAME=VALUE" if setting.kind is Mapping else "TEXT"
            repeated = f"{summary}; repeatable"
            parser.add_argument(option, action="append", default=[], metavar=shape, help=repeated)
        elif setting.name != "name":
            valid = f"; {', '.join(setting.choices)}" if setting.choices else ""
            shown = "" if default is None else " (default: %(default)s)"
            parser.add_argument(option, type=setting.kind, default=default, help=summary + valid + shown)


def _prepare(options: argparse.Namespace) -> "Training":
    file: Path | None = options.checkpoint
    if file is not None and not file.parent.is_dir():
        raise ValueError(f"--checkpoint {file}: no such folder: {file.parent}")
    if file is not None and file.exists() and not file.is_file():
        raise ValueError(f"--checkpoint {file}: not a file; give a path where one can be written")
    spec = _trial_spec(options)
    import torch

    from zsharp.training import Training

    if options.threads is not None or "OMP_NUM_THREADS" not in os.environ:
        num_threads = num_cpus() if options.threads is None else options.threads
        if num_threads < 1:
            raise ValueError(f"--threads is {num_threads}; valid: whole numbers from 1")
        torch.set_num_threads(num_threads)
    training = Training(spec)
    if file is not None and file.exists():
        training.load(file)
    return training


def _trial_spec(options: argparse.Namespace) -> "TrialSpec":
    from zsharp.training import DataSpec, TrainSpec, TrialSpec

    given = [(name, getattr(options, name)) for name in ("lr", "rho", "q_p")]
    params = {name: value for name, value in given if value is not None}
    for text in options.param:
        name, _, value = text.partition("=")
        if name in params:
            raise ValueError(f"--param {text}: {name} is set twice")
        try:
            params[name] = float(value)
        except ValueError:
            raise ValueError(f"--param {text}: expected NAME=VALUE with a number") from None
    train = TrainSpec(**_given(options, TrainSpec))
    data = DataSpec(**_given(options, DataSpec))
    params = {"lr": 0.003} | params
    code = tuple(str(Path(folder).absolute()) for folder in options.code or ["."])
    return TrialSpec(options.architecture, options.method, params, data, train, options.device, code=code)


def _given(options: argparse.Namespace, declaration: type) -> dict[str, Any]:
    """Returns the settings of a dataclass as the options give them."""
    values = {}
    for setting in settings_of(declaration).values():
        value = getattr(options, setting.name)
        if setting.kind is tuple:
            value = tuple(value)
        elif setting.kind is Mapping:
            value = dict(_named_value(setting.name, text) for text in value)
        values[setting.name] = value
    return values


def _named_value(option: str, text: str) -> tuple[str, Any]:
    """Returns name and value of NAME=VALUE; numbers, true and false are those, anything else is text."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ValueError(f"--{option.replace('_', '-')} {text}: expected NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _train(training: "Training", options: argparse.Namespace) -> int:
    from zsharp.training.run import train_on

    show = show_json if options.json else show_text
    show("run", run_facts(training))
    result = train_on(training, lambda row: show("epoch", row), checkpoint=options.checkpoint)
    facts = result_facts(result)
    if options.test and result.status == "completed":
        facts |= training.test() or {}
    if options.sharpness and result.status == "completed":
        from zsharp.sharpness import measure_training

        facts |= {f"sharpness.{name}": value for name, value in measure_training(training).items()}
    show("result", facts)
    if result.status == "diverged":
        reason = f"diverged in epoch {training.epoch}: a loss is not finite; a smaller --lr or --rho may help"
        return _complain(reason, _FAILED)
    return _DONE


def _list(as_json: bool) -> int:
    from zsharp.data import DATASETS
    from zsharp.models import ARCHITECTURES
    from zsharp.optim import METHODS

    for title, table in (("method", METHODS), ("architecture", ARCHITECTURES), ("data", DATASETS)):
        for row in table.values():
            if as_json:
                show_json(title, {"name": row.name, "summary": row.summary})
            else:
                print(f"{title:<14}{row.name:<21}{row.summary}")
    return _DONE


def _complain(message: str, code: int) -> int:
    print(f"python -m zsharp: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    # OpenMP threads that spin while waiting make small models 20 times slower on a busy machine. Set before
    # torch is loaded, which is when OpenMP reads it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(main())
