"""Supervised fine-tuning: raise the likelihood of given responses."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, PositiveInt

from proxtune.config import Section
from proxtune.data.collate import collate_examples
from proxtune.data.template import Example
from proxtune.models.language_model import LanguageModel, copy_into
from proxtune.models.rates import layer_factors
from proxtune.models.score import score
from proxtune.objectives import sft_loss
from proxtune.training.metrics import Metrics, Tally
from proxtune.training.optim import OptimConfig, Optimizer


class SFTConfig(Section):
    """`sft`: the algorithm."""

    batch_size: PositiveInt = Field(16, description="examples of an optimiser step")
    microbatch_size: PositiveInt | None = Field(
        None, description="examples of a forward pass; divides batch_size, changes no result"
    )
    head_learning_rate: float | None = Field(
        None, gt=0, description="of a task's new head; by default optim.learning_rate"
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


class SFT:
    """Maximum likelihood of the response tokens after their prompt.

    Args:
        model: with the weights to train marked (`models.peft.tune`).
        total_steps: of the run, for the learning-rate schedule.
    """

    def __init__(
        self,
        model: LanguageModel,
        config: SFTConfig | None = None,
        *,
        optim: OptimConfig | None = None,
        total_steps: int = 0,
    ) -> None:
        self.model, self.config = model, config or SFTConfig()
        optim = optim or OptimConfig()
        self.optimizer = Optimizer(
            {"model": list(model.trained().values())},
            optim,
            total=total_steps,
            factors=layer_factors(model, optim.layer_decay),
            patience=1,
        )
        model.follow(self.optimizer.adam, total_steps)
        self.steps = 0

    def step(self, batch: Sequence[Example]) -> Metrics:
        """One optimiser step over `batch`."""
        self.model.module.train()
        self.optimizer.begin(self.steps)
        count = sum(len(example.response_ids) for example in batch)
        if not count:
            raise ValueError("the batch has no token to learn; expected examples with a response")
        sums = Tally()
        size = self.config.microbatch_size or len(batch)
        for start in range(0, len(batch), size):
            tokens = collate_examples(batch[start : start + size]).to(self.model.device)
            loss, stats = sft_loss(score(self.model, tokens).logprobs, tokens.mask, count=count)
            loss.backward()
            sums.add({"loss": loss.detach(), **stats})
        self.model.regularise()
        self.steps += 1
        return self.optimizer.apply(
            sums.total() | {"optim/learning_rate": self.optimizer.learning_rate, "tokens": float(count)}
        )

    def samples(self) -> list[dict[str, Any]]:
        """Nothing is sampled in supervised training."""
        return []

    def state(self) -> dict[str, Any]:
        """All that a later process needs to go on bit for bit."""
        weights = {name: p.detach() for name, p in self.model.trained().items()}
        return {
            "model": weights,
            "adapter": self.model.adapter_state(),
            "optimizer": self.optimizer.state(),
            "steps": self.steps,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state` was taken."""
        copy_into(self.model.trained(), state["model"])
        self.model.load_adapter_state(state.get("adapter", {}))
        self.optimizer.load_state(state["optimizer"])
        self.steps = state["steps"]
