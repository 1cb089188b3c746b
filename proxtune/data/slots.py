"""Slots of the commands of intents.py: the set of those that a command fills, or a BIO tag for each of its tokens.

Tokens are words and single marks. A command is left out where a value is part of a token, or could stand at two places.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from proxtune.data.corpora import Part
from proxtune.data.intents import commands

TOKEN = re.compile(r"\w+|[^\w\s]")


def slot_sets(part: Part) -> Iterator[dict[str, Any]]:
    """Commands in English with the names of the slots that they fill as `labels`, none or some; a fifth is the test."""
    return ({"text": row["text"], "labels": sorted(row["slots"])} for row in commands("en", part))


def slot_tags(part: Part) -> Iterator[dict[str, Any]]:
    """Commands in English as tokens, those of a slot's value tagged with its name; a fifth is the test."""
    for row in commands("en", part):
        tokens, names = TOKEN.findall(row["text"]), list(row["slots"])
        values = [TOKEN.findall(value) for value in row["slots"].values()]
        begins = places(tokens, values)
        if begins is not None:
            tags = ["O"] * len(tokens)
            for begin, name, value in zip(begins, names, values, strict=True):
                tags[begin : begin + len(value)] = [f"B-{name}", *[f"I-{name}"] * (len(value) - 1)]
            yield {"tokens": tokens, "tags": tags}


def places(tokens: Sequence[str], values: Sequence[Sequence[str]]) -> list[int] | None:
    """Where the values begin, each after the one before it; None if that can be nowhere, or in more than one way.

    >>> places("turn the red lamp to red".split(), [["lamp"], ["red"]])
    [3, 5]
    """
    first = _leftmost(tokens, values)
    last = _leftmost(tokens[::-1], [value[::-1] for value in values[::-1]])
    if first is None or last is None:
        return None
    mirrored = [len(tokens) - begin - len(value) for begin, value in zip(last[::-1], values, strict=True)]
    return first if first == mirrored else None


def _leftmost(tokens: Sequence[str], values: Sequence[Sequence[str]]) -> list[int] | None:
    begins, at = list[int](), 0
    for value in values:
        fits = (i for i in range(at, len(tokens) - len(value) + 1) if tokens[i : i + len(value)] == value)
        begin = next(fits, None)
        if begin is None:
            return None
        begins.append(begin)
        at = begin + len(value)
    return begins
