"""What can be seen to be wrong in the figures of a run: what a check is, and those of every kind of training.

One function a finding, with its threshold in words, which docs/health.md repeats. A check says nothing on short runs,
and looks at several steps at once, so that an odd batch is no finding. PPO's are in `checks_ppo.py`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, variance
from typing import Any, Literal, TypeAlias

from proxtune.config.source import value_at
from proxtune.runs import Row

Level: TypeAlias = Literal["sick", "watch"]
Rows: TypeAlias = Sequence[Row]
Options: TypeAlias = Mapping[str, Any]  # the run's config, nested
Verdict: TypeAlias = tuple[Level, str] | None  # how bad, and the sentence with the measured number
Look: TypeAlias = Callable[[Rows, Options], Verdict]

WINDOW = 5  # steps whose median is how the run stands now
START = 3  # steps whose median is how it began: a sick run may be another one by the fifth


@dataclass(frozen=True)
class Check:
    """A finding that may come: from how many steps on, where it is seen, when, and what then."""

    name: str
    metric: str
    steps: int
    threshold: str
    usually_means: str
    try_: str  # `section.option (× 2)` is filled in with the run's values
    look: Look
    lasting: bool  # looks at evaluations alone, so that no later step can say that it is over


def check(
    name: str, *, metric: str, steps: int, threshold: str, usually_means: str, try_: str, lasting: bool = False
) -> Callable[[Look], Check]:
    """Make the function below a check."""
    return lambda look: Check(name, metric, steps, threshold, usually_means, try_, look, lasting)


def values(rows: Rows, name: str) -> list[float]:
    """The finite figures of that name."""
    return [row[name] for row in rows if name in row and math.isfinite(row[name])]


def first(rows: Rows, name: str) -> float:
    """The median of the first START steps, NaN where the run has no such figure."""
    return median(values(rows[:START], name) or [math.nan])


def last(rows: Rows, name: str, steps: int = WINDOW) -> float:
    """The median of the last `steps`, NaN where the run has no such figure."""
    return median(values(rows[-steps:], name) or [math.nan])


def option(options: Options, name: str, default: Any = None) -> Any:
    """An option's value, the default where the config does not hold it, or null."""
    value = value_at(options, tuple(name.split(".")))
    return default if value is None else value


def beyond(value: float, watch: float, sick: float) -> Level | None:
    """How far a figure that should be low has risen."""
    return "sick" if value > sick else "watch" if value > watch else None


@check(
    "skipped updates",
    metric="gradient/skipped",
    steps=1,
    threshold="`gradient/skipped` above 0 in one of the last 10 steps (watch), or 2 steps' worth (sick)",
    usually_means="a loss overflowed: a learning rate too high, an extreme reward, or half precision",
    try_="lower optim.learning_rate (× 0.3); set model.dtype=float32; look for extreme scores",
)
def _skipped_updates(rows: Rows, _: Options) -> Verdict:
    skipped = sum(values(rows[-10:], "gradient/skipped"))
    level = beyond(skipped, 0, 1.99)
    return level and (level, f"in the last 10 steps, {skipped:.3g} steps' updates had a gradient that is not finite")


@check(
    "loss not finite",
    metric="loss",
    steps=1,
    threshold="`loss`, `policy/loss` or `value/loss` is NaN or infinite (sick)",
    usually_means="the weights or the data hold numbers that are not finite, or the learning rate is far too high",
    try_="lower optim.learning_rate (× 0.1) and begin anew from a checkpoint before this step; set model.dtype=float32",
)
def _loss_not_finite(rows: Rows, _: Options) -> Verdict:
    losses = {name: rows[-1][name] for name in ("loss", "policy/loss", "value/loss") if name in rows[-1]}
    broken = [f"{name} is {loss}" for name, loss in losses.items() if not math.isfinite(loss)]
    return ("sick", " and ".join(broken)) if broken else None


@check(
    "loss does not fall",
    metric="loss",
    steps=45,
    threshold="mean `loss` of the last 15 steps not a standard error below that of the first 15 (watch; sick from "
    "step 150 on), or 3 of them above it (sick)",
    usually_means="the learning rate is too low or undoes what was learnt, or nothing is left to learn",
    try_="change optim.learning_rate: tenfold if the loss is flat, a tenth if it rises; look at the data's counts",
)
def _loss_does_not_fall(rows: Rows, _: Options) -> Verdict:
    begin, end = values(rows[:15], "loss"), values(rows[-15:], "loss")
    if len(begin) < 15 or len(end) < 15:
        return None
    error = math.sqrt((variance(begin) + variance(end)) / 15)
    fall = fmean(begin) - fmean(end)
    if fall >= max(error, 0.002 * fmean(begin)):
        return None
    what = f"the loss went from {fmean(begin):.4g} to {fmean(end):.4g} (standard error {error:.2g})"
    return ("sick" if fall < -3 * error or len(rows) >= 150 else "watch"), what


@check(
    "overfitting",
    metric="loss",
    steps=10,
    threshold="`eval/loss` in two evaluations running 3% (watch) or 10% (sick) above its lowest, while `loss` fell",
    usually_means="the training data is being learnt by heart: too many epochs, or too few examples",
    try_="stop at the lowest eval/loss (training.steps, training.epochs); lower optim.learning_rate (× 0.5); more data",
    lasting=True,
)
def _overfitting(rows: Rows, _: Options) -> Verdict:
    if "eval/loss" not in rows[-1]:
        return None
    held = [(place, row["eval/loss"]) for place, row in enumerate(rows, 1) if "eval/loss" in row]
    best, lowest = min(held, key=lambda each: each[1])
    rise = min(loss for _, loss in held[-2:]) / lowest - 1
    level = beyond(rise, 0.03, 0.1)
    if level is None or not last(rows, "loss", 10) < last(rows[:best], "loss", 10):
        return None
    return level, f"the held-out loss rose from {lowest:.4g} (step {rows[best - 1]['step']}) to {held[-1][1]:.4g}"


@check(
    "accuracy at chance",
    metric="accuracy",
    steps=60,
    threshold="mean `accuracy` of 40 steps below 0.55 (sick)",
    usually_means="chosen and rejected differ in nothing the model sees, are mixed up, or the learning rate is too low",
    try_="read some pairs; raise optim.learning_rate (× 3); see whether data.max_length cuts off where they differ",
)
def _accuracy_at_chance(rows: Rows, _: Options) -> Verdict:
    accuracy = fmean(values(rows[-40:], "accuracy") or [math.nan])
    return ("sick", f"{accuracy:.1%} of the pairs of 40 steps are ranked right") if accuracy < 0.55 else None


@check(
    "learnt by heart",
    metric="accuracy",
    steps=10,
    threshold="mean `accuracy` of 10 steps at least 0.95, and `eval/accuracy` at most 0.6 (sick)",
    usually_means="the reward model knows the training pairs, and nothing that holds beyond them",
    try_="more pairs, on more prompts; fewer steps; lower optim.learning_rate (× 0.3)",
    lasting=True,
)
def _learnt_by_heart(rows: Rows, _: Options) -> Verdict:
    accuracy, held = fmean(values(rows[-10:], "accuracy") or [math.nan]), rows[-1].get("eval/accuracy", math.nan)
    if accuracy >= 0.95 and held <= 0.6:
        return "sick", f"{accuracy:.1%} of the training pairs are ranked right, and {held:.1%} of the held-out ones"
    return None


CHECKS = (
    _skipped_updates,
    _loss_not_finite,
    _loss_does_not_fall,
    _overfitting,
    _accuracy_at_chance,
    _learnt_by_heart,
)
