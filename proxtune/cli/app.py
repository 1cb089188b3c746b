"""The application that the commands join, and the arguments that several of them take."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from proxtune.errors import ConfigError
from proxtune.workflows.terminal import terminal

if TYPE_CHECKING:
    from proxtune.config import Section

    S = TypeVar("S", bound=Section)

C = TypeVar("C", bound=str)

app = typer.Typer(
    name="proxtune",
    help="From a pretrained language model to an aligned one: sft, reward, ppo. Start with [bold]proxtune demo[/bold].",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
console = terminal()

Configs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG.yaml | recipe:NAME | section.key=value] ...",
        help="Config files, left to right, then overrides.",
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column", metavar="OURS=THEIRS", help="Our key is another in the file, as data.columns; repeatable."
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Show the data, the config, and what memory, disk and time the run needs, by three steps that are "
        "thrown away.",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint of the run.")]
InitFrom = Annotated[Path | None, typer.Option(metavar="RUN", help="Start from the model that this run made.")]


def sources(configs: list[str] | None) -> tuple[list[str], list[str]]:
    """(files, overrides)"""
    given = configs or []
    overrides = [text for text in given if "=" in text and not Path(text).exists()]
    return [text for text in given if text not in overrides], overrides


def load_config(schema: "type[S]", configs: list[str] | None, init_from: Path | None) -> "S":
    """The config that files and overrides come to; `init_from` names the model to start from."""
    from proxtune import config

    files, overrides = sources(configs)
    if init_from is not None:
        overrides.append(f"model.name={init_from}")
    return config.load(schema, files, overrides)


def columns_of(given: list[str] | None) -> dict[str, str]:
    """`OURS=THEIRS` … -> {ours: theirs}."""
    return dict(map(_column, given or []))


def _column(given: str) -> tuple[str, str]:
    ours, _, theirs = given.partition("=")
    if not ours or not theirs:
        raise ConfigError(f"--column {given}: expected our key and the file's, as text=review")
    return ours, theirs


def one_of(option: str, given: str, known: tuple[C, ...]) -> C:
    """`given`, if it is one of the known words."""
    chosen = next((name for name in known if name == given), None)
    if chosen is None:
        raise ConfigError(f"{option} {given}: expected one of {', '.join(known)}")
    return chosen
