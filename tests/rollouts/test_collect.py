"""From prompts to one rollout: encoding, chunks, joining."""

import torch

from proxtune.data.template import PromptExample
from proxtune.rollouts.collect import as_prompts, collect, join
from proxtune.rollouts.engine import sample
from proxtune.rollouts.sampling import SamplingConfig
from tests.tiny import tiny_model


def test_strings_are_encoded_and_examples_stay_as_they_are() -> None:
    example = PromptExample([9, 8], "hg", {"label": "x"}, "f.jsonl:3")
    asked = as_prompts(tiny_model(), ["ab", example])
    assert (asked[0].prompt_ids, asked[0].text, asked[0].columns) == ([2, 3], "ab", {})
    assert asked[1] is example


def test_an_empty_prompt_begins_with_a_token_all_the_same() -> None:
    assert as_prompts(tiny_model(), [""])[0].prompt_ids == [1]


def test_chunks_are_joined_in_the_order_of_the_prompts_and_padded_to_the_longest() -> None:
    model, config = tiny_model(), SamplingConfig(max_new_tokens=6)
    prompts = [[5, 6, 7], [8]]
    parts = [collect(model, [prompt], config, sampler=sample, seed=seed, step=0) for seed, prompt in enumerate(prompts)]
    whole = join(prompts, parts)
    width = max(part.mask.shape[1] for part in parts)
    assert whole.tokens.prompt_ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert whole.tokens.response_ids.shape == whole.logprobs.shape == whole.entropy.shape == (2, width)
    for row, part in enumerate(parts):
        length = int(part.tokens.response_lengths)
        assert torch.equal(whole.logprobs[row, :length], part.logprobs[0, :length])
        assert torch.equal(whole.tokens.response_ids[row, :length], part.tokens.response_ids[0, :length])
        assert not whole.logprobs[row, length:].any()
    assert whole.values is None
    assert whole.truncated.tolist() == [bool(part.truncated) for part in parts]
