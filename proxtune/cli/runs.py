"""`proxtune runs`, `runs compare`: what was trained, and how runs differ."""

from pathlib import Path
from typing import Annotated

import typer

from proxtune.cli.app import app, console


@app.command(epilog="Examples: proxtune runs · proxtune runs elsewhere · proxtune runs compare runs/a runs/b")
def runs(
    what: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FOLDER | compare RUN RUN ...]", help="A folder of runs, by default runs."),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="OUT.html", help="Where compare writes its page; by default beside the first run."),
    ] = None,
) -> None:
    """List runs, or compare some: their options, their last figures, their curves."""
    from proxtune.workflows.compare import compare, list_runs

    given = what or ["runs"]
    if given[0] == "compare":
        compare([Path(name) for name in given[1:]], console, html=html)
    else:
        for folder in given:
            list_runs(Path(folder), console)
