"""Arguments shared by several verbs of the command line."""

from typing import Annotated

import typer

Job = Annotated[str, typer.Argument(metavar="JOB", help="A preset's name (see `list`) or a YAML file.")]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Change a value of the job, such as train.epochs=3; repeatable. Values are YAML.",
    ),
]
Out = Annotated[
    str | None,
    typer.Option(
        "--out",
        metavar="DIR",
        help="The search folder; by default results/NAME, as the job's storage and name say.",
    ),
]
ChangedCode = Annotated[
    bool,
    typer.Option(
        "--allow-changed-code", help="Continue although code of your own has changed since the search ran."
    ),
]
Serve = Annotated[
    bool, typer.Option("--serve", help="Show the search in a browser while it runs; prints the address.")
]
AllowStop = Annotated[
    bool,
    typer.Option("--allow-stop", help="With --serve: a button on the page stops the search; prints a token."),
]
Methods = Annotated[
    str | None,
    typer.Option(
        "--methods",
        metavar="NAME,...",
        help="Confirm only these methods, such as zsharp,sam: fewer need fewer seeds.",
    ),
]
Architectures = Annotated[
    str | None, typer.Option("--architectures", metavar="NAME,...", help="Confirm only these architectures.")
]
Folder = Annotated[str, typer.Argument(metavar="DIR", help="A search folder.")]
Folders = Annotated[list[str], typer.Argument(metavar="DIR", help="Search folders, one or more.")]


def names_of(text: str | None) -> list[str]:
    """Returns the names of a list such as `zsharp,sam`; none if the option was not given."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]
