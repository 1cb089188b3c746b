"""What people are asked in an iteration: pairs of the policy's answers, and the new policy beside the old."""

import itertools
from collections.abc import Iterable, Sequence
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from proxtune.data.records import Message, PromptLike, prompt_row
from proxtune.data.template import PromptExample, encode_prompt
from proxtune.evaluation.run import fresh_answers
from proxtune.feedback.choose import informative
from proxtune.feedback.records import Candidate, Item, PairBody, Turn
from proxtune.feedback.store import Store
from proxtune.models.language_model import LanguageModel, frozen
from proxtune.models.score import ROWS_AT_ONCE, pooled_states
from proxtune.rollouts.sampling import SamplingConfig
from proxtune.runs import derive_seed


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
    found = informative(
        differences(model, pairs),
        count,
        judged=differences(model, [one.pair for one in judged]),
        outcomes=[one.preferred for one in judged],
    )
    return [pairs[place] for place in found]


def differences(model: LanguageModel, pairs: Sequence[Pair]) -> NDArray[np.float64]:
    """[N, H]: the state after the first answer less that after the second, as a reward model reads them."""
    texts = list(dict.fromkeys((pair.prompt, text) for pair in pairs for text in (pair.first, pair.second)))
    rows = [_ids(model, prompt, text) for prompt, text in texts]
    starts = range(0, len(rows), ROWS_AT_ONCE)
    with frozen(model.module):
        found = [pooled_states(model, rows[start : start + ROWS_AT_ONCE]).float().cpu() for start in starts]
    place = {key: number for number, key in enumerate(texts)}
    states = torch.cat([torch.zeros(0, model.hidden_size), *found]).double().numpy()
    firsts = [place[pair.prompt, pair.first] for pair in pairs]
    seconds = [place[pair.prompt, pair.second] for pair in pairs]
    difference: NDArray[np.float64] = states[firsts] - states[seconds]
    return difference


def _ids(model: LanguageModel, prompt: PromptLike, text: str) -> list[int]:
    """As the reward model reads them: the prompt, the answer, and a stop token."""
    answer = model.tokenizer.encode(text, add_special_tokens=False)
    return [*encode_prompt(model.tokenizer, prompt), *answer, *model.stop_ids[:1]][-model.context :]


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
