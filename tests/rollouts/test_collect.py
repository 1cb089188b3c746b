"""From prompts to one rollout."""

from proxtune.data.template import PromptExample
from proxtune.rollouts.collect import as_prompts, collect
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


def test_every_row_draws_from_a_seed_of_its_own() -> None:
    config = SamplingConfig(max_new_tokens=6)
    both = collect(tiny_model(), [[5, 6, 7], [8]], config, sampler=sample, seed=3, step=1)
    [first] = collect(tiny_model(), [[5, 6, 7]], config, sampler=sample, seed=3, step=1).tokens.response_ids.tolist()
    assert both.tokens.response_ids[0].tolist()[: len(first)] == first
    assert both.tokens.prompt_ids.tolist() == [[5, 6, 7], [8, 0, 0]]
