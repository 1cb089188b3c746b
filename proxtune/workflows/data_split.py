"""`proxtune data split`: a file in parts that share no prompt and no group."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from proxtune.data.bundled import resolve
from proxtune.data.files import rows
from proxtune.data.formats import Format
from proxtune.data.lines import Encoding
from proxtune.data.records import Answered, Labelled, Record, Tagged, prompt_key
from proxtune.data.sift import Sieve
from proxtune.data.split import assign
from proxtune.data.tags import entities
from proxtune.errors import DataError
from proxtune.runs import write_jsonl

LABELS = 12  # shown in the table


@dataclass(frozen=True)
class Row:
    """A row of the file, and what decides where it goes."""

    row: Mapping[str, Any]
    group: str
    label: str


def split_file(
    path: Path,
    out: Path,
    shares: Mapping[str, float],
    console: Console,
    *,
    group: str | None = None,
    stratify: bool = True,
    seed: int = 1,
    format: Format | Literal["auto"] = "auto",  # noqa: A002 (the user's word for it)
    encoding: Encoding = "auto",
    columns: Mapping[str, str] | None = None,
) -> None:
    """Write `out`/PART.jsonl for every part, and print what is in each.

    Rows of one prompt (or text) stay in one part, or with `group` those that have the same value under that key; where
    rows have labels, each part gets its share of every label, unless `stratify` is False.

    Raises:
        DataError: a row is malformed or has no key `group`, a part would be empty, or its file is there already.
    """
    files = {part: out / f"{part}.jsonl" for part in shares}
    for file in files.values():
        if file.exists():
            raise DataError(f"{file}: is there already; expected a new folder for the parts")
    sieve = Sieve(resolve(path), format=format, duplicates="keep", columns=columns)
    found, empty = _read(sieve, group, encoding)
    labels = [row.label if stratify else "" for row in found]
    parts = assign([row.group for row in found], labels, shares, seed=seed)
    for part, file in files.items():
        write_jsonl(file, (row.row for row, where in zip(found, parts, strict=True) if where == part))
    console.print(_table(found, parts, files))
    if empty:
        console.print(f"left out: {empty:,} rows with nothing to learn")


def _read(sieve: Sieve, group: str | None, encoding: Encoding) -> tuple[list[Row], int]:
    found, empty = list[Row](), 0
    for line, row in rows(sieve.path, hashlib.sha256(), encoding):
        sifted = sieve.sift(line, row)
        if sifted.record is None or sifted.row is None:
            if sifted.fate == "rejected":
                raise DataError(
                    f"{sifted.where}: {sifted.reason}; leave such rows out first with "
                    f"proxtune data check {sieve.path.name} --fix clean.jsonl"
                )
            empty += 1
            continue
        if group is not None and group not in sifted.row:
            keys = ", ".join(map(repr, sifted.row))
            raise DataError(f"{sifted.where}: no key {group!r} to group by; found {keys}")
        together = prompt_key(sifted.record) if group is None else repr(sifted.row[group])
        found.append(Row(sifted.row, together, _label(sifted.record)))
    if not found:
        raise DataError(f"{sieve.path}: no usable row to split")
    return found, empty


def _label(record: Record) -> str:
    match record:
        case Labelled(_, tuple(labels)):
            return " ".join(labels) or "no label"
        case Labelled(_, label):
            return str(label)
        case Answered(answers=answers):
            return "answer" if answers else "no answer"
        case Tagged(_, tags):
            return " ".join(sorted({entity.type for entity in entities(tags)})) or "no entity"
    return ""


def _table(found: list[Row], parts: list[str], files: Mapping[str, Path]) -> Table:
    counts = {part: Counter[str]() for part in files}
    for row, where in zip(found, parts, strict=True):
        counts[where][row.label] += 1
    most = [label for label, _ in Counter(row.label for row in found).most_common(LABELS) if label]
    table = Table("part", "rows", "groups", *most, "file")
    for part, file in files.items():
        rows_of = counts[part].total()
        groups = len({row.group for row, where in zip(found, parts, strict=True) if where == part})
        shares = [f"{counts[part][label] / rows_of:.1%}" for label in most]
        table.add_row(part, f"{rows_of:,}", f"{groups:,}", *shares, str(file))
    return table
