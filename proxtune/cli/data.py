"""`proxtune data check`, `preview`, `split`: what looks at data files, and parts them."""

from pathlib import Path
from typing import Annotated, Any

import typer

from proxtune.cli.app import Columns, app, columns_of, console, one_of
from proxtune.errors import ConfigError

data = typer.Typer(
    no_args_is_help=True,
    help="Look at data files, and part them: check, preview, split.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data, name="data")


@data.command(epilog="Example: proxtune data check train.jsonl --eval held_out.jsonl --model bundled:smollm2")
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A data file, or bundled:NAME.")],
    eval_file: Annotated[
        Path | None, typer.Option("--eval", metavar="FILE", help="Held-out data that should share nothing with FILE.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Count tokens as this model does (any name model.name takes).")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(min=2, help="Tokens of a row; by default the model's context.")
    ] = None,
    format_: Annotated[str, typer.Option("--format", help="What a row is, as data.format.")] = "auto",
    encoding: Annotated[str, typer.Option(help="As data.encoding.")] = "auto",
    column: Columns = None,
    chat: Annotated[bool, typer.Option("--chat", help="A plain prompt is the user's turn, as data.chat.")] = False,
    fix: Annotated[
        Path | None, typer.Option(metavar="OUT.jsonl", help="Write the good rows here, and OUT-rejects.jsonl.")
    ] = None,
) -> None:
    """Read a file, count every row, and say what is wrong where. Exits with 1 if a row is malformed or leaked."""
    from proxtune.workflows.data import check_file

    if max_length is not None and model is None:
        raise ConfigError("--max-length counts a model's tokens; name the model with --model")
    sound = check_file(
        file,
        console,
        eval_path=eval_file,
        model=model,
        max_length=max_length,
        **_reading(format_, encoding, column),
        chat=chat,
        fix=fix,
    )
    raise typer.Exit(0 if sound else 1)


@data.command(epilog="Example: proxtune data preview chats.jsonl --tokens --html preview.html")
def preview(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A data file, or bundled:NAME.")],
    model: Annotated[
        str, typer.Option(metavar="NAME", help="Whose tokens are shown (any name model.name takes).")
    ] = "bundled:smollm2",
    rows: Annotated[int, typer.Option(min=1, help="How many rows.")] = 3,
    max_length: Annotated[
        int | None, typer.Option(min=2, help="Tokens of a row; by default the model's context.")
    ] = None,
    format_: Annotated[str, typer.Option("--format", help="What a row is, as data.format.")] = "auto",
    encoding: Annotated[str, typer.Option(help="As data.encoding.")] = "auto",
    column: Columns = None,
    chat: Annotated[bool, typer.Option("--chat", help="A plain prompt is the user's turn, as data.chat.")] = False,
    tokens: Annotated[bool, typer.Option("--tokens", help="Print the token ids of each row as well.")] = False,
    html: Annotated[Path | None, typer.Option(metavar="PAGE.html", help="Write the rows to a page as well.")] = None,
) -> None:
    """Show the first rows token by token: what is given, what is trained, and whether the stop token is."""
    from proxtune.workflows.preview import preview as show

    show(
        file,
        console,
        model=model,
        count=rows,
        **_reading(format_, encoding, column),
        chat=chat,
        max_length=max_length,
        ids=tokens,
        out=html,
    )


@data.command(epilog="Example: proxtune data split reviews.csv parts --parts train=0.8,dev=0.1,test=0.1 --group author")
def split(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A data file, or bundled:NAME.")],
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where PART.jsonl is written for every part.")],
    parts: Annotated[
        str, typer.Option(metavar="PART=SHARE,…", help="The parts and their shares of the rows, which add up to 1.")
    ] = "train=0.8,dev=0.1,test=0.1",
    group: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Rows that are alike under this key stay together; else those of one prompt."),
    ] = None,
    stratify: Annotated[
        bool, typer.Option(help="Give every part its share of each label, where there are any.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Decides which rows go where.")] = 1,
    format_: Annotated[str, typer.Option("--format", help="What a row is, as data.format.")] = "auto",
    encoding: Annotated[str, typer.Option(help="As data.encoding.")] = "auto",
    column: Columns = None,
) -> None:
    """Part a file into files that share no prompt, with the labels in the proportions of the whole."""
    from proxtune.workflows.data_split import split_file

    split_file(
        file,
        out,
        _shares(parts),
        console,
        group=group,
        stratify=stratify,
        seed=seed,
        **_reading(format_, encoding, column),
    )


def _shares(given: str) -> dict[str, float]:
    """`train=0.8,test=0.2` -> {"train": 0.8, "test": 0.2}."""
    found = dict[str, float]()
    for item in given.split(","):
        name, _, share = item.strip().partition("=")
        try:
            number = float(share)
        except ValueError:
            number = 0.0
        if not name or "/" in name or name in found or not 0 < number < 1:
            raise ConfigError(
                f"--parts {given}: {item!r} is no part; expected two or more different names, each with its share "
                "between 0 and 1, as train=0.8,dev=0.1,test=0.1"
            )
        found[name] = number
    if abs(sum(found.values()) - 1) > 1e-6:
        raise ConfigError(f"--parts {given}: the shares add up to {sum(found.values()):g}, expected 1")
    return found


def _reading(format_: str, encoding: str, column: list[str] | None) -> dict[str, Any]:
    """How a file is read, as the command line says it."""
    from proxtune.data.formats import FORMATS
    from proxtune.data.lines import ENCODINGS

    return {
        "format": one_of("--format", format_, ("auto", *FORMATS)),
        "encoding": one_of("--encoding", encoding, ENCODINGS),
        "columns": columns_of(column),
    }
