"""Figures by name, and how those of several batches become one."""

import time
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

Metrics: TypeAlias = dict[str, float]
F = TypeVar("F", bound=Callable[..., Any])
PHASE = "phase: "  # how the profiler's name of a step's phase begins


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


def phase(name: str) -> Callable[[F], F]:
    """A method that is a phase of a step: its seconds go into `self.seconds[name]`, its name into a profile."""

    def decorate(method: F) -> F:
        @wraps(method)
        def timed(self: Any, *args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            with torch.profiler.record_function(PHASE + name):
                result = method(self, *args, **kwargs)
            self.seconds[name] = time.perf_counter() - began
            return result

        return timed  # type: ignore[return-value]

    return decorate
