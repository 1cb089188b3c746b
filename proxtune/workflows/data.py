"""`proxtune data check`: what a data file holds, as a person reads it in a terminal."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from proxtune.data.bundled import resolve
from proxtune.data.formats import Format
from proxtune.data.lines import Encoding
from proxtune.workflows.data_check import DIFFERENT, Checked, CountTokens, Places, check, rejects_path

BLOCKS = " ▁▂▃▄▅▆▇█"
BINS = 16
PLACES, LABELS = 3, 10  # shown in a table


def check_file(
    path: Path,
    console: Console,
    *,
    eval_path: Path | None = None,
    model: str | None = None,
    max_length: int | None = None,
    format: Format | Literal["auto"] = "auto",  # noqa: A002 (the user's word for it)
    encoding: Encoding = "auto",
    chat: bool = False,
    fix: Path | None = None,
    columns: Mapping[str, str] | None = None,
) -> bool:
    """Check a file and print the report; whether every row can be used and none stands in the held-out data.

    Raises ConfigError or DataError: no such model; or a file is missing, or damaged so that no further row can be told.
    """
    count_tokens = None
    if model is not None:
        count_tokens, context = _counter(model)
        max_length = max_length or context
    path = resolve(path)
    shown = (TextColumn("reading"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*shown, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=path.stat().st_size if path.is_file() else None)
        checked = check(
            path,
            eval_path=eval_path,
            format=format,
            encoding=encoding,
            chat=chat,
            count_tokens=count_tokens,
            max_length=max_length,
            fix=fix,
            columns=columns,
            watch=partial(bar.advance, task),
        )
    show(checked, console, model=model, eval_path=eval_path, fix=fix)
    return checked.sound


def _counter(model: str) -> tuple[CountTokens, int]:
    """What counts a record's tokens, and the longest sequence that the model reads."""
    from proxtune.data.template import token_counts  # noqa: PLC0415 (without a model nothing needs torch)
    from proxtune.data.tokenizer import stop_ids  # noqa: PLC0415
    from proxtune.models.load import load_tokenizer  # noqa: PLC0415

    tokenizer, context = load_tokenizer(model)
    return partial(token_counts, tokenizer, stops=stop_ids(tokenizer)), context


def show(checked: Checked, console: Console, *, model: str | None, eval_path: Path | None, fix: Path | None) -> None:
    """Print the report: counts, what was left out and why, lengths, labels, duplicates, leaks."""
    fates = checked.fates
    title = f"{checked.path}: {checked.codec}, format {checked.format or 'unknown'}"
    console.print(title, style="bold", soft_wrap=True)
    counts = " + ".join(f"{fate} {fates[fate]:,}" for fate in ("kept", "rejected", "filtered", "duplicate"))
    console.print(f"read {checked.read:,} = {counts}")
    for table in _tables(checked):
        console.print(table)
    for line in _lines(checked, model, eval_path):
        console.print(line, soft_wrap=True)
    if fix is not None:
        left = f"the {checked.read - fates['kept'] + checked.leaked.count:,} others with their reasons"
        console.print(f"wrote {fix}, and {left}: {rejects_path(fix)}", soft_wrap=True)


def _tables(checked: Checked) -> Iterator[Table]:
    if checked.left_out:
        table = Table("fate", "reason", "rows", "first at line", title="Left out", title_justify="left")
        table.columns[2].justify = "right"
        for (fate, reason), places in sorted(checked.left_out.items(), key=lambda item: -item[1].count):
            table.add_row(fate, reason, f"{places.count:,}", _numbers(places))
        yield table
    if checked.characters:
        yield _length_table(checked.characters | ({"tokens": checked.tokens} if checked.tokens else {}))
    if checked.labels:
        yield _label_table(checked.labels, checked.format)
    if checked.holds_triples:
        yield _label_table(checked.relations, "relation")


def _numbers(places: Places) -> str:
    numbers = [place.rpartition(":")[2] for place in places.first[:PLACES]]
    return ", ".join(numbers) + (", …" if places.count > PLACES else "")


def _length_table(lengths: dict[str, Counter[int]]) -> Table:
    table = Table(title="Lengths of kept rows, in characters (and in tokens)", title_justify="left")
    for name in ("", "min", "median", "95%", "99%", "max"):
        table.add_column(name, justify="right" if name else "left")
    table.add_column("rows by length, min to max", no_wrap=True)
    for name, counts in lengths.items():
        figures = [quantile(counts, share) for share in (0.0, 0.5, 0.95, 0.99, 1.0)]
        table.add_row(name, *(f"{figure:,}" for figure in figures), histogram(counts))
    return table


