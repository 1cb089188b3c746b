"""A data file read once, row by row, in bounded memory: what is in it, and what is wrong with it where."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TextIO, TypeAlias

from proxtune.data.bundled import resolve
from proxtune.data.files import rows
from proxtune.data.formats import Format
from proxtune.data.lines import Encoding, Hash, codec_of
from proxtune.data.marked import NOT_FOUND, is_triple, triple_lines
from proxtune.data.records import (
    Answered,
    Completion,
    Labelled,
    Preference,
    Prompt,
    PromptLike,
    Rated,
    Record,
    Tagged,
    Text,
    prompt_key,
)
from proxtune.data.sift import Digests, Fate, Known, Sieve, Sifted, digest_of
from proxtune.data.sources import SHOWN, Tally
from proxtune.data.tags import begins, entities, orphans
from proxtune.errors import DataError

DIFFERENT = 1000  # labels that are told apart
IMBALANCED = 10  # times as many rows of one class as of another


Trait: TypeAlias = Literal["one class", "pair", "answered", "unanswered", "written", "triples"]


class CountTokens(Protocol):
    """Tokens of a record's prompt and of what is learnt after it; raises DataError for what cannot be encoded."""

    def __call__(self, record: Record, /) -> tuple[int, int]: ...


@dataclass
class Places:
    """How often something was found, and the first places."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, place: str) -> None:
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(place)


@dataclass
class Checked:
    """What a file holds, and what is wrong with it."""

    path: Path
    max_length: int | None
    codec: str = ""
    format: Format | None = None
    prompts: int = 0  # different ones, of kept rows
    fates: Counter[Fate] = field(default_factory=Counter)
    left_out: dict[tuple[Fate, str], Places] = field(default_factory=lambda: defaultdict(Places))  # by kind of reason
    rejected: Places = field(default_factory=Places)  # with the whole reason
    again: Places = field(default_factory=Places)  # kept rows whose prompt stood before, with another answer
    leaked: Places = field(default_factory=Places)
    characters: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))  # part -> length -> rows
    tokens: Counter[int] = field(default_factory=Counter)
    too_long: Places = field(default_factory=Places)
    no_room: int = 0  # of the ones too long, those whose prompt alone fills `max_length`
    unencoded: Places = field(default_factory=Places)
    labels: Counter[str] = field(default_factory=Counter)  # of tagged sentences: types of entities
    traits: Counter[Trait] = field(default_factory=Counter)  # of kept rows
    begins: int = 0  # entities that begin with B- after none of their type
    orphans: Places = field(default_factory=Places)  # I- that goes on with nothing
    relations: Counter[str] = field(default_factory=Counter)  # of lines that are triples
    other_lines: Places = field(default_factory=Places)  # of answers, that are no triple

    @property
    def read(self) -> int:
        """Equals kept + rejected + filtered + duplicate."""
        return self.fates.total()

    @property
    def sound(self) -> bool:
        """Whether every row can be used, and none stands in the held-out data."""
        wrong = self.rejected.count + self.leaked.count + self.unencoded.count + self.mistagged.count
        return not wrong and self.fates["kept"] > 0

    @property
    def mistagged(self) -> Places:
        """Tags that break the rules of BIO; none where the file keeps those of IOB1, in which I- begins entities."""
        return self.orphans if self.begins else Places()

    @property
    def imbalance(self) -> tuple[str, str] | None:
        """The most and the least frequent class, where the one has more than 10 times the rows of the other."""
        if len(self.labels) < 2 or self.traits["one class"] != self.labels.total():
            return None
        (most, rows), *_, (least, fewest) = self.labels.most_common()
        return (most, least) if rows > IMBALANCED * fewest else None

    @property
    def holds_triples(self) -> bool:
        """Whether at least half of the answers are triples, line by line."""
        return 2 * self.traits["triples"] >= self.traits["written"] > 0

    @property
    def not_found(self) -> int:
        """Rows whose answer does not stand in the context."""
        return sum(places.count for (_, reason), places in self.left_out.items() if reason.startswith(NOT_FOUND))


def check(
    path: Path,
    *,
    eval_path: Path | None = None,
    format: Format | Literal["auto"] = "auto",  # noqa: A002 (the user's word for it)
    encoding: Encoding = "auto",
    chat: bool = False,
    count_tokens: CountTokens | None = None,
    max_length: int | None = None,
    fix: Path | None = None,
    columns: Mapping[str, str] | None = None,
    watch: Callable[[int], None] = lambda _: None,
) -> Checked:
    """Read a file once and count what is in it; memory grows by two digests of 16 bytes a row.

    Args:
        eval_path: held-out data, whose rows and prompts should not stand in the file.
        count_tokens: the tokenizer of a model, whose rows hold at most `max_length` tokens.
        fix: where the rows that can be used are written as JSONL, and beside it those that cannot, with the reason.
        columns: the keys of formats -> those of the files, where they differ.
        watch: is called with the number of bytes read since it was last called.

    Raises:
        DataError: a file is missing, or damaged so that no further row can be told; `fix` is there already.
    """
    path = resolve(path)
    held_out = (
        None
        if eval_path is None
        else _known(Sieve(resolve(eval_path), format=format, chat=chat, columns=columns), encoding)
    )
    sieve = Sieve(path, format=format, chat=chat, columns=columns)
    checked = Checked(path, max_length)
    prompts = Digests()
    with _cleaned(fix) as write:
        for line, row in rows(path, _Watched(watch), encoding):
            sifted = sieve.sift(line, row)
            _count(checked, sifted)
            leaked = held_out is not None and sifted.record is not None and held_out.holds(sifted.record)
            if leaked:
                checked.leaked.add(sifted.where)
            if sifted.record is not None:
                new_prompt = prompts.add(digest_of(prompt_key(sifted.record)))
                _measure(checked, sifted.record, count_tokens, new_prompt=new_prompt)
            write(sifted, leaked)
    checked.format, checked.prompts, checked.codec = sieve.format, len(prompts), _codec(path, encoding)
    return checked


def _known(sieve: Sieve, encoding: Encoding) -> Known:
    """What stands in the held-out data. Raises DataError if no row can be used."""
    tally, known = Tally(), Known()
    for line, row in rows(sieve.path, _Watched(), encoding):
        sifted = sieve.sift(line, row)
        tally.count(sifted)
        if sifted.record is not None:
            known.add(sifted.record)
    tally.report(sieve.path, sieve.format)
    return known


@dataclass
class _Watched(Hash):
    """Stands where a hash of the file's bytes would, and says how many there were."""

    watch: Callable[[int], None] = lambda _: None

    def update(self, data: bytes, /) -> None:
        self.watch(len(data))


