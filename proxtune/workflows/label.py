"""`proxtune label`: a store of people's judgements, from a data file to files to train on."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from proxtune.charts import duration
from proxtune.errors import ConfigError, DataError, StoreError
from proxtune.feedback.export import Format
from proxtune.feedback.export_files import SUFFIXES, exported, write_export
from proxtune.feedback.quality import quality
from proxtune.feedback.quality_page import Language, page_of
from proxtune.feedback.records import Item
from proxtune.feedback.rows import Policy
from proxtune.feedback.store import Store
from proxtune.feedback.store.database import is_postgresql
from proxtune.feedback.store.people import INVITED, Role
from proxtune.runs import write_atomic
from proxtune.workflows.label_items import Asking, read_items

AT_ONCE = 500  # items that are written in one transaction
SHOWN = 3  # items that a dry run shows

T = TypeVar("T")


def init(
    path: Path,
    url: str,
    asking: Asking,
    console: Console,
    *,
    repeat: float,
    guidelines: Path | None,
    dry_run: bool,
) -> None:
    """Make a store that asks what a file says. With `dry_run` show what would be asked, and write nothing.

    Raises StoreError: there is one already. DataError: rows of the file ask nothing.
    """
    if not is_postgresql(url) and Path(url).exists():
        raise StoreError(f"{url} is there already; add to it with `proxtune label add {path} --store {url}`")
    text = None if guidelines is None else _text_of(guidelines)
    items = _read(path, asking, console)
    if dry_run:
        _preview(items, console)
        return
    with Store.create(url) as store:
        if is_postgresql(url) and store.queue.batches():
            raise StoreError(f"{store.db} holds items already; add to them with `proxtune label add {path}`")
        if text is not None:
            store.write_guidelines(text)
        put(store, items, repeat, console)
    console.print(f"next: proxtune label serve --store {_shown(url)}", soft_wrap=True)


def add(path: Path, url: str, asking: Asking, console: Console, *, repeat: float, dry_run: bool) -> None:
    """Ask more. What stands in the store already, in the same batch, is not asked twice."""
    with Store.open(url) as store:
        items = _read(path, asking, console)
        if dry_run:
            _preview(items, console)
        else:
            put(store, items, repeat, console)


def put(store: Store, items: Sequence[Item], repeat: float, console: Console) -> None:
    """Add items to the queue, and say how many there are now."""
    numbers = set[int]()
    for begin in watched(range(0, len(items), AT_ONCE), "writing", console):
        numbers.update(store.queue.add(items[begin : begin + AT_ONCE], repeat=repeat))
    batches = sorted({item.batch for item in items})
    console.print(f"{len(numbers):,} items in batch {', '.join(batches)}  {store.db}", soft_wrap=True)


def watched(things: Sequence[T], what: str, console: Console) -> Iterator[T]:
    """The things, with a bar in a terminal that says how many are done."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield from bar.track(things)


def write_guidelines(path: Path, url: str, console: Console) -> None:
    """Give people other guidelines; answers from now on bear their version."""
    with Store.open(url) as store:
        version = store.write_guidelines(_text_of(path))
    console.print(f"guidelines version {version}")


def status(url: str, console: Console) -> None:
    """Print how far each batch is."""
    table = Table("batch", "items", "done", "judgements", "")
    with Store.open(url) as store:
        for batch, progress in store.queue.batches().items():
            share = f"{progress.closed / progress.items:.0%}"
            table.add_row(batch, f"{progress.items:,}", f"{progress.closed:,}", f"{progress.judgements:,}", share)
        version, _ = store.guidelines()
        people = sum(person.active for person in store.people.all())
    console.print(table)
    console.print(f"{people} people · guidelines {f'version {version}' if version else 'none'}")


def people(url: str, console: Console) -> None:
    """Print who there is, and how much each has judged."""
    table = Table("name", "role", "judgements", "", "in exports")
    with Store.open(url) as store:
        counts, names = store.judgements.counts(), store.people.pseudonyms()
        for person in store.people.all():
            active = "" if person.active else "left"
            table.add_row(person.name, person.role, f"{counts.get(person.id, 0):,}", active, names[person.id])
    console.print(table)


def invite(url: str, role: Role, site: str, console: Console) -> None:
    """Print a link with which one person can join."""
    with Store.open(url) as store:
        token = store.people.invite(role)
    console.print(f"{site.rstrip('/')}/join/{token}", soft_wrap=True)
    console.print(f"for one {role}, within {duration(INVITED)}", style="dim")


