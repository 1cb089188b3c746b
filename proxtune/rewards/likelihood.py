"""A frozen teacher as a reward: how likely another language model finds the answer."""

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from proxtune.errors import RewardError
from proxtune.models.language_model import LanguageModel
from proxtune.models.score import ROWS_AT_ONCE, frozen_logprobs
from proxtune.rewards.base import Answers
from proxtune.rewards.learned import encode_answers

Likelihood: TypeAlias = Literal["mean", "sum"]


class TeacherLikelihood:
    """R = Σ_t log p(y_t | x, y_<t) under the teacher, in nats; or that sum divided by the number of tokens, the mean.

    Every token makes the sum smaller, so it rewards an answer for being short: its best answer is often none at all.
    The mean compares answers of any length. The teacher's tokens are the sampled ones if it reads as the policy does,
    else those of the text; an answer without any, such as "" cut at the length limit, has no score (NaN).
    """

    def __init__(
        self,
        teacher: LanguageModel,
        *,
        same_tokenizer: bool,
        likelihood: Likelihood = "mean",
        name: str = "teacher",
        rows_at_once: int = ROWS_AT_ONCE,
    ) -> None:
        self.teacher, self.same_tokenizer, self.likelihood = teacher, same_tokenizer, likelihood
        self.name, self.rows_at_once, self.max_length = name, rows_at_once, teacher.context
        teacher.module.eval()

    def __call__(self, answers: Answers) -> Tensor:
        tokens = answers.tokens if self.same_tokenizer else encode_answers(self.teacher, answers)
        longest = int((tokens.prompt_lengths + tokens.response_lengths).max())
        if longest > self.max_length:
            raise RewardError(
                f"an answer of {longest} tokens (prompt included) is longer than the context of {self.max_length} "
                f"of the teacher {self.name!r}; set a smaller rollout.max_new_tokens, or data.max_length"
            )
        logprobs = frozen_logprobs(self.teacher, tokens, rows_at_once=self.rows_at_once)
        if not logprobs.isfinite().all():
            raise RewardError(f"log-probs of the teacher {self.name!r} are not finite; its weights may have diverged")
        total, counts = logprobs.sum(1), tokens.response_lengths
        scores = total / counts if self.likelihood == "mean" else total
        return torch.where(counts > 0, scores, torch.nan).float().cpu()
