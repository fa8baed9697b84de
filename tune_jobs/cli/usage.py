"""Runs a verb, and says in one line what is wrong with the arguments of a command."""

import sys
from collections.abc import Sequence
from typing import Any

import typer

from tune_jobs.errors import EXIT_BAD_INPUT, UsageError
from zsharp.names import did_you_mean

# Of typer's own copy of click, or of click itself in earlier versions.
_ClickError: Any = typer.BadParameter.__mro__[2]
_TAKES_SETS = ("validate", "plan", "run", "resume", "submit")


def run_verb(app: typer.Typer, argv: Sequence[str] | None) -> int:
    """Runs the verb that the arguments name, by default those of this process, and returns its exit code.

    Raises:
        UsageError: If the arguments make no sense.
    """
    try:
        code = app(argv, prog_name=None if argv is None else "tune-jobs", standalone_mode=False)
    except _ClickError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # its text is the help
            error.show()
            return EXIT_BAD_INPUT
        raise UsageError(_in_a_line(error, list(sys.argv[1:] if argv is None else argv))) from None
    return code if isinstance(code, int) else 0


def _in_a_line(error: Any, words: Sequence[str]) -> str:
    """Returns the error, what was probably meant, and where to read on."""
    context = error.ctx
    verb = "" if context is None or context.parent is None else str(context.info_name)
    if context is None:  # an option without its value; the verb is the first word that is no option
        verb = next((word for word in words if not word.startswith("-")), "")
    command = f"tune-jobs {verb}".rstrip()
    text = " ".join(error.format_message().split()).rstrip(".").replace("Value error, ", "")
    option, kind = str(getattr(error, "option_name", "")), type(error).__name__
    if kind == "NoSuchOption" and verb in _TAKES_SETS and (meant := _as_set(option, words)):
        text = f"No such option: {option}; did you mean {meant}?"
    elif kind == "NoSuchOption" and error.possibilities:
        text = f"No such option: {option}; did you mean {' or '.join(error.possibilities)}?"
    elif kind == "MissingParameter" and (help_text := getattr(error.param, "help", None)):
        text = f"{text}: {help_text[0].lower()}{help_text[1:]}"
    elif kind == "BadOptionUsage" and option == "--set":
        text = f"{text}, as in --set train.epochs=3."
    elif context is not None and context.parent is None and context.command.list_commands(context) and words:
        verbs = context.command.list_commands(context)
        text = f"{text.partition('. Did you mean')[0]}; {did_you_mean(words[0], verbs)}valid: {', '.join(verbs)}."
    else:
        text += "."
    return f"{command}: {text} See: {command} --help"


def _as_set(option: str, words: Sequence[str]) -> str | None:
    """Returns the `--set` for an option that is named like a setting of the job; None if there is no such setting."""
    from tune_jobs.job.elsewhere import paths_of

    paths = paths_of(option.lstrip("-"))
    if not paths:
        return None
    given = next((word for word in words if word.partition("=")[0] == option), option)
    _, equals, value = given.partition("=")
    if not equals:
        after = [*words, ""][words.index(given) + 1] if given in words else ""
        value = "" if after.startswith("--") else after
    return f"--set {paths[0]}={value or 'VALUE'}"
