"""The command line. Commands are thin, and import what they need when they are chosen, so that `--help` is instant."""

import shlex
import sys

import typer

from proxtune.cli import data, doctor, label, rlhf, runs, simulate, start, train, tune, use
from proxtune.cli.app import app
from proxtune.errors import ProxtuneError
from proxtune.training.stop import Stopped, listening
from proxtune.workflows.terminal import terminal

__all__ = ["app", "data", "doctor", "label", "main", "rlhf", "runs", "simulate", "start", "train", "tune", "use"]


def main() -> None:
    """Run the command line; an error of the user's making is one message, not a traceback.

    The exit code is 1 after such an error, 2 after a command that cannot be read, and 128 + the signal after SIGTERM
    (143) or Ctrl-C (130).
    """
    try:
        with listening():
            app()
    except ProxtuneError as error:
        terminal(stderr=True).print(type(error).__name__, style="bold red")
        typer.echo("\n".join([str(error), *_saved(error)]), err=True)
        sys.exit(1)
    except Stopped as stopped:
        typer.echo("\n".join(_saved(stopped)) or f"{stopped}; nothing had to be saved", err=True)
        sys.exit(128 + stopped.number)


def _saved(error: BaseException) -> list[str]:
    """What `fit` noted of the checkpoint it wrote, with the command that goes on from it."""
    command = shlex.join(["proxtune", *sys.argv[1:], *(["--resume"] if "--resume" not in sys.argv else [])])
    return [f"{note}. Go on with: {command}" for note in getattr(error, "__notes__", [])]
