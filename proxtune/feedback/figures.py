"""A figure of people's judgements: the value, its 95% interval, how much it rests on; or why there is no value."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Counts = NDArray[np.int64]

MINIMUM = 10
"""A figure that rests on fewer items than this has no value: its bootstrap would say less than nothing."""
RESAMPLES = 1000
DRAWS_AT_ONCE = 2**20
MANY = 8
"""Items of a kind, on average, from which on it is quicker to draw kinds than items."""
NORMAL_QUANTILE = 1.959963984540054
"""Of 0.975: the 95% interval of a normal distribution reaches this many deviations to each side."""


@dataclass(frozen=True)
class Figure:
    """A value and its 95% interval (all None where there is none), and the number of items that it rests on."""

    value: float | None
    low: float | None
    high: float | None
    count: int

    def __str__(self) -> str:
        if self.value is None:
            return f"too few overlaps ({self.count})" if self.count < MINIMUM else "undefined: no variation"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def figure(of: Callable[[Array], Array], counts: Iterable[int], *, seed: int, resamples: int) -> Figure:
    """A figure of items, and the 2.5th and 97.5th percentile of it on resamples of the items (Efron 1979).

    counts [U]: how many items there are of each kind; items of one kind add the same. of: the figures [R] of weights
    [R, U], nan where it is undefined. No value with fewer than `MINIMUM` items or where it is undefined. The interval
    is that of the resamples on which the figure is defined; where all items agree it has no width, few as they may be.
    """
    items = np.asarray(list(counts), dtype=np.int64)
    count = int(items.sum())
    value = float(of(items[None].astype(np.float64))[0]) if count >= MINIMUM else np.nan
    if np.isnan(value):
        return Figure(None, None, None, count)
    low, high = interval(of, items, seed=seed, resamples=resamples)
    return Figure(value, float(low), float(high), count)


def interval(of: Callable[[Array], Array], counts: Counts, *, seed: int, resamples: int) -> Array:
    """The 2.5th and 97.5th percentile [2, ...] of `of` on resamples; of: weights [R, U] -> [R, ...]."""
    rng = np.random.default_rng(seed)
    block = max(1, DRAWS_AT_ONCE // len(counts))
    sizes = [min(block, resamples - start) for start in range(0, resamples, block)]
    found = np.concatenate([of(_drawn(rng, counts, size)) for size in sizes])
    percentiles: Array = np.nanpercentile(found, [2.5, 97.5], axis=0)
    return percentiles


def _drawn(rng: np.random.Generator, counts: Counts, size: int) -> Array:
    """How often each kind comes in as many draws with replacement as there are items, `size` times: [size, U].

    Two ways to the same distribution: the first is quick where there are few kinds, the second where there are many.
    """
    count, kinds = int(counts.sum()), len(counts)
    if count > MANY * kinds:
        return rng.multinomial(count, counts / count, size=size).astype(np.float64)
    items = np.repeat(np.arange(kinds), counts)
    drawn = items[rng.integers(count, size=(size, count))] + kinds * np.arange(size)[:, None]
    return np.bincount(drawn.ravel(), minlength=size * kinds).reshape(size, kinds).astype(np.float64)


def share(outcomes: Iterable[bool]) -> Figure:
    """The share p = x / n of true ones, with Wilson's interval (1927), which holds for few as for many.

    With z = 1.96: (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n). No value without outcomes.
    """
    each = [bool(outcome) for outcome in outcomes]
    n = len(each)
    if n == 0:
        return Figure(None, None, None, 0)
    p, z2 = sum(each) / n, NORMAL_QUANTILE**2 / n
    middle, half = p + z2 / 2, np.sqrt(z2 * (p * (1 - p) + z2 / 4))
    return Figure(p, float(middle - half) / (1 + z2), float(middle + half) / (1 + z2), n)
