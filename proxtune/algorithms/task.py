"""A classic task: a head and the trunk below it learn the labels of texts, words or spans."""

from collections.abc import Mapping, Sequence
from typing import Any

from proxtune.algorithms.sft import SFTConfig
from proxtune.evaluation.task import Task
from proxtune.models.heads import TaskModel
from proxtune.models.language_model import copy_into
from proxtune.models.rates import layer_factors
from proxtune.training.metrics import Metrics, Tally
from proxtune.training.optim import OptimConfig, Optimizer


class TaskTrainer:
    """Maximum likelihood of the labels; the task says what its loss is averaged over.

    Args:
        model: whose trunk has its weights to train marked (`models.peft.tune`).
        total_steps: for the learning-rate schedule.
    """

    def __init__(
        self,
        model: TaskModel,
        task: Task,
        config: SFTConfig | None = None,
        *,
        optim: OptimConfig | None = None,
        total_steps: int = 0,
    ) -> None:
        self.model, self.task, self.config = model, task, config or SFTConfig()
        optim = optim or OptimConfig()
        self.optimizer = Optimizer(
            {"model": list(model.lm.trained().values()), "head": list(model.head.parameters())},
            optim,
            total=total_steps,
            rates={"head": self.config.head_learning_rate or optim.learning_rate},
            factors=layer_factors(model.lm, optim.layer_decay),
            patience=1,
        )
        model.lm.follow(self.optimizer.adam, total_steps)
        self.steps = 0

    def step(self, batch: Sequence[Any]) -> Metrics:
        """One optimiser step over the examples of `batch`; the size of micro-batches changes no gradient."""
        self.model.lm.module.train()
        self.model.head.train()
        self.optimizer.begin(self.steps)
        count, sums = self.task.count(batch), Tally()
        size = self.config.microbatch_size or len(batch)
        for start in range(0, len(batch), size):
            loss, stats = self.task.loss(self.model, batch[start : start + size], count=count)
            loss.backward()
            sums.add({"loss": loss.detach(), **stats})
        self.model.lm.regularise()
        self.steps += 1
        tokens = sum(len(example.prompt_ids) for example in batch)
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
            "adapter": self.model.lm.adapter_state(),
            "optimizer": self.optimizer.state(),
            "steps": self.steps,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state` was taken."""
        copy_into(self.model.lm.trained(), state["model"])
        copy_into(dict(self.model.head.named_parameters()), state["head"])
        self.model.lm.load_adapter_state(state["adapter"])
        self.optimizer.load_state(state["optimizer"])
        self.steps = state["steps"]
