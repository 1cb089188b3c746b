"""Reward modelling: learn a score from pairs of answers, the better one first."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field, PositiveInt

from proxtune.config import Section
from proxtune.data.template import PreferenceExample
from proxtune.models.heads import RewardModel
from proxtune.models.language_model import copy_into
from proxtune.models.score import pair_rewards
from proxtune.objectives import bradley_terry_loss
from proxtune.training.metrics import Metrics, Tally
from proxtune.training.optim import OptimConfig, Optimizer


class RewardModelConfig(Section):
    """`reward_model`: the algorithm."""

    batch_size: PositiveInt = Field(16, description="pairs of an optimiser step")
    microbatch_size: PositiveInt | None = Field(
        None, description="pairs of a forward pass; divides batch_size, changes no result"
    )
    head_learning_rate: float | None = Field(
        None, gt=0, description="of the new head; by default 5 times optim.learning_rate"
    )

    def problems(self) -> list[tuple[str, str]]:
        if self.microbatch_size and self.batch_size % self.microbatch_size:
            return [
                (
                    "microbatch_size",
                    f"{self.microbatch_size} does not divide batch_size={self.batch_size}; set a divisor",
                )
            ]
        return []


class RewardTrainer:
    """Bradley–Terry likelihood of the better answer (Ouyang et al. 2022, arXiv 2203.02155, section 3.5).

    Args:
        model: whose trunk has its weights to train marked (`models.peft.tune`).
        total_steps: for the learning-rate schedule.
    """

    def __init__(
        self,
        model: RewardModel,
        config: RewardModelConfig | None = None,
        *,
        optim: OptimConfig | None = None,
        total_steps: int = 0,
    ) -> None:
        self.model, self.config = model, config or RewardModelConfig()
        optim = optim or OptimConfig()
        self.optimizer = Optimizer(
            {"model": list(model.lm.trained().values()), "head": list(model.head.parameters())},
            optim,
            total=total_steps,
            rates={"head": self.config.head_learning_rate or 5 * optim.learning_rate},
            patience=1,
        )
        self.steps = 0

    def step(self, batch: Sequence[PreferenceExample]) -> Metrics:
        """One optimiser step over the pairs of `batch`."""
        self.model.lm.module.train()
        self.optimizer.begin(self.steps)
        sums = Tally()
        size = self.config.microbatch_size or len(batch)
        for start in range(0, len(batch), size):
            part = batch[start : start + size]
            loss, stats = bradley_terry_loss(*pair_rewards(self.model, part))
            share = len(part) / len(batch)
            (loss * share).backward()
            sums.add({name: x * share for name, x in {"loss": loss.detach(), **stats}.items()})
        self.steps += 1
        tokens = sum(2 * len(p.prompt_ids) + len(p.chosen_ids) + len(p.rejected_ids) for p in batch)
        return self.optimizer.apply(
            sums.total() | {"optim/learning_rate": self.optimizer.learning_rate, "tokens": float(tokens)}
        )

    def samples(self) -> list[dict[str, Any]]:
        """Nothing is sampled in supervised training."""
        return []

    def state(self) -> dict[str, Any]:
        """All that a later process needs to go on bit for bit."""
        return {
            "model": {name: p.detach() for name, p in self.model.lm.trained().items()},
            "head": {name: p.detach() for name, p in self.model.head.named_parameters()},
            "optimizer": self.optimizer.state(),
            "steps": self.steps,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state` was taken."""
        copy_into(self.model.lm.trained(), state["model"])
        copy_into(dict(self.model.head.named_parameters()), state["head"])
        self.optimizer.load_state(state["optimizer"])
        self.steps = state["steps"]


@torch.no_grad()
def normalise(model: RewardModel, pairs: Sequence[PreferenceExample], rows_at_once: int = 32) -> None:
    """Set gain and bias so that these answers score mean 0 and standard deviation 1 (Ziegler et al. 2019, 2.1)."""
    model.lm.module.eval()  # dropout would be noise in a scale that is kept
    model.gain, model.bias = 1.0, 0.0
    parts = [torch.cat(pair_rewards(model, pairs[i : i + rows_at_once])) for i in range(0, len(pairs), rows_at_once)]
    scores = torch.cat(parts).double()
    model.gain = 1 / max(float(scores.std(unbiased=False)), 1e-8)
    model.bias = -float(scores.mean()) * model.gain
