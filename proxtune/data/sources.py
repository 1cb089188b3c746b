"""Read a data file: every row becomes a record, or is counted with its reason. Hold a part of it out."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from proxtune.config import Section
from proxtune.data.bundled import resolve
from proxtune.data.files import rows
from proxtune.data.formats import Format
from proxtune.data.lines import Encoding
from proxtune.data.records import Record, every_turn, prompt_key
from proxtune.data.sift import Duplicates, Fate, Known, Sieve, Sifted
from proxtune.errors import DataError
from proxtune.runs import derive_seed

SHOWN = 20  # malformed rows that a report lists

OnError = Literal["stop", "skip"]
TooLong = Literal["error", "drop", "truncate"]


class DataConfig(Section):
    """What to learn from."""

    train: Path = Field(description="file to learn from: .jsonl, .json, .csv, .tsv, .txt or .parquet, or bundled:NAME")
    eval: Path | None = Field(None, description="file to evaluate on; without it, a part of train is held out")
    eval_fraction: float = Field(
        0.05, ge=0, lt=1, description="part of train's prompts held out when eval is not given"
    )
    format: Format | Literal["auto"] = Field("auto", description="what a row is; auto: the first row's keys decide")
    columns: dict[str, str] = Field(
        default_factory=dict, description="our key: the file's key, where they differ, as {text: review}"
    )
    encoding: Encoding = Field("auto", description="auto: UTF-8, or UTF-16 where a byte order mark says so")
    chat: bool = Field(False, description="make a plain prompt the user's turn of the model's chat template")
    turns: Literal["last", "all"] = Field(
        "last",
        description="of a conversation, which of the assistant's turns are learnt, each after all before it",
    )
    on_error: OnError = Field("stop", description="at a malformed row: stop, or leave it out and count it")
    duplicates: Duplicates = Field("drop", description="rows equal to an earlier one in every key")
    max_length: int | None = Field(None, ge=2, description="tokens of prompt and response; none: the model's context")
    too_long: TooLong = Field(
        "error", description="at a longer row: stop, leave it out, or cut the end of the response"
    )


@dataclass(frozen=True)
class ReadReport:
    """What became of every row of a file: `read == kept + rejected + filtered + duplicate`."""

    path: Path
    format: Format
    read: int
    kept: int
    rejected: int  # malformed
    filtered: int  # well formed, with nothing to learn
    duplicate: int
    problems: tuple[
        str, ...
    ] = ()  # the first malformed rows, why rows were filtered, what held-out data shares with train

    def __post_init__(self) -> None:
        assert self.read == self.kept + self.rejected + self.filtered + self.duplicate

    def __str__(self) -> str:
        counts = f"kept {self.kept} + rejected {self.rejected} + filtered {self.filtered} + duplicate {self.duplicate}"
        return "\n  ".join((f"{self.path}: format {self.format} · read {self.read} = {counts}", *self.problems))


class Tally:
    """Counts what became of rows, with the places of the first `SHOWN` that were rejected."""

    def __init__(self) -> None:
        self.fates: Counter[Fate] = Counter()
        self.filtered: Counter[str] = Counter()  # by reason
        self.rejected: list[str] = []

    def count(self, sifted: Sifted) -> None:
        self.fates[sifted.fate] += 1
        if sifted.fate == "filtered":
            self.filtered[sifted.reason] += 1
        if sifted.fate == "rejected" and len(self.rejected) < SHOWN:
            self.rejected.append(f"{sifted.where}: {sifted.reason}")

    def report(self, path: Path, kind: Format | None) -> ReadReport:
        """Raises DataError if no row was kept."""
        problems = [f"filtered {count}: {reason}" for reason, count in self.filtered.items()]
        problems += self.rejected
        if self.fates["rejected"] > SHOWN:
            problems.append(f"and {self.fates['rejected'] - SHOWN} more malformed rows")
        read = self.fates.total()
        if kind is None or not self.fates["kept"]:
            raise DataError("\n  ".join((f"{path}: no usable row among the {read} read", *problems)))
        return ReadReport(
            path,
            kind,
            read=read,
            kept=self.fates["kept"],
            rejected=self.fates["rejected"],
            filtered=self.fates["filtered"],
            duplicate=self.fates["duplicate"],
            problems=tuple(problems),
        )


@dataclass(frozen=True)
class Dataset:
    """The records of a file, or of one side of it when a part is held out; `report` is about the whole file."""

    records: list[Record]
    format: Format
    fingerprint: str  # SHA-256 of the file's bytes and the format
    report: ReadReport


def load(config: DataConfig, *, seed: int) -> tuple[Dataset, Dataset | None]:
    """The data to learn from and the held-out data, which is None if `eval` is not given and `eval_fraction` is 0."""

    def read_as_configured(path: Path) -> Dataset:
        return read(
            path,
            format=config.format,
            encoding=config.encoding,
            on_error=config.on_error,
            duplicates=config.duplicates,
            chat=config.chat,
            columns=config.columns,
        )

    train, held_out = read_as_configured(config.train), None
    if config.eval is not None:
        held_out = _with_leaks(read_as_configured(config.eval), train)
    elif config.eval_fraction > 0:
        kept, held = split(train.records, config.eval_fraction, seed=seed)
        train, held_out = replace(train, records=kept), replace(train, records=held)
    return in_turns(train, config), held_out and in_turns(held_out, config)


def in_turns(data: Dataset, config: DataConfig) -> Dataset:
    """A conversation once for each of its turns that `config.turns` names."""
    if config.turns == "last":
        return data
    return replace(data, records=[turn for record in data.records for turn in every_turn(record)])


def read(
    path: Path | str,
    *,
    format: Format | Literal["auto"] = "auto",  # noqa: A002 (the user's word for it)
    encoding: Encoding = "auto",
    on_error: OnError = "stop",
    duplicates: Duplicates = "drop",
    chat: bool = False,
    columns: Mapping[str, str] | None = None,
) -> Dataset:
    """Read a file. With format "auto" the first row's keys decide the format, and every other row must have it too.

    `columns` maps the keys of formats to those of the file, where they differ.

    Raises DataError: the file is missing, empty, damaged or has no usable row; or a row is malformed, as one in another
    encoding is, and `on_error` is "stop".
    """
    path = resolve(Path(path))
    file_hash = hashlib.sha256()
    sieve = Sieve(path, format=format, duplicates=duplicates, chat=chat, columns=columns)
    tally = Tally()
    records: list[Record] = []
    for line, row in rows(path, file_hash, encoding):
        sifted = sieve.sift(line, row)
        tally.count(sifted)
        if sifted.record is not None:
            records.append(sifted.record)
        elif sifted.fate == "rejected" and on_error == "stop":
            raise DataError(f"{sifted.where}: {sifted.reason} (on_error=skip leaves such rows out and counts them)")
    report = tally.report(path, sieve.format)
    file_hash.update(report.format.encode())
    return Dataset(records, report.format, file_hash.hexdigest(), report)


def split(records: list[Record], fraction: float, *, seed: int) -> tuple[list[Record], list[Record]]:
    """Hold out `fraction` of the prompts, at least one: (kept, held out), both in their old order.

    A prompt's side depends on a hash of `seed` and the prompt, so all records of one prompt stand on the same side.
    Raises DataError: there are fewer than two prompts.
    """
    draws = [derive_seed(seed, f"hold out {prompt_key(record)}") for record in records]
    ordered = sorted(set(draws))
    if len(ordered) < 2:
        raise DataError("cannot hold out data: all rows have one prompt; give an eval file or set eval_fraction=0")
    held_out = set(ordered[: min(max(1, round(fraction * len(ordered))), len(ordered) - 1)])
    sides: tuple[list[Record], list[Record]] = ([], [])
    for record, draw in zip(records, draws, strict=True):
        sides[draw in held_out].append(record)
    return sides


def _with_leaks(held_out: Dataset, train: Dataset) -> Dataset:
    """Say in the report of `held_out` how many of its rows are also in `train`: their prompt, or all of them."""
    known = Known()
    for record in train.records:
        known.add(record)
    shared = sum(known.holds(record) for record in held_out.records)
    if not shared:
        return held_out
    leak = f"leak: of {len(held_out.records)} kept rows {shared} stand in {train.report.path} too, or their prompt does"
    return replace(held_out, report=replace(held_out.report, problems=(*held_out.report.problems, leak)))
