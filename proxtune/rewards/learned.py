"""A trained reward model as a reward."""

import torch
from torch import Tensor

from proxtune.data.collate import Tokens, collate
from proxtune.data.template import encode_prompt
from proxtune.errors import RewardError
from proxtune.models.heads import RewardModel
from proxtune.models.language_model import LanguageModel
from proxtune.models.score import ROWS_AT_ONCE, rewards
from proxtune.rewards.base import Answers, checked


class LearnedReward:
    """Score answers with a reward model: the sampled tokens if it shares the policy's tokenizer, else the text."""

    def __init__(
        self, model: RewardModel, *, same_tokenizer: bool, name: str = "model", rows_at_once: int = ROWS_AT_ONCE
    ) -> None:
        self.model, self.same_tokenizer, self.name, self.rows_at_once = model, same_tokenizer, name, rows_at_once
        self.max_length = model.max_length
        model.lm.module.eval()

    @torch.no_grad()
    def __call__(self, answers: Answers) -> Tensor:
        tokens = answers.tokens if self.same_tokenizer else encode_answers(self.model.lm, answers)
        longest = int((tokens.prompt_lengths + tokens.response_lengths).max())
        if longest > self.max_length:
            raise RewardError(
                f"an answer of {longest} tokens (prompt included) is longer than the {self.max_length} that the "
                "reward model was trained on; set a smaller rollout.max_new_tokens or train the reward model with a "
                "larger data.max_length"
            )
        rows = torch.arange(len(tokens), device=tokens.prompt_ids.device).split(self.rows_at_once)
        return checked(self.name, torch.cat([rewards(self.model, tokens[part]) for part in rows]), len(tokens))


def encode_answers(lm: LanguageModel, answers: Answers) -> Tokens:
    """The texts of answers as `lm` would have been trained on them; one that was cut has no stop token."""
    prompts = [encode_prompt(lm.tokenizer, text) for text in answers.prompts]
    stop = lm.stop_ids[:1]
    cut = answers.truncated or [False] * len(answers.responses)
    responses = [
        [*lm.tokenizer.encode(text, add_special_tokens=False), *(() if was_cut else stop)]
        for text, was_cut in zip(answers.responses, cut, strict=True)
    ]
    return collate(prompts, responses).to(lm.device)
