"""From logits to the next token: the distribution, and one reproducible draw for each row."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor

from proxtune.config import Section
from proxtune.errors import GenerationError
from proxtune.runs import derive_seed

GROUP = 256  # tokens of the vocabulary that are summed in float32
BELOW_ONE = 1 - 2**-50


class SamplingConfig(Section):
    """`rollout`: how responses are sampled. In training only the temperature may shape the distribution."""

    max_new_tokens: PositiveInt = Field(64, description="length limit of a response, in tokens")
    temperature: float = Field(
        1.0, ge=0, description="logits are divided by it; 0 takes the likeliest token (not in training)"
    )
    top_k: int = Field(0, ge=0, description="keep the k likeliest tokens; 0 keeps all (chat and evaluation only)")
    top_p: float = Field(
        1.0, gt=0, le=1, description="keep the likeliest tokens of this total mass (chat and evaluation only)"
    )
    repetition_penalty: float = Field(
        1.0, gt=0, description="divide the logits of tokens already there (chat and evaluation only)"
    )


def training_problems(config: SamplingConfig) -> list[tuple[str, str]]:
    """What a rollout that is trained on cannot have: the ratio π/π_old would compare two different distributions."""
    why = "the policy would be trained on a distribution that the sampler did not draw from"
    neutral = {"top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
    problems = [
        (name, f"is {getattr(config, name)}, but {why}; set {name}={value}")
        for name, value in neutral.items()
        if getattr(config, name) != value
    ]
    if config.temperature == 0:
        problems.append(("temperature", "is 0, but greedy rollouts explore nothing; set temperature=1.0"))
    return problems


class NotFiniteError(GenerationError):
    """A logit is NaN or +inf in this row of the batch, whose prompt may be told."""

    def __init__(self, row: int, prompt: str | None = None) -> None:
        named = "" if prompt is None else f" (the prompt {prompt!r:.100})"
        super().__init__(
            f"the model's logits are not finite in row {row} of the batch{named}; its weights may have diverged"
        )
        self.row = row


def row_uniforms(seed: int, purpose: str, step: int, rows: Sequence[int], length: int) -> Tensor:
    """[B, length] float64 draws in [0, 1), one generator a row: a row's tokens do not depend on its neighbours."""
    draws = [
        torch.rand(
            length, dtype=torch.float64, generator=torch.Generator().manual_seed(derive_seed(seed, purpose, step, row))
        )
        for row in rows
    ]
    return torch.stack(draws)


@dataclass(frozen=True)
class Draw:
    """One token a row, and what its distribution says: softmax(logits / temperature), unfiltered."""

    tokens: Tensor  # [B]
    logprobs: Tensor  # [B]
    entropy: Tensor  # [B] nats


def next_tokens(
    logits: Tensor,
    uniforms: Tensor,
    config: SamplingConfig,
    seen: list[list[int]] | None = None,
    rows: Sequence[int] | None = None,
) -> Draw:
    """Draw one token a row by inverse CDF.

    Args:
        logits: [B, V] float32; uniforms: [B] in [0, 1), unused when greedy.
        seen: the tokens already in each row, for the repetition penalty.
        rows: where the rows stand in the batch that was asked for, to name one; by default 0, 1, 2, …

    Raises:
        NotFiniteError: a logit is NaN or +inf, or all are −inf, with the number of the row.
    """
    tempered = logits / (config.temperature or 1.0)
    top = tempered.max(-1, keepdim=True).values
    bad = ~top.isfinite()
    if bad.any():
        first = int(bad.nonzero()[0, 0])
        raise NotFiniteError(first if rows is None else rows[first])
    tempered -= top
    mass = tempered.exp()
    total = mass.sum(-1)
    if config.temperature == 0:
        tokens = _filtered(logits, config, seen).argmax(-1)
    elif _filters(config):
        kept = _filtered(logits, config, seen).div(config.temperature).softmax(-1)
        tokens = _by_inverse_cdf(kept, uniforms)
    else:
        tokens = _by_inverse_cdf(mass, uniforms)
    # a mass of 0 may have a log of −inf, whose product with it is NaN; its limit is 0
    entropy = total.log() - torch.linalg.vecdot(mass, tempered.clamp_(min=-1e9)) / total
    return Draw(tokens, tempered.gather(-1, tokens[:, None])[:, 0] - total.log(), entropy)


def _by_inverse_cdf(mass: Tensor, uniforms: Tensor) -> Tensor:
    """[B]: the token at which the cumulative mass [B, V] passes the uniform's share of the whole.

    In two steps, first among groups of tokens and then within one, and in float64 where sums are long: no sum over the
    whole vocabulary is ever made in float32, and only one group a row is walked through.
    """
    groups = F.pad(mass, (0, -mass.shape[-1] % GROUP)).unflatten(-1, (-1, GROUP))
    cumulative = groups.sum(-1).double().cumsum(-1)
    # Below the total by more than rounding, so that the last token with any mass is the largest that can be drawn.
    sought = (uniforms.to(mass.device).double()[:, None] * cumulative[:, -1:]).minimum(cumulative[:, -1:] * BELOW_ONE)
    group = torch.searchsorted(cumulative, sought, right=True)
    within = groups.gather(1, group[..., None].expand(-1, -1, GROUP))[:, 0].double().cumsum(-1)
    sought = sought - (cumulative - groups.sum(-1).double()).gather(1, group)
    sought = sought.clamp(min=0).minimum(within[:, -1:] * BELOW_ONE)
    return group[:, 0] * GROUP + torch.searchsorted(within, sought, right=True)[:, 0]


def _filters(config: SamplingConfig) -> bool:
    return config.top_k > 0 or config.top_p < 1 or config.repetition_penalty != 1


def _filtered(logits: Tensor, config: SamplingConfig, seen: list[list[int]] | None) -> Tensor:
    if config.repetition_penalty != 1 and seen is not None:
        logits = logits.clone()
        for row, ids in enumerate(seen):
            known = torch.tensor(sorted(set(ids)), device=logits.device)
            value = logits[row, known]
            logits[row, known] = torch.where(
                value > 0, value / config.repetition_penalty, value * config.repetition_penalty
            )
    if config.top_k > 0:
        kth = logits.topk(min(config.top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if config.top_p < 1:
        ordered, order = logits.div(max(config.temperature, 1e-6)).softmax(-1).sort(descending=True)
        drop = ordered.cumsum(-1) - ordered >= config.top_p
        logits = logits.masked_fill(drop.gather(-1, order.argsort(-1)), -torch.inf)
    return logits
