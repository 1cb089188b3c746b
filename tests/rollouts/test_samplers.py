"""The contract of every sampler, and their equality: the cached one draws what the plain one draws, token for token."""

from collections.abc import Sequence
from dataclasses import FrozenInstanceError
from functools import partial

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from proxtune.errors import GenerationError
from proxtune.models.heads import ScalarHead
from proxtune.models.language_model import LanguageModel
from proxtune.models.score import score
from proxtune.rollouts.collect import collect
from proxtune.rollouts.engine import sample
from proxtune.rollouts.generate import generate
from proxtune.rollouts.rollout import Rollout, Sampler
from proxtune.rollouts.sampling import SamplingConfig
from tests.tiny import FAMILIES, LLAMA, letter_tokenizer, tiny_model

EOS = 1
PROMPTS = [[5, 6], [7], [8, 9, 10, 11, 12, 13, 14], [20, 3, 4], [7], [9, 1, 9]]
CONFIG = SamplingConfig(max_new_tokens=10)

each_sampler = pytest.mark.parametrize("sampler", [generate, sample])
each_family = pytest.mark.parametrize("family", FAMILIES)


def draw(
    model: LanguageModel,
    sampler: Sampler,
    config: SamplingConfig = CONFIG,
    prompts: Sequence[list[int]] = PROMPTS,
    *,
    seed: int = 0,
    step: int = 0,
    head: ScalarHead | None = None,
    rows_at_once: int | None = None,
) -> Rollout:
    if rows_at_once is not None:
        sampler = partial(sampler, rows_at_once=rows_at_once)
    return collect(model, prompts, config, sampler=sampler, seed=seed, step=step, head=head)


def value_head(model: LanguageModel) -> ScalarHead:
    return ScalarHead(model.hidden_size, zero=False, generator=torch.Generator().manual_seed(3))


def answers(rollout: Rollout) -> list[list[int]]:
    """The sampled tokens of each row, without padding."""
    rows = zip(rollout.tokens.response_ids.tolist(), rollout.tokens.response_lengths.tolist(), strict=True)
    return [ids[:length] for ids, length in rows]


def assert_equal(left: Rollout, right: Rollout, *, atol: float = 1e-5) -> None:
    assert answers(left) == answers(right)
    assert left.truncated.tolist() == right.truncated.tolist()
    torch.testing.assert_close(left.logprobs, right.logprobs, rtol=0, atol=atol)
    torch.testing.assert_close(left.entropy, right.entropy, rtol=0, atol=atol)


@each_sampler
def test_the_record_has_the_shapes_it_says(sampler: Sampler) -> None:
    model = tiny_model()
    rollout = draw(model, sampler, head=value_head(model))
    rows, width = rollout.tokens.response_ids.shape
    assert rows == len(rollout) == len(PROMPTS)
    assert width == int(rollout.tokens.response_lengths.max())
    assert rollout.tokens.prompt_ids.shape == (6, 7)
    assert rollout.tokens.prompt_lengths.tolist() == [len(prompt) for prompt in PROMPTS]
    assert rollout.truncated.shape == (rows,)
    assert rollout.truncated.dtype == rollout.mask.dtype == torch.bool
    assert rollout.values is not None
    for x in (rollout.mask, rollout.logprobs, rollout.entropy, rollout.values):
        assert x.shape == (rows, width)
    for x in (rollout.logprobs, rollout.entropy, rollout.values):
        assert x.dtype == torch.float32
        assert not x[~rollout.mask].any()
        assert not x.requires_grad


@each_sampler
def test_without_a_head_there_are_no_values(sampler: Sampler) -> None:
    assert draw(tiny_model(), sampler).values is None


@each_sampler
def test_an_answer_ends_with_its_stop_token_which_counts_or_is_truncated(sampler: Sampler) -> None:
    rollout = draw(tiny_model(), sampler, prompts=PROMPTS * 3)
    stopped = [ids[-1] == EOS for ids in answers(rollout)]
    assert any(stopped)
    assert not all(stopped)
    assert [ids.count(EOS) for ids in answers(rollout)] == [int(stop) for stop in stopped]
    assert rollout.truncated.tolist() == [not stop for stop in stopped]
    assert all(len(ids) == 10 for ids, stop in zip(answers(rollout), stopped, strict=True) if not stop)
    assert rollout.mask.sum(1).tolist() == rollout.tokens.response_lengths.tolist()


@each_sampler
def test_a_stop_token_in_the_last_slot_is_not_a_truncation(sampler: Sampler) -> None:
    model = tiny_model()
    length = next(len(ids) for ids in answers(draw(model, sampler)) if 1 < len(ids) < 10)
    rollout = draw(model, sampler, SamplingConfig(max_new_tokens=length))
    fits = [ids[-1] == EOS for ids in answers(rollout)]
    assert any(len(ids) == length and fit for ids, fit in zip(answers(rollout), fits, strict=True))
    assert rollout.truncated.tolist() == [not fit for fit in fits]


