"""What is said of people's judgements: each figure is of the answers it should be of, and the page shows it."""

import math
import random
import re

import pytest

from proxtune.feedback.by_kind import span_f1
from proxtune.feedback.opinions import choice, disagreement, distance, opinions
from proxtune.feedback.quality import disputed, most_disputed, quality
from proxtune.feedback.quality_page import CHINESE, quality_page
from proxtune.feedback.records import Candidate, Item, Options, body_of
from proxtune.feedback.store import Store
from tests.feedback.conftest import KINDS, Clock, pair
from tests.feedback.said import all_said, preference, said

pytestmark = pytest.mark.slow  # together they take longer than `make check` has

MANY = 20  # people that an item may be asked of
QUICK = 100  # resamples
LABELS = Options(labels=("x", "y", "z"))


def items(count: int, **more: object) -> list[Item]:
    return [pair(i, overlap=MANY, **more) for i in range(count)]


def label(name: str) -> dict[str, object]:
    return {"kind": "label", "labels": [name]}


def test_agreement_on_pairs_is_of_sides_and_alpha_of_steps(store: Store) -> None:
    numbers = store.queue.add(items(12))
    said(store, {number: preference(1) for number in numbers}, "anna")
    said(store, {number: preference(2 if number % 2 else -2) for number in numbers}, "berta")
    (pairs,) = quality(store, resamples=QUICK).agreement
    assert (pairs.name, pairs.items) == ("pair", 12)
    assert pairs.figures["percent"].value == 0.5  # 1 and 2 are one side
    assert pairs.figures["kappa"].value == 0.0  # anna says one thing only: what they share is chance
    assert pairs.figures["alpha"].value is not None
    assert pairs.matrix is not None
    assert pairs.matrix.people == [1, 2]


def test_each_kind_has_its_own_figures(store: Store) -> None:
    answers = tuple(Candidate(text=text) for text in "abc")
    criteria = Options(criteria=("true", "kind"))
    asked = {
        "ranking": [Item(kind="ranking", prompt=f"{i}", candidates=answers, overlap=MANY) for i in range(10)],
        "rating": [
            Item(kind="rating", prompt=f"{i}", candidates=answers[:1], options=criteria, overlap=MANY)
            for i in range(10)
        ],
        "label": [Item(kind="label", prompt=f"{i}", options=LABELS, overlap=MANY) for i in range(10)],
        "thumb": [Item(kind="thumb", prompt=f"{i}", candidates=answers[:1], overlap=MANY) for i in range(9)],
        "spans": [Item(kind="spans", prompt=f"word {i}", options=LABELS, overlap=MANY) for i in range(10)],
        "rewrite": [Item(kind="rewrite", prompt="r", candidates=answers[:1], overlap=MANY)],
    }
    numbers = {kind: store.queue.add(found) for kind, found in asked.items()}

    def bodies(spin: int) -> dict[int, dict[str, object]]:
        """What differs between people with another `spin`."""
        word, digit = {"begin": 0, "end": 4, "label": "x"}, {"begin": 5, "end": 6, "label": "y"}
        of = {
            "ranking": lambda i: {"kind": "ranking", "ranks": [1, 2, 3] if i % 2 or not spin else [3, 2, 1]},
            "rating": lambda i: {"kind": "rating", "scores": {"true": 1 + i % 5, "kind": 1 + (i + spin) % 5}},
            "label": lambda i: label("xyz"[i % 3]),
            "thumb": lambda i: {"kind": "thumb", "up": bool(i % 2)},
            "spans": lambda i: {"kind": "spans", "spans": [word, digit][: 2 - spin]},
            "rewrite": lambda i: {"kind": "rewrite", "text": f"text {spin}"},
        }
        return {number: of[kind](i) for kind, found in numbers.items() for i, number in enumerate(found)}

    said(store, bodies(0), "anna")
    said(store, bodies(1), "berta")
    found = {one.name: one.figures for one in quality(store, resamples=QUICK).agreement}
    assert set(found) == {"ranking", "rating: true", "rating: kind", "label", "thumb", "spans"}
    assert found["ranking"]["mean_tau"].value == pytest.approx(0.0)  # five alike (1), five reversed (−1)
    assert found["ranking"]["kendall_w"].value == pytest.approx(0.5)  # 1 and 0
    assert found["rating: true"]["alpha"].value == pytest.approx(1.0)
    assert found["rating: kind"]["percent"].value == 0.0
    assert found["label"]["kappa"].value == 1.0
    assert (found["thumb"]["alpha"].value, found["thumb"]["alpha"].count) == (None, 9)  # too few overlaps
    assert found["spans"]["f1"].value == pytest.approx(2 / 3)  # 2·1 / (2 + 1)