def _codec(path: Path, encoding: Encoding) -> str:
    if path.suffix.lower() == ".parquet":
        return "parquet"
    with path.open("rb") as file:
        return codec_of(file, encoding)


def _count(checked: Checked, sifted: Sifted) -> None:
    checked.fates[sifted.fate] += 1
    if sifted.fate != "kept":
        checked.left_out[sifted.fate, _kind_of(sifted.reason)].add(sifted.where)
    if sifted.fate == "rejected":
        checked.rejected.add(f"{sifted.where}: {sifted.reason}")


def _kind_of(reason: str) -> str:
    """A reason without what differs from row to row."""
    return re.sub(r"'[^']*'|\([^)]*\)|(?<![\w-])\d[\d,]*", "…", reason.partition(";")[0])


def _measure(checked: Checked, record: Record, count_tokens: CountTokens | None, *, new_prompt: bool) -> None:
    for part, length in _characters(record).items():
        checked.characters[part][length] += 1
    if not new_prompt and not isinstance(record, Text | Labelled | Prompt | Tagged | Answered):
        checked.again.add(record.where)
    for label in _labels(record):
        if label in checked.labels or len(checked.labels) < DIFFERENT:
            checked.labels[label] += 1
    checked.traits.update(_traits(record))
    if isinstance(record, Tagged):
        _check_tags(checked, record)
    if isinstance(record, Completion):
        _check_triples(checked, record)
    if count_tokens is not None:
        _measure_tokens(checked, record, count_tokens)


def _measure_tokens(checked: Checked, record: Record, count_tokens: CountTokens) -> None:
    try:
        prompt, response = count_tokens(record)
    except DataError as error:
        checked.unencoded.add(f"{record.where}: {error}")
        return
    checked.tokens[prompt + response] += 1
    if checked.max_length is not None and prompt + response > checked.max_length:
        checked.too_long.add(f"{record.where}: {prompt + response} tokens (prompt {prompt}, answer {response})")
        checked.no_room += response > 0 and prompt >= checked.max_length