@each_sampler
def test_a_model_whose_pad_token_is_its_eos_records_its_eos(sampler: Sampler) -> None:
    apart, same = tiny_model(), tiny_model(pad_is_eos=True)
    assert same.tokenizer.pad_token_id == EOS
    assert_equal(draw(same, sampler), draw(apart, sampler), atol=0)
    assert any(ids[-1] == EOS for ids in answers(draw(same, sampler)))


@each_sampler
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_entropy_and_values_are_those_of_the_training_pass(sampler: Sampler, temperature: float) -> None:
    model = tiny_model()
    head = value_head(model)
    rollout = draw(model, sampler, SamplingConfig(max_new_tokens=10, temperature=temperature), head=head)
    scores = score(model, rollout.tokens, temperature=temperature, head=head, entropy=True)
    assert rollout.values is not None
    assert scores.values is not None
    assert scores.entropy is not None
    torch.testing.assert_close(rollout.logprobs, scores.logprobs, rtol=0, atol=1e-5)
    torch.testing.assert_close(rollout.values, scores.values.detach(), rtol=0, atol=1e-5)
    torch.testing.assert_close(rollout.entropy, scores.entropy, rtol=0, atol=1e-5)


@each_family
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_cached_sampler_draws_the_tokens_of_the_plain_one(family: str, temperature: float) -> None:
    model = tiny_model(family=family)
    config = SamplingConfig(max_new_tokens=12, temperature=temperature)
    assert_equal(draw(model, sample, config), draw(model, generate, config))


def test_the_cached_sampler_draws_the_tokens_of_the_plain_one_with_eager_attention() -> None:
    torch.manual_seed(0)
    module = LlamaForCausalLM(LlamaConfig(**LLAMA, attn_implementation="eager")).eval()
    model = LanguageModel(module, letter_tokenizer())
    assert_equal(draw(model, sample), draw(model, generate))


def test_values_are_equal_in_both_samplers() -> None:
    model = tiny_model()
    head = value_head(model)
    ours, oracle = draw(model, sample, head=head).values, draw(model, generate, head=head).values
    torch.testing.assert_close(ours, oracle, rtol=0, atol=1e-5)


@each_family
@pytest.mark.parametrize(
    "rows_at_once", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)]
)
def test_a_rows_tokens_do_not_depend_on_how_many_wait_for_a_place(family: str, rows_at_once: int) -> None:
    model = tiny_model(family=family)
    head = value_head(model)
    grouped, whole = draw(model, sample, head=head, rows_at_once=rows_at_once), draw(model, sample, head=head)
    assert_equal(grouped, whole)
    torch.testing.assert_close(grouped.values, whole.values, rtol=0, atol=1e-5)
    assert torch.equal(grouped.tokens.prompt_ids, whole.tokens.prompt_ids)


@each_sampler
def test_a_rows_tokens_do_not_depend_on_its_neighbours(sampler: Sampler) -> None:
    model = tiny_model()
    other = [[2, 3, 4, 5, 6, 7, 8, 9, 10, 11], PROMPTS[1], [3]]
    assert answers(draw(model, sampler, prompts=other))[1] == answers(draw(model, sampler))[1]
    assert answers(draw(model, sampler, prompts=PROMPTS[:1]))[0] == answers(draw(model, sampler))[0]


@each_sampler
def test_a_seed_and_step_fix_the_tokens_and_others_change_them(sampler: Sampler) -> None:
    model = tiny_model()
    first = answers(draw(model, sampler, seed=1, step=2))
    assert answers(draw(model, sampler, seed=1, step=2)) == first
    assert answers(draw(model, sampler, seed=2, step=2)) != first
    assert answers(draw(model, sampler, seed=1, step=3)) != first


@each_sampler
def test_two_rows_with_one_prompt_draw_apart(sampler: Sampler) -> None:
    rows = answers(draw(tiny_model(), sampler, prompts=[[7]] * 4))
    assert len({tuple(row) for row in rows}) == 4


@each_sampler
def test_the_global_generator_is_neither_read_nor_moved(sampler: Sampler) -> None:
    model = tiny_model()
    torch.manual_seed(1)
    first, after = answers(draw(model, sampler)), torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)
    assert answers(draw(model, sampler)) == first


def poisoned_model(token: int, value: float = torch.nan) -> LanguageModel:
    """A model whose hidden states are `value` from the first `token` on; its head is another matrix, and sound."""
    torch.manual_seed(0)
    module = LlamaForCausalLM(LlamaConfig(**LLAMA | {"tie_word_embeddings": False})).eval().requires_grad_(False)
    module.get_input_embeddings().weight[token] = value
    return LanguageModel(module, letter_tokenizer())


@each_sampler
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_ro3_logits_that_are_not_finite_stop_the_sampler(sampler: Sampler, bad: float) -> None:
    with pytest.raises(GenerationError, match=r"not finite in row \d+ .*weights may have diverged"):
        draw(poisoned_model(7, bad), sampler, prompts=[[5, 6], [8], [7]])


