"""Learning from given examples, whatever is learnt: micro-batches that add up to a step, and the whole state."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from proxtune.config import Section
from proxtune.models.language_model import LanguageModel, copy_into
from proxtune.models.rates import layer_factors
from proxtune.training.metrics import Metrics, Tally
from proxtune.training.optim import OptimConfig, Optimizer


class BatchConfig(Section):
    """How many examples a step has, and a pass of it."""

    batch_size: PositiveInt = Field(16, description="examples of an optimiser step")
    microbatch_size: PositiveInt | None = Field(
        None, description="examples of a forward pass; divides batch_size, changes no result"
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


class Supervised(ABC):
    """One optimiser step over a batch of examples at a time. An algorithm says what the loss of some of them is."""

    config: BatchConfig
    optimizer: Optimizer
    steps: int
    autocast: bool

    @property
    @abstractmethod
    def parts(self) -> tuple[LanguageModel, nn.Module | None]:
        """The trunk, with its weights to train marked (`models.peft.tune`), and the head that learns beside it."""

    @abstractmethod
    def count(self, batch: Sequence[Any]) -> float:
        """What the loss of a batch is averaged over."""

    @abstractmethod
    def tokens(self, batch: Sequence[Any]) -> int:
        """Tokens of a batch, as they are logged."""

    @abstractmethod
    def loss(self, examples: Sequence[Any], *, count: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss summed over some examples of a batch and divided by `count`, and its stats likewise."""

    def begin(
        self, optim: OptimConfig, total_steps: int, *, head_rate: float | None = None, autocast: bool = False
    ) -> None:
        """Make the optimiser: the trunk's weights, and the head's at a rate of their own.

        Args:
            autocast: the matrix products of a step are made in bfloat16, the head's excepted; weights stay as they are.
        """
        lm, head = self.parts
        groups = {"model": list(lm.trained().values()), "head": list(head.parameters()) if head is not None else []}
        self.optimizer = Optimizer(
            groups,
            optim,
            total=total_steps,
            rates={} if head_rate is None else {"head": head_rate},
            factors=layer_factors(lm, optim.layer_decay),
            patience=1,
        )
        lm.follow(self.optimizer.adam, total_steps)
        self.steps, self.autocast = 0, autocast

    def step(self, batch: Sequence[Any]) -> Metrics:
        """One optimiser step over `batch`; the size of micro-batches changes no gradient."""
        lm, head = self.parts
        for module in (lm.module, head):
            if module is not None:
                module.train()
        self.optimizer.begin(self.steps)
        count, sums = self.count(batch), Tally()
        size = self.config.microbatch_size or len(batch)
        for start in range(0, len(batch), size):
            with torch.autocast(lm.device.type, dtype=torch.bfloat16, enabled=self.autocast):
                loss, stats = self.loss(batch[start : start + size], count=count)
            loss.backward()
            sums.add({"loss": loss.detach(), **stats})
        lm.regularise()
        self.steps += 1
        told = {"optim/learning_rate": self.optimizer.learning_rate, "tokens": float(self.tokens(batch))}
        return self.optimizer.apply(sums.total() | told)

    def samples(self) -> list[dict[str, Any]]:
        """Nothing is sampled in supervised training."""
        return []

    def state(self) -> dict[str, Any]:
        """All that a later process needs to go on bit for bit."""
        lm, head = self.parts
        weights = {"model": {name: p.detach() for name, p in lm.trained().items()}}
        if head is not None:
            weights["head"] = {name: p.detach() for name, p in head.named_parameters()}
        return {
            **weights,
            "adapter": lm.adapter_state(),
            "optimizer": self.optimizer.state(),
            "steps": self.steps,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state` was taken."""
        lm, head = self.parts
        copy_into(lm.trained(), state["model"])
        if head is not None:
            copy_into(dict(head.named_parameters()), state["head"])
        lm.load_adapter_state(state.get("adapter", {}))  # checkpoints of 0.1.0 have none
        self.optimizer.load_state(state["optimizer"])
        self.steps = state["steps"]
