"""Reward modelling: learn a score from pairs of answers, the better one first, or from answers that people rated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, pstdev
from typing import Any, Generic, TypeVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from proxtune.algorithms.supervised import BatchConfig, Supervised
from proxtune.data.template import PreferenceExample, RatedExample
from proxtune.errors import DataError
from proxtune.models.heads import RewardModel, ScalarHead
from proxtune.models.language_model import LanguageModel
from proxtune.models.score import ROWS_AT_ONCE, answer_rewards, pair_rewards, ratings_of
from proxtune.objectives import bradley_terry_loss, rating_loss
from proxtune.training.optim import OptimConfig

E = TypeVar("E")


class RewardModelConfig(BatchConfig):
    """`reward_model`: the algorithm."""

    batch_size: PositiveInt = Field(16, description="pairs, or rated answers, of an optimiser step")
    microbatch_size: PositiveInt | None = Field(
        None, description="of them, those of a forward pass; divides batch_size, changes no result"
    )
    head_learning_rate: float | None = Field(
        None, gt=0, description="of the new head; by default 5 times optim.learning_rate"
    )


@dataclass(frozen=True)
class Judgements(Generic[E]):
    """A form that judgements come in, and what is learnt of it.

    loss: the mean over N examples, and its stats; scores: of all answers in them; tokens: of one example.
    """

    loss: Callable[[RewardModel, Sequence[E]], tuple[Tensor, dict[str, Tensor]]]
    scores: Callable[[RewardModel, Sequence[E]], Tensor]
    tokens: Callable[[E], int]


PAIRS = Judgements[PreferenceExample](
    loss=lambda model, pairs: bradley_terry_loss(*pair_rewards(model, pairs)),
    scores=lambda model, pairs: torch.cat(pair_rewards(model, pairs)),
    tokens=lambda pair: 2 * len(pair.prompt_ids) + len(pair.chosen_ids) + len(pair.rejected_ids),
)
RATINGS = Judgements[RatedExample](
    loss=lambda model, rated: rating_loss(answer_rewards(model, rated), ratings_of(rated).to(model.lm.device)),
    scores=answer_rewards,
    tokens=lambda answer: len(answer.prompt_ids) + len(answer.response_ids),
)


class RewardTrainer(Supervised):
    """Learn the score of an answer from what people judged.

    From pairs by the Bradley–Terry likelihood of the better one (Ouyang et al. 2022, arXiv 2203.02155, section 3.5);
    from ratings by least squares, after `standardise`.

    Args:
        model: whose trunk has its weights to train marked (`models.peft.tune`).
        total_steps: for the learning-rate schedule; autocast: see `Supervised.begin`.
    """

    def __init__(
        self,
        model: RewardModel,
        config: RewardModelConfig | None = None,
        *,
        judgements: Judgements[Any] = PAIRS,
        optim: OptimConfig | None = None,
        total_steps: int = 0,
        autocast: bool = False,
    ) -> None:
        self.model, self.config, self.judgements = model, config or RewardModelConfig(), judgements
        optim = optim or OptimConfig()
        rate = self.config.head_learning_rate or 5 * optim.learning_rate
        self.begin(optim, total_steps, head_rate=rate, autocast=autocast)

    @property
    def parts(self) -> tuple[LanguageModel, ScalarHead]:
        return self.model.lm, self.model.head

    def count(self, batch: Sequence[Any]) -> float:
        return len(batch)

    def tokens(self, batch: Sequence[Any]) -> int:
        return sum(self.judgements.tokens(example) for example in batch)

    def loss(self, examples: Sequence[Any], *, count: float) -> tuple[Tensor, dict[str, Tensor]]:
        loss, stats = self.judgements.loss(self.model, examples)
        share = len(examples) / count
        return loss * share, {name: x * share for name, x in stats.items()}


def rating_scale(rated: Sequence[RatedExample]) -> tuple[float, float]:
    """Mean and standard deviation of the ratings. Raises DataError where all are equal: nothing can be learnt."""
    ratings = [example.rating for example in rated]
    mean, deviation = fmean(ratings), pstdev(ratings)
    if deviation == 0:
        raise DataError(f"all {len(ratings)} ratings are {mean:g}: there is nothing to learn from them")
    return mean, deviation


def standardise(rated: Sequence[RatedExample], mean: float, deviation: float) -> list[RatedExample]:
    """The ratings R as (R − mean) / deviation, the scale that scores are learnt on."""
    return [replace(example, rating=(example.rating - mean) / deviation) for example in rated]


@torch.no_grad()
def normalise(
    model: RewardModel,
    examples: Sequence[PreferenceExample] | Sequence[RatedExample],
    *,
    judgements: Judgements[Any] = PAIRS,
    rows_at_once: int = ROWS_AT_ONCE,
) -> None:
    """Set gain and bias so that these answers score mean 0 and standard deviation 1 (Ziegler et al. 2019, 2.1)."""
    model.lm.module.eval()  # dropout would be noise in a scale that is kept
    model.gain, model.bias = 1.0, 0.0
    starts = range(0, len(examples), rows_at_once)
    scores = torch.cat([judgements.scores(model, examples[i : i + rows_at_once]) for i in starts]).double()
    model.gain = 1 / max(float(scores.std(unbiased=False)), 1e-8)
    model.bias = -float(scores.mean()) * model.gain
