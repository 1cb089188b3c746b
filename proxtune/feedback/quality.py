"""How far people's judgements can be trusted, and what they say of the models."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from proxtune.feedback.agreement import self_agreement, with_majority
from proxtune.feedback.bias import Speed, least_seconds, length_bias, position_bias, speed
from proxtune.feedback.by_kind import Agreement, agreement_of, choices
from proxtune.feedback.figures import RESAMPLES, Figure, share
from proxtune.feedback.opinions import Opinions, choice, disagreement, opinions
from proxtune.feedback.records import Item, Judgement, Kind, PairBody, RankingBody, body_of
from proxtune.feedback.rows import sign
from proxtune.feedback.store import Store
from proxtune.feedback.store.judgements import Differing
from proxtune.feedback.strength import Game, Strength, bradley_terry, elo

DISPUTED = 50  # items that are listed


@dataclass(frozen=True, slots=True)
class Habits:
    """How careful one person is, or all are. A share has no value where there is too little to tell."""

    gold: Figure  # says what is known to be right
    again: Figure  # says the same of a repeated item
    left: Figure  # prefers the answer shown first; ties say nothing
    longer: Figure  # prefers the longer answer


@dataclass(frozen=True, slots=True)
class PersonQuality:
    """One person's work."""

    person: int
    name: str
    judgements: int
    majority: Figure  # says what most of the others say
    habits: Habits
    speed: Speed | None


@dataclass(frozen=True, slots=True)
class Model:
    """Where a source of answers stands among the others."""

    strength: Strength
    elo: float


@dataclass(frozen=True, slots=True)
class Disputed:
    """An item on which people differ, and how many said what."""

    item: int
    kind: Kind
    prompt: str
    disagreement: float  # 0 … 1
    said: dict[str, int]


@dataclass(frozen=True, slots=True)
class Quality:
    """What can be said of a store's judgements."""

    items: int
    judgements: int
    agreement: list[Agreement]
    people: list[PersonQuality]
    habits: Habits  # of all
    models: list[Model]  # the best first
    disputed: list[Disputed]  # nobody decided them yet; the farthest apart first


def quality(store: Store, *, batch: str | None = None, seed: int = 0, resamples: int = RESAMPLES) -> Quality:
    """All figures of a store, or of a batch; the same seed gives the same intervals.

    Gold and repeated items tell of people's habits and speed, and nothing of agreement or models.
    """
    found = opinions(store, batch=batch)
    plain = [one for one in found if one.plain]
    majority = with_majority(choices(plain), seed=seed, resamples=resamples)
    pace = speed(_pace(found))
    worked = Counter(person for one in found for person in one.answers)
    games = list(_games(plain))
    ratings = elo(games)
    return Quality(
        items=len(found),
        judgements=worked.total(),
        agreement=agreement_of(plain, seed=seed, resamples=resamples),
        people=[
            PersonQuality(
                person=one.id,
                name=one.name,
                judgements=worked[one.id],
                majority=majority.get(one.id, share([])),
                habits=_habits(found, [one.id], seed, resamples),
                speed=pace.get(one.id),
            )
            for one in store.people.all()
            if one.id in worked
        ],
        habits=_habits(found, worked, seed, resamples),
        models=[Model(one, ratings[one.model]) for one in bradley_terry(games, seed=seed, resamples=resamples)],
        disputed=disputed(plain)[:DISPUTED],
    )


def disputed(found: Sequence[Opinions]) -> list[Disputed]:
    """Items for a reviewer to decide: those on which people differ, the farthest apart first."""
    waiting = {one.id: one for one in found if one.plain and not one.settled}
    said = [Differing(one.id, one.item.options.scale, [*one.bodies().values()]) for one in waiting.values()]
    return [_disputed(gap, one, waiting[one.id].item) for gap, one in _farthest_first(said)]


