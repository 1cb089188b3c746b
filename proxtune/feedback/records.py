"""What people are asked, and what they answer.

An `Item` asks one question about a prompt and its answers (`candidates`). A `Judgement` is one person's answer to one
item; what was said stands in its body, whose `kind` is the item's. Bodies speak of candidates by their place in the
item, whatever order a person saw them in.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from proxtune.errors import DataError

Kind: TypeAlias = Literal["pair", "ranking", "rating", "thumb", "rewrite", "flags", "label", "spans"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CANDIDATES: dict[Kind, tuple[int, int]] = {  # the least and the most answers that an item of a kind shows
    "pair": (2, 2),
    "ranking": (3, 6),
    "rating": (1, 1),
    "thumb": (1, 1),
    "rewrite": (1, 1),
    "flags": (1, 1),
    "label": (0, 0),
    "spans": (0, 0),
}
MAX_TEXT = 100_000  # characters of one text


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Text: TypeAlias = Annotated[str, Field(max_length=MAX_TEXT)]
Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=200)]


class Turn(_Frozen):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Text


class Candidate(_Frozen):
    """One answer to the prompt, and which model wrote it: people are not shown `source`."""

    text: Text
    source: Name | None = None


class Options(_Frozen):
    """How an item is asked."""

    criteria: tuple[Name, ...] = Field(("overall",), min_length=1, max_length=10)  # rating: each gets a score
    scale: Literal[5, 7] = 5  # rating: 1 … scale
    labels: tuple[Name, ...] = Field((), max_length=100)  # label, spans: what there is to choose from
    multiple: bool = False  # label: several at once, or none
    flags: tuple[Name, ...] = Field(("unsafe", "personal data", "broken"), max_length=20)


class _Body(_Frozen):
    comment: Text = ""
    flags: tuple[Name, ...] = ()


class PairBody(_Body):
    """`preference` > 0: the first answer is better, < 0: the second; 2 is much better, 0 a tie."""

    kind: Literal["pair"] = "pair"
    preference: int = Field(ge=-2, le=2)
    both_bad: bool = False


class RankingBody(_Body):
    """A rank for each answer, 1 the best; answers of one rank are tied."""

    kind: Literal["ranking"] = "ranking"
    ranks: tuple[int, ...]


class RatingBody(_Body):
    """A score for each criterion, 1 … scale."""

    kind: Literal["rating"] = "rating"
    scores: dict[Name, int]


class ThumbBody(_Body):
    """Good, or not."""

    kind: Literal["thumb"] = "thumb"
    up: bool


class RewriteBody(_Body):
    """The answer as it should have been."""

    kind: Literal["rewrite"] = "rewrite"
    text: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]


class FlagsBody(_Body):
    """What is wrong with the answer: `flags`; none: nothing is."""

    kind: Literal["flags"] = "flags"


class LabelBody(_Body):
    """The classes of the text."""

    kind: Literal["label"] = "label"
    labels: tuple[Name, ...]


class SpanMark(_Frozen):
    """Characters [begin, end) of the text, and what they are."""

    begin: int = Field(ge=0)
    end: int
    label: Name


class SpansBody(_Body):
    """The marked parts of the text, which do not overlap."""

    kind: Literal["spans"] = "spans"
    spans: tuple[SpanMark, ...]


class SkipBody(_Body):
    """The person left the item to others."""

    kind: Literal["skip"] = "skip"


Body: TypeAlias = (
    PairBody | RankingBody | RatingBody | ThumbBody | RewriteBody | FlagsBody | LabelBody | SpansBody | SkipBody
)
_BODY: TypeAdapter[Body] = TypeAdapter(Annotated[Body, Field(discriminator="kind")])


class Item(_Frozen):
    """A question for people. Raises DataError by `item_of`, which says what is wrong with a row."""

    kind: Kind
    prompt: Text | tuple[Turn, ...]
    candidates: tuple[Candidate, ...] = ()
    options: Options = Options()
    gold: dict[str, Any] | None = None  # the body that is right: a test of attention, shown to everybody
    overlap: int = Field(1, ge=1, le=1000)  # how many people are asked
    priority: float = 0.0  # the highest is asked first
    batch: Name = "imported"
    columns: dict[str, Any] = {}  # what else the row had; exported with it

    @property
    def key(self) -> str:
        """Equal for items that ask the same: what is imported twice is asked once."""
        asked = self.model_dump(mode="json", include={"kind", "prompt", "candidates", "options", "batch"})
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()

    @property
    def text(self) -> str:
        """The prompt as one text: what labels and spans speak of."""
        if isinstance(self.prompt, str):
            return self.prompt
        return "\n\n".join(f"{turn.role}: {turn.content}" for turn in self.prompt)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one person says of one item, as it stands now, or as it stood at an earlier `revision`."""

    item: int
    person: int
    revision: int  # 1 is the first; every change is another
    body: Body | None  # None: taken back
    order: tuple[int, ...]  # order[i] is the candidate that was shown in place i
    seconds: float  # from showing the item to the answer
    guideline: int  # the version of the guidelines that the person could read
    at: float  # Unix time
    final: bool = False  # a reviewer's decision, which counts instead of the others


