"""Given tokens get the numbers they would get alone: padding, neighbours and chunks change nothing."""

import pytest
import torch
from torch import Tensor

from proxtune.data.collate import Tokens, collate
from proxtune.models.heads import RewardModel, ScalarHead
from proxtune.models.language_model import LanguageModel
from proxtune.models.score import frozen_logprobs, join, rewards, score, states, values, values_after
from tests.tiny import FAMILIES, tiny_model

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14]]
RESPONSES = [[3, 4], [15, 16, 17, 18, 19, 20, 1], [1]]
TOKENS = collate(PROMPTS, RESPONSES)

each_family = pytest.mark.parametrize("family", FAMILIES)


def value_head(model: LanguageModel) -> ScalarHead:
    return ScalarHead(model.hidden_size, zero=False, generator=torch.Generator().manual_seed(3))


def padded(tokens: Tokens, extra: int, rubbish: int) -> Tokens:
    """The same rows with `extra` more columns on the right, and `rubbish` wherever no token stands."""
    prompt = torch.nn.functional.pad(tokens.prompt_ids, (0, extra), value=rubbish)
    response = torch.nn.functional.pad(tokens.response_ids, (0, extra), value=rubbish)
    wide = Tokens(prompt, tokens.prompt_lengths, response, tokens.response_lengths)
    steps = torch.arange(prompt.shape[1])
    prompt[steps >= tokens.prompt_lengths[:, None]] = rubbish
    response[~wide.mask] = rubbish
    return wide


def by_hand(model: LanguageModel, prompt: list[int], response: list[int], temperature: float) -> Tensor:
    """Log-probs from the whole model's logits, one sequence by itself."""
    logits = model.module(input_ids=torch.tensor([prompt + response])).logits[0].float()
    logprobs = (logits / temperature).log_softmax(-1)
    return torch.stack([logprobs[len(prompt) + t - 1, token] for t, token in enumerate(response)])


@each_family
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@torch.no_grad()
def test_a_padded_batch_gives_each_row_what_the_model_gives_it_alone(family: str, temperature: float) -> None:
    model = tiny_model(family=family)
    logprobs = score(model, TOKENS, temperature=temperature).logprobs
    assert logprobs.shape == (3, 7)
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        expected = by_hand(model, prompt, response, temperature)
        torch.testing.assert_close(logprobs[row, : len(response)], expected, rtol=0, atol=1e-5)
        assert not logprobs[row, len(response) :].any()


