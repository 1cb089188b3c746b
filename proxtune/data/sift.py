"""Every row of a file is kept, or counted with its reason: `read == kept + rejected + filtered + duplicate`."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from proxtune.data.cells import renamed
from proxtune.data.formats import Format, MalformedRowError, Row, detect, parse
from proxtune.data.records import Record, content_key, emptiness, prompt_key

Duplicates = Literal["drop", "keep"]
Fate: TypeAlias = Literal["kept", "rejected", "filtered", "duplicate"]

DIGEST = 16  # bytes


class Sifted(NamedTuple):
    """A row, and what became of it."""

    fate: Fate
    where: str  # file:line
    row: Row | None = None  # None: it could not be read
    record: Record | None = None  # of a row that was kept
    reason: str = ""  # why it was not


class Sieve:
    """Rows become records, or are left out. The first row that has a format decides which one all others must have.

    `columns` maps the keys of formats to those of the file, where they differ.
    """

    def __init__(
        self,
        path: Path,
        *,
        format: Format | Literal["auto"] = "auto",  # noqa: A002 (the user's word for it)
        duplicates: Duplicates = "drop",
        chat: bool = False,
        columns: Mapping[str, str] | None = None,
    ) -> None:
        self.path = path
        self.detects = format == "auto"
        self.format: Format | None = None if format == "auto" else format
        self.duplicates = duplicates
        self.chat = chat
        self.columns = columns or {}
        self.seen = Digests()

    def sift(self, line: int, row: Row | MalformedRowError) -> Sifted:
        """What becomes of one row."""
        where = f"{self.path}:{line}"
        if isinstance(row, MalformedRowError):
            return Sifted("rejected", where, reason=str(row))
        try:
            digest = _digest(row)
            ours = renamed(row, self.columns)
            record = parse(ours, self._format_of(ours), where, chat=self.chat)
        except MalformedRowError as error:
            return Sifted("rejected", where, row, reason=str(error))
        reason = emptiness(record)
        if reason:
            return Sifted("filtered", where, row, reason=reason)
        if not self.seen.add(digest) and self.duplicates == "drop":
            return Sifted("duplicate", where, row, reason="equal to an earlier row in every key")
        return Sifted("kept", where, row, record)

    def _format_of(self, row: Row) -> Format:
        """The file's format, which the row must have too if its keys decide."""
        row_format = detect(row) if self.detects or self.format is None else self.format
        if self.format is None:
            self.format = row_format
        if row_format != self.format:
            raise MalformedRowError(
                f"the row's format is {row_format}, expected {self.format} as in the rows before it"
            )
        return row_format


class Known:
    """What stands in a file, to find again in another."""

    def __init__(self) -> None:
        self.prompts, self.contents = Digests(), Digests()

    def add(self, record: Record) -> bool:
        """Whether the record's prompt was new."""
        self.contents.add(digest_of(content_key(record)))
        return self.prompts.add(digest_of(prompt_key(record)))

    def holds(self, record: Record) -> bool:
        """Whether the record is known whole, or by its prompt, unless all share one: that is an instruction."""
        if digest_of(content_key(record)) in self.contents:
            return True
        return len(self.prompts) > 1 and digest_of(prompt_key(record)) in self.prompts


class Digests:
    """A set of digests in about 20 bytes each, where a set of `bytes` takes 110: files have millions of rows.

    The first two bytes choose a string of digests, and `in` looks there for the whole one. That it stands across two
    others by chance is less likely than that two texts have one digest: together below 2⁻⁶⁰ for a billion rows.
    """

    def __init__(self) -> None:
        self.buckets: defaultdict[bytes, bytearray] = defaultdict(bytearray)
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def __contains__(self, digest: bytes) -> bool:
        return digest in self.buckets.get(digest[:2], b"")

    def add(self, digest: bytes) -> bool:
        """Whether the digest was new."""
        if digest in self:
            return False
        self.buckets[digest[:2]] += digest
        self.count += 1
        return True


def digest_of(text: str) -> bytes:
    """16 bytes that differ for texts that differ. Raises UnicodeEncodeError for half a surrogate pair."""
    return hashlib.blake2b(text.encode(), digest_size=DIGEST).digest()


def _digest(row: Row) -> bytes:
    """Equal for rows with equal keys and values, in whatever order. Raises MalformedRowError for what is not text."""
    try:
        return digest_of(json.dumps(row, sort_keys=True, ensure_ascii=False, default=repr))
    except UnicodeEncodeError as error:
        raise MalformedRowError(f"half a character ({error.object[error.start]!a}), which is not text") from error
    except RecursionError as error:
        raise MalformedRowError("brackets nested too deeply") from error
