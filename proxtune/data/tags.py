"""Tags of tokens: `O`, or a prefix and the type of an entity.

| scheme | prefixes                                                                                              |
|--------|-------------------------------------------------------------------------------------------------------|
| BIO    | B- begins an entity, I- goes on (IOB2, as in CoNLL-2003 of today)                                      |
| IOB1   | I- begins an entity and goes on; B- only where it follows another of its type (the first CoNLL-2003)   |
| IOBES  | B- begins, I- goes on, E- (or L-) ends; S- (or U-) is an entity of one token                           |

All are read as the scorer of CoNLL reads them (Tjong Kim Sang and De Meulder 2003): a tag that goes on with nothing
begins an entity.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

TAG = re.compile(r"O|[BIESLU]-.+")
GOES_ON, ENDS = "IEL", "ESLU"


class Entity(NamedTuple):
    """Tokens `begin` to `end` − 1."""

    type: str
    begin: int
    end: int


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities that the tags of a sentence mark, in order."""
    found, begin, kind = list[Entity](), 0, ""
    for i, (prefix, new, goes_on) in enumerate(_read(tags)):
        if kind and not goes_on:
            found.append(Entity(kind, begin, i))
        if not goes_on:
            begin = i
        kind = new
        if prefix in ENDS and kind:
            found.append(Entity(kind, begin, i + 1))
            kind = ""
    if kind:
        found.append(Entity(kind, begin, len(tags)))
    return found


def orphans(tags: Sequence[str]) -> list[int]:
    """The places of tags that go on with an entity of their type where there is none."""
    return [i for i, (prefix, _, goes_on) in enumerate(_read(tags)) if prefix in GOES_ON and not goes_on]


def begins(tags: Sequence[str]) -> int:
    """How often B- begins an entity where IOB1 would have I-: after no tag of its type."""
    before = ["O", *tags]
    return sum(
        tag.startswith("B-") and last.partition("-")[2] != tag.partition("-")[2]
        for last, tag in zip(before, tags, strict=False)
    )


def _read(tags: Sequence[str]) -> Iterator[tuple[str, str, bool]]:
    """(prefix, type, whether it goes on with the entity before) of each tag; ("O", "", False) outside."""
    before = ""
    for tag in tags:
        prefix, _, kind = tag.partition("-")
        yield prefix, kind, prefix in GOES_ON and kind == before
        before = "" if prefix in ENDS else kind
