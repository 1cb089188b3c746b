"""`proxtune label …`: people judge answers, and what they say becomes data."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proxtune.cli.app import Columns, app, columns_of, console, one_of
from proxtune.errors import ConfigError
from proxtune.feedback.web import PORT

if TYPE_CHECKING:
    from proxtune.workflows.label_items import Asking


label = typer.Typer(
    no_args_is_help=True,
    help="People judge answers: ask, serve the app, see the quality, export. Start with "
    "[bold]proxtune label init DATA[/bold].",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(label, name="label")

Data = Annotated[
    Path, typer.Argument(metavar="DATA", help="A data file, or bundled:NAME: pairs, responses, texts, or whole items.")
]
StoreAt = Annotated[
    str, typer.Option("--store", metavar="FILE|postgresql://…", help="A SQLite file, or a PostgreSQL database.")
]
KindOf = Annotated[
    str | None,
    typer.Option(
        "--kind",
        metavar="KIND",
        help="pair, ranking, rating, thumb, rewrite, flags, label or spans; by default what the rows' keys say.",
    ),
]
Overlap = Annotated[
    int | None, typer.Option(min=1, help="How many people are asked about each item; by default the row's own, or 1.")
]
Repeat = Annotated[
    float, typer.Option(min=0, max=1, help="The share of items that each person is shown again, to see how steady.")
]
Batch = Annotated[str | None, typer.Option(metavar="NAME", help="The name of these items; by default the file's.")]
OneBatch = Annotated[str | None, typer.Option("--batch", metavar="NAME", help="The items of this batch only.")]
Labels = Annotated[
    str | None, typer.Option(metavar="A,B,…", help="Of label and spans: what there is to choose from; else the file's.")
]
Multiple = Annotated[bool, typer.Option("--multiple", help="Of label: several at once, or none.")]
Criteria = Annotated[str | None, typer.Option(metavar="A,B,…", help="Of rating: what is rated; by default overall.")]
Scale = Annotated[int | None, typer.Option(metavar="5|7", help="Of rating: 1 to this number; by default 5.")]
Encoding = Annotated[str, typer.Option(help="As data.encoding.")]
Site = Annotated[str, typer.Option(metavar="URL", help="Where people reach the app.")]
Dry = Annotated[bool, typer.Option("--dry-run", help="Check every row and show the first items; write nothing.")]


@label.command(epilog="Example: proxtune label init pairs.jsonl --overlap 2 --repeat 0.05 --guidelines guidelines.md")
def init(
    data: Data,
    store: StoreAt = "labels.db",
    kind: KindOf = None,
    column: Columns = None,
    overlap: Overlap = None,
    repeat: Repeat = 0.0,
    batch: Batch = None,
    guidelines: Annotated[
        Path | None, typer.Option(metavar="FILE.md", help="What people read beside the task, in Markdown.")
    ] = None,
    labels: Labels = None,
    multiple: Multiple = False,
    criteria: Criteria = None,
    scale: Scale = None,
    encoding: Encoding = "auto",
    dry_run: Dry = False,
) -> None:
    """Make a store that asks people about the rows of a file."""
    needs_extra()
    from proxtune.workflows import label as workflow

    asking = _asking(data, kind, column, overlap, batch, labels, multiple, criteria, scale, encoding)
    workflow.init(data, store, asking, console, repeat=repeat, guidelines=guidelines, dry_run=dry_run)


@label.command(epilog="Example: proxtune label add more.jsonl --overlap 2")
def add(
    data: Data,
    store: StoreAt = "labels.db",
    kind: KindOf = None,
    column: Columns = None,
    overlap: Overlap = None,
    repeat: Repeat = 0.0,
    batch: Batch = None,
    labels: Labels = None,
    multiple: Multiple = False,
    criteria: Criteria = None,
    scale: Scale = None,
    encoding: Encoding = "auto",
    dry_run: Dry = False,
) -> None:
    """Ask more; what stands in the store already, in the same batch, is not asked twice."""
    needs_extra()
    from proxtune.workflows import label as workflow

    asking = _asking(data, kind, column, overlap, batch, labels, multiple, criteria, scale, encoding)
    workflow.add(data, store, asking, console, repeat=repeat, dry_run=dry_run)


@label.command(epilog="Example: proxtune label candidates runs/sft runs/ppo prompts.jsonl --temperatures 0.7,1.0")
def candidates(
    models: Annotated[list[str], typer.Argument(metavar="RUN|MODEL ...", help="What writes the answers.")],
    prompts: Annotated[Path, typer.Argument(metavar="PROMPTS", help="A data file with prompts, or bundled:NAME.")],
    store: StoreAt = "labels.db",
    temperatures: Annotated[str, typer.Option(metavar="T,T,…", help="Temperatures to sample at.")] = "0.7,1.0",
    answers: Annotated[int, typer.Option(min=1, help="Answers of each model at each temperature.")] = 1,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length limit of an answer.")] = 256,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest tokens of this total mass.")] = 1.0,
    plain: Annotated[bool, typer.Option("--plain", help="Continue the prompt without the chat template.")] = False,
    seed: Annotated[int, typer.Option(help="The same seed gives the same answers.")] = 0,
    kind: KindOf = None,
    column: Columns = None,
    overlap: Overlap = None,
    repeat: Repeat = 0.0,
    batch: Batch = None,
    criteria: Criteria = None,
    scale: Scale = None,
) -> None:
    """Sample answers from models and ask people to compare them: two as a pair, three to six as a ranking."""
    needs_extra()
    from proxtune.workflows.label_candidates import Sampling
    from proxtune.workflows.label_candidates import candidates as sample

    asking = _asking(prompts, kind, column, overlap, batch, None, False, criteria, scale, "auto")
    sampling = Sampling(_temperatures(temperatures), answers, max_new_tokens, top_p, plain, seed)
    sample(models, prompts, store, asking, sampling, console, repeat=repeat)


@label.command(epilog="Example: proxtune label serve --store labels.db")
def serve(
    store: StoreAt = "labels.db",
    host: Annotated[str, typer.Option(help="Where to listen; other than this machine needs an admin first.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535)] = PORT,
    certificate: Annotated[Path | None, typer.Option(metavar="CERT.pem", help="Serve over TLS.")] = None,
    key: Annotated[Path | None, typer.Option(metavar="KEY.pem", help="The certificate's key.")] = None,
) -> None:
    """Serve the app in which people judge. The first time it shows a link with which you become its admin."""
    needs_extra()
    from proxtune.feedback.store import Store
    from proxtune.feedback.web.server import serve as run

    with Store.open(store) as opened:
        run(opened, host, port, say=typer.echo, certificate=certificate, key=key)


@label.command(epilog="Example: proxtune label status")
def status(store: StoreAt = "labels.db") -> None:
    """How far each batch is."""
    needs_extra()
    from proxtune.workflows import label as workflow

    workflow.status(store, console)


@label.command(epilog="Example: proxtune label guidelines guidelines.md")
def guidelines(
    file: Annotated[Path, typer.Argument(metavar="FILE.md", help="What people read from now on, in Markdown.")],
    store: StoreAt = "labels.db",
) -> None:
    """Give people other guidelines; every answer bears the version that its author could read."""
    needs_extra()
    from proxtune.workflows import label as workflow

    workflow.write_guidelines(file, store, console)


@label.command(epilog="Example: proxtune label people")
def people(store: StoreAt = "labels.db") -> None:
    """Who judges, how much, and under which name in exports."""
    needs_extra()
    from proxtune.workflows import label as workflow

    workflow.people(store, console)


@label.command(epilog="Example: proxtune label invite --role reviewer --site https://judge.example.org")
def invite(
    store: StoreAt = "labels.db",
    role: Annotated[str, typer.Option(metavar="annotator|reviewer|admin", help="What the person may do.")] = (
        "annotator"
    ),
    site: Site = f"http://127.0.0.1:{PORT}",
) -> None:
    """Print a link with which one person can join."""
    needs_extra()
    from proxtune.feedback.store.people import ROLES
    from proxtune.workflows import label as workflow

    workflow.invite(store, one_of("--role", role, ROLES), site, console)


@label.command(epilog="Example: proxtune label reset anna --site https://judge.example.org")
def reset(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who has forgotten the password.")],
    store: StoreAt = "labels.db",
    site: Site = f"http://127.0.0.1:{PORT}",
) -> None:
    """Print a link with which a person chooses a new password."""
    needs_extra()
    from proxtune.workflows import label as workflow

    workflow.reset(store, name, site, console)


@label.command(epilog="Example: proxtune label export reward pairs.jsonl --holdout 0.1")
def export(
    format_: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT", help="reward, dpo, kto, sft, rankings, ratings, labels, spans, or events: every row raw."
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new .jsonl or .csv; a manifest is put beside it.")],
    store: StoreAt = "labels.db",
    holdout: Annotated[
        float, typer.Option(min=0, max=0.99, help="The share of prompts held out, in OUT-held-out.")
    ] = 0,
    policy: Annotated[
        str, typer.Option(metavar="majority|mean|each", help="How several people become one row.")
    ] = "majority",
    batch: OneBatch = None,
    seed: Annotated[int, typer.Option(help="Decides which prompts are held out.")] = 1,
) -> None:
    """Write what people said as a file to train on."""
    needs_extra()
    from proxtune.feedback.export import FORMATS, POLICIES
    from proxtune.workflows import label as workflow

    workflow.export(
        store,
        one_of("FORMAT", format_, FORMATS),
        out,
        console,
        batch=batch,
        policy=one_of("--policy", policy, POLICIES),
        holdout=holdout,
        seed=seed,
    )


@label.command(epilog="Example: proxtune label quality --page quality.html")
def quality(
    store: StoreAt = "labels.db",
    batch: OneBatch = None,
    page: Annotated[Path | None, typer.Option(metavar="PAGE.html", help="Write all of it to a page.")] = None,
    lang: Annotated[str, typer.Option(metavar="en|zh", help="Language of the page.")] = "en",
) -> None:
    """How far judgements can be trusted: agreement, attention, biases; and which model is the best."""
    needs_extra()
    from proxtune.feedback.quality_page import LANGUAGES
    from proxtune.workflows import label as workflow

    language = one_of("--lang", lang, LANGUAGES)
    workflow.tell_quality(store, console, batch=batch, page=page, language=language)


@label.command(epilog="Example: proxtune label backup labels-monday.db")
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file.")], store: StoreAt = "labels.db"
) -> None:
    """Copy a SQLite store while people go on working."""
    needs_extra()
    from proxtune.workflows import label as workflow

    workflow.backup(store, file, console)


@label.command(epilog="Example: proxtune label move postgresql://me@localhost/labels --store labels.db")
def move(
    target: Annotated[str, typer.Argument(metavar="STORE", help="A new SQLite file, or an empty PostgreSQL database.")],
    store: StoreAt = "labels.db",
) -> None:
    """Copy a store to another database, with every row; stop the app first."""
    needs_extra()
    from proxtune.workflows import label as workflow

    workflow.move(store, target, console)


def needs_extra() -> None:
    """Raise ConfigError, with the line that installs it, where what the commands need is not there."""
    from importlib.util import find_spec

    missing = [name for name in ("sqlalchemy", "fastapi", "uvicorn", "argon2") if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"proxtune label needs {', '.join(missing)}; install what it needs with\n    pip install 'proxtune[label]'"
        )


def _asking(
    data: Path,
    kind: str | None,
    column: list[str] | None,
    overlap: int | None,
    batch: str | None,
    labels: str | None,
    multiple: bool,
    criteria: str | None,
    scale: int | None,
    encoding: str,
) -> "Asking":
    from proxtune.data.lines import ENCODINGS
    from proxtune.feedback.records import KINDS
    from proxtune.workflows.label_items import Asking

    given = {
        "labels": _names(labels),
        "multiple": multiple or None,
        "criteria": _names(criteria),
        "scale": scale,
    }
    return Asking(
        batch=batch or data.name.removeprefix("bundled:").partition(".")[0],
        kind=one_of("--kind", kind, KINDS) if kind else None,
        overlap=overlap,
        options={name: value for name, value in given.items() if value is not None},
        columns=columns_of(column),
        encoding=one_of("--encoding", encoding, ENCODINGS),
    )


def _names(given: str | None) -> list[str] | None:
    return None if given is None else [name.strip() for name in given.split(",") if name.strip()]


def _temperatures(given: str) -> list[float]:
    try:
        found = [float(one) for one in given.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 <= one < 100 for one in found):
        raise ConfigError(f"--temperatures {given}: expected numbers with commas between them, as 0.7,1.0")
    return found
