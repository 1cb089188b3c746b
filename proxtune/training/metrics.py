"""Figures by name, and how those of several batches become one."""

from collections.abc import Mapping
from typing import TypeAlias

from torch import Tensor

Metrics: TypeAlias = dict[str, float]


class Tally:
    """Adds up figures: losses and stats that share a step's denominator are summed, those of several steps averaged."""

    def __init__(self) -> None:
        self.sums: Metrics = {}
        self.count = 0

    def add(self, figures: Mapping[str, float | Tensor]) -> None:
        for name, x in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(x)
        self.count += 1

    def total(self) -> Metrics:
        return dict(self.sums)

    def mean(self) -> Metrics:
        return {name: x / self.count for name, x in self.sums.items()}


def prefixed(group: str, figures: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`clip_fraction` -> `policy/clip_fraction`."""
    return {f"{group}/{name}": x for name, x in figures.items()}
