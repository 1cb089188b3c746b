"""Read a data file: every row becomes a record, or is counted with its reason. Hold a part of it out."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from proxtune.config import Section
from proxtune.data.bundled import resolve
from proxtune.data.files import rows
from proxtune.data.formats import Format, MalformedRowError, Row, detect, parse
from proxtune.data.records import Record, emptiness, prompt_key
from proxtune.errors import DataError
from proxtune.runs import derive_seed

SHOWN = 20  # malformed rows that a report lists

OnError = Literal["stop", "skip"]
TooLong = Literal["error", "drop", "truncate"]
Duplicates = Literal["drop", "keep"]


class DataConfig(Section):
    """What to learn from."""

    train: Path = Field(description="file to learn from: .jsonl, .json, .csv, .tsv or .txt, or bundled:NAME")
    eval: Path | None = Field(None, description="file to evaluate on; without it, a part of train is held out")
    eval_fraction: float = Field(
        0.05, ge=0, lt=1, description="part of train's prompts held out when eval is not given"
    )
    format: Format | Literal["auto"] = Field("auto", description="what a row is; auto: the first row's keys decide")
    chat: bool = Field(False, description="make a plain prompt the user's turn of the model's chat template")
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
            path, format=config.format, on_error=config.on_error, duplicates=config.duplicates, chat=config.chat
        )

    train = read_as_configured(config.train)
    if config.eval is not None:
        return train, _with_leaks(read_as_configured(config.eval), train)
    if config.eval_fraction == 0:
        return train, None
    kept, held_out = split(train.records, config.eval_fraction, seed=seed)
    return replace(train, records=kept), replace(train, records=held_out)


def read(
    path: Path | str,
    *,
    format: Format | Literal["auto"] = "auto",  # noqa: A002 (the user's word for it)
    on_error: OnError = "stop",
    duplicates: Duplicates = "drop",
    chat: bool = False,
) -> Dataset:
    """Read a file. With format "auto" the first row's keys decide the format, and every other row must have it too.

    Raises DataError: the file is missing, empty, not UTF-8, damaged or has no usable row; or a row is malformed and
    `on_error` is "stop".
    """
    path = resolve(Path(path))
    file_hash = hashlib.sha256()
    reading = _Reading(path, format, duplicates, chat)
    for line, row in rows(path, file_hash):
        try:
            reading.add(row, f"{path}:{line}")
        except MalformedRowError as error:
            if on_error == "stop":
                raise DataError(
                    f"{path}:{line}: {error} (on_error=skip leaves such rows out and counts them)"
                ) from error
            reading.rejected.append(f"{path}:{line}: {error}")
    report = reading.report()
    file_hash.update(report.format.encode())
    return Dataset(reading.records, report.format, file_hash.hexdigest(), report)


def split(records: list[Record], fraction: float, *, seed: int) -> tuple[list[Record], list[Record]]:
    """Hold out `fraction` of the prompts, at least one: (kept, held out), both in their old order.

    A prompt's side depends on a hash of `seed` and the prompt, so all records of one prompt stand on the same side.
    Raises DataError: there are fewer than two prompts.
    """
    prompts = {prompt_key(record) for record in records}
    if len(prompts) < 2:
        raise DataError("cannot hold out data: all rows have one prompt; give an eval file or set eval_fraction=0")
    ordered = sorted(prompts, key=lambda prompt: (derive_seed(seed, f"hold out {prompt}"), prompt))
    held_out = set(ordered[: min(max(1, round(fraction * len(prompts))), len(prompts) - 1)])
    sides: tuple[list[Record], list[Record]] = ([], [])
    for record in records:
        sides[prompt_key(record) in held_out].append(record)
    return sides


class _Reading:
    """What has become of a file's rows so far."""

    def __init__(self, path: Path, wanted: Format | Literal["auto"], duplicates: Duplicates, chat: bool) -> None:
        self.path = path
        self.detects = wanted == "auto"
        self.format: Format | None = None if wanted == "auto" else wanted  # auto: that of the first row that has one
        self.duplicates = duplicates
        self.chat = chat
        self.records: list[Record] = []
        self.read = 0
        self.rejected: list[str] = []
        self.filtered: Counter[str] = Counter()
        self.duplicate = 0
        self.seen: set[bytes] = set()

    def add(self, row: Row | MalformedRowError, where: str) -> None:
        """Keep the row, or count it. Raises MalformedRowError; then the caller counts it."""
        self.read += 1
        if isinstance(row, MalformedRowError):
            raise row
        digest = _digest(row)
        record = parse(row, self.format_of(row), where, chat=self.chat)
        reason = emptiness(record)
        if reason:
            self.filtered[reason] += 1
        elif self.duplicates == "drop" and digest in self.seen:
            self.duplicate += 1
        else:
            self.seen.add(digest)
            self.records.append(record)

    def format_of(self, row: Row) -> Format:
        """The file's format, which the row must have too if its keys decide."""
        row_format = detect(row) if self.detects or self.format is None else self.format
        if self.format is None:
            self.format = row_format
        if row_format != self.format:
            raise MalformedRowError(
                f"the row's format is {row_format}, expected {self.format} as in the rows before it"
            )
        return row_format

    def report(self) -> ReadReport:
        """Raises DataError if no row can be used."""
        problems = [f"filtered {count}: {reason}" for reason, count in self.filtered.items()]
        problems += self.rejected[:SHOWN]
        if len(self.rejected) > SHOWN:
            problems.append(f"and {len(self.rejected) - SHOWN} more malformed rows")
        if not self.records:
            raise DataError("\n  ".join((f"{self.path}: no usable row among the {self.read} read", *problems)))
        assert self.format is not None  # a record was kept
        return ReadReport(
            self.path,
            self.format,
            read=self.read,
            kept=len(self.records),
            rejected=len(self.rejected),
            filtered=self.filtered.total(),
            duplicate=self.duplicate,
            problems=tuple(problems),
        )


def _digest(row: Row) -> bytes:
    """Equal for rows with equal keys and values, in whatever order. Raises MalformedRowError for what is not text."""
    try:
        text = json.dumps(row, sort_keys=True, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise MalformedRowError(f"half a character ({error.object[error.start]!a}), which is not text") from error
    except RecursionError as error:
        raise MalformedRowError("brackets nested too deeply") from error
    return hashlib.blake2b(text, digest_size=16).digest()


def _with_leaks(held_out: Dataset, train: Dataset) -> Dataset:
    """Say in the report of `held_out` how many of its rows have a prompt that is also in `train`."""
    known = {prompt_key(record) for record in train.records}
    shared = sum(prompt_key(record) in known for record in held_out.records)
    if not shared or len(known) == 1:  # one prompt in all of train is an instruction, not a question
        return held_out
    leak = f"leak: the prompt of {shared} of {len(held_out.records)} kept rows is also in {train.report.path}"
    return replace(held_out, report=replace(held_out.report, problems=(*held_out.report.problems, leak)))
