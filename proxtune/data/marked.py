"""Rows of the classic tasks: texts with labels, sentences with tags, relations, questions with answers in a text."""

import math
import re
import sys
from typing import Any

from proxtune.data.cells import (
    MalformedRowError,
    Row,
    from_cell,
    kind_of,
    others,
    string_of,
    strings_of,
    value_of,
)
from proxtune.data.records import Answered, Labelled, Span, Tagged
from proxtune.data.tags import TAG

TEXT_PAIRS = (("text", "text_pair"), ("sentence1", "sentence2"), ("premise", "hypothesis"))
LABELS = ("label", "labels")
MARKERS = {"head": "@", "tail": "#"}
NOT_FOUND = "the answer does not stand in the context"


def labelled(row: Row, where: str) -> Labelled:
    """One text or a pair, with its label. Raises MalformedRowError."""
    texts = text_keys(row) or ("text",)
    key = next((key for key in LABELS if key in row), "label")
    text, *pair = (string_of(row, name) for name in texts)
    return Labelled(text, _label(row, key), where, others(row, key, *texts), pair[0] if pair else None)


def text_keys(row: Row) -> tuple[str, ...] | None:
    """The keys of a pair of texts, or of one text; None if there is none."""
    return next((keys for keys in (*TEXT_PAIRS, ("text",)) if row.keys() >= set(keys)), None)


def _label(row: Row, key: str) -> str | int | float | tuple[str, ...]:
    given = value_of(row, key)
    cell = from_cell(given)
    value = cell if isinstance(cell, list) else given
    if isinstance(value, list) and all(isinstance(name, str) and name.strip() for name in value):
        return tuple(sorted(set(value)))
    if key == "labels":
        raise MalformedRowError(f"labels: got {kind_of(given)}, expected a list of names (a single one is a label)")
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", value):
        return int(value)
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            if given.strip():
                return str(given)
    if isinstance(value, bool | int) and abs(value) <= sys.float_info.max:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise MalformedRowError(f"label: got {kind_of(given)}, expected a name or a finite number, or a list of names")


def relation(row: Row, where: str) -> Labelled:
    """A sentence with its two spans marked, and their relation as its label. Raises MalformedRowError."""
    label = string_of(row, "relation")
    if not label.strip():
        raise MalformedRowError("relation: got an empty string, expected a name")
    return Labelled(with_markers(row), label, where, others(row, "relation"))


def with_markers(row: Row) -> str:
    """The text of a row with markers around two spans, `@ head @` and `# tail #`.

    These are the markers that need no new token (Zhou and Chen 2021, arXiv 2102.01373, table 1: "entity marker
    (punct)"). Raises MalformedRowError: a span is not within the text, or overlaps the other.
    """
    text = string_of(row, "text")
    spans = sorted((*_offsets(row, key, text), mark) for key, mark in MARKERS.items())
    (_, end, _), (begin, _, _) = spans
    if begin < end:
        raise MalformedRowError(f"head and tail overlap: one ends at {end}, the other begins at {begin}")
    marked, done = "", 0
    for begin, end, mark in spans:
        marked += f"{text[done:begin]}{mark} {text[begin:end]} {mark}"
        done = end
    return marked + text[done:]


def _offsets(row: Row, key: str, text: str) -> tuple[int, int]:
    given = value_of(row, key)
    value = from_cell(given)
    match value:
        case [int(begin), int(end)] if 0 <= begin < end <= len(text):
            return begin, end
    raise MalformedRowError(
        f"{key}: got {kind_of(given)}, expected [begin, end) in characters of the text, which has {len(text)}"
    )


def tagged(row: Row, where: str) -> Tagged:
    """A sentence as tokens, a tag each. Raises MalformedRowError."""
    tokens, tags = strings_of(row, "tokens"), strings_of(row, "tags")
    if len(tokens) != len(tags):
        raise MalformedRowError(f"tags: got {len(tags)} for {len(tokens)} tokens, expected one each")
    for number, (token, tag) in enumerate(zip(tokens, tags, strict=True), start=1):
        if not TAG.fullmatch(tag):
            raise MalformedRowError(
                f"tags: got {tag!r} at token {number} ({token!r}), expected O, or B- or I- (E-, S-, L-, U-) "
                "and a type, as B-PER"
            )
    return Tagged(tokens, tags, where, others(row, "tokens", "tags"))


def answered(row: Row, where: str) -> Answered:
    """A question with the spans of a context that answer it. Raises MalformedRowError: a span does not stand there."""
    context, question = string_of(row, "context"), string_of(row, "question")
    spans = None
    if "answers" in row:
        spans = tuple(_span(number, answer, context) for number, answer in enumerate(_answers(row)))
    return Answered(context, question, spans, where, others(row, "context", "question", "answers"))


def _answers(row: Row) -> list[Any]:
    """A list as it is, and SQuAD's two lists as one."""
    given = value_of(row, "answers")
    value = from_cell(given)
    match value:
        case list():
            return value
        case {"text": list(texts), "answer_start": list(starts)} if len(texts) == len(starts):
            return [{"text": text, "start": start} for text, start in zip(texts, starts, strict=True)]
    raise MalformedRowError(
        f"answers: got {kind_of(given)}, expected a list of texts, of {{text, start}}, "
        "or {text: [...], answer_start: [...]} with as many of each"
    )


def _span(number: int, answer: Any, context: str) -> Span:
    """A text without its start is where it stands first."""
    match answer:
        case str(text) if text:
            begin = context.find(text)
        case {"text": str(text), "start": int(begin)} | {"text": str(text), "answer_start": int(begin)} if text:
            begin = begin if begin >= 0 and context.startswith(text, begin) else -1
        case _:
            raise MalformedRowError(f"answers[{number}]: got {kind_of(answer)}, expected a text, or {{text, start}}")
    if begin < 0:
        at = "" if isinstance(answer, str) else " at its start"
        raise MalformedRowError(f"{NOT_FOUND}{at}: answers[{number}] ({text[:40]!r})")
    return Span(text, begin)


def triple_lines(text: str) -> list[tuple[str, ...]]:
    """`head | relation | tail` a line -> its parts, white space at their ends left out; a line may be no triple."""
    return [tuple(part.strip() for part in line.split("|")) for line in text.splitlines() if line.strip()]


def is_triple(parts: tuple[str, ...]) -> bool:
    """Whether a line has a head, a relation and a tail, and nothing else."""
    return len(parts) == 3 and all(parts)
