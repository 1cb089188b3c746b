"""What people are asked in an iteration: pairs of the policy's answers, and the new policy beside the old."""

import itertools
from collections.abc import Iterable, Sequence
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proxtune.data.records import Message, PromptLike, prompt_row
from proxtune.data.template import PromptExample, encode_prompt
from proxtune.evaluation.run import fresh_answers
from proxtune.feedback.choose import informative
from proxtune.feedback.records import Candidate, Item, PairBody, Turn
from proxtune.feedback.store import Store
from proxtune.models import trunk
from proxtune.models.encoder_decoder import EncoderDecoder
from proxtune.models.language_model import LanguageModel, frozen
from proxtune.models.score import ROWS_AT_ONCE, row_states
from proxtune.rollouts.sampling import SamplingConfig
from proxtune.runs import derive_seed

PRIOR = 0.01  # variance of a weight of `differences`: it ranked held-out film reviews best, from 0.001 to 1


class Pair(NamedTuple):
    """Two answers to one prompt."""

    prompt: PromptLike
    first: str
    second: str


class Judged(NamedTuple):
    """A pair, and how often the first answer was preferred, a tie as a half."""

    pair: Pair
    preferred: float


def answers_to(
    model: LanguageModel, prompts: Sequence[PromptExample], config: SamplingConfig, *, count: int, seed: int
) -> list[list[str]]:
    """`count` answers to each prompt, drawn alike for every model: [prompt][answer]."""
    seeds = [derive_seed(seed, "answer", number) for number in range(count)]
    drawn = [fresh_answers(model, prompts, config, seed=each).responses for each in seeds]
    return [list(texts) for texts in zip(*drawn, strict=True)]


def pairs_of(prompts: Iterable[PromptLike], answers: Iterable[Sequence[str]]) -> list[Pair]:
    """Every two different answers to one prompt."""
    return [
        Pair(prompt, first, second)
        for prompt, texts in zip(prompts, answers, strict=True)
        for first, second in itertools.combinations(dict.fromkeys(texts), 2)
    ]


def chosen(
    model: LanguageModel, pairs: Sequence[Pair], judged: Sequence[Judged], count: int, *, how: str, seed: int
) -> list[Pair]:
    """The pairs to ask about, the most telling first."""
    if how == "random":
        return Random(seed).sample(list(pairs), min(count, len(pairs)))  # noqa: S311 (no secret)
    x = differences(model, [*pairs, *(one.pair for one in judged)])
    found = informative(
        x[: len(pairs)], count, judged=x[len(pairs) :], outcomes=[one.preferred for one in judged], prior=PRIOR
    )
    return [pairs[place] for place in found]


def differences(model: LanguageModel, pairs: Sequence[Pair]) -> NDArray[np.float64]:
    """[N, H]: the mean state of the first answer, halfway up the model, less that of the second; mean square 1."""
    texts = list(dict.fromkeys((pair.prompt, text) for pair in pairs for text in (pair.first, pair.second)))
    answers = [model.tokenizer.encode(text, add_special_tokens=False) for _, text in texts]
    rows = [
        [*encode_prompt(model.tokenizer, prompt), *answer][-model.context :]
        for (prompt, _), answer in zip(texts, answers, strict=True)
    ]
    begins = [max(len(row) - len(answer), 0) for row, answer in zip(rows, answers, strict=True)]
    parts = [slice(start, start + ROWS_AT_ONCE) for start in range(0, len(rows), ROWS_AT_ONCE)]
    with frozen(model.module):
        found = [middle_states(model, rows[part], begins[part]).float().cpu() for part in parts]
    place = {key: number for number, key in enumerate(texts)}
    states = torch.cat(found).double().numpy()
    firsts = [place[pair.prompt, pair.first] for pair in pairs]
    seconds = [place[pair.prompt, pair.second] for pair in pairs]
    x: NDArray[np.float64] = states[firsts] - states[seconds]
    size = np.sqrt((x**2).mean(0))
    x /= np.where(size > 0, size, 1.0)
    return x


def middle_states(model: LanguageModel, texts: Sequence[Sequence[int]], begins: Sequence[int]) -> Tensor:
    """[B, H]: the mean state of each row's tokens from `begins` on, halfway up the model; zeros where there are none.

    What a text says is easiest to read off there: above, states turn to the next token. It is the last state where no
    pass could end halfway: in a recurrent model, one of two halves, or one with virtual tokens.
    """
    whole = isinstance(model, EncoderDecoder) or model.virtual is not None
    half = 0 if whole else len(trunk.blocks(model.module)[1]) // 2
    if half:
        with trunk.end_below(model.module, half), trunk.capture(model.module, half) as noted:
            _, rows = row_states(model, texts)
        hidden = noted.pop()
    else:
        hidden, rows = row_states(model, texts)
    counted = rows.positions >= torch.tensor(begins, device=hidden.device)[rows.places]
    sums = hidden.new_zeros(len(texts), hidden.shape[1]).index_add(0, rows.places[counted], hidden[counted])
    return sums / torch.bincount(rows.places[counted], minlength=len(texts)).clamp(min=1)[:, None]


def items(
    pairs: Sequence[Pair], *, batch: str, people: int, again: float, sources: tuple[str, str], seed: int
) -> list[Item]:
    """Pairs as questions, the first to be asked first; a share of them for one person more."""
    twice = set(Random(seed).sample(range(len(pairs)), round(again * len(pairs))))  # noqa: S311 (no secret)
    return [
        Item(
            kind="pair",
            prompt=as_turns(pair.prompt),
            candidates=(
                Candidate(text=pair.first, source=sources[0]),
                Candidate(text=pair.second, source=sources[1]),
            ),
            overlap=people + (place in twice),
            priority=float(len(pairs) - place),
            batch=batch,
        )
        for place, pair in enumerate(pairs)
    ]


def preferences(store: Store, *, batch: str | None = None) -> list[Judged]:
    """All pairs that people have judged."""
    found = []
    for judged in store.judgements.all(batch=batch):
        said = [one.body for one in judged.judgements if isinstance(one.body, PairBody)]
        if said and judged.repeats is None and judged.item.gold is None:
            first, second = judged.item.candidates
            preferred = sum((body.preference > 0) + (body.preference == 0) / 2 for body in said) / len(said)
            found.append(Judged(Pair(_read(judged.item.prompt), first.text, second.text), preferred))
    return found


def as_turns(prompt: PromptLike) -> str | tuple[Turn, ...]:
    """A prompt of the data as an item has it."""
    row = prompt_row(prompt)
    return row if isinstance(row, str) else tuple(map(Turn.model_validate, row))


def _read(prompt: str | tuple[Turn, ...]) -> PromptLike:
    return prompt if isinstance(prompt, str) else tuple(Message(turn.role, turn.content) for turn in prompt)