def _check_tags(checked: Checked, record: Tagged) -> None:
    checked.begins += begins(record.tags)
    for i in orphans(record.tags):
        token = f"{record.tags[i]} of token {i + 1} ({record.tokens[i]!r})"
        checked.orphans.add(f"{record.where}: {token} follows no entity of its type")


def _check_triples(checked: Checked, record: Completion) -> None:
    found = triple_lines(record.completion)
    for triple in found:
        if not is_triple(triple):
            checked.other_lines.add(f"{record.where}: {' | '.join(triple)[:60]!r}")
        elif triple[1] in checked.relations or len(checked.relations) < DIFFERENT:
            checked.relations[triple[1]] += 1
    checked.traits["written"] += 1
    checked.traits["triples"] += bool(found) and all(map(is_triple, found))


def _characters(record: Record) -> dict[str, int]:
    match record:
        case Labelled(text, pair=str(pair)) | Text(text, pair=str(pair)):
            return {"first text": len(text), "second text": len(pair)}
        case Text() | Labelled() | Tagged():
            return {"text": len(record.text)}
        case Answered(context, question):
            return {"context": len(context), "question": len(question)}
        case Prompt(prompt):
            return {"prompt": _length(prompt)}
        case Completion(prompt, completion) | Rated(prompt, completion):
            return {"prompt": _length(prompt), "answer": len(completion)}
        case Preference(prompt, chosen, rejected):
            return {"prompt": _length(prompt), "chosen": len(chosen), "rejected": len(rejected)}


def _length(prompt: PromptLike) -> int:
    return len(prompt) if isinstance(prompt, str) else sum(len(turn.content) for turn in prompt)


def _labels(record: Record) -> list[str]:
    match record:
        case Labelled(_, tuple(labels)):
            return list(labels)
        case Labelled(_, label):
            return [str(label)]
        case Rated():
            return [f"{record.rating:.4g}"]
        case Tagged(_, tags):
            return [entity.type for entity in entities(tags)]
    return []


def _traits(record: Record) -> Iterator[Trait]:
    match record:
        case Answered(answers=answers):
            yield "answered" if answers else "unanswered"
        case Labelled(_, label, pair=pair):
            if isinstance(label, str | int):
                yield "one class"
            if pair is not None:
                yield "pair"


def rejects_path(fix: Path) -> Path:
    """Where `--fix` writes what it leaves out: clean.jsonl -> clean-rejects.jsonl."""
    return fix.with_name(f"{fix.stem}-rejects{fix.suffix}")


@contextmanager
def _cleaned(fix: Path | None) -> Iterator[Callable[[Sifted, bool], None]]:
    """A function that writes a row into one of two files, which have their names once all rows are written."""
    if fix is None:
        yield lambda _sifted, _leaked: None
        return
    names = (fix, rejects_path(fix))
    if fix.suffix != ".jsonl":
        raise DataError(f"{fix}: the cleaned copy is JSONL; expected a name that ends in .jsonl")
    for name in names:
        if name.exists():
            raise DataError(f"{name}: is there already; expected a new name for the cleaned copy")
    partial = [name.with_name(f".{name.name}.partial") for name in names]
    try:
        with partial[0].open("w", encoding="utf-8") as kept, partial[1].open("w", encoding="utf-8") as rejects:
            yield lambda sifted, leaked: _write(kept, rejects, sifted, leaked)
        for name, written in zip(names, partial, strict=True):
            written.replace(name)
    except OSError as error:
        raise DataError(f"{fix}: cannot be written: {error.strerror or error}") from error
    finally:
        for written in partial:
            written.unlink(missing_ok=True)


def _write(kept: TextIO, rejects: TextIO, sifted: Sifted, leaked: bool) -> None:
    """`default=str`: a table's dates and bytes have no other form in JSON."""
    if sifted.fate == "kept" and not leaked:
        kept.write(json.dumps(sifted.row, ensure_ascii=False, default=str) + "\n")
        return
    fate, reason = ("leaked", "stands in the held-out data too") if leaked else (sifted.fate, sifted.reason)
    left: dict[str, Any] = {"where": sifted.where, "fate": fate, "reason": reason, "row": sifted.row}
    rejects.write(json.dumps(left, default=str) + "\n")