def reset(url: str, name: str, site: str, console: Console) -> None:
    """Print a link with which a person chooses a new password, once: the way back for an only admin too.

    Raises StoreError: there is nobody of that name, or they are locked.
    """
    with Store.open(url) as store:
        numbers = {person.name: person.id for person in store.people.all()}
        if name not in numbers:
            known = ", ".join(numbers) or "nobody"
            raise StoreError(f"{store.db} knows nobody called {name!r}; there is {known}")
        token = store.people.reset(numbers[name])
        store.people.note(None, "reset link", {"person": numbers[name]})
    console.print(f"{site.rstrip('/')}/reset/{token}", soft_wrap=True)
    console.print(f"for {name}, within {duration(INVITED)}", style="dim")


def export(
    url: str,
    format: Format,  # noqa: A002 (the user's word for it)
    out: Path,
    console: Console,
    *,
    batch: str | None,
    policy: Policy,
    holdout: float,
    seed: int,
) -> None:
    """Write judgements to `out`, .jsonl or .csv, with what is held out and the manifest beside it."""
    suffix = next((suffix for suffix in SUFFIXES if out.suffix == f".{suffix}"), None)
    if suffix is None:
        raise ConfigError(f"{out}: expected a name that ends in .{' or .'.join(SUFFIXES)}")
    with Store.open(url) as store:
        made = exported(
            store, format, stem=out.stem, suffix=suffix, batch=batch, policy=policy, fraction=holdout, seed=seed
        )
    for place in write_export(out, made):
        rows = made.manifest["files"].get(place.name, {}).get("rows")
        console.print(f"{place}" if rows is None else f"{place}  {rows:,} rows", soft_wrap=True)
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in made.manifest["left out"].items())
    if left_out:
        console.print(f"left out: {left_out}")


def tell_quality(url: str, console: Console, *, batch: str | None, page: Path | None, language: Language) -> None:
    """Print how far judgements can be trusted, and write the page."""
    with Store.open(url) as store, console.status("counting"):
        found = quality(store, batch=batch)
    agreement = Table("asked", "items", "figure", "value [95% interval]", title="Agreement", title_justify="left")
    for one in found.agreement:
        for name, figure in one.figures.items():
            agreement.add_row(one.name, f"{one.items:,}", name, str(figure))
    people = Table("person", "judgements", "majority", "gold", "again", "left", title="People", title_justify="left")
    for person in found.people:
        habits = person.habits
        shown = map(str, (person.majority, habits.gold, habits.again, habits.left))
        people.add_row(person.name, f"{person.judgements:,}", *shown)
    models = Table("model", "strength (nats)", "games", "wins", "Elo", title="Models", title_justify="left")
    for model in found.models:
        strength = model.strength
        figures = (f"{strength.strength.count:,}", f"{strength.wins:g}", f"{model.elo:.0f}")
        models.add_row(strength.model, str(strength.strength), *figures)
    for table in (agreement, people, models):
        if table.row_count:
            console.print(table)
    console.print(f"{len(found.disputed)} items to adjudicate")
    if page is not None:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(page, page_of(found, language))
        console.print(f"page {page}", soft_wrap=True)


def backup(url: str, path: Path, console: Console) -> None:
    """Copy a SQLite store while people go on working."""
    with Store.open(url) as store:
        store.db.backup(path)
    console.print(f"{path}  {path.stat().st_size:,} bytes", soft_wrap=True)


def move(url: str, target: str, console: Console) -> None:
    """Copy a store to an empty one of either database, and print how many rows each table has."""
    if not is_postgresql(target) and Path(target).exists():
        raise StoreError(f"{target} is there already; give a new name")
    with Store.open(url) as store, Store.create(target) as other:
        counts = store.copy_to(other)
    table = Table("table", "rows")
    for name, count in counts.items():
        table.add_row(name, f"{count:,}")
    console.print(table)
    console.print(f"next: proxtune label serve --store {_shown(target)}", soft_wrap=True)


def _read(path: Path, asking: Asking, console: Console) -> list[Item]:
    columns = (TextColumn("reading"), BarColumn(), TextColumn("{task.completed:,} rows"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        return read_items(path, asking, watch=lambda rows: bar.advance(task, rows))


def _preview(items: Sequence[Item], console: Console) -> None:
    kinds = {kind: sum(item.kind == kind for item in items) for kind in dict.fromkeys(item.kind for item in items)}
    counted = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
    console.print(f"{len(items):,} items: {counted}; nothing was written")
    for item in items[:SHOWN]:
        console.print(item.model_dump_json(exclude_defaults=True), soft_wrap=True)


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as guidelines in Markdown: {error}") from error


def _shown(url: str) -> str:
    """An address without the password that it may hold."""
    return "postgresql://…" if is_postgresql(url) else url
