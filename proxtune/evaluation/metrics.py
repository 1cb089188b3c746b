"""Figures with their uncertainty.

A figure of a test set (accuracy, F1, BLEU) is a function of sums over its rows. A `Measure` holds what each row adds
and that function, so that one bootstrap gives every figure its interval, and every two systems their comparison.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from proxtune.errors import DataError

Array = NDArray[np.float64]
DRAWS_AT_ONCE = 2**20


class Interval(NamedTuple):
    """A mean and its 95% bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


class Difference(NamedTuple):
    """How much more one system has than another, its 95% bootstrap interval, and the two-sided p-value of none."""

    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Measure:
    """What each row adds, [N, S], and the figures of the sums: [..., S] -> [...] by name.

    A figure with the denominator 0 is 0.
    """

    rows: Array
    figures: Callable[[Array], dict[str, Array]]

    def values(self) -> dict[str, float]:
        """The figures of all rows."""
        return {name: float(value) for name, value in self.figures(self.rows.sum(axis=0)).items()}

    def intervals(self, *, seed: int, resamples: int = 1000) -> dict[str, Interval]:
        """Each figure, and the 2.5th and 97.5th percentile of it on resamples of the rows (Efron 1979)."""
        resampled = self.figures(_resampled_sums(self.rows, seed=seed, resamples=resamples))
        return {name: Interval(value, *_percentiles(resampled[name])) for name, value in self.values().items()}


FALLING = ("loss", "perplexity", "rmse", "mae", "ece", "brier", "error", "invalid", "empty")


def rises(figure: str) -> bool:
    """Whether the higher value of a figure, as `eval/loss`, is the better one."""
    return figure.rpartition("/")[2] not in FALLING


def joined(*measures: Measure) -> Measure:
    """All figures of several measures of the same rows."""
    ends = np.cumsum([measure.rows.shape[1] for measure in measures])[:-1]

    def figures(sums: Array) -> dict[str, Array]:
        parts = zip(measures, np.split(sums, ends, axis=-1), strict=True)
        return {name: value for measure, part in parts for name, value in measure.figures(part).items()}

    return Measure(np.concatenate([measure.rows for measure in measures], axis=1), figures)


def grouped(measure: Measure, keys: Sequence[str]) -> Measure:
    """The same figures, where the rows of one key are one row, to be drawn together by the bootstrap."""
    _, places = np.unique(keys, return_inverse=True)
    rows = np.zeros((int(places.max()) + 1, measure.rows.shape[1]))
    np.add.at(rows, places, measure.rows)
    return Measure(rows, measure.figures)


def paired(a: Measure, b: Measure, *, seed: int, resamples: int = 1000) -> dict[str, Difference]:
    """What b has more than a in each figure, on the same resamples of the rows (the paired bootstrap, Koehn 2004).

    p = min(1, 2 (1 + the lesser of the numbers of resamples with b − a ≤ 0 and with b − a ≥ 0) / (resamples + 1)), so
    that p < 0.05 where the interval leaves out 0. Raises DataError: the two have not the same number of rows.
    """
    check_rows(a.rows, b.rows)
    of_a, of_b = (m.figures(_resampled_sums(m.rows, seed=seed, resamples=resamples)) for m in (a, b))
    before, after = a.values(), b.values()
    found = dict[str, Difference]()
    for name, value in before.items():
        differences = of_b[name] - of_a[name]
        tail = min((differences <= 0).sum(), (differences >= 0).sum())
        p = min(1.0, 2 * (1 + float(tail)) / (resamples + 1))
        low = float(np.percentile(differences, 2.5, method="lower"))  # not between two resamples, so that p agrees
        high = float(np.percentile(differences, 97.5, method="higher"))
        found[name] = Difference(after[name] - value, low, high, p)
    return found


def means(columns: Mapping[str, Iterable[float]]) -> Measure:
    """The mean of each column over the rows, by the column's name."""
    values = [np.asarray([float(value) for value in column]) for column in columns.values()]
    rows = np.stack([*values, np.ones_like(values[0])], axis=1)
    return Measure(rows, lambda sums: {name: ratio(sums[..., i], sums[..., -1]) for i, name in enumerate(columns)})


def ratio(numerator: Array, denominator: Array) -> Array:
    """The quotient, [...]; 0 where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    return np.divide(numerator, denominator, out=np.zeros(numerator.shape), where=denominator != 0)


def precision_recall_f1(correct: Array, predicted: Array, gold: Array) -> tuple[Array, Array, Array]:
    """Of counts [...]: correct / predicted, correct / gold, and their harmonic mean 2 correct / (predicted + gold)."""
    return ratio(correct, predicted), ratio(correct, gold), ratio(2 * correct, predicted + gold)


def check_rows(gold: Sized, predicted: Sized) -> None:
    """Raises DataError: not the same number of rows, or none."""
    if len(gold) != len(predicted):
        raise DataError(f"{len(gold)} rows against {len(predicted)}: give one prediction for each row")
    if len(gold) == 0:
        raise DataError("0 rows: there is nothing to measure; give at least one")


def bootstrap_mean(values: Sequence[float], *, seed: int, resamples: int = 2000) -> Interval:
    """The mean and the 2.5th and 97.5th percentile of the means of resamples with replacement (Efron 1979)."""
    x = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means = x[rng.integers(0, len(x), size=(resamples, len(x)))].mean(axis=1)
    return Interval(float(x.mean()), *_percentiles(means))


def _resampled_sums(rows: Array, *, seed: int, resamples: int) -> Array:
    """The sums [resamples, S] of as many rows as there are, drawn with replacement.

    The draws depend on the seed and on the number of rows alone. Memory holds `DRAWS_AT_ONCE` of them.
    """
    n, rng = len(rows), np.random.default_rng(seed)
    sums = np.empty((resamples, rows.shape[1]))
    for part in np.split(sums, range(0, resamples, max(1, DRAWS_AT_ONCE // n))[1:]):
        drawn = rng.integers(n, size=(len(part), n)) + n * np.arange(len(part))[:, None]
        part[:] = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape) @ rows
    return sums


def _percentiles(values: Array) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