def most_disputed(store: Store, count: int) -> tuple[list[Disputed], int]:
    """The first of what is `disputed` in a store, and how many there are, without reading what nobody disputes."""
    found = _farthest_first(store.judgements.differing())
    items = store.queue.items([one.id for _, one in found[:count]])
    return [_disputed(gap, one, items[one.id]) for gap, one in found[:count]], len(found)


def _farthest_first(said: Iterable[Differing]) -> list[tuple[float, Differing]]:
    apart = [(disagreement(one.bodies, one.scale) or 0.0, one) for one in said]
    return sorted((row for row in apart if row[0] > 0), key=lambda row: (-row[0], row[1].id))


def _disputed(gap: float, one: Differing, item: Item) -> Disputed:
    said = (choice(body) for body in one.bodies)
    counts = Counter(word for word in said if word is not None)
    return Disputed(one.id, item.kind, item.text, gap, dict(counts.most_common()))


def _habits(found: Sequence[Opinions], people: Iterable[int], seed: int, resamples: int) -> Habits:
    people = set(people)
    preferred = [
        (one.item, answer, answer.body)
        for one in found
        for person, answer in one.answers.items()
        if person in people and isinstance(answer.body, PairBody) and _decided(answer.body)
    ]
    return Habits(
        gold=share(_right(found, people)),
        again=self_agreement(_twice(found, people), seed=seed, resamples=resamples),
        left=position_bias((body.preference > 0) == (answer.order[0] == 0) for _, answer, body in preferred),
        longer=length_bias(_lengths(item, body) for item, _, body in preferred),
    )


def _decided(body: PairBody) -> bool:
    return body.preference != 0 and not body.both_bad


def _lengths(item: Item, body: PairBody) -> tuple[int, int]:
    """Of the better answer and of the other."""
    first, second = (len(candidate.text) for candidate in item.candidates)
    return (first, second) if body.preference > 0 else (second, first)


def _right(found: Sequence[Opinions], people: set[int]) -> Iterator[bool]:
    for one in found:
        if one.item.gold is not None:
            right = choice(body_of(one.item.gold, one.item))
            yield from (choice(body) == right for person, body in one.bodies().items() if person in people)


def _twice(found: Sequence[Opinions], people: set[int]) -> Iterator[tuple[str, str]]:
    """What a person said first, and of the same item again."""
    first = {one.id: one for one in found}
    for one in found:
        if one.repeats not in first:
            continue
        before = first[one.repeats].bodies()
        for person, body in one.bodies().items():
            then, now = choice(before[person]) if person in before else None, choice(body)
            if person in people and then is not None and now is not None:
                yield then, now


def _pace(found: Sequence[Opinions]) -> Iterator[tuple[int, float, float]]:
    for one in found:
        least = least_seconds(" ".join([one.item.text, *(candidate.text for candidate in one.item.candidates)]))
        yield from ((person, seconds, least) for person, seconds in one.seconds.items())


def _games(found: Sequence[Opinions]) -> Iterator[Game]:
    """Every comparison of answers of two known sources, in the order they were judged."""
    judged = [(answer, one) for one in found for answer in one.answers.values()]
    for answer, one in sorted(judged, key=lambda row: (row[0].at, row[1].id, row[0].person)):
        sources = [candidate.source for candidate in one.item.candidates]
        for first, second, score in _scores(answer):
            a, b = sources[first], sources[second]
            if a is not None and b is not None and a != b:
                yield Game(a, b, score, one.id)


def _scores(answer: Judgement) -> Iterator[tuple[int, int, float]]:
    """Of every two candidates, the score of the first: 1, 0, or ½ for a tie."""
    match answer.body:
        case PairBody(preference=preference, both_bad=both_bad):
            yield 0, 1, 0.5 if both_bad else (1 + sign(preference)) / 2
        case RankingBody(ranks=ranks):
            for first, second in combinations(range(len(ranks)), 2):
                yield first, second, (1 + sign(ranks[second] - ranks[first])) / 2
