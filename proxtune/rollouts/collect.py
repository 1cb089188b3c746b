"""Sample the responses of one step: chunk, seed every row, join."""

from collections.abc import Sequence

import torch

from proxtune.data.collate import Tokens, pad
from proxtune.data.template import PromptExample, encode_prompt
from proxtune.models.heads import ScalarHead
from proxtune.models.language_model import LanguageModel
from proxtune.rollouts.rollout import Rollout, Sampler
from proxtune.rollouts.sampling import NotFiniteError, SamplingConfig, row_uniforms

ROWS_SAMPLED_AT_ONCE = 64  # it bounds memory and changes no token


def as_prompts(model: LanguageModel, prompts: Sequence[str | PromptExample]) -> list[PromptExample]:
    """Plain strings encoded as the data layer would; examples as they are."""
    tokenizer = model.tokenizer
    return [PromptExample(encode_prompt(tokenizer, p), p, {}, "") if isinstance(p, str) else p for p in prompts]


def collect(
    model: LanguageModel,
    prompts: Sequence[list[int]],
    config: SamplingConfig,
    *,
    sampler: Sampler,
    seed: int,
    step: int,
    head: ScalarHead | None = None,
    rows_at_once: int = ROWS_SAMPLED_AT_ONCE,
) -> Rollout:
    """One response to each prompt. Row i of step s draws from a generator seeded by (seed, "rollout", s, i).

    Args:
        head: reads values off the policy's trunk in the sampling pass (shared critic).
        rows_at_once: how many rows the sampler holds at a time; it bounds memory and changes no token.
    """
    chunks = []
    for start in range(0, len(prompts), rows_at_once):
        part = list(prompts[start : start + rows_at_once])
        uniforms = row_uniforms(seed, "rollout", step, range(start, start + len(part)), config.max_new_tokens)
        try:
            chunks.append(sampler(model, part, config, uniforms=uniforms, head=head))
        except NotFiniteError as error:
            raise NotFiniteError(start + error.row, model.text(part[error.row])) from error
    return chunks[0] if len(chunks) == 1 else join(prompts, chunks)


def join(prompts: Sequence[list[int]], chunks: Sequence[Rollout]) -> Rollout:
    """Several rollouts as one, padded to the longest response."""
    width = max(chunk.mask.shape[1] for chunk in chunks)

    def joined(parts: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat([torch.nn.functional.pad(x, (0, width - x.shape[1])) for x in parts])

    prompt_ids, prompt_lengths = (x.to(chunks[0].truncated.device) for x in pad(prompts))
    return Rollout(
        tokens=Tokens(
            prompt_ids,
            prompt_lengths,
            joined([c.tokens.response_ids for c in chunks]),
            torch.cat([c.tokens.response_lengths for c in chunks]),
        ),
        truncated=torch.cat([c.truncated for c in chunks]),
        logprobs=joined([c.logprobs for c in chunks]),
        entropy=joined([c.entropy for c in chunks]),
        values=None if chunks[0].values is None else joined([c.values for c in chunks if c.values is not None]),
    )
