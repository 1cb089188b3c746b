"""What each person thinks of each item, and how far two of them are apart."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import combinations
from statistics import fmean

from proxtune.feedback.records import (
    Body,
    FlagsBody,
    Item,
    Judgement,
    LabelBody,
    PairBody,
    RankingBody,
    RatingBody,
    SkipBody,
    SpansBody,
    ThumbBody,
)
from proxtune.feedback.rows import score_of, sign
from proxtune.feedback.store import Store


@dataclass(frozen=True, slots=True)
class Opinions:
    """An item with the newest answer of each person, also where a reviewer decided otherwise.

    Else what was disputed would be missing from every figure of agreement.
    """

    id: int
    item: Item
    repeats: int | None  # the item that this one asks again
    settled: bool  # a reviewer decided
    answers: dict[int, Judgement] = field(default_factory=dict)  # of each person
    seconds: dict[int, float] = field(default_factory=dict)  # that the first answer of each person took

    @property
    def plain(self) -> bool:
        """Whether it is neither gold nor a repetition."""
        return self.item.gold is None and self.repeats is None

    def bodies(self) -> dict[int, Body]:
        return {person: one.body for person, one in self.answers.items() if one.body is not None}


def opinions(store: Store, *, batch: str | None = None) -> list[Opinions]:
    """All items that anybody has answered, in order."""
    found: dict[int, Opinions] = {}
    for judged in store.judgements.all(batch=batch, unjudged=True):
        settled = any(one.final for one in judged.judgements)
        found[judged.id] = Opinions(judged.id, judged.item, judged.repeats, settled)
    for event in store.judgements.events():
        opinion = found.get(event.item)
        if opinion is None or event.final:  # a decision leaves what its author said as a judge
            continue
        opinion.answers.pop(event.person, None)
        if event.body is not None and not isinstance(event.body, SkipBody):
            opinion.answers[event.person] = event
            if event.revision == 1:  # a change that was made without being shown the item again took no time
                opinion.seconds[event.person] = event.seconds
    return [opinion for opinion in found.values() if opinion.answers]


def choice(body: Body) -> str | None:
    """An answer in one word, equal for answers that say the same; None for a text, of which there is no other.

    Of a ranking it is which answers are the best, of ratings the mean score, rounded.
    """
    match body:
        case PairBody(preference=preference, both_bad=both_bad):
            return "both bad" if both_bad else ("tie", "first", "second")[sign(preference)]
        case RankingBody(ranks=ranks):
            return " = ".join(str(place + 1) for place, rank in enumerate(ranks) if rank == min(ranks))
        case RatingBody():
            return str(round(score_of(body)))
        case ThumbBody(up=up):
            return "up" if up else "down"
        case LabelBody(labels=names) | FlagsBody(flags=names):
            return " + ".join(sorted(names)) or "none"
        case SpansBody(spans=spans):
            marks = sorted((span.begin, span.end, span.label) for span in spans)
            return ", ".join(f"{begin}–{end} {label}" for begin, end, label in marks) or "none"
    return None


def disagreement(bodies: Iterable[Body], scale: int) -> float | None:
    """How far apart people are, 0 to 1: the mean over every two of them. None: there are no two to compare.

    Args:
        scale: the highest rating that the item asks for.
    """
    apart = [distance(a, b, scale) for a, b in combinations(bodies, 2)]
    known = [gap for gap in apart if gap is not None]
    return fmean(known) if known else None


def distance(a: Body, b: Body, scale: int) -> float | None:
    """How far apart two answers to one item are: 0 the same, 1 as far as can be; None of rewritten texts.

    Preferences and ratings: the difference of a scale's steps. Rankings: the share of every two answers that are in the
    other order, half where one of the two has a tie. Labels and flags: what is not in both sets. Spans: 1 − F1.
    """
    match a, b:
        case PairBody(preference=x), PairBody(preference=y):
            return max(abs(x - y) / 4, 0.25 * (a.both_bad != b.both_bad))
        case RatingBody(), RatingBody():
            return abs(score_of(a) - score_of(b)) / (scale - 1)
        case RankingBody(ranks=x), RankingBody(ranks=y):
            pairs = combinations(range(len(x)), 2)
            return fmean(abs(sign(x[i] - x[j]) - sign(y[i] - y[j])) / 2 for i, j in pairs)
        case ThumbBody(up=x), ThumbBody(up=y):
            return float(x != y)
        case (LabelBody(labels=x), LabelBody(labels=y)) | (FlagsBody(flags=x), FlagsBody(flags=y)):
            return 1 - len({*x} & {*y}) / len({*x} | {*y}) if x or y else 0.0
        case SpansBody(spans=x), SpansBody(spans=y):
            return 1 - 2 * len({*x} & {*y}) / (len(x) + len(y)) if x or y else 0.0
    return None
