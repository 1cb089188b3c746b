"""Rows around the length limit, the model's context: each policy keeps what it says, and nothing becomes NaN."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from proxtune.algorithms.reward_model import RewardTrainer
from proxtune.algorithms.sft import SFT
from proxtune.data.records import Completion, Preference, Prompt, Rated, Record
from proxtune.data.template import encode, encode_preferences, encode_prompts, encode_rated
from proxtune.errors import DataError
from proxtune.models.heads import RewardModel, ScalarHead
from proxtune.models.peft import TuningConfig, tune
from proxtune.rollouts.collect import collect
from proxtune.rollouts.engine import sample
from proxtune.rollouts.sampling import SamplingConfig
from tests.tiny import letter_tokenizer, tiny_model

CONTEXT = 64
TOKENIZER = letter_tokenizer()
# (tokens of the prompt, of the response with its stop token): either alone, or both together, end 2 around the context
GRID = [(prompt, response) for prompt in range(CONTEXT - 2, CONTEXT + 3) for response in (2, 3)]
GRID += [(4, response) for response in range(CONTEXT - 6, CONTEXT - 1)]

Encode = Callable[..., tuple[list[Any], Any]]
ENCODERS: list[tuple[Encode, Callable[[str, str], Record]]] = [
    (encode, Completion),
    (encode_rated, lambda prompt, answer: Rated(prompt, answer, (1.0,))),
    (encode_preferences, lambda prompt, answer: Preference(prompt, answer, "b")),
]


def records(make: Callable[[str, str], Record]) -> list[Record]:
    return [make("p" * prompt, "a" * (response - 1)) for prompt, response in GRID]


@pytest.mark.parametrize(("encoder", "make"), ENCODERS, ids=["completion", "rated", "preference"])
@pytest.mark.parametrize("too_long", ["error", "drop", "truncate"])
def test_dl5_each_policy_keeps_what_it_says_around_the_limit(
    encoder: Encode, make: Callable[[str, str], Record], too_long: str
) -> None:
    for record, (prompt, response) in zip(records(make), GRID, strict=True):
        fits = prompt + response <= CONTEXT
        kept = fits or (too_long == "truncate" and prompt < CONTEXT)
        if kept:
            (example,), report = encoder([record], TOKENIZER, max_length=CONTEXT, too_long=too_long)
            answer = example.chosen_ids if isinstance(record, Preference) else example.response_ids
            assert (len(example.prompt_ids), len(answer)) == (prompt, min(response, CONTEXT - prompt))
            assert (report.read, report.kept, report.truncated) == (1, 1, not fits)
        else:
            reason = f"more than max_length {CONTEXT}" if too_long == "error" else "no row is left"
            with pytest.raises(DataError, match=reason):
                encoder([record], TOKENIZER, max_length=CONTEXT, too_long=too_long)


def test_dl5_prompts_around_the_limit_keep_their_end() -> None:
    given: list[Record] = [Prompt("a" + "p" * (length - 1)) for length in range(CONTEXT - 2, CONTEXT + 3)]
    dropped, report = encode_prompts(given, TOKENIZER, max_length=CONTEXT, too_long="drop")
    assert [len(prompt.prompt_ids) for prompt in dropped] == [62, 63, 64]
    assert (report.kept, report.dropped, report.truncated) == (3, 2, 0)
    cut, report = encode_prompts(given, TOKENIZER, max_length=CONTEXT, too_long="truncate")
    assert [len(prompt.prompt_ids) for prompt in cut] == [62, 63, 64, 64, 64]
    assert cut[3].prompt_ids == cut[4].prompt_ids == TOKENIZER.encode("p" * CONTEXT)
    assert (report.kept, report.dropped, report.truncated) == (5, 0, 2)


@pytest.mark.parametrize("too_long", ["drop", "truncate"])
def test_dl5_a_step_on_rows_around_the_limit_has_no_nan(too_long: Any) -> None:
    examples, report = encode(records(Completion), TOKENIZER, max_length=CONTEXT, too_long=too_long)
    # prompt 62 fits with 2 tokens, 4 with 58, 59 and 60; cut are 62 with 3, 63 with 2 and 3, 4 with 61 and 62
    assert (report.read, report.kept, report.dropped) == ((15, 4, 11) if too_long == "drop" else (15, 9, 6))
    assert report.truncated == (0 if too_long == "drop" else 5)
    sft = SFT(tune(tiny_model(), TuningConfig(kind="full")))
    rows = [[example] for example in examples]  # each alone too: its loss is not hidden by that of others
    assert all(math.isfinite(value) for batch in [examples, *rows] for value in sft.step(batch).values())


@pytest.mark.parametrize("too_long", ["drop", "truncate"])
def test_dl5_a_step_on_pairs_around_the_limit_has_no_nan(too_long: Any) -> None:
    pairs, _ = encode_preferences(records(ENCODERS[2][1]), TOKENIZER, max_length=CONTEXT, too_long=too_long)
    head = ScalarHead(32, zero=False, generator=torch.Generator().manual_seed(2))
    trainer = RewardTrainer(RewardModel(tune(tiny_model(), TuningConfig(kind="full")), head, max_length=CONTEXT))
    assert all(math.isfinite(value) for pair in pairs for value in trainer.step([pair]).values())


def test_dl5_a_prompt_that_leaves_one_token_of_the_context_is_answered_with_one() -> None:
    (prompt,), _ = encode_prompts([Prompt("p" * 90)], TOKENIZER, max_length=CONTEXT - 1, too_long="truncate")
    config = SamplingConfig(max_new_tokens=1)
    rollout = collect(tiny_model(), [prompt.prompt_ids], config, sampler=sample, seed=1, step=0)
    assert rollout.tokens.response_lengths.tolist() == [1]
    assert bool(torch.isfinite(rollout.logprobs).all())
