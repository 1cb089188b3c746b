"""Rows of a data file as questions for people.

| row                                | asks                            | or, where `kind` says so         |
|------------------------------------|---------------------------------|----------------------------------|
| the keys of `feedback.records.Item`| what its `kind` says            |                                  |
| chosen, rejected, perhaps a prompt | pair                            |                                  |
| a prompt and `responses`           | pair of 2, ranking of 3 to 6    | of each one alone, as below      |
| a prompt and its answer            | rating                          | thumb, rewrite, flags            |
| text, perhaps with a label         | label                           | spans                            |
| tokens, tags                       | spans                           | label                            |

These are the formats of `data.formats`. A response is a text, or {"text", "source"}; or the row has `sources`, a list
as long, or of one answer `source`: which model wrote it, which people are not shown. Other keys are kept with the item.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxtune.data.bundled import resolve
from proxtune.data.cells import MalformedRowError, Row, from_cell, kind_of, renamed
from proxtune.data.files import rows
from proxtune.data.formats import detect, parse
from proxtune.data.lines import Encoding
from proxtune.data.records import (
    Completion,
    Labelled,
    Preference,
    Prompt,
    PromptLike,
    Rated,
    Record,
    Tagged,
    Text,
    prompt_row,
)
from proxtune.data.tags import entities
from proxtune.errors import DataError
from proxtune.feedback.records import CANDIDATES, KINDS, Item, Kind, item_of

ALONE: tuple[Kind, ...] = ("rating", "thumb", "rewrite", "flags")  # kinds that show one answer
OF_TEXT: tuple[Kind, ...] = ("label", "spans")
JSON_KEYS = (
    "prompt",
    "candidates",
    "options",
    "gold",
    "columns",
    "overlap",
    "priority",
)  # of an Item in a table's cell


@dataclass(frozen=True)
class Asking:
    """How the rows of a file are asked. None: as the row says, or as its keys do."""

    batch: str
    kind: Kind | None = None
    overlap: int | None = None  # None: as the row says, or 1
    options: Mapping[str, Any] = field(default_factory=dict)  # of `records.Options`
    columns: Mapping[str, str] = field(default_factory=dict)  # our key: the file's
    encoding: Encoding = "auto"


def read_items(path: Path, asking: Asking, *, watch: Callable[[int], object] = lambda _: None) -> list[Item]:
    """The items that a file asks. `watch` is told of the rows read, one after the other.

    Raises DataError: the file cannot be read, has no row, or has rows that ask nothing; each of them is named.
    """
    path = resolve(path)
    asked, problems = list[tuple[int, dict[str, Any]]](), list[tuple[int, str]]()
    for line, row in rows(path, hashlib.sha256(), asking.encoding):
        try:
            if isinstance(row, MalformedRowError):
                raise row
            questions = _questions(renamed(row, asking.columns), f"{path}:{line}", asking)
            asked += [(line, question) for question in questions]
        except MalformedRowError as error:
            problems.append((line, f"{path}:{line}: {error}"))
        watch(1)
    choices = _choices_of(question for _, question in asked)
    items = list[Item]()
    for line, question in asked:
        if choices and question["kind"] in OF_TEXT and not question["options"].get("labels"):
            question["options"] = question["options"] | {"labels": choices}
        try:
            items.append(item_of(question, f"{path}:{line}"))
        except DataError as error:
            problems.append((line, str(error)))
    if problems:
        listed = "\n  ".join(problem for _, problem in sorted(problems))
        raise DataError(
            f"{path}: {len(problems)} rows ask nothing; mend or remove them, nothing was written:\n  {listed}"
        )
    if not items:
        raise DataError(f"{path}: no row; there is nothing to ask")
    return items


def _questions(row: Row, where: str, asking: Asking) -> Iterator[dict[str, Any]]:
    """The items of a row, as `item_of` takes them."""
    _check_json(row)
    if row.get("kind") in KINDS and "prompt" in row:
        yield _whole(row, asking)
        return
    yield from questions_of(parse(row, detect(row), where), asking)


def questions_of(record: Record, asking: Asking) -> Iterator[dict[str, Any]]:
    """The items of a record, as `item_of` takes them. Raises MalformedRowError: there is nothing to ask."""
    columns = {key: value for key, value in record.columns.items() if key not in ("responses", "sources", "source")}
    common = {"batch": asking.batch, "overlap": asking.overlap or 1, "options": dict(asking.options)}
    for kind, prompt, candidates, more in _asked(record, asking.kind):
        yield common | {"kind": kind, "prompt": prompt, "candidates": candidates, "columns": columns | more}


def _whole(row: Row, asking: Asking) -> dict[str, Any]:
    """A row of an Item's own keys; in a table all but texts are JSON, and an empty cell is no value."""
    question = {key: value for key, value in row.items() if value not in ("", None)}
    for key in JSON_KEYS:
        value = question.get(key)
        if isinstance(value, str) and from_cell(value) is not None and (key != "prompt" or value.startswith("[")):
            question[key] = from_cell(value)
    question.setdefault("batch", asking.batch)
    if asking.kind is not None and asking.kind != question["kind"]:
        raise MalformedRowError(f"the row asks for {question['kind']}, and --kind for {asking.kind}; leave out one")
    question["options"] = dict(question.get("options") or {}) | dict(asking.options)
    return question | ({"overlap": asking.overlap} if asking.overlap else {})