def _label_table(labels: Counter[str], kind: Format | None) -> Table:
    match kind:
        case "rated":
            heads, title = ("rating", "rows"), "Ratings"
        case "tokens/tags":
            heads, title = ("entity", "number"), "Entities"
        case "relation":
            heads, title = ("relation", "number"), "Relations"
        case _:
            heads, title = ("label", "rows"), "Labels"
    table = Table(*heads, "share", title=title, title_justify="left")
    total = labels.total()
    for label, count in labels.most_common(LABELS):
        table.add_row(label[:60], f"{count:,}", f"{count / total:.1%}")
    if len(labels) > LABELS:
        others = "at least " * (len(labels) == DIFFERENT) + f"{len(labels) - LABELS:,} others"
        table.add_row(others, "", "")
    return table


def _lines(checked: Checked, model: str | None, eval_path: Path | None) -> Iterator[str]:
    if checked.rejected.count:
        yield from _listed("rejected", checked.rejected)
    if checked.mistagged.count:
        yield from _listed("tags that go on with no entity", checked.mistagged, "; they are read as its beginning")
    elif checked.orphans.count:
        yield "tags are IOB1: I- begins an entity"
    yield from _classic(checked)
    if checked.again.count:
        where = f"lines {_numbers(checked.again)}" if checked.prompts > 1 else "all rows have one"
        yield f"prompt of an earlier row, with another answer: {checked.again.count:,} ({where})"
    if model is not None:
        yield from _listed(f"cannot be encoded for {model}", checked.unencoded)
        yield from _listed(f"longer than {checked.max_length:,} tokens", checked.too_long, _if_too_long(checked))
    if eval_path is not None:
        yield from _listed(f"in {eval_path} too, the row or its prompt", checked.leaked)


def _classic(checked: Checked) -> Iterator[str]:
    """What the classic tasks want to know of their data."""
    traits = checked.traits
    if traits["pair"]:
        yield f"pairs of texts: {traits['pair']:,}"
    if checked.format == "relation":
        yield f"types of relations: {len(checked.labels):,}"
    if checked.format == "context/question":
        yield (
            f"questions with an answer: {traits['answered']:,}, without: {traits['unanswered']:,}, "
            f"with one that does not stand in the context: {checked.not_found:,}"
        )
    if checked.holds_triples:
        yield f"answers that are triples: {checked.traits['triples']:,}, types of relations: {len(checked.relations):,}"
        yield from _listed("lines that are no `head | relation | tail`", checked.other_lines)
    if checked.imbalance is not None:
        most, least = checked.imbalance
        yield (
            f"classes are imbalanced: {most!r} has {checked.labels[most]:,} rows, {least!r} has "
            f"{checked.labels[least]:,}; task.class_weights=balanced makes a rare class count as much as a frequent one"
        )


def _listed(title: str, places: Places, note: str = "") -> Iterator[str]:
    shown = f", the first {len(places.first)} here" if places.count > len(places.first) else ""
    yield f"{title}: {places.count:,}{shown}{note}"
    yield from (f"  {place}" for place in places.first)


def _if_too_long(checked: Checked) -> str:
    if not checked.too_long.count:
        return ""
    no_room = f" and leaves out {checked.no_room:,} whose prompt alone is as long" * bool(checked.no_room)
    return f"; data.too_long=drop leaves them out, truncate cuts {checked.too_long.count - checked.no_room:,}{no_room}"


def quantile(counts: Counter[int], share: float) -> int:
    """The smallest length that at least `share` of the rows do not exceed."""
    needed = max(1, math.ceil(share * counts.total()))
    for length in sorted(counts):
        needed -= counts[length]
        if needed <= 0:
            return length
    raise AssertionError("counts are empty")


def histogram(counts: Counter[int]) -> str:
    """A line of blocks: how many rows have which length, in bins of equal width in log(1 + length)."""
    low, high = math.log1p(min(counts)), math.log1p(max(counts))
    bins = [0] * BINS
    for length, count in counts.items():
        bins[min(BINS - 1, int(BINS * (math.log1p(length) - low) / (high - low or 1.0)))] += count
    return "".join(BLOCKS[math.ceil(count / max(bins) * (len(BLOCKS) - 1))] for count in bins)