def test_f1_of_spans_without_any_span_is_undefined(store: Store) -> None:
    numbers = store.queue.add([Item(kind="spans", prompt=f"{i}", options=LABELS, overlap=MANY) for i in range(10)])
    for name in ("anna", "berta"):
        said(store, {number: {"kind": "spans", "spans": []} for number in numbers}, name)
    assert str(span_f1(opinions(store), seed=0, resamples=QUICK)) == "undefined: no variation"


def test_a_decision_does_not_hide_that_people_differed(store: Store) -> None:
    numbers = store.queue.add(items(10))
    said(store, {number: preference(1) for number in numbers}, "anna")
    said(store, {number: preference(-1) for number in numbers}, "berta")
    before = quality(store, resamples=QUICK)
    assert len(before.disputed) == 10
    reviewer = store.people.add("reviewer", "reviewer").id
    for number in numbers[:4]:
        store.judgements.submit(reviewer, number, preference(1), revision=1, request=f"f{number}", final=True)
    after = quality(store, resamples=QUICK)
    assert after.agreement == before.agreement
    assert [one.item for one in after.disputed] == numbers[4:]
    assert [one.name for one in after.people] == ["anna", "berta"]


def test_what_was_taken_back_or_skipped_counts_nowhere(store: Store) -> None:
    one, other = store.queue.add(items(2))
    person = said(store, {one: preference(1)}, "anna")
    store.judgements.withdraw(person, one, revision=2, request="withdraw")
    assert opinions(store) == []
    store.judgements.submit(person, one, preference(-1), revision=3, request="again")
    (opinion,) = opinions(store)
    assert opinion.id == one
    assert quality(store, resamples=QUICK).judgements == 1
    assert other not in {found.id for found in opinions(store)}


@pytest.mark.slow
def test_gold_repeats_and_the_majority_tell_who_is_careful(store: Store) -> None:
    gold = store.queue.add([pair(100 + i, gold=preference(2)) for i in range(3)])
    plain = store.queue.add(items(50), repeat=1.0)
    careful = {number: preference(1) for number in range(1, 200)}
    said(store, careful, "anna")
    said(store, careful, "berta")
    hasty = careful | {number: preference(-1) for number in [*gold, *plain]}
    said(store, hasty, "carl")
    found = quality(store, resamples=QUICK)
    anna, _, carl = found.people
    assert (anna.habits.gold.value, carl.habits.gold.value) == (1.0, 0.0)
    assert (anna.habits.again.value, carl.habits.again.value) == (1.0, 0.0)  # carl says the opposite of repeats
    assert (anna.majority.value, carl.majority.value) == (None, 0.0)  # without anna the others are one to one
    assert (anna.habits.again.count, carl.majority.count) == (50, 50)  # repeats and gold are not in the majority
    assert found.habits.gold.value == pytest.approx(2 / 3)
    assert (anna.judgements, found.items) == (103, 103)


def test_position_and_length_bias_are_of_what_was_shown(store: Store) -> None:
    answers = (Candidate(text="short"), Candidate(text="much longer"))
    numbers = store.queue.add([Item(kind="pair", prompt=f"{i}", candidates=answers, overlap=MANY) for i in range(40)])
    long = said(store, {number: preference(-1) for number in numbers}, "likes the long")
    left = store.people.add("likes the left", "annotator").id
    while (lease := store.queue.next(left)) is not None:
        store.judgements.submit(left, lease.id, preference(1), revision=1, request=f"left-{lease.id}")
    tied = said(store, {number: preference(0) for number in numbers}, "likes none")
    habits = {one.person: one.habits for one in quality(store, resamples=QUICK).people}
    assert habits[long].longer.value == 1.0
    assert habits[left].left.value == 1.0
    lefts = [answer.order[0] == 1 for one in opinions(store) for answer in [one.answers[long]]]
    assert habits[long].left.value == sum(lefts) / len(lefts)
    assert habits[left].longer.count == 40
    assert habits[tied].left.value is None


