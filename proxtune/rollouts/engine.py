"""Batched sampling that remembers what it has read: a key/value cache, or the state of an LSTM.

Each token is computed once. Its log-prob, the entropy of its distribution and the value of its state come out of the
same pass, so that PPO needs no second forward of the policy. Rows that have ended leave the batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from proxtune.data.collate import Tokens, pad
from proxtune.models.heads import ScalarHead
from proxtune.models.language_model import LanguageModel
from proxtune.objectives import token_entropy
from proxtune.rollouts.cache import Memory, memory_for
from proxtune.rollouts.rollout import Rollout, check_room
from proxtune.rollouts.sampling import SamplingConfig, next_tokens


@dataclass(frozen=True)
class Step:
    """One more token for each of the n rows that are still running."""

    rows: Tensor  # [n] where the row stands in the batch
    tokens: Tensor  # [n]
    logprobs: Tensor  # [n]
    entropy: Tensor  # [n]
    values: Tensor | None  # [n]


@torch.no_grad()
def decode(
    model: LanguageModel,
    prompts: list[list[int]],
    config: SamplingConfig,
    *,
    uniforms: Tensor,
    head: ScalarHead | None = None,
) -> Iterator[Step]:
    """Yield the tokens of all running rows, step by step, until every row has met a stop token or the length limit."""
    check_room(model, prompts, config)
    ids, lengths = (x.to(model.device) for x in pad(prompts))
    memory = memory_for(model, int(lengths.max()) + config.max_new_tokens)
    positions = torch.arange(ids.shape[1], device=model.device).expand_as(ids)
    rows, stops = torch.arange(len(prompts), device=model.device), torch.tensor(model.stop_ids, device=model.device)
    seen = [list(prompt) for prompt in prompts]
    hidden = _advance(model, memory, ids, positions, positions < lengths[:, None])[rows, lengths - 1]
    for t in range(config.max_new_tokens):
        logits = model.logits(hidden)
        tokens, logprobs = next_tokens(
            logits, uniforms[rows.cpu(), t], config, [seen[row] for row in rows.tolist()], rows.tolist()
        )
        values = None if head is None else head(hidden)
        yield Step(rows, tokens, logprobs, token_entropy(logits / (config.temperature or 1.0)), values)
        for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
            seen[row].append(token)
        running = ~torch.isin(tokens, stops)
        if t + 1 == config.max_new_tokens or not running.any():
            return
        if not running.all():
            rows, tokens = rows[running], tokens[running]
            memory.keep(running)
        hidden = _advance(model, memory, tokens[:, None], (lengths[rows] + t)[:, None])[:, 0]


def sample(
    model: LanguageModel,
    prompts: list[list[int]],
    config: SamplingConfig,
    *,
    uniforms: Tensor,
    head: ScalarHead | None = None,
) -> Rollout:
    """Answer all prompts in one batch. See `Sampler` for the arguments."""
    size = (len(prompts), config.max_new_tokens)
    ids = torch.zeros(size, dtype=torch.int64, device=model.device)
    lengths = torch.zeros(len(prompts), dtype=torch.int64, device=model.device)
    logprobs, entropy, values = (torch.zeros(size, device=model.device) for _ in range(3))
    for t, step in enumerate(decode(model, prompts, config, uniforms=uniforms, head=head)):
        ids[step.rows, t], logprobs[step.rows, t], entropy[step.rows, t] = step.tokens, step.logprobs, step.entropy
        if step.values is not None:
            values[step.rows, t] = step.values
        lengths[step.rows] += 1
    width = int(lengths.max())
    prompt_ids, prompt_lengths = (x.to(model.device) for x in pad(prompts))
    last = ids.gather(1, lengths[:, None] - 1)[:, 0]
    return Rollout(
        tokens=Tokens(prompt_ids, prompt_lengths, ids[:, :width], lengths),
        truncated=~torch.isin(last, torch.tensor(model.stop_ids, device=model.device)),
        logprobs=logprobs[:, :width],
        entropy=entropy[:, :width],
        values=None if head is None else values[:, :width],
    )


def _advance(
    model: LanguageModel, memory: Memory, ids: Tensor, positions: Tensor, real: Tensor | None = None
) -> Tensor:
    mask = memory.place(positions, real)
    return model.hidden(ids, positions=positions, mask=mask, cache=memory)
