"""How likely a model finds held-out text."""

import math

import pytest
import torch

from proxtune.data.template import Example
from proxtune.evaluation.run import likelihood, likelihoods
from tests.tiny import tiny_model

EXAMPLES = [
    Example([5, 6, 7], [8, 9, 1], "a", truncated=False),
    Example([8], [15, 16, 17, 18, 1], "b", truncated=False),
    Example([9, 10], [1], "c", truncated=False),
]


@torch.no_grad()
def surprise(example: Example) -> float:
    """−log p of the response, by transformers' own logits."""
    ids = torch.tensor([example.prompt_ids + example.response_ids])
    logprobs = tiny_model().module(input_ids=ids).logits[0].double().log_softmax(-1)
    first = len(example.prompt_ids)
    return -float(sum(logprobs[first + t - 1, token] for t, token in enumerate(example.response_ids)))


def test_a_row_adds_its_surprise_and_its_tokens_and_perplexity_is_the_exponential_of_their_ratio() -> None:
    measure = likelihoods(tiny_model(), EXAMPLES, rows_at_once=2)
    expected = [[surprise(example), len(example.response_ids)] for example in EXAMPLES]
    torch.testing.assert_close(torch.tensor(measure.rows), torch.tensor(expected).double(), rtol=0, atol=1e-4)
    loss = sum(row[0] for row in expected) / 9
    assert measure.values() == pytest.approx({"loss": loss, "perplexity": math.exp(loss)}, rel=1e-5)
    assert likelihood(tiny_model(), EXAMPLES) == pytest.approx(
        {"eval/loss": loss, "eval/perplexity": math.exp(loss)}, rel=1e-5
    )


def test_the_interval_of_perplexity_is_that_of_the_loss() -> None:
    found = likelihoods(tiny_model(), EXAMPLES).intervals(seed=0)
    assert found["perplexity"] == pytest.approx(tuple(map(math.exp, found["loss"])), rel=0.01)  # between two draws
    assert found["loss"].low < found["loss"].mean < found["loss"].high


def test_a_perplexity_too_large_for_a_number_is_a_large_number() -> None:
    measure = likelihoods(tiny_model(), EXAMPLES)
    assert math.isfinite(measure.figures(torch.tensor([1e6, 1.0]).double().numpy())["perplexity"])