@pytest.mark.parametrize(("sampler", "rows_at_once"), [(generate, None), (sample, 64), (sample, 2), (sample, 1)])
def test_ro3_the_row_that_is_not_finite_is_named_with_its_prompt(sampler: Sampler, rows_at_once: int | None) -> None:
    with pytest.raises(GenerationError, match=r"not finite in row 2 of the batch \(the prompt 'f'\)"):
        draw(
            poisoned_model(7), sampler, SamplingConfig(max_new_tokens=1), [[5, 6], [8], [7]], rows_at_once=rows_at_once
        )


def test_ro3_the_row_that_is_not_finite_is_named_when_others_have_ended() -> None:
    config = SamplingConfig(max_new_tokens=3, temperature=0)
    first, second = (ids[0] for ids in answers(draw(poisoned_model(29), sample, config, [[5, 6], [20]])))
    model = poisoned_model(second)
    model.stop_ids = (first,)  # so row 0 ends at once, and row 1 goes on with the token that breaks it
    with pytest.raises(GenerationError, match="not finite in row 1 of the batch"):
        draw(model, sample, config, [[5, 6], [20]])


@each_sampler
def test_dl5_an_answer_that_may_not_fit_the_context_is_refused(sampler: Sampler) -> None:
    model = tiny_model()
    assert len(draw(model, sampler, SamplingConfig(max_new_tokens=4), [[5], [5] * 60])) == 2
    with pytest.raises(GenerationError, match=r"60 tokens and max_new_tokens=5 do not fit the model's context of 64"):
        draw(model, sampler, SamplingConfig(max_new_tokens=5), [[5], [5] * 60])


@each_sampler
def test_a_prompt_without_a_token_is_refused(sampler: Sampler) -> None:
    with pytest.raises(GenerationError, match="a prompt has no token"):
        draw(tiny_model(), sampler, prompts=[[5], []])


def test_the_models_distribution_is_what_is_sampled() -> None:
    """Chi-square over the first token of 1,500 answers to one prompt. 1 seed in 1,000 would fail; this is fixed."""
    model = tiny_model()
    config = SamplingConfig(max_new_tokens=1, temperature=0.8)
    prompts = [[7, 9]] * 1500
    rollout = draw(model, sample, config, prompts, rows_at_once=1500)
    with torch.no_grad():
        expected = 1500 * (model.logits(model.hidden(torch.tensor([[7, 9]]))[0, -1]) / 0.8).softmax(-1).double()
    found = torch.bincount(rollout.tokens.response_ids[:, 0], minlength=30).double()
    common = expected >= 5
    found = torch.cat([found[common], found[~common].sum()[None]])
    expected = torch.cat([expected[common], expected[~common].sum()[None]])
    statistic = float(((found - expected) ** 2 / expected).sum())
    assert len(found) > 8
    assert statistic < chi_square_999(len(found) - 1)


def chi_square_999(degrees: int) -> float:
    """The 99.9 % point by Wilson and Hilferty's approximation (within 1 % from 5 degrees on)."""
    return float(degrees * (1 - 2 / (9 * degrees) + 3.0902 * (2 / (9 * degrees)) ** 0.5) ** 3)


def test_a_lower_temperature_draws_likelier_tokens() -> None:
    model = tiny_model()
    prompts = [[5, 6]] * 40

    def mean_logprob(temperature: float) -> float:
        rollout = draw(model, sample, SamplingConfig(max_new_tokens=4, temperature=temperature), prompts)
        plain = score(model, rollout.tokens).logprobs
        return float(plain[rollout.mask].mean())

    assert mean_logprob(0.0) > mean_logprob(0.3) > mean_logprob(1.0) > mean_logprob(3.0)


@each_sampler
def test_filters_of_a_chat_shape_the_draw_and_leave_the_recorded_logprobs(sampler: Sampler) -> None:
    model = tiny_model()
    greedy = draw(model, sampler, SamplingConfig(max_new_tokens=10, temperature=0))
    one = draw(model, sampler, SamplingConfig(max_new_tokens=10, top_k=1))
    assert answers(one) == answers(greedy)
    torch.testing.assert_close(one.logprobs, score(model, one.tokens).logprobs, rtol=0, atol=1e-5)


@each_sampler
def test_a_repetition_penalty_sees_the_prompt_and_every_token_sampled_since(sampler: Sampler) -> None:
    config = SamplingConfig(max_new_tokens=12, temperature=0, repetition_penalty=1e9)
    for prompt, ids in zip(PROMPTS, answers(draw(tiny_model(), sampler, config)), strict=True):
        body = ids[:-1] if ids[-1] == EOS else ids
        assert len(set(body)) == len(body)
        assert not set(body) & set(prompt)


def test_both_samplers_penalise_repetition_alike() -> None:
    config = SamplingConfig(max_new_tokens=10, repetition_penalty=1.7, top_k=9, top_p=0.8)
    model = tiny_model()
    assert_equal(draw(model, sample, config), draw(model, generate, config))


def test_a_rollout_is_a_record_that_nobody_changes() -> None:
    rollout = draw(tiny_model(), sample)
    with pytest.raises(FrozenInstanceError):
        rollout.truncated = ~rollout.truncated  # type: ignore[misc]
