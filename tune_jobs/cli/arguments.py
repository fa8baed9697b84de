"""Arguments shared by several verbs of the command line."""

from typing import Annotated

import typer

Job = Annotated[str, typer.Argument(metavar="JOB", help="A preset's name (see `list`) or a YAML file.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change a value of the job; the value is YAML."),
]
Out = Annotated[
    str | None, typer.Option("--out", metavar="DIR", help="The search folder; by default storage/name.")
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
Folder = Annotated[str, typer.Argument(metavar="DIR", help="A search folder.")]
Folders = Annotated[list[str], typer.Argument(metavar="DIR...", help="Search folders.")]
