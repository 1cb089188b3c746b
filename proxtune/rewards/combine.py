"""Several rewards as one, and one reward on a steady scale."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from proxtune.errors import ConfigError
from proxtune.rewards.base import Answers, Reward


def weight_of(text: str) -> float:
    """A weight as it is written behind a reward's name. Raises ValueError for what is not a finite number."""
    weight = float(text)
    if not math.isfinite(weight):
        raise ValueError(f"the weight {text!r} is not a finite number")
    return weight


class WeightedSum:
    """Σ weight · reward. `parts` keeps the last unweighted scores of each, for the curves."""

    name = "sum"

    def __init__(self, rewards: list[tuple[Reward, float]]) -> None:
        names = ["mean", "std", *(reward.name for reward, _ in rewards)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(
                f"rewards need names of their own beside mean and std: {', '.join(twice)} is taken; rename one"
            )
        self.rewards = rewards
        self.parts: dict[str, Tensor] = {}

    def __call__(self, answers: Answers) -> Tensor:
        self.parts = {reward.name: reward(answers) for reward, _ in self.rewards}
        return torch.stack([weight * self.parts[reward.name] for reward, weight in self.rewards]).sum(0)


class RunningScale:
    """Divide scores by the standard deviation of all scores so far; the mean stays (advantages are centred later).

    Mean and variance by Chan et al. 1979, in float64.
    """

    def __init__(self) -> None:
        self.count, self.mean, self.m2 = 0, 0.0, 0.0

    def __call__(self, scores: Tensor) -> Tensor:
        """[B] -> [B]; unchanged until two scores differ. NaN, no score, stays and counts for nothing."""
        batch = scores[~scores.isnan()].double()
        if not len(batch):
            return scores
        count, mean = len(batch), float(batch.mean())
        total, gap = self.count + count, mean - self.mean
        self.m2 += float(((batch - mean) ** 2).sum()) + gap**2 * self.count * count / total
        self.mean += gap * count / total
        self.count = total
        deviation = math.sqrt(self.m2 / self.count)
        return scores / deviation if deviation > 0 else scores

    def state(self) -> dict[str, Any]:
        return {"count": self.count, "mean": self.mean, "m2": self.m2}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.count, self.mean, self.m2 = state["count"], state["mean"], state["m2"]