def item_of(row: Mapping[str, Any], where: str) -> Item:
    """An item from a row of `Item`'s keys. Raises DataError: what is missing or wrong, and where."""
    try:
        item = Item.model_validate(row)
    except ValidationError as error:
        raise DataError(f"{where}: {sentence(error)}") from error
    least, most = CANDIDATES[item.kind]
    if not least <= len(item.candidates) <= most:
        expected = f"{least}" if least == most else f"{least} to {most}"
        raise DataError(
            f"{where}: {len(item.candidates)} candidates, and an item of kind {item.kind} has {expected}; add or remove"
        )
    if item.kind in ("label", "spans") and not item.options.labels:
        raise DataError(f"{where}: no labels to choose from; give options.labels")
    if not item.text.strip() and not item.candidates:
        raise DataError(f"{where}: the text is empty; there is nothing to judge")
    if item.gold is not None:
        body_of(item.gold, item, f"{where}: gold")
    return item


def body_of(given: Mapping[str, Any], item: Item, where: str = "the answer") -> Body:
    """An answer to an item. Raises DataError: it is none, or of another item."""
    try:
        body = _BODY.validate_python(given)
    except ValidationError as error:
        raise DataError(f"{where}: {sentence(error)}") from error
    for problem in _problems(body, item):
        raise DataError(f"{where}: {problem}")
    return body


def as_shown(body: Body, order: Sequence[int]) -> Body:
    """A body that speaks of candidates, as one that speaks of the places they were shown in.

    Args:
        order: order[i] is the candidate in place i.
    """
    match body:
        case PairBody(preference=preference):
            return body.model_copy(update={"preference": preference if order[0] == 0 else -preference})
        case RankingBody(ranks=ranks):
            return body.model_copy(update={"ranks": tuple(ranks[candidate] for candidate in order)})
    return body


def as_asked(body: Body, order: Sequence[int]) -> Body:
    """The inverse of `as_shown`."""
    places = sorted(range(len(order)), key=order.__getitem__)
    return as_shown(body, places)


def stored_body(given: Mapping[str, Any]) -> Body:
    """A body as `model_dump` wrote it."""
    return _BODY.validate_python(given)


def sentence(error: ValidationError) -> str:
    """Every mistake that pydantic found, by its key."""
    found = error.errors(include_url=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, one['loc'])) or 'the row'}: {one['msg'].lower()}" for one in found[:5])


def _problems(body: Body, item: Item) -> Iterator[str]:
    """What cannot be said of the item."""
    if not isinstance(body, SkipBody) and body.kind != item.kind:
        yield f"kind is {body.kind}, and the item asks for {item.kind}"
        return
    unknown = set(body.flags) - set(item.options.flags)
    if unknown:
        yield f"unknown flags {sorted(unknown)}; expected some of {list(item.options.flags)}"
    match body:
        case RankingBody(ranks=ranks):
            count = len(item.candidates)
            if len(ranks) != count or not all(1 <= rank <= count for rank in ranks):
                yield f"ranks are {list(ranks)}; expected {count} numbers from 1 to {count}"
        case RatingBody(scores=scores):
            criteria, scale = item.options.criteria, item.options.scale
            if set(scores) != set(criteria) or not all(1 <= score <= scale for score in scores.values()):
                yield f"scores are {scores}; expected 1 to {scale} for each of {list(criteria)}"
        case LabelBody(labels=labels):
            yield from _label_problems(labels, item.options)
        case SpansBody(spans=spans):
            yield from _span_problems(spans, item)


def _label_problems(labels: tuple[str, ...], options: Options) -> Iterator[str]:
    if not set(labels) <= set(options.labels) or len(set(labels)) != len(labels):
        yield f"labels are {list(labels)}; expected some of {list(options.labels)}, each once"
    if not options.multiple and len(labels) != 1:
        yield f"{len(labels)} labels; expected one"


def _span_problems(spans: tuple[SpanMark, ...], item: Item) -> Iterator[str]:
    end = 0
    for span in sorted(spans, key=lambda span: span.begin):
        if not end <= span.begin < span.end <= len(item.text):
            yield (
                f"the span [{span.begin}, {span.end}) is empty, overlaps another, or ends after the text "
                f"({len(item.text)} characters)"
            )
        if span.label not in item.options.labels:
            yield f"unknown label {span.label!r}; expected one of {list(item.options.labels)}"
        end = span.end