Asked = tuple[Kind, Any, list[dict[str, Any]], dict[str, Any]]  # kind, prompt, candidates, columns


def _asked(record: Record, kind: Kind | None) -> Iterator[Asked]:
    match record:
        case Preference(prompt, chosen, rejected):
            _refuse(kind, ("pair",), "two answers")
            sources = _sources(record, 2)
            yield "pair", prompt_row(prompt), _candidates([chosen, rejected], sources), {}
        case Prompt(prompt) if "responses" in record.columns:
            yield from _of_responses(prompt, *_responses(record), kind)
        case Completion(prompt, completion) | Rated(prompt, completion):
            _refuse(kind, ALONE, "one answer")
            more = {"scores": list(record.scores)} if isinstance(record, Rated) else {}
            yield kind or "rating", prompt_row(prompt), _candidates([completion], _sources(record, 1)), more
        case Labelled(text, label, pair=None):
            _refuse(kind, OF_TEXT, "a text")
            yield kind or "label", text, [], {"label": list(label) if isinstance(label, tuple) else label}
        case Text(text):
            _refuse(kind, OF_TEXT, "a text")
            yield kind or "label", text, [], {}
        case Tagged(tokens, tags):
            _refuse(kind, OF_TEXT, "a text")
            yield kind or "spans", record.text, [], {"tokens": list(tokens), "tags": list(tags)}
        case Prompt():
            raise MalformedRowError(
                "a prompt without an answer; give responses, or sample some: proxtune label candidates MODEL PROMPTS"
            )
        case _:
            raise MalformedRowError("nothing of this format can be asked; see `proxtune label init --help`")


def _of_responses(
    prompt: PromptLike, texts: list[str], sources: list[str | None], kind: Kind | None
) -> Iterator[Asked]:
    if kind in ALONE:
        for text, source in zip(texts, sources, strict=True):
            yield kind, prompt_row(prompt), _candidates([text], [source]), {}
        return
    _refuse(kind, ("pair", "ranking", *ALONE), "responses")
    least, most = CANDIDATES["pair"][0], CANDIDATES["ranking"][1]
    if not least <= len(texts) <= most:
        raise MalformedRowError(
            f"responses: got {len(texts)}; people compare {least} to {most}, or judge each alone, with --kind rating"
        )
    together: Kind = "pair" if len(texts) == 2 else "ranking"
    yield kind or together, prompt_row(prompt), _candidates(texts, sources), {}


def _refuse(kind: Kind | None, known: tuple[Kind, ...], what: str) -> None:
    if kind is not None and kind not in known:
        raise MalformedRowError(f"the row has {what}, and asks for {' or '.join(known)}, not for {kind}")


def _responses(record: Prompt) -> tuple[list[str], list[str | None]]:
    """The texts of the answers, and who wrote them."""
    given = record.columns["responses"]
    value = from_cell(given)
    if not isinstance(value, list) or not value:
        raise MalformedRowError(f"responses: got {kind_of(given)}, expected a list of texts or of {{text, source}}")
    texts, sources = list[str](), list(_sources(record, len(value)))
    for place, response in enumerate(value):
        match response:
            case str(text):
                texts.append(text)
            case {"text": str(text), "source": str(source)}:
                texts.append(text)
                sources[place] = source
            case _:
                raise MalformedRowError(
                    f"responses[{place}]: got {kind_of(response)}, expected a text or {{text, source}}"
                )
    return texts, sources


def _sources(record: Record, count: int) -> list[str | None]:
    if "source" in record.columns and count == 1:
        return [record.columns["source"] or None]
    given = record.columns.get("sources")
    value = from_cell(given) if given else [None] * count
    if not isinstance(value, list) or len(value) != count:
        raise MalformedRowError(f"sources: got {kind_of(given)}, expected a list of {count}, a name for each answer")
    return value


def _candidates(texts: Iterable[str], sources: Iterable[str | None]) -> list[dict[str, Any]]:
    return [{"text": text, "source": source} for text, source in zip(texts, sources, strict=True)]


def _choices_of(questions: Iterable[Mapping[str, Any]]) -> list[str]:
    """The labels that the rows of a file have: what there is to choose from where nothing says so."""
    found = set[str]()
    for question in questions:
        label = question["columns"].get("label") if question["kind"] == "label" else None
        found |= set(label) if isinstance(label, list) else set() if label is None else {str(label)}
        if question["kind"] == "spans":
            found |= {entity.type for entity in entities(question["columns"].get("tags", []))}
    return sorted(found)


def _check_json(row: Row) -> None:
    try:
        json.dumps(row, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise MalformedRowError(f"a value cannot be kept as JSON: {error}") from error
