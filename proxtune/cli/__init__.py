"""The command line. Commands are thin, and import what they need when they are chosen, so that `--help` is instant."""

import sys

import typer
from rich.console import Console

from proxtune.cli import start, train, use
from proxtune.cli.app import app
from proxtune.errors import ProxtuneError

__all__ = ["app", "main", "start", "train", "use"]


def main() -> None:
    """Run the command line; an error of the user's making is one message, not a traceback."""
    try:
        app()
    except ProxtuneError as error:
        Console(stderr=True).print(f"[bold red]{type(error).__name__}[/bold red]")
        typer.echo(str(error), err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("interrupted; go on with --resume", err=True)
        sys.exit(130)
