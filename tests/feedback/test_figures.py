"""Intervals of figures: the bootstrap, and Wilson's of a share."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from proxtune.feedback import figures
from proxtune.feedback.figures import Figure, figure, share


def mean_of(values: list[float]) -> Any:
    return lambda weights: (weights @ np.asarray(values)) / weights.sum(axis=1)


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_wilsons_interval_is_that_of_scipy(outcomes: list[bool]) -> None:
    theirs = binomtest(sum(outcomes), len(outcomes)).proportion_ci(0.95, method="wilson")
    found = share(outcomes)
    assert found.value == sum(outcomes) / len(outcomes)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert found.count == len(outcomes)


def test_no_outcomes_have_no_share() -> None:
    assert share([]) == Figure(None, None, None, 0)


@pytest.mark.parametrize("many", [0, 10**9])
def test_both_ways_to_draw_have_the_borders_of_the_normal_distribution(monkeypatch: Any, many: int) -> None:
    """400 items of 1 and 600 of 0: 0.4 ± 1.96 √(0.24/1000), to 5% of the width as in tests/evaluation."""
    monkeypatch.setattr(figures, "MANY", many)
    found = figure(mean_of([0, 1, 1]), [600, 300, 100], seed=0, resamples=4000)
    half = 1.96 * (0.24 / 1000) ** 0.5
    assert (found.value, found.count) == (0.4, 1000)
    assert (found.low, found.high) == pytest.approx((0.4 - half, 0.4 + half), abs=0.05 * 2 * half)


@pytest.mark.parametrize("many", [0, 10**9])
def test_a_resample_has_as_many_items_as_there_are(monkeypatch: Any, many: int) -> None:
    monkeypatch.setattr(figures, "MANY", many)
    found = figure(lambda weights: weights.sum(axis=1), [3, 0, 14], seed=0, resamples=50)
    assert found == Figure(17.0, 17.0, 17.0, 17)


@pytest.mark.parametrize("many", [0, 10**9])
def test_few_draws_at_once_are_the_same_draws(monkeypatch: Any, many: int) -> None:
    monkeypatch.setattr(figures, "MANY", many)
    whole = figure(mean_of([0, 1, 2]), [5, 6, 7], seed=3, resamples=100)
    monkeypatch.setattr(figures, "DRAWS_AT_ONCE", 21)  # 7 resamples, which does not divide 100
    assert figure(mean_of([0, 1, 2]), [5, 6, 7], seed=3, resamples=100) == whole


def test_a_figure_is_a_sentence() -> None:
    assert str(Figure(0.5, 0.25, 0.75, 40)) == "0.50 [0.25, 0.75]"
    assert str(Figure(None, None, None, 3)) == "too few overlaps (3)"
    assert str(Figure(None, None, None, 10)) == "undefined: no variation"