def test_haste_is_told_by_the_first_answer(store: Store, clock: Clock) -> None:
    numbers = store.queue.add([pair(i, overlap=MANY) for i in range(4)])
    person = store.people.add("anna", "annotator").id
    for number, seconds in zip(numbers, (0.2, 30, 40, 50), strict=True):
        lease = store.queue.next(person)
        assert lease is not None
        clock.time += seconds
        store.judgements.submit(person, number, preference(1), revision=1, request=f"r{number}")
        store.judgements.submit(person, number, preference(2), revision=2, request=f"s{number}")  # changed at once
    (anna,) = quality(store, resamples=QUICK).people
    assert anna.speed is not None
    assert anna.speed.median == pytest.approx(35)
    assert anna.speed.fast.value == 0.25


def test_models_are_ranked_by_pairs_and_rankings(store: Store) -> None:
    pairs = store.queue.add(items(12))  # of a and b
    answers = tuple(Candidate(text=source, source=source) for source in "abc")
    ranked = store.queue.add([Item(kind="ranking", prompt=f"{i}", candidates=answers, overlap=MANY) for i in range(12)])
    unknown = (Candidate(text="x"), Candidate(text="y", source="b"))
    nameless = store.queue.add([Item(kind="pair", prompt="nameless", candidates=unknown, overlap=MANY)])
    bodies = {number: preference(1 if number % 4 else -1) for number in pairs}
    bodies |= {number: {"kind": "ranking", "ranks": [1, 2, 2]} for number in ranked}
    said(store, bodies | {number: preference(1) for number in nameless}, "anna")
    models = quality(store, resamples=QUICK).models
    a, *others = models
    assert a.strength.model == "a"
    # a: 12 pairs of which 9 are won, and two games of each of 12 rankings, all won
    assert (a.strength.strength.count, a.strength.wins) == (36, 9 + 24)
    assert {one.strength.strength.count for one in others} == {36, 24}
    assert a.elo > max(one.elo for one in others)
    assert sum(one.elo for one in models) == pytest.approx(3000)


@pytest.mark.parametrize(
    ("kind", "a", "b", "apart"),
    [
        ("pair", {"preference": 2}, {"preference": -2}, 1.0),
        ("pair", {"preference": 1}, {"preference": 0}, 0.25),
        ("pair", {"preference": 0, "both_bad": True}, {"preference": 0}, 0.25),
        ("rating", {"scores": {"true": 1, "kind": 1}}, {"scores": {"true": 5, "kind": 1}}, 0.5),
        ("ranking", {"ranks": [1, 2, 3]}, {"ranks": [3, 2, 1]}, 1.0),
        ("ranking", {"ranks": [1, 2, 3]}, {"ranks": [1, 1, 3]}, 1 / 6),
        ("thumb", {"up": True}, {"up": False}, 1.0),
        ("label", {"labels": ["x", "y"]}, {"labels": ["y", "z"]}, 2 / 3),
        ("label", {"labels": []}, {"labels": []}, 0.0),
        ("spans", {"spans": [{"begin": 0, "end": 1, "label": "x"}]}, {"spans": []}, 1.0),
        ("rewrite", {"text": "a"}, {"text": "b"}, None),
    ],
)
def test_two_answers_are_as_far_apart_as_their_kind_says(
    kind: str, a: dict[str, object], b: dict[str, object], apart: float | None
) -> None:
    count = {"pair": 2, "ranking": 3, "label": 0, "spans": 0}.get(kind, 1)
    options = Options(labels=("x", "y", "z"), multiple=True, criteria=("true", "kind"))
    candidates = tuple(Candidate(text=str(i)) for i in range(count))
    item = Item(kind=kind, prompt="text", candidates=candidates, options=options)
    one, other = (body_of({"kind": kind, **said}, item) for said in (a, b))
    assert distance(one, other, 5) == distance(other, one, 5) == (apart and pytest.approx(apart))
    assert distance(one, one, 5) in (0.0, None)
    assert (choice(one) == choice(other)) == (apart in (0.0, None))


