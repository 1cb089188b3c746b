"""Figures of agreement are scikit-learn's and the krippendorff package's, and follow from their definitions."""

import warnings
from typing import Any

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from proxtune.errors import DataError
from proxtune.feedback.agreement import (
    cohen_kappa,
    krippendorff_alpha,
    pairwise_matrix,
    percent_agreement,
    rank_agreement,
    self_agreement,
    with_majority,
)
from proxtune.feedback.figures import Figure

# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), section C: 4 people, 12 items, missing data.
CODED = {
    "A": [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    "B": [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    "C": [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    "D": [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
}
CATEGORIES = ["bad", "fair", "good", "never said"]
ALPHAS = ("nominal", "ordinal", "interval")
WEIGHTS = (None, "linear", "quadratic")
close = {"rel": 0, "abs": 1e-9}

Answers = dict[Any, dict[Any, Any]]


def by_item(people: dict[Any, list[Any]]) -> Answers:
    rows = zip(*people.values(), strict=True)
    return {i: {p: x for p, x in zip(people, row, strict=True) if x is not None} for i, row in enumerate(rows)}


def coded(table: Answers, people: list[Any]) -> list[list[float]]:
    """[people, items], nan where there is no answer: as the package wants it."""
    return [[answers.get(person, np.nan) for answers in table.values()] for person in people]


def random_table(rng: np.random.Generator, *, items: int, people: int, categories: int, missing: float) -> Answers:
    answers = rng.integers(categories, size=(items, people)).tolist()
    here = rng.random((items, people)) >= missing
    return {i: {p: answers[i][p] for p in range(people) if here[i, p]} for i in range(items)}


@st.composite
def tables(draw: Any) -> Answers:
    """Some people of up to five, of 0 to 5 answers, some of them missing: always 10 items that 0 and 1 both judged."""
    answer = st.integers(0, draw(st.integers(1, 5)))
    row = st.dictionaries(st.integers(0, draw(st.integers(1, 4))), answer, max_size=5)
    both = st.tuples(row, answer, answer).map(lambda x: {**x[0], 0: x[1], 1: x[2]})
    rows = draw(st.lists(both, min_size=10, max_size=14)) + draw(st.lists(row, max_size=6))
    return dict(enumerate(rows))


def near(value: float | None) -> Any:
    return value if value is None else pytest.approx(value, **close)


def fast(function: Any, *args: Any, **options: Any) -> Any:
    return function(*args, **options, resamples=20)


@pytest.mark.parametrize(("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_of_krippendorffs_published_example(level: Any, alpha: float) -> None:
    """Item 12 has one answer, and is not counted."""
    found = krippendorff_alpha(by_item(CODED), level=level)
    assert found.value == pytest.approx(alpha, abs=5e-4)
    assert found.count == 11


def test_figures_in_literal_numbers() -> None:
    """20 items of two people: 8 times aa, 6 bb, 4 ab, 2 ba.

    They agree in 14/20. a says a 12 times and b 10 times, so chance is 0.6 · 0.5 + 0.4 · 0.5 = 0.5, κ = 0.2/0.5. Of the
    40 answers 22 are a: two of them differ with 2 · 22 · 18 / (40 · 39) = 33/65, α = 1 − 0.3 · 65/33 = 9/22.
    """
    table = by_item({"a": list("a" * 12 + "b" * 8), "b": list("a" * 8 + "b" * 4 + "b" * 6 + "a" * 2)})
    assert percent_agreement(table).value == pytest.approx(0.7, **close)
    assert cohen_kappa(table, "a", "b").value == pytest.approx(0.4, **close)
    assert krippendorff_alpha(table).value == pytest.approx(9 / 22, **close)


def test_a_pair_of_people_counts_once_for_percent_agreement() -> None:
    """Ten items aab, of whose 3 pairs 1 agrees, and five items aa: (10 + 5) / (30 + 5)."""
    table = by_item({1: ["a"] * 15, 2: ["a"] * 15, 3: ["b"] * 10 + [None] * 5})
    assert percent_agreement(table).value == pytest.approx(15 / 35, **close)


@settings(max_examples=60)
@given(tables(), st.sampled_from(ALPHAS), st.sampled_from([(5, 0), (0.5, 1e6)]))
def test_alpha_is_that_of_the_krippendorff_package(table: Answers, level: Any, scale: tuple[float, float]) -> None:
    table = {i: {p: x * scale[0] + scale[1] for p, x in answers.items()} for i, answers in table.items()}
    said = {x for answers in table.values() if len(answers) > 1 for x in answers.values()}
    found = fast(krippendorff_alpha, table, level=level)
    assert found.count == sum(len(answers) > 1 for answers in table.values())
    if len(said) == 1:
        assert found.value is None
        return
    theirs = krippendorff.alpha(reliability_data=coded(table, list(range(5))), level_of_measurement=level)
    assert found.value == pytest.approx(theirs, **close)


@settings(max_examples=40)
@given(tables(), st.sampled_from(WEIGHTS))
def test_kappa_is_that_of_scikit_learn(table: Answers, weights: Any) -> None:
    pairs = [(answers[0], answers[1]) for answers in table.values() if 0 in answers and 1 in answers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = cohen_kappa_score(*zip(*pairs, strict=True), weights=weights, labels=range(6))
    found = fast(cohen_kappa, table, 0, 1, weights=weights, categories=range(6))
    assert found.count == len(pairs)
    assert found.value == near(None if np.isnan(theirs) else theirs)


@pytest.mark.slow
@settings(max_examples=20)
@given(tables(), st.randoms(), st.sampled_from(ALPHAS))
def test_neither_the_order_of_items_nor_that_of_people_matters(table: Answers, random: Any, level: Any) -> None:
    def shuffled(mapping: dict[Any, Any]) -> dict[Any, Any]:
        return dict(random.sample(list(mapping.items()), len(mapping)))

    other = shuffled({("item", i): shuffled(answers) for i, answers in table.items()})
    for function, options in ((percent_agreement, {}), (krippendorff_alpha, {"level": level}), (with_majority, {})):
        assert fast(function, other, **options) == fast(function, table, **options)
    assert fast(cohen_kappa, other, 0, 1) == fast(cohen_kappa, table, 0, 1)


@settings(max_examples=20)
@given(tables(), st.permutations(range(5)))
def test_it_does_not_matter_who_said_what_for_alpha_nor_which_of_two_comes_first(
    table: Answers, names: list[int]
) -> None:
    other = {i: {names[p]: x for p, x in answers.items()} for i, answers in table.items()}
    assert fast(krippendorff_alpha, other) == fast(krippendorff_alpha, table)
    assert fast(cohen_kappa, table, 1, 0).value == near(fast(cohen_kappa, table, 0, 1).value)


@settings(max_examples=20)
@given(tables(), st.permutations(["b", "a", 3, "ü", 1.5, "中"]))
def test_names_of_answers_do_not_matter_on_the_nominal_level(table: Answers, names: list[Any]) -> None:
    other = {i: {p: names[x] for p, x in answers.items()} for i, answers in table.items()}
    for function in (percent_agreement, krippendorff_alpha):
        assert fast(function, other).value == near(fast(function, table).value)


@pytest.mark.parametrize("level", ALPHAS)
def test_who_agree_in_all_agree_by_1(level: Any) -> None:
    table = {i: dict.fromkeys("abc", i % 3 + 0.1) for i in range(12)}
    sure = Figure(1.0, 1.0, 1.0, 12)
    assert percent_agreement(table) == sure
    assert krippendorff_alpha(table, level=level).value == pytest.approx(1, **close)
    assert cohen_kappa(table, "a", "b", weights="linear") == sure
    assert with_majority(table) == dict.fromkeys("abc", sure)


@pytest.mark.parametrize("level", ALPHAS)
def test_independent_answers_agree_by_nothing_more_than_chance(level: Any) -> None:
    """α of 2 people and k categories has the deviation 1/√(N (k − 1)) for nominal ones, and 1/√N by rank or value.

    Of N = 2000 items that is 0.016 and 0.022; three people have three pairs, and at most that. Beyond 0.11, 5 of
    them: one seed in 1.7 million.
    """
    table = random_table(np.random.default_rng(0), items=2000, people=3, categories=3, missing=0.1)
    found = krippendorff_alpha(table, level=level)
    assert abs(found.value) < 0.11
    assert found.low < found.value < found.high


def test_two_who_never_agree() -> None:
    """κ = 1 − 1/0.5 where each says each of two answers half of the time."""
    table = {i: {"a": i % 2, "b": 1 - i % 2} for i in range(10)}
    assert cohen_kappa(table, "a", "b").value == pytest.approx(-1, **close)
    assert percent_agreement(table).value == 0


def test_the_order_of_categories_decides_weighted_kappa_and_ordinal_alpha() -> None:
    """Names in the order that is given are the numbers of their places, and in another order they are not."""
    low_to_high = ["fair", "bad", "good", "never said"]
    rng = np.random.default_rng(0)
    numbers = random_table(rng, items=30, people=2, categories=3, missing=0)
    names = {i: {p: low_to_high[x] for p, x in answers.items()} for i, answers in numbers.items()}
    for options in ({"weights": "linear"}, {"weights": "quadratic"}):
        named = cohen_kappa(names, 0, 1, categories=low_to_high, **options)
        assert named == cohen_kappa(numbers, 0, 1, **options)
        assert named != cohen_kappa(names, 0, 1, categories=CATEGORIES, **options)
    named = krippendorff_alpha(names, level="ordinal", categories=low_to_high)
    assert named == krippendorff_alpha(numbers, level="ordinal")
    assert named != krippendorff_alpha(names, level="ordinal", categories=CATEGORIES)


def test_an_interval_is_that_of_the_normal_distribution() -> None:
    """Percent agreement of two people is the mean of N draws: p ± 1.96 √(p (1 − p) / N), to 5% of the width.

    The border is the 2.5% quantile of 4000 draws, whose deviation is 1.1% of the width (see tests/evaluation).
    """
    table = by_item({"a": ["x"] * 1000, "b": ["x"] * 600 + ["y"] * 400})
    found = percent_agreement(table, resamples=4000)
    half = 1.96 * (0.6 * 0.4 / 1000) ** 0.5
    assert (found.low, found.high) == pytest.approx((0.6 - half, 0.6 + half), abs=0.05 * 2 * half)


def test_the_interval_of_kappa_is_that_of_its_deviation() -> None:
    """Of the cells p = (aa 0.4, ab 0.2, ba 0.1, bb 0.3), N = 1000: κ = (0.7 − 0.5)/0.5, and √N times its deviation is

    √(Σ p_ii (1 − (p_i. + p_.i)(1 − κ))² + (1 − κ)² Σ_{i≠j} p_ij (p_.i + p_j.)² − (κ − p_e (1 − κ))²) / (1 − p_e)
    (Fleiss, Cohen & Everitt 1969), with p_e = 0.5. Borders as above, to 7% for the bend of κ.
    """
    table = by_item({"a": ["a"] * 600 + ["b"] * 400, "b": ["a"] * 400 + ["b"] * 200 + ["a"] * 100 + ["b"] * 300})
    found = cohen_kappa(table, "a", "b", resamples=4000)
    p, rows, columns, kappa = np.asarray([[0.4, 0.2], [0.1, 0.3]]), (0.6, 0.4), (0.5, 0.5), 0.4
    same = sum(p[i, i] * (1 - (rows[i] + columns[i]) * (1 - kappa)) ** 2 for i in range(2))
    other = (1 - kappa) ** 2 * sum(p[i, 1 - i] * (columns[i] + rows[1 - i]) ** 2 for i in range(2))
    half = 1.96 * (same + other - (kappa - 0.5 * (1 - kappa)) ** 2) ** 0.5 / 0.5 / 1000**0.5
    assert found.value == pytest.approx(kappa, **close)
    assert (found.low, found.high) == pytest.approx((kappa - half, kappa + half), abs=0.07 * 2 * half)


def test_too_few_overlaps_are_said_and_not_measured() -> None:
    table: Answers = {i: {"a": i % 2, "b": i % 2} for i in range(9)} | {i: {"a": 1} for i in range(9, 50)}
    nothing = Figure(None, None, None, 9)
    assert percent_agreement(table) == krippendorff_alpha(table) == cohen_kappa(table, "a", "b") == nothing
    assert with_majority(table) == {"a": nothing, "b": nothing}
    assert str(nothing) == "too few overlaps (9)"
    table[9]["b"] = 1
    assert str(cohen_kappa(table, "a", "b")) == "1.00 [1.00, 1.00]"


@pytest.mark.parametrize("table", [{}, {1: {}}, {1: {"a": 3}}])
def test_no_overlap_at_all_is_none(table: Any) -> None:
    nothing = Figure(None, None, None, 0)
    assert percent_agreement(table) == krippendorff_alpha(table, level="interval") == nothing
    assert cohen_kappa(table, "a", "b", weights="linear") == nothing
    assert rank_agreement({1: {"a": [1, 2]}}) == rank_agreement({}) == (nothing, nothing)
    assert self_agreement([]) == nothing
    assert pairwise_matrix({}) == ([], [])


def test_who_always_says_one_thing_leaves_chance_undefined() -> None:
    table = {i: {"a": "x", "b": "x"} for i in range(20)}
    assert percent_agreement(table).value == 1
    for found in (krippendorff_alpha(table), cohen_kappa(table, "a", "b")):
        assert found == Figure(None, None, None, 20)
        assert str(found) == "undefined: no variation"


def test_resamples_without_variation_are_left_out_of_the_interval() -> None:
    """One item of twelve differs, so in (11/12)^12 = 35% of the resamples κ is undefined; it is 1 in the others."""
    table = {i: {"a": int(i == 0), "b": int(i == 0)} for i in range(12)}
    assert cohen_kappa(table, "a", "b") == krippendorff_alpha(table) == Figure(1.0, 1.0, 1.0, 12)


def test_the_matrix_holds_the_kappa_of_every_two_people() -> None:
    table = random_table(np.random.default_rng(0), items=60, people=4, categories=3, missing=0.3)
    people, kappa = pairwise_matrix(table, weights="linear")
    assert set(people) == {0, 1, 2, 3}
    for i, a in enumerate(people):
        for j, b in enumerate(people):
            first, second = (a, b) if i <= j else (b, a)
            assert kappa[i][j] == cohen_kappa(table, first, second, weights="linear")
        assert kappa[i][i].value == 1
        assert kappa[i][i].count == sum(a in answers for answers in table.values())


def test_the_majority_of_the_others_in_literal_numbers() -> None:
    """aab: the others of the first two are tied, and b is against both. aaab: the first three are with two of three."""
    found = with_majority(by_item({"1": ["a"] * 10, "2": ["a"] * 10, "3": ["b"] * 10}))
    assert (found["1"].count, found["2"].count, found["3"].count) == (0, 0, 10)
    assert found["3"].value == 0
    found = with_majority({i: {"1": "a", "2": "a", "3": "a", "4": "b"} for i in range(10)} | {10: {"5": "a"}})
    assert [found[person].value for person in "12345"] == [1, 1, 1, 0, None]
    assert found["5"].count == 0


def test_self_agreement_is_the_share_of_repeats_with_the_same_answer() -> None:
    found = self_agreement([("a", "a")] * 15 + [("a", "b")] * 5)
    assert (found.value, found.count) == (0.75, 20)
    assert found.low < 0.75 < found.high


def test_rank_agreement_in_literal_numbers() -> None:
    """Ranks 123 and 132 are r = (−1, 0, 1) and (−1, 1, 0), their sum (−2, 1, 1): W = 6 / (2 · 4).

    Of three pairs of things two are ranked alike and one is not: τ = 1/3.
    """
    found = rank_agreement({i: {"a": [1, 2, 3], "b": [1, 3, 2]} for i in range(10)})
    assert found.kendall_w.value == pytest.approx(0.75, **close)
    assert found.mean_tau.value == pytest.approx(1 / 3, **close)
    assert found.kendall_w.count == found.mean_tau.count == 10


def rankings(k: int) -> Any:
    """Of k things: three to five people who see an order, then up to two who see none."""
    ranks = st.lists(st.integers(1, k), min_size=k, max_size=k)
    ordered = st.lists(ranks.filter(lambda given: len(set(given)) > 1), min_size=3, max_size=5)
    return st.tuples(ordered, st.lists(st.just([1] * k), max_size=2))


@pytest.mark.slow
@settings(max_examples=8)
@given(st.lists(st.integers(3, 5).flatmap(rankings), min_size=10, max_size=10))
def test_w_is_that_of_friedmans_test_and_tau_that_of_scipy(items: list[Any]) -> None:
    """Friedman's statistic is m (k − 1) W, corrected for ties in the same way."""
    ws, taus = [], []
    for ordered, _ in items:
        m, k = len(ordered), len(ordered[0])
        ws.append(stats.friedmanchisquare(*zip(*ordered, strict=True)).statistic / (m * (k - 1)))
        taus.append(np.mean([stats.kendalltau(ordered[i], ordered[j])[0] for i in range(m) for j in range(i)]))
    found = fast(rank_agreement, {i: dict(enumerate(a + b)) for i, (a, b) in enumerate(items)})
    assert found.kendall_w.value == pytest.approx(np.mean(ws), **close)
    assert found.mean_tau.value == pytest.approx(np.mean(taus), **close)


def test_random_rankings_have_no_tau_and_the_w_of_chance() -> None:
    """τ of two rankings of 4 things has the variance 2 (2k + 5) / (9k (k − 1)) = 26/108, so that of 3000 items 0.009.

    W = (1 + mean correlation)/2 of two people, with the variance 1/3 of the correlation: 0.5 ± 0.0053. 5 deviations.
    """
    rng = np.random.default_rng(0)
    found = rank_agreement({i: {p: rng.permutation(4).tolist() for p in "ab"} for i in range(3000)})
    assert abs(found.mean_tau.value) < 0.045
    assert abs(found.kendall_w.value - 0.5) < 0.027


def test_who_sees_no_order_is_not_counted() -> None:
    table = {i: {"a": [1, 2], "b": [1, 2], "c": [1, 1]} for i in range(10)} | {10: {"a": [1, 2], "c": [2, 2]}}
    sure = Figure(1.0, 1.0, 1.0, 10)
    assert rank_agreement(table) == (sure, sure)


def test_answers_that_cannot_be_used_are_refused() -> None:
    names = {1: {"a": "bad", "b": "good"}}
    with pytest.raises(DataError, match="no order of their own; give `categories`"):
        krippendorff_alpha(names, level="ordinal")
    with pytest.raises(DataError, match="no order of their own"):
        pairwise_matrix(names, weights="linear")
    with pytest.raises(DataError, match="interval needs numbers"):
        krippendorff_alpha(names, level="interval", categories=CATEGORIES)
    with pytest.raises(DataError, match="'good' is none of 'bad', 'fair'"):
        cohen_kappa(names, "a", "b", categories=["bad", "fair"])
    with pytest.raises(DataError, match="the answer nan is not finite"):
        krippendorff_alpha({1: {"a": float("nan"), "b": 1.0}})
    with pytest.raises(DataError, match=r"item 'x': people ranked different numbers of things: \[2, 3\]"):
        rank_agreement({"x": {"a": [1, 2], "b": [1, 2, 3]}})
    with pytest.raises(DataError, match="item 'x': a rank is not finite"):
        rank_agreement({"x": {"a": [1, float("nan")], "b": [1, 2]}})


def test_the_same_seed_is_the_same_interval_and_another_seed_another() -> None:
    table = random_table(np.random.default_rng(0), items=50, people=2, categories=3, missing=0)
    assert krippendorff_alpha(table, seed=1) == krippendorff_alpha(table, seed=1)
    assert krippendorff_alpha(table, seed=1) != krippendorff_alpha(table, seed=2)
