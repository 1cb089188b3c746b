"""The record of a batch of responses: what was asked, what was sampled, and what the sampler knew when it did."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from proxtune.data.collate import Tokens
from proxtune.errors import GenerationError
from proxtune.models.heads import ScalarHead
from proxtune.models.language_model import LanguageModel
from proxtune.models.trunk import Below
from proxtune.rollouts.sampling import SamplingConfig


@dataclass(frozen=True)
class Rollout:
    """B sampled responses of at most T tokens. Text is derived from the ids, never the other way round."""

    tokens: Tokens
    truncated: Tensor  # [B] bool: stopped at the length limit, without a stop token
    logprobs: Tensor  # [B, T], of the sampling pass, at the sampling temperature; 0 where no token stands
    entropy: Tensor  # [B, T] nats, of the distribution that each token was drawn from
    values: Tensor | None  # [B, T], of the sampling pass, where the critic shares the trunk
    below: Below | None = (
        None  # [B, S, H], of the sampling pass, where lower blocks are frozen (models.score.frozen_states)
    )

    @property
    def mask(self) -> Tensor:
        """[B, T] bool, from the lengths."""
        return self.tokens.mask

    def __len__(self) -> int:
        return len(self.tokens)


class Sampler(Protocol):
    """Anything that answers prompts: the oracle `generate`, the cached `sample`, and whatever comes after them.

    Args:
        prompts: token ids, one list a row. An encoder-decoder model reads them with its encoder.
        uniforms: [B, max_new_tokens] in [0, 1): the row's own randomness, so that every sampler draws the same tokens.
        head: reads the value of each state off the model's trunk in the same pass.
    """

    def __call__(
        self,
        model: LanguageModel,
        prompts: list[list[int]],
        config: SamplingConfig,
        *,
        uniforms: Tensor,
        head: ScalarHead | None = None,
    ) -> Rollout: ...


def check_room(model: LanguageModel, prompts: list[list[int]], config: SamplingConfig) -> None:
    """Refuse prompts that no sampler can answer: one without a token, or one that leaves no room in the context."""
    if not all(prompts):
        raise GenerationError("a prompt has no token; give the sampler at least one (a BOS token or some text)")
    longest = max(len(prompt) for prompt in prompts)
    if longest + config.max_new_tokens > model.context:
        raise GenerationError(
            f"a prompt of {longest} tokens and max_new_tokens={config.max_new_tokens} do not fit "
            f"the model's context of {model.context}; shorten the prompt or set a smaller max_new_tokens"
        )
