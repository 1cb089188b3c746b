"""Figures of sums over rows: their intervals, and the comparison of two systems."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxtune.errors import DataError
from proxtune.evaluation import metrics
from proxtune.evaluation.metrics import (
    Interval,
    Measure,
    bootstrap_mean,
    grouped,
    means,
    paired,
    precision_recall_f1,
    ratio,
)

COUNTS = st.lists(st.integers(0, 3), min_size=3, max_size=3)


def of(values: list[float]) -> Measure:
    return means({"mean": values})


def draws(n: int, share: float = 0.7) -> list[float]:
    return [float(x) for x in np.random.default_rng(0).random(n) < share]


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    """The mean ± 1.96 deviations / √n, to 5% of the width.

    A border is the 2.5% quantile of 4000 draws, whose deviation is √(0.025 · 0.975 / 4000) / 0.0584 = 0.042 standard
    errors, 1.1% of the width of 3.92: a false alarm in about 100,000 seeds.
    """
    values = np.random.default_rng(0).random(1000)
    mean, half = values.mean(), 1.96 * values.std() / 1000**0.5
    found = of(list(values)).intervals(seed=1, resamples=4000)["mean"]
    assert found.mean == pytest.approx(mean, abs=1e-12)
    assert (found.low, found.high) == pytest.approx((mean - half, mean + half), abs=0.05 * 2 * half)


def test_it_agrees_with_bootstrap_mean() -> None:
    """Two draws of a border differ by √2 times the deviation above: 7% of the width are as rare as 5% there."""
    values = list(np.random.default_rng(0).random(1000))
    ours, other = of(values).intervals(seed=1, resamples=4000)["mean"], bootstrap_mean(values, seed=2, resamples=4000)
    width = other.high - other.low
    assert (ours.low, ours.high) == pytest.approx((other.low, other.high), abs=0.07 * width)


def test_intervals_shrink_with_the_root_of_the_number_of_rows() -> None:
    small, large = (of(draws(n)).intervals(seed=0)["mean"] for n in (100, 10_000))
    assert small.low <= small.mean <= small.high
    assert (small.high - small.low) / (large.high - large.low) == pytest.approx(10, rel=0.2)


def test_what_is_grouped_has_the_same_figures_and_is_drawn_together() -> None:
    values = draws(200)
    four_times = Measure(np.repeat(of(values).rows, 4, axis=0), of(values).figures)
    keys = [str(i) for i in range(200) for _ in range(4)]
    once, alone, together = (m.intervals(seed=0)["mean"] for m in (of(values), four_times, grouped(four_times, keys)))
    assert once.mean == alone.mean == pytest.approx(together.mean, abs=1e-12)
    # four copies of a row tell no more than one: the interval of 800 rows is half as wide as that of 200 groups
    assert together.high - together.low == pytest.approx(once.high - once.low, rel=0.15)
    assert (together.high - together.low) / (alone.high - alone.low) == pytest.approx(2, rel=0.2)


def test_few_draws_at_once_are_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    measure = of(draws(50))
    whole = measure.intervals(seed=3)
    monkeypatch.setattr(metrics, "DRAWS_AT_ONCE", 350)  # 7 resamples, which does not divide 1000
    assert measure.intervals(seed=3) == whole
    monkeypatch.setattr(metrics, "DRAWS_AT_ONCE", 1)
    assert measure.intervals(seed=3) == whole


def test_a_resample_has_as_many_rows_as_there_are() -> None:
    """The figure is the sum of the weights of all rows."""
    measure = Measure(np.ones((17, 1)), lambda sums: {"n": sums[..., 0]})
    assert measure.intervals(seed=0) == {"n": Interval(17.0, 17.0, 17.0)}


def test_one_row_has_no_width() -> None:
    assert of([0.25]).intervals(seed=0) == {"mean": Interval(0.25, 0.25, 0.25)}


def test_a_measure_paired_with_itself_differs_by_nothing() -> None:
    measure = of(draws(30))
    assert paired(measure, measure, seed=0) == {"mean": (0.0, 0.0, 0.0, 1.0)}


def test_a_constant_gain_is_certain_though_the_rows_vary() -> None:
    """0.125 more in each row is 0.125 more in each resample: only 1 of 201 counts for the tail, twice."""
    values = draws(30)
    found = paired(of(values), of([x + 0.125 for x in values]), seed=0, resamples=200)["mean"]
    assert found[:3] == pytest.approx((0.125, 0.125, 0.125), abs=1e-12)
    assert found.p == 2 / 201


def test_the_other_way_round_it_is_a_loss_and_as_certain() -> None:
    a, b = of(draws(200)), of(draws(200, share=0.75))
    there, back = paired(a, b, seed=0)["mean"], paired(b, a, seed=0)["mean"]
    assert (back.difference, back.p) == pytest.approx((-there.difference, there.p))
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))


def test_without_a_difference_p_is_below_0_1_in_about_one_tenth() -> None:
    """Of 200 pairs of systems with one accuracy, 100 rows each: 20 ± 4.2. Outside 8 to 32: one seed in 200."""
    rng = np.random.default_rng(0)
    both = rng.random((200, 2, 100)) < 0.5
    small = [paired(of(list(a)), of(list(b)), seed=1, resamples=200)["mean"].p < 0.1 for a, b in both]
    assert 8 <= sum(small) <= 32


@given(seed=st.integers(0, 1000), gain=st.floats(-1, 1))
def test_p_is_below_0_05_exactly_where_the_interval_leaves_out_0(seed: int, gain: float) -> None:
    rng = np.random.default_rng(seed)
    found = paired(of(list(rng.normal(size=30))), of(list(gain + rng.normal(size=30))), seed=seed)["mean"]
    assert (found.p < 0.05) == (not found.low <= 0 <= found.high)


def test_systems_on_other_rows_are_not_compared() -> None:
    with pytest.raises(DataError, match="2 rows against 3"):
        paired(of([0.0, 1.0]), of([0.0, 1.0, 1.0]), seed=0)


def test_two_measures_may_add_up_different_things() -> None:
    """As the entities of two taggers, one of which found a type more."""
    wide = Measure(np.asarray([[0.0, 1.0, 9.0], [1.0, 1.0, 9.0]]), lambda s: {"mean": ratio(s[..., 0], s[..., 1])})
    assert paired(of([0.0, 1.0]), wide, seed=0)["mean"] == (0.0, 0.0, 0.0, 1.0)


@given(correct=COUNTS, wrong=COUNTS, missed=COUNTS)
def test_f1_is_the_harmonic_mean_and_nothing_is_divided_by_0(
    correct: list[int], wrong: list[int], missed: list[int]
) -> None:
    right = np.asarray(correct, dtype=np.float64)
    found = precision_recall_f1(right, right + wrong, right + missed)
    for p, r, f, c in zip(*found, correct, strict=True):
        assert f == pytest.approx(2 / (1 / p + 1 / r) if c else 0)
    assert np.isfinite(found).all()
