"""Side, length and haste."""

import math

import pytest

from proxtune.errors import DataError
from proxtune.feedback.bias import least_seconds, length_bias, position_bias, speed


def test_position_bias_is_the_share_of_the_first_with_wilsons_interval() -> None:
    """30 of 50, z² = 3.8415: (0.6 + 0.0384 ± 1.96 √(0.24/50 + 3.8415/10000)) / (1 + 0.0768) = 0.4618, 0.7239."""
    found = position_bias([True] * 30 + [False] * 20)
    assert (found.value, found.count) == (0.6, 50)
    assert (found.low, found.high) == pytest.approx((0.4618, 0.7239), abs=5e-5)


def test_few_comparisons_have_a_wide_interval_and_none_no_value() -> None:
    """1 of 1: the lower border is 1 / (1 + z²)."""
    found = position_bias([True])
    assert found.value == 1
    assert (found.low, found.high) == pytest.approx((1 / 4.8415, 1), abs=1e-4)
    assert position_bias([]).value is None


def test_length_bias_counts_who_won_and_leaves_equal_lengths_out() -> None:
    found = length_bias([(200, 100)] * 3 + [(100, 200)] + [(50, 50)] * 7)
    assert (found.value, found.count) == (0.75, 4)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("", 1), ("x" * 60, 1), ("x" * 600, 10), ("汉" * 150, 10), ("汉" * 75 + "x" * 300, 10)],
)
def test_the_least_seconds_for_a_text(text: str, seconds: float) -> None:
    """60 letters a second, a Han character as 4 of them, and never less than 1."""
    assert least_seconds(text) == seconds


def test_the_fastest_of_most_readers_is_half_as_fast_as_what_is_suspicious() -> None:
    """300 words a minute of 6 characters each, the space among them: 100 words take 20 seconds."""
    assert least_seconds("words " * 100) == pytest.approx(20 / 2)


def test_speed_of_each_person() -> None:
    """As fast as the least is not too fast."""
    found = speed([("a", 2.0, 5.0), ("a", 5.0, 5.0), ("b", 3.0, 1.0), ("a", 9.0, 5.0), ("a", 4.9, 5.0)])
    assert (found["a"].median, found["a"].fast.value, found["a"].fast.count) == (4.95, 0.5, 4)
    assert (found["b"].median, found["b"].fast.value, found["b"].fast.count) == (3.0, 0.0, 1)
    assert speed([]) == {}


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_seconds_that_are_none_are_refused(seconds: float) -> None:
    with pytest.raises(DataError, match=f"an answer of 'a' took {seconds} seconds"):
        speed([("a", seconds, 1.0)])