@each_family
@torch.no_grad()
def test_values_of_a_padded_batch_are_those_of_each_state_alone(family: str) -> None:
    model = tiny_model(family=family)
    head = value_head(model)
    found = values(model, head, TOKENS)
    after = values_after(model, head, TOKENS)
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        alone = head(model.module.base_model(input_ids=torch.tensor([prompt + response])).last_hidden_state[0])
        expected = alone[len(prompt) - 1 : -1]  # the state before each token
        torch.testing.assert_close(found[row, : len(response)], expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(after[row], alone[-1], rtol=0, atol=1e-5)
        assert not found[row, len(response) :].any()


@each_family
@pytest.mark.parametrize(("extra", "rubbish"), [(0, 1), (1, 29), (9, 1), (30, 0)])
@torch.no_grad()
def test_neither_the_size_nor_the_content_of_padding_changes_a_number(family: str, extra: int, rubbish: int) -> None:
    model = tiny_model(family=family)
    head = value_head(model)
    wide = padded(TOKENS, extra, rubbish)
    ours, theirs = (score(model, tokens, head=head, entropy=True) for tokens in (TOKENS, wide))
    for name in ("logprobs", "values", "entropy"):
        found = getattr(theirs, name)
        torch.testing.assert_close(found[:, :7], getattr(ours, name), rtol=0, atol=1e-6)
        assert not found[:, 7:].any()
    model_of_rewards = RewardModel(model, head, max_length=64)
    torch.testing.assert_close(rewards(model_of_rewards, wide), rewards(model_of_rewards, TOKENS), rtol=0, atol=1e-6)


def test_prompt_and_response_are_joined_without_a_gap() -> None:
    assert join(TOKENS)[0, :5].tolist() == [5, 6, 7, 3, 4]
    assert join(TOKENS)[1].tolist() == [8, 15, 16, 17, 18, 19, 20, 1]
    assert join(TOKENS)[2, :7].tolist() == [9, 10, 11, 12, 13, 14, 1]
    assert join(TOKENS).shape == (3, 8)


def test_a_state_is_the_one_its_token_was_chosen_in() -> None:
    model = tiny_model()
    found = states(model, TOKENS)
    assert found.shape == (TOKENS.mask.sum(), 32)  # row by row, without padding
    alone = model.hidden(torch.tensor([[5, 6, 7, 3]]))[0]
    torch.testing.assert_close(found[:2], alone[2:4], rtol=0, atol=1e-5)


def test_without_a_head_there_are_no_values_and_entropy_is_given_when_asked() -> None:
    scores = score(tiny_model(), TOKENS)
    assert scores.values is None
    assert scores.entropy is None


@torch.no_grad()
def test_entropy_is_that_of_the_tempered_distribution() -> None:
    model = tiny_model()
    entropy = score(model, TOKENS, temperature=0.5, entropy=True).entropy
    assert entropy is not None
    p = (model.module(input_ids=torch.tensor([[5, 6, 7, 3]])).logits[0, 2:4] / 0.5).softmax(-1)
    torch.testing.assert_close(entropy[0, :2], -(p * p.log()).sum(-1), rtol=0, atol=1e-5)
    assert not entropy[0, 2:].any()


def test_values_never_see_the_temperature() -> None:
    model = tiny_model()
    head = value_head(model)
    warm, cold = (score(model, TOKENS, temperature=t, head=head).values for t in (1.0, 0.1))
    assert torch.equal(warm, cold)


@pytest.mark.parametrize("rows_at_once", [1, 2, 32])
def test_logprobs_in_chunks_are_those_of_one_pass_without_a_gradient(rows_at_once: int) -> None:
    model = tiny_model()
    model.module.requires_grad_(True)
    found = frozen_logprobs(model, TOKENS, temperature=0.9, rows_at_once=rows_at_once)
    assert not found.requires_grad
    torch.testing.assert_close(found, score(model, TOKENS, temperature=0.9).logprobs.detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("detach", [True, False])
def test_a_detached_heads_gradient_stops_at_the_trunk(detach: bool) -> None:
    model = tiny_model()
    model.module.requires_grad_(True)
    head = value_head(model)
    found = score(model, TOKENS, head=head, detach=detach).values
    assert found is not None
    found.sum().backward()
    assert head.linear.weight.grad is not None
    assert any(p.grad is not None and p.grad.any() for p in model.module.parameters()) is not detach


def test_rewards_are_read_at_the_last_real_token_and_scaled() -> None:
    model = tiny_model()
    head = value_head(model)
    found = rewards(RewardModel(model, head, max_length=64, gain=3.0, bias=-1.0), TOKENS)
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        last = model.hidden(torch.tensor([prompt + response]))[0, -1]
        torch.testing.assert_close(found[row], 3 * head(last) - 1, rtol=0, atol=1e-5)


def test_a_response_without_a_token_is_scored_at_the_end_of_its_prompt() -> None:
    model = tiny_model()
    head = value_head(model)
    found = rewards(RewardModel(model, head, max_length=64), collate([[5, 6], [7]], [[], [8, 9]]))
    torch.testing.assert_close(found[0], head(model.hidden(torch.tensor([[5, 6]]))[0, -1]), rtol=0, atol=1e-5)


def test_the_gradient_of_a_batch_is_the_sum_of_its_rows() -> None:
    def gradient(rows: list[int]) -> Tensor:
        model = tiny_model()
        model.module.requires_grad_(True)
        score(model, TOKENS[torch.tensor(rows)]).logprobs.sum().backward()
        return torch.cat([p.grad.flatten() for p in model.module.parameters() if p.grad is not None])

    torch.testing.assert_close(gradient([0, 1, 2]), gradient([0]) + gradient([1]) + gradient([2]), rtol=1e-4, atol=1e-4)
