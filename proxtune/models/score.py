"""The one place that runs a model over given tokens: log-probs, values and rewards of responses that already exist."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from proxtune.data.collate import Tokens, collate_examples, collate_pairs
from proxtune.data.template import PreferenceExample, RatedExample
from proxtune.models.heads import RewardModel, ScalarHead
from proxtune.models.language_model import LanguageModel
from proxtune.objectives import token_entropy

ROWS_AT_ONCE = 32  # of a pass without a gradient; it bounds memory and changes no result


@dataclass(frozen=True)
class Scores:
    """What a model says of given responses; zero where no token stands."""

    logprobs: Tensor  # [B, T]
    values: Tensor | None = None  # [B, T], of the state that each token was chosen in
    entropy: Tensor | None = None  # [B, T], of the distribution that each token was drawn from


def score(
    model: LanguageModel,
    tokens: Tokens,
    *,
    temperature: float = 1.0,
    head: ScalarHead | None = None,
    detach: bool = True,
    entropy: bool = False,
) -> Scores:
    """Log-probs of response tokens, log softmax(logits / temperature), and values of the states they were chosen in.

    The language-model head runs on the states before response tokens only.

    Args:
        temperature: that of the sampler; values never see it.
        head: reads values off the same trunk; with `detach` its gradient stops there.
        entropy: also return the entropy of each next-token distribution, with its gradient.
    """
    hidden, mask = states(model, tokens), tokens.mask
    logits = model.logits(hidden[mask]) / temperature
    chosen = logits.gather(-1, tokens.response_ids[mask][:, None])[:, 0]
    return Scores(
        logprobs=_spread(chosen - logits.logsumexp(-1), mask),
        values=None if head is None else read_values(head, hidden, mask, detach=detach),
        entropy=_spread(token_entropy(logits), mask) if entropy else None,
    )


@torch.no_grad()
def frozen_logprobs(
    model: LanguageModel, tokens: Tokens, *, temperature: float = 1.0, rows_at_once: int = ROWS_AT_ONCE
) -> Tensor:
    """[B, T]: log-probs without a gradient, a few rows at a time."""
    parts = torch.arange(len(tokens)).split(rows_at_once)
    return torch.cat([score(model, tokens[rows], temperature=temperature).logprobs for rows in parts])


def values(model: LanguageModel, head: ScalarHead, tokens: Tokens) -> Tensor:
    """[B, T]: values by a critic with a trunk of its own."""
    return read_values(head, states(model, tokens), tokens.mask, detach=False)


def values_after(model: LanguageModel, head: ScalarHead, tokens: Tokens) -> Tensor:
    """[B]: the value of the state after the last response token, to bootstrap from where the sampler was cut off."""
    return head(_last_states(model, tokens))


def rewards(model: RewardModel, tokens: Tokens) -> Tensor:
    """[B]: the reward model's normalised score, read at the last token of prompt + response."""
    return model.gain * model.head(_last_states(model.lm, tokens)) + model.bias


def pair_rewards(model: RewardModel, pairs: Sequence[PreferenceExample]) -> tuple[Tensor, Tensor]:
    """([N], [N]): scores of the chosen and of the rejected answers, from one pass."""
    chosen, rejected = rewards(model, collate_pairs(pairs).to(model.lm.device)).chunk(2)
    return chosen, rejected


def answer_rewards(model: RewardModel, examples: Sequence[RatedExample]) -> Tensor:
    """[N]: scores of the answers."""
    return rewards(model, collate_examples(examples).to(model.lm.device))


def ratings_of(examples: Sequence[RatedExample]) -> Tensor:
    """[N]: what people gave them."""
    return torch.tensor([example.rating for example in examples])


def states(model: LanguageModel, tokens: Tokens) -> Tensor:
    """[B, T, H]: the hidden state that each response token was chosen in (that of the token before it)."""
    steps = torch.arange(tokens.response_ids.shape[1], device=tokens.response_ids.device)
    before = (tokens.prompt_lengths[:, None] + steps - 1).clamp(max=_width(tokens) - 1)
    return _pick(model.hidden(join(tokens)), before)


def join(tokens: Tokens) -> Tensor:
    """[B, S]: prompt and response in one row without a gap, padded on the right only."""
    column = torch.arange(_width(tokens), device=tokens.prompt_ids.device)[None]
    start = tokens.prompt_lengths[:, None]
    prompt = tokens.prompt_ids.gather(1, column.clamp(max=tokens.prompt_ids.shape[1] - 1).expand(len(tokens), -1))
    response = tokens.response_ids.gather(1, (column - start).clamp(0, tokens.response_ids.shape[1] - 1))
    return torch.where(column < start, prompt, response)


def read_values(head: ScalarHead, hidden: Tensor, mask: Tensor, *, detach: bool) -> Tensor:
    """[B, T, H] -> [B, T], zero outside the mask."""
    return torch.where(mask, head(hidden.detach() if detach else hidden), 0)


def _last_states(model: LanguageModel, tokens: Tokens) -> Tensor:
    last = tokens.prompt_lengths + tokens.response_lengths - 1
    return _pick(model.hidden(join(tokens)), last[:, None])[:, 0]


def _width(tokens: Tokens) -> int:
    return int((tokens.prompt_lengths + tokens.response_lengths).max())


def _pick(hidden: Tensor, index: Tensor) -> Tensor:
    return hidden.gather(1, index[..., None].expand(-1, -1, hidden.shape[-1]))


def _spread(flat: Tensor, mask: Tensor) -> Tensor:
    """[N] values of the counted slots -> [B, T], zero elsewhere."""
    return torch.zeros(mask.shape, dtype=flat.dtype, device=flat.device).masked_scatter(mask, flat)
