"""A classic task: a head and the trunk below it learn the labels of texts, words or spans."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from proxtune.algorithms.sft import SFTConfig
from proxtune.algorithms.supervised import Supervised
from proxtune.evaluation.task import Task
from proxtune.models.heads import LinearHead, TaskModel
from proxtune.models.language_model import LanguageModel
from proxtune.training.optim import OptimConfig


class TaskTrainer(Supervised):
    """Maximum likelihood of the labels; the task says what its loss is averaged over.

    Args:
        model: whose trunk has its weights to train marked (`models.peft.tune`).
        total_steps: for the learning-rate schedule; autocast: see `Supervised.begin`.
    """

    def __init__(
        self,
        model: TaskModel,
        task: Task,
        config: SFTConfig | None = None,
        *,
        optim: OptimConfig | None = None,
        total_steps: int = 0,
        autocast: bool = False,
    ) -> None:
        self.model, self.task, self.config = model, task, config or SFTConfig()
        rate = self.config.head_learning_rate
        self.begin(optim or OptimConfig(), total_steps, head_rate=rate, autocast=autocast)

    @property
    def parts(self) -> tuple[LanguageModel, LinearHead]:
        return self.model.lm, self.model.head

    def count(self, batch: Sequence[Any]) -> float:
        return self.task.count(batch)

    def tokens(self, batch: Sequence[Any]) -> int:
        return sum(len(example.prompt_ids) for example in batch)

    def loss(self, examples: Sequence[Any], *, count: float) -> tuple[Tensor, dict[str, Tensor]]:
        return self.task.loss(self.model, examples, count=count)
