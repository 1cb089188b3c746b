"""From logits to a token: the draw, the filters of a chat, and what training refuses."""

import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from proxtune.errors import GenerationError
from proxtune.rollouts.sampling import SamplingConfig, next_tokens, row_uniforms, training_problems

QUARTERS = torch.tensor([[0.5, 0.25, 0.25]]).log()


def drawn(logits: Tensor, uniform: float, **options: float) -> int:
    return int(next_tokens(logits, torch.tensor([uniform], dtype=torch.float64), SamplingConfig(**options)).tokens)


def drawable(logits: Tensor, config: SamplingConfig, seen: list[int] | None = None) -> Tensor:
    """[V]: how often each token comes when the uniforms run evenly through [0, 1)."""
    uniforms = (torch.arange(2_000, dtype=torch.float64) + 0.5) / 2_000
    rows = logits.expand(len(uniforms), -1)
    drawn = next_tokens(rows, uniforms, config, None if seen is None else [seen] * len(uniforms))
    return torch.bincount(drawn.tokens, minlength=logits.shape[-1]) / len(uniforms)


@pytest.mark.parametrize(("uniform", "token"), [(0.0, 0), (0.499, 0), (0.501, 1), (0.749, 1), (0.751, 2), (0.999, 2)])
def test_a_uniform_is_looked_up_in_the_cumulative_distribution(uniform: float, token: int) -> None:
    assert drawn(QUARTERS, uniform) == token


def test_a_token_without_mass_is_never_drawn() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    largest = 1 - 2**-53
    assert [drawn(logits, u) for u in (0.0, 0.49, 0.51, largest)] == [1, 1, 3, 3]


def test_logprobs_are_those_of_the_tempered_distribution() -> None:
    logprobs = next_tokens(QUARTERS, torch.tensor([0.1], dtype=torch.float64), SamplingConfig(temperature=0.5)).logprobs
    # squares: 1/4, 1/16, 1/16, of which the first is two thirds
    torch.testing.assert_close(logprobs.exp(), torch.tensor([2 / 3]))


def test_temperature_0_takes_the_likeliest_token_and_reports_its_plain_logprob() -> None:
    drawn = next_tokens(QUARTERS, torch.tensor([0.9], dtype=torch.float64), SamplingConfig(temperature=0))
    assert drawn.tokens.tolist() == [0]
    torch.testing.assert_close(drawn.logprobs.exp(), torch.tensor([0.5]))


def test_drawn_frequencies_are_the_probabilities() -> None:
    torch.testing.assert_close(drawable(QUARTERS, SamplingConfig()), torch.tensor([0.5, 0.25, 0.25]))


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 4},
        {"top_k": 100},
        {"top_p": 0.7},
        {"top_p": 0.01},
        {"repetition_penalty": 1.8},
        {"repetition_penalty": 0.6},
        {"temperature": 0.6, "top_p": 0.8},
        {"temperature": 1.7, "top_k": 7, "top_p": 0.6, "repetition_penalty": 1.3},
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_filters_draw_from_the_distribution_that_transformers_draws_from(options: dict[str, float], seed: int) -> None:
    logits = 2 * torch.randn(1, 12, generator=torch.Generator().manual_seed(seed))
    seen = [3, 5, 5, 11]
    config = SamplingConfig(**options)
    theirs = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(config.repetition_penalty)])
    theirs.append(TemperatureLogitsWarper(config.temperature))
    if config.top_k:
        theirs.append(TopKLogitsWarper(config.top_k))
    theirs.append(TopPLogitsWarper(config.top_p))
    expected = theirs(torch.tensor([seen]), logits).softmax(-1)[0]
    found = drawable(logits, config, seen)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)  # 2,000 even uniforms: at most one off on each side
    assert not found[expected == 0].any()


def test_greedy_sampling_heeds_the_repetition_penalty() -> None:
    config = SamplingConfig(temperature=0, repetition_penalty=10)
    assert next_tokens(torch.tensor([[3.0, 2.0]]), torch.zeros(1), config, [[0]]).tokens.tolist() == [1]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_ro3_a_logit_that_is_not_finite_raises_with_its_row(bad: float) -> None:
    logits = torch.zeros(3, 4)
    logits[1, 2] = bad
    with pytest.raises(GenerationError, match="row 1 "):
        next_tokens(logits, torch.zeros(3, dtype=torch.float64), SamplingConfig())


def test_ro3_a_row_without_any_possible_token_raises() -> None:
    with pytest.raises(GenerationError, match="row 0 "):
        next_tokens(torch.full((1, 4), -torch.inf), torch.zeros(1), SamplingConfig())


def test_a_row_has_a_generator_of_its_own() -> None:
    both = row_uniforms(0, "rollout", 3, [4, 9], 6)
    assert both.shape == (2, 6)
    assert both.dtype == torch.float64
    assert torch.equal(both[1:], row_uniforms(0, "rollout", 3, [9], 6))
    assert not torch.equal(both[0], both[1])


def test_a_longer_limit_only_adds_to_a_rows_draws() -> None:
    assert torch.equal(row_uniforms(0, "rollout", 0, [0], 12)[:, :5], row_uniforms(0, "rollout", 0, [0], 5))


@pytest.mark.parametrize("other", [(1, "rollout", 0), (0, "eval", 0), (0, "rollout", 1)])
def test_seed_purpose_and_step_each_change_the_draws(other: tuple[int, str, int]) -> None:
    assert not torch.equal(row_uniforms(*other, [0], 4), row_uniforms(0, "rollout", 0, [0], 4))


def test_training_refuses_whatever_the_trainer_would_not_know_of() -> None:
    config = SamplingConfig(top_k=5, top_p=0.9, repetition_penalty=1.1, temperature=0)
    problems = dict(training_problems(config))
    assert set(problems) == {"top_k", "top_p", "repetition_penalty", "temperature"}
    assert problems["top_p"].endswith("set top_p=1.0")
    assert (
        "is 5, but the policy would be trained on a distribution that the sampler did not draw from"
        in problems["top_k"]
    )
    assert training_problems(SamplingConfig(temperature=0.7)) == []
