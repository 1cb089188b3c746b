"""Supervised fine-tuning: raise the likelihood of given responses."""

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor

from proxtune.algorithms.supervised import BatchConfig, Supervised
from proxtune.data.collate import collate_examples
from proxtune.data.template import Example
from proxtune.models.language_model import LanguageModel
from proxtune.models.score import score
from proxtune.objectives import sft_loss
from proxtune.training.optim import OptimConfig


class SFTConfig(BatchConfig):
    """`sft`: the algorithm."""

    head_learning_rate: float | None = Field(
        None, gt=0, description="of a task's new head; by default optim.learning_rate"
    )


class SFT(Supervised):
    """Maximum likelihood of the response tokens after their prompt.

    Args:
        model: with the weights to train marked (`models.peft.tune`).
        total_steps: of the run, for the learning-rate schedule; autocast: see `Supervised.begin`.
    """

    def __init__(
        self,
        model: LanguageModel,
        config: SFTConfig | None = None,
        *,
        optim: OptimConfig | None = None,
        total_steps: int = 0,
        autocast: bool = False,
    ) -> None:
        self.model, self.config = model, config or SFTConfig()
        self.begin(optim or OptimConfig(), total_steps, autocast=autocast)

    @property
    def parts(self) -> tuple[LanguageModel, None]:
        return self.model, None

    def tokens(self, batch: Sequence[Example]) -> int:
        """Response tokens."""
        return sum(len(example.response_ids) for example in batch)

    def count(self, batch: Sequence[Example]) -> float:
        """Raises ValueError: there is nothing to learn."""
        count = self.tokens(batch)
        if not count:
            raise ValueError("the batch has no token to learn; expected examples with a response")
        return count

    def loss(self, examples: Sequence[Example], *, count: float) -> tuple[Tensor, dict[str, Tensor]]:
        tokens = collate_examples(examples).to(self.model.device)
        return sft_loss(score(self.model, tokens).logprobs, tokens.mask, count=count)
