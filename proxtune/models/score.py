"""The one place that runs a model over given tokens: log-probs, values and rewards of responses that already exist."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from proxtune.data.collate import Tokens, collate_examples, collate_pairs, length_mask
from proxtune.data.template import PreferenceExample, RatedExample
from proxtune.models import trunk
from proxtune.models.encoder_decoder import EncoderDecoder
from proxtune.models.heads import RewardModel, ScalarHead
from proxtune.models.language_model import LanguageModel
from proxtune.models.rows import Rows
from proxtune.models.trunk import Below
from proxtune.models.vocabulary import token_logprobs

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
    below: Below | None = None,
) -> Scores:
    """Log-probs of response tokens, log softmax(logits / temperature), and values of the states they were chosen in.

    Rows are run without padding; the head runs on the states before response tokens only, a few at a time.

    Args:
        temperature: that of the sampler; values never see it.
        head: reads values off the same trunk; with `detach` its gradient stops there.
        entropy: also return the entropy of each next-token distribution, with its gradient.
        below: see `frozen_states`.
    """
    hidden, mask = states(model, tokens, below), tokens.mask
    tempered = model.head._replace(temperature=temperature)
    logprobs, entropies = token_logprobs(hidden, tokens.response_ids[mask], tempered, entropy=entropy)
    return Scores(
        logprobs=_spread(logprobs, mask),
        values=None if head is None else _spread(head(hidden.detach() if detach else hidden), mask),
        entropy=_spread(entropies, mask) if entropy else None,
    )


@torch.no_grad()
def frozen_logprobs(
    model: LanguageModel,
    tokens: Tokens,
    *,
    temperature: float = 1.0,
    rows_at_once: int = ROWS_AT_ONCE,
    below: Below | None = None,
) -> Tensor:
    """[B, T]: log-probs without a gradient, a few rows at a time."""
    found = []
    for rows in torch.arange(len(tokens)).split(rows_at_once):
        beneath = None if below is None else below[rows]
        found.append(score(model, tokens[rows], temperature=temperature, below=beneath).logprobs)
    return torch.cat(found)


@torch.no_grad()
def frozen_states(model: LanguageModel, tokens: Tokens, *, rows_at_once: int = ROWS_AT_ONCE) -> Below | None:
    """[B, S, H]: what leaves the blocks that this run does not train, for each token that `states` needs but the top.

    None where it trains others than the top blocks, or all of them.
    """
    count = model.frozen_blocks
    if not count:
        return None
    found = tokens.prompt_ids.new_zeros(len(tokens), _width(tokens), model.hidden_size, dtype=model.module.dtype)
    with trunk.end_below(model.module, count), trunk.capture(model.module, count) as noted:
        for part in torch.arange(len(tokens)).split(rows_at_once):
            lengths = _needed(tokens[part])
            rows = Rows(lengths.tolist(), device=model.device)
            model.run(join(tokens[part])[length_mask(lengths, _width(tokens[part]))], rows)
            found[part.to(found.device)[rows.places], rows.positions] = noted.pop()
    return Below(found, count)


def values(model: LanguageModel, head: ScalarHead, tokens: Tokens, below: Below | None = None) -> Tensor:
    """[B, T]: values by a critic with a trunk of its own."""
    return _spread(head(states(model, tokens, below)), tokens.mask)


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


def states(model: LanguageModel, tokens: Tokens, below: Below | None = None) -> Tensor:
    """[N, H]: the hidden states that the N response tokens were chosen in (those of the tokens before), row by row.

    Args:
        below: [B, S, H], `frozen_states` of these rows: only the blocks above the frozen ones are run.
    """
    if isinstance(model, EncoderDecoder):
        return model.token_states(tokens)
    lengths, width = _needed(tokens), _width(tokens)
    kept = length_mask(lengths, width)
    rows = Rows(lengths.tolist(), device=model.device)
    hidden = model.run(join(tokens)[kept], rows, below=None if below is None else below[:, :width][kept])
    row, t = tokens.mask.nonzero(as_tuple=True)
    chooses = torch.zeros_like(kept)
    chooses[row, tokens.prompt_lengths[row] + t - 1] = True
    return hidden[chooses[kept]]


def row_states(
    model: LanguageModel, texts: Sequence[Sequence[int]], second: Sequence[int] | None = None
) -> tuple[Tensor, Rows]:
    """The states [N, H] of all tokens of whole rows, one row after the other, and where each row stands.

    Args:
        second: where each row's second text begins; an encoder that tells two texts apart reads it as such.
    """
    rows = Rows([len(ids) for ids in texts], device=model.device)
    ids = torch.tensor([token for row in texts for token in row], device=model.device)
    segments = None
    if second is not None and getattr(model.module.config, "type_vocab_size", 0) > 1:
        segments = (rows.positions >= torch.tensor(second, device=model.device)[rows.places]).long()
    return model.run(ids, rows, segments=segments), rows


def states_at(
    model: LanguageModel,
    texts: Sequence[Sequence[int]],
    places: Sequence[Sequence[int]],
    second: Sequence[int] | None = None,
) -> Tensor:
    """[N, H]: the states at some tokens of each row, one row after the other."""
    hidden, rows = row_states(model, texts, second)
    *begins, _ = itertools.accumulate(rows.lengths, initial=0)
    return hidden[[begin + place for begin, at in zip(begins, places, strict=True) for place in at]]


def pooled_states(model: LanguageModel, texts: Sequence[Sequence[int]], second: Sequence[int] | None = None) -> Tensor:
    """[B, H]: one state a row, its last where the model reads forwards alone, the mean of all in an encoder."""
    hidden, rows = row_states(model, texts, second)
    lengths = torch.tensor(rows.lengths, device=hidden.device)
    if model.causal:
        return hidden[lengths.cumsum(0) - 1]
    return hidden.new_zeros(len(texts), hidden.shape[1]).index_add(0, rows.places, hidden) / lengths[:, None]


def join(tokens: Tokens) -> Tensor:
    """[B, S]: prompt and response in one row without a gap, padded on the right only."""
    column = torch.arange(_width(tokens), device=tokens.prompt_ids.device)[None]
    start = tokens.prompt_lengths[:, None]
    prompt = tokens.prompt_ids.gather(1, column.clamp(max=tokens.prompt_ids.shape[1] - 1).expand(len(tokens), -1))
    response = tokens.response_ids.gather(1, (column - start).clamp(0, tokens.response_ids.shape[1] - 1))
    return torch.where(column < start, prompt, response)


def _last_states(model: LanguageModel, tokens: Tokens) -> Tensor:
    """[B, H]: the hidden states of the rows' last tokens."""
    if isinstance(model, EncoderDecoder):
        return model.token_states(tokens, last=True)
    lengths = tokens.prompt_lengths + tokens.response_lengths
    hidden = model.run(join(tokens)[length_mask(lengths, _width(tokens))], Rows(lengths.tolist(), device=model.device))
    return hidden[lengths.cumsum(0) - 1]


def _needed(tokens: Tokens) -> Tensor:
    """[B]: tokens of each row but the last of its response, in whose state nothing is chosen."""
    return tokens.prompt_lengths + (tokens.response_lengths - 1).clamp(min=0)


def _width(tokens: Tokens) -> int:
    return int((tokens.prompt_lengths + tokens.response_lengths).max())


def _spread(flat: Tensor, mask: Tensor) -> Tensor:
    """[N] values of the counted slots -> [B, T], zero elsewhere."""
    return torch.zeros(mask.shape, dtype=flat.dtype, device=flat.device).masked_scatter(mask, flat)
