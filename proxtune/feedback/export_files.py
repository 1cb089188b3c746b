"""An export as files: rows, those held out, and a manifest with which anybody can make the same bytes again.

The same store gives the same bytes, whatever its database. JSONL holds everything as it is. In CSV a list or an object
is JSON in its cell, and a text that a spreadsheet would run as a formula has an apostrophe before it.
"""

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from proxtune import __version__
from proxtune.errors import DataError
from proxtune.feedback.export import Format, Side, export
from proxtune.feedback.rows import Policy, Row
from proxtune.feedback.store import Store
from proxtune.runs import write_atomic

Suffix: TypeAlias = Literal["jsonl", "csv"]
SUFFIXES: tuple[Suffix, ...] = get_args(Suffix)
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # what a spreadsheet takes for one's beginning


@dataclass(frozen=True, slots=True)
class Exported:
    """The files of an export by name, the manifest among them."""

    files: dict[str, bytes]
    manifest: dict[str, Any]


def exported(
    store: Store,
    format: Format,  # noqa: A002 (the user's word for it)
    *,
    stem: str | None = None,
    suffix: Suffix = "jsonl",
    batch: str | None = None,
    policy: Policy = "majority",
    fraction: float = 0.0,
    seed: int = 1,
) -> Exported:
    """The files STEM.jsonl (or .csv), STEM-held-out.jsonl where `fraction` is not 0, and STEM.manifest.json.

    `stem` is the format's name by default; the rest is as in `export.export`. Raises DataError: no judgement makes a
    row, or a side of the split would be empty.
    """
    stem = stem or format
    left_out = Counter[str]()
    rows = list(export(store, format, batch=batch, policy=policy, fraction=fraction, seed=seed, left_out=left_out))
    sides: dict[Side, list[Row]] = {"train": [row for row in rows if row.get("split") != "held-out"]}
    if fraction:
        sides["held-out"] = [row for row in rows if row["split"] == "held-out"]
    _refuse_empty(sides, format, left_out)
    write = _csv if suffix == "csv" else _jsonl
    names = {"train": f"{stem}.{suffix}", "held-out": f"{stem}-held-out.{suffix}"}
    files = {names[side]: write(part) for side, part in sides.items()}
    manifest = {
        "format": format,
        "policy": policy,
        "batch": batch,
        "held out": {"fraction": fraction, "seed": seed},
        "items": len({row["item"] for row in rows}),
        "annotators": len({name for row in rows for name in _annotators(row)}),
        "left out": dict(sorted(left_out.items())),
        "files": {
            names[side]: {"rows": len(part), "sha256": hashlib.sha256(files[names[side]]).hexdigest()}
            for side, part in sides.items()
        },
        "proxtune": __version__,
    }
    described = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    return Exported(files | {f"{stem}.manifest.json": described.encode()}, manifest)


def write_export(path: Path, made: Exported) -> list[Path]:
    """Write the files beside each other in the folder of `path`, which is to be one of them; returns where they are.

    Raises DataError: one of them is there already.
    """
    places = {path.with_name(name): content for name, content in made.files.items()}
    for place in places:
        if place.exists():
            raise DataError(f"{place}: is there already; give another name, or move it away")
    path.parent.mkdir(parents=True, exist_ok=True)
    for place, content in places.items():
        write_atomic(place, content)
    return list(places)


def _refuse_empty(sides: Mapping[Side, list[Row]], format: Format, left_out: Counter[str]) -> None:  # noqa: A002
    total = sum(map(len, sides.values()))
    if not total:
        reasons = (
            ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items())) or "nothing is judged yet"
        )
        raise DataError(f"no row of format {format}: {reasons}; judge more, or choose another format or policy")
    empty = [side for side, part in sides.items() if not part]
    if empty:
        raise DataError(
            f"the side {empty[0]} of the split would be empty: {total} rows have too few prompts for that share; "
            "give another one, or another seed"
        )


def _annotators(row: Row) -> Iterable[str]:
    return row["annotators"] if "annotators" in row else [row["annotator"]]


def _jsonl(rows: list[Row]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _csv(rows: list[Row]) -> bytes:
    header = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)  # a carriage return too would need quotes
    writer.writerow(header)
    writer.writerows([_cell(row.get(key)) for key in header] for row in rows)
    return text.getvalue().encode()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(FORMULA) else value
    return json.dumps(value, ensure_ascii=False)
