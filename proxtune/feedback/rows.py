"""What people said of one item, as rows: how several people become one row is told at the top of export.py."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import combinations
from statistics import fmean
from typing import Any, Literal, NamedTuple, TypeAlias

from proxtune.feedback.records import (
    Item,
    Judgement,
    Kind,
    LabelBody,
    PairBody,
    RankingBody,
    RatingBody,
    RewriteBody,
    SpanMark,
    SpansBody,
    ThumbBody,
)

Policy: TypeAlias = Literal["majority", "mean", "each"]
Row: TypeAlias = dict[str, Any]

TOKEN = re.compile(r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+|[^\w\s]")  # a Han character, a word, a sign
TIED = "tied or both bad"


class Made(NamedTuple):
    """A row, the candidates it speaks of, the people it comes from, and the share of them who say what it says."""

    row: Row
    candidates: tuple[int, ...]
    by: Sequence[Judgement]
    agreement: float | None  # None: one person


Makes: TypeAlias = Callable[[Item, Sequence[Judgement], Policy], Iterator[Made | str]]  # a string: why there is no row


def _bodies(said: Sequence[Judgement], kind: type[Any]) -> list[Any]:
    assert all(isinstance(one.body, kind) for one in said), "a judgement is of its item's kind"
    return [one.body for one in said]


def prompt_of(item: Item) -> str | list[dict[str, str]]:
    """The prompt as data files have it: a text, or the turns of a conversation."""
    return item.prompt if isinstance(item.prompt, str) else [turn.model_dump() for turn in item.prompt]


def _better(votes: Sequence[float], policy: Policy) -> int:
    """1 where the first of two answers is the better one (votes > 0), −1 where the second, 0 where neither."""
    if policy == "mean":
        return sign(fmean(votes))
    (side, most), *others = Counter(map(sign, votes)).most_common()
    return side if not others or most > others[0][1] else 0


def sign(number: float) -> int:
    """−1, 0 or 1."""
    return (number > 0) - (number < 0)


def _share(agree: Sequence[bool]) -> float | None:
    return sum(agree) / len(agree) if len(agree) > 1 else None


class _Pair(NamedTuple):
    """Two candidates, the better one first."""

    chosen: int
    rejected: int
    margin: float
    agreement: float | None


def _pairs(item: Item, said: Sequence[Judgement], policy: Policy) -> Iterator[_Pair | str]:
    """What is better than what: of a ranking, in every two answers."""
    ranked = item.kind == "ranking"
    for first, second in combinations(range(len(item.candidates)), 2):
        if ranked:
            ranks = [body.ranks for body in _bodies(said, RankingBody)]
            votes = [sign(rank[second] - rank[first]) for rank in ranks]
        else:
            votes = [0 if body.both_bad else body.preference for body in _bodies(said, PairBody)]
        side = _better(votes, policy)
        if side == 0:
            yield TIED
            continue
        chosen, rejected = (first, second) if side > 0 else (second, first)
        agreement = _share([sign(vote) == side for vote in votes])
        yield _Pair(chosen, rejected, max(0.0, side * fmean(votes)), agreement)


def _preferences(item: Item, said: Sequence[Judgement], policy: Policy, *, margins: bool) -> Iterator[Made | str]:
    for pair in _pairs(item, said, policy):
        if isinstance(pair, str):
            yield pair
            continue
        chosen, rejected = item.candidates[pair.chosen].text, item.candidates[pair.rejected].text
        row: Row = {"prompt": prompt_of(item), "chosen": chosen, "rejected": rejected}
        margin = {"margin": pair.margin} if margins else {}
        yield Made(row | margin, (pair.chosen, pair.rejected), said, pair.agreement)


def _good_and_bad(item: Item, said: Sequence[Judgement], policy: Policy) -> Iterator[Made | str]:
    for pair in _pairs(item, said, policy):
        if isinstance(pair, str):
            yield pair
            continue
        for place, label in ((pair.chosen, True), (pair.rejected, False)):
            yield Made(_completion(item, place) | {"label": label}, (place,), said, pair.agreement)


def _thumbs(item: Item, said: Sequence[Judgement], policy: Policy) -> Iterator[Made | str]:
    votes = [1 if body.up else -1 for body in _bodies(said, ThumbBody)]
    side = _better(votes, policy)
    if side == 0:
        yield TIED
        return
    yield Made(_completion(item, 0) | {"label": side > 0}, (0,), said, _share([vote == side for vote in votes]))


def _completion(item: Item, place: int) -> Row:
    return {"prompt": prompt_of(item), "completion": item.candidates[place].text}


def _rewrites(item: Item, said: Sequence[Judgement], policy: Policy) -> Iterator[Made | str]:  # noqa: ARG001
    by = defaultdict[str, list[Judgement]](list)
    for one, body in zip(said, _bodies(said, RewriteBody), strict=True):
        by[body.text].append(one)
    for text, writers in by.items():
        row: Row = {"prompt": prompt_of(item), "completion": text}
        yield Made(row, (0,), writers, len(writers) / len(said) if len(said) > 1 else None)


def _rankings(item: Item, said: Sequence[Judgement], policy: Policy) -> Iterator[Made | str]:  # noqa: ARG001
    """By the mean rank, equal ones tied."""
    ranks = [body.ranks for body in _bodies(said, RankingBody)]
    means = [fmean(rank) for rank in zip(*ranks, strict=True)]
    order = sorted(range(len(means)), key=means.__getitem__)
    distinct = sorted(set(means))
    row: Row = {
        "prompt": prompt_of(item),
        "responses": [item.candidates[place].text for place in order],
        "ranks": [distinct.index(means[place]) + 1 for place in order],
    }
    best = [min(range(len(rank)), key=rank.__getitem__) for rank in ranks]
    yield Made(row, tuple(order), said, _share([place == order[0] for place in best]))


def score_of(body: RatingBody) -> float:
    """What one person gives an answer: the mean over the criteria."""
    return fmean(body.scores.values())


def _ratings(item: Item, said: Sequence[Judgement], policy: Policy) -> Iterator[Made | str]:  # noqa: ARG001
    bodies: list[RatingBody] = _bodies(said, RatingBody)
    scores = [score_of(body) for body in bodies]
    criteria = {name: fmean(body.scores[name] for body in bodies) for name in item.options.criteria}
    gaps = [abs(a - b) / (item.options.scale - 1) for a, b in combinations(scores, 2)]
    row = _completion(item, 0) | {"scores": scores, "criteria": criteria, "scale": item.options.scale}
    yield Made(row, (0,), said, 1 - fmean(gaps) if gaps else None)


def _labels(item: Item, said: Sequence[Judgement], policy: Policy) -> Iterator[Made | str]:  # noqa: ARG001
    sets = [set(body.labels) for body in _bodies(said, LabelBody)]
    counted = Counter(label for labels in sets for label in labels).most_common()
    row: Row = {"text": item.text}
    if item.options.multiple:
        chosen = {label for label, count in counted if 2 * count > len(said)}
        row["labels"] = sorted(chosen)
    else:
        (label, most), *others = counted
        if others and others[0][1] == most:
            yield "no majority"
            return
        chosen, row["label"] = {label}, label
    yield Made(row, (), said, _share([labels == chosen for labels in sets]))


def _spans(item: Item, said: Sequence[Judgement], policy: Policy) -> Iterator[Made | str]:  # noqa: ARG001
    """Spans of more than half of the people cannot overlap, as no two spans of one person do."""
    sets = [set(body.spans) for body in _bodies(said, SpansBody)]
    counted = Counter(span for spans in sets for span in spans)
    chosen = sorted((span for span, count in counted.items() if 2 * count > len(said)), key=lambda span: span.begin)
    tokens, tags = tagged(item.text, chosen)
    row: Row = {"tokens": tokens, "tags": tags, "text": item.text, "spans": [span.model_dump() for span in chosen]}
    yield Made(row, (), said, _share([spans == set(chosen) for spans in sets]))


def tagged(text: str, spans: Sequence[SpanMark]) -> tuple[list[str], list[str]]:
    """Words, signs and Han characters as tokens, each with its BIO tag. A span begins and ends a token."""
    tokens, tags, done = list[str](), list[str](), 0
    for span in [*spans, SpanMark(begin=len(text), end=len(text), label="end")]:
        outside = TOKEN.findall(text[done : span.begin])
        inside = TOKEN.findall(text[span.begin : span.end])
        tokens += outside + inside
        tags += ["O"] * len(outside) + [f"{'I' if place else 'B'}-{span.label}" for place in range(len(inside))]
        done = span.end
    return tokens, tags


WITH_MARGIN, WITHOUT = partial(_preferences, margins=True), partial(_preferences, margins=False)
MAKERS: dict[str, dict[Kind, Makes]] = {
    "reward": {"pair": WITH_MARGIN, "ranking": WITH_MARGIN},
    "dpo": {"pair": WITHOUT, "ranking": WITHOUT},
    "kto": {"thumb": _thumbs, "pair": _good_and_bad},
    "sft": {"rewrite": _rewrites},
    "rankings": {"ranking": _rankings},
    "ratings": {"rating": _ratings},
    "labels": {"label": _labels},
    "spans": {"spans": _spans},
}