def test_the_most_disputed_item_comes_first(store: Store) -> None:
    near, far, same = store.queue.add(items(3))
    all_said(store, near, [preference(1), preference(2), preference(1)])
    all_said(store, far, [preference(2), preference(-2), preference(0, both_bad=True)])
    all_said(store, same, [preference(1), preference(1)])
    found = disputed(opinions(store))
    assert [one.item for one in found] == [far, near]
    assert found[0].said == {"first": 1, "second": 1, "both bad": 1}
    assert found[0].disagreement == pytest.approx((1.0 + 0.5 + 0.5) / 3)
    assert disagreement(opinions(store)[2].bodies().values(), scale=5) == 0.0


@pytest.mark.parametrize("address", KINDS, indirect=True)
def test_what_is_to_be_reviewed_is_found_without_reading_the_rest(store: Store) -> None:
    gold = store.queue.add([pair(100, gold=preference(2), overlap=MANY)])
    numbers = store.queue.add(items(40), repeat=0.3)
    chance = random.Random(3)
    asked = [*gold, *range(gold[0], 100)]
    for name in ("anna", "berta", "carl"):
        bodies = {number: preference(chance.choice([-1, 1, 1, 1])) for number in asked if chance.random() < 0.8}
        person = said(store, {n: {**body, "comment": chance.choice(["", name])} for n, body in bodies.items()}, name)
        for number in numbers[:20:3]:
            if number in bodies:
                store.judgements.withdraw(person, number, revision=2, request=f"{name}-{number}")
    for number in numbers[1:20:3]:  # a decision, half of them by one of those who judged
        carl = store.people.by_name("carl")[0].id
        person = carl if number % 2 else store.people.add(f"r{number}", "reviewer").id
        _, revision = store.judgements.place(person, number)
        store.judgements.submit(person, number, preference(1), revision=revision, request=f"final-{number}", final=True)
    found = disputed(opinions(store))
    assert 5 < len(found) < 30
    assert most_disputed(store, 100) == (found, len(found))
    assert most_disputed(store, 3) == (found[:3], len(found))
    assert len(store.judgements.differing()) < 40


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_stands_alone_and_shows_every_section(store: Store, language: str) -> None:
    assert len(quality_page(store, language)) > 500  # nothing is judged yet
    evil = "<script>alert(1)</script>"
    numbers = store.queue.add(items(12, columns={"x": evil}))
    more = store.queue.add([Item(kind="label", prompt=evil, options=LABELS, overlap=MANY)])
    for i, name in enumerate(["anna", "berta", evil]):
        answers = {number: preference(1 if (number + i) % 3 else -1) for number in numbers}
        said(store, answers | {more[0]: label("xyz"[i])}, name)
    page = quality_page(store, language)
    assert "<script" not in page
    assert not re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?https?:""", page)
    assert page.count("<h2>") == 6
    titles = ["Agreement", "Every two people", "Habits", "People", "Models", "To adjudicate"]
    assert all((CHINESE[title] if language == "zh" else title) in page for title in titles)
    assert ("重叠太少" if language == "zh" else "too few overlaps") in page
    assert "<svg" in page
    if language == "zh":
        text = re.sub(r"<(style|svg).*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL)
        words = set(re.findall(r"[A-Za-z]{4,}", text))
        assert words <= {"anna", "berta", "script", "alert", "prompt", "first", "second", "Cohen", "Krippendorff"} | {
            "Bradley",
            "Terry",
        }


def test_the_same_store_gives_the_same_figures(store: Store) -> None:
    numbers = store.queue.add(items(15))
    for i, name in enumerate(["anna", "berta", "carl"]):
        said(store, {number: preference((number * 7 + i * i) % 5 - 2) for number in numbers}, name)
    once = quality(store, seed=4)
    assert once == quality(store, seed=4)
    alpha = once.agreement[0].figures["alpha"]
    assert alpha.low is not None
    assert alpha.value is not None
    assert alpha.high is not None
    assert alpha.low <= alpha.value <= alpha.high
    assert math.isfinite(alpha.low)
