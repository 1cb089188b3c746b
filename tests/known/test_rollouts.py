"""How others' samplers and trainers parted in silence. docs/known-failures.md lists all."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from proxtune.data.collate import collate
from proxtune.data.template import PromptExample
from proxtune.errors import ConfigError, GenerationError
from proxtune.models.heads import ScalarHead
from proxtune.models.language_model import LanguageModel
from proxtune.models.score import frozen_logprobs, score
from proxtune.rollouts.collect import collect
from proxtune.rollouts.engine import sample
from proxtune.rollouts.rollout import Rollout
from proxtune.rollouts.sampling import SamplingConfig
from tests.known.made import EOS, FULL, LORA, PROMPTS, watched
from tests.tiny import tiny_model

IDS = [[5, 6], [7], [8, 9, 10, 11, 12], [20, 3]]


def draw(model: LanguageModel, prompts: list[list[int]], tokens: int = 8, **options: Any) -> Rollout:
    config = SamplingConfig(max_new_tokens=tokens, temperature=options.pop("temperature", 1.0))
    return collect(model, prompts, config, sampler=sample, seed=0, step=0, **options)


def lists(rollout: Rollout) -> list[list[int]]:
    """The sampled ids of each row."""
    rows = zip(rollout.tokens.response_ids.tolist(), rollout.tokens.response_lengths.tolist(), strict=True)
    return [ids[:length] for ids, length in rows]


@pytest.mark.parametrize("option", [{"top_p": 0.9}, {"top_k": 50}, {"repetition_penalty": 1.1}])
def test_trl_6789_what_cuts_the_samplers_distribution_is_refused_in_training(option: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(option))}: is .*did not draw from"):
        watched(rollout=SamplingConfig(max_new_tokens=6, **option))


def test_prime_rl_2979_the_recorded_logprob_is_never_that_of_a_cut_distribution() -> None:
    model = tiny_model()
    config = SamplingConfig(max_new_tokens=4, top_k=1)  # the draw is certain, its probability under the model is not
    rollout = collect(model, IDS, config, sampler=sample, seed=0, step=0)
    assert rollout.logprobs[rollout.mask].max() < -0.1
    torch.testing.assert_close(rollout.logprobs, frozen_logprobs(model, rollout.tokens), rtol=0, atol=1e-5)


def test_slime_1928_the_temperature_reaches_logprobs_and_never_values() -> None:
    model, head = tiny_model(), ScalarHead(32, zero=False, generator=torch.Generator().manual_seed(0))
    tokens = collate(IDS, [[9, 4], [5], [6, 6], [3]])
    warm, cool = (score(model, tokens, temperature=t, head=head) for t in (1.0, 0.5))
    assert warm.values is not None
    assert cool.values is not None
    assert torch.equal(warm.values, cool.values)
    assert (warm.logprobs - cool.logprobs)[tokens.mask].abs().min() > 1e-3
    first = [draw(model, IDS, 1, head=head, temperature=t).values for t in (1.0, 0.5)]  # the state is the prompt's
    torch.testing.assert_close(first[0], first[1], rtol=0, atol=1e-6)


def test_slime_2114_the_logged_kl_is_that_of_the_sampled_tokens_summed_by_response() -> None:
    watch = watched(policy=tiny_model(), parts={"reference": tiny_model(seed=9)})
    logged = watch.step()["kl/sequence"]
    (found,) = watch.experiences
    # The policy has moved since; how it was is a model made from the same seed.
    was, ref = (frozen_logprobs(tiny_model(seed=seed), found.tokens) for seed in (0, 9))
    by_hand = [float((was - ref)[row, : int(n)].sum()) for row, n in enumerate(found.tokens.response_lengths)]
    assert logged == pytest.approx(sum(by_hand) / 8, abs=1e-4)
    assert logged > 1


def test_verl_2996_the_size_of_a_micro_batch_changes_no_logprob() -> None:
    model = tiny_model()
    rollout = draw(model, IDS)
    for rows_at_once in (1, 3, 32):
        gap = (frozen_logprobs(model, rollout.tokens, rows_at_once=rows_at_once) - rollout.logprobs).abs().max()
        assert gap < 1e-5  # float32 rounding of a pass of another shape


@pytest.mark.parametrize("rate", [0.0, 1e-2])
def test_open_instruct_1473_sampler_and_trainer_stay_one_function_over_the_steps(rate: float) -> None:
    watch = watched(epochs=1)
    watch.ppo.optimizer.peaks = dict.fromkeys(watch.ppo.optimizer.peaks, rate)
    stats = [watch.step() for _ in range(6)]
    assert [row["policy/ratio"] for row in stats] == pytest.approx([1] * 6, abs=1e-5)
    assert (stats[-1]["kl/sequence"] > 0.01) is (rate > 0)


def test_trlx_107_the_first_ratio_is_1() -> None:
    stats = watched(epochs=1).step()
    assert stats["policy/ratio"] == pytest.approx(1, abs=1e-5)
    assert stats["policy/approx_kl"] == pytest.approx(0, abs=1e-9)
    assert stats["policy/clip_fraction"] == 0


def test_trlx_508_the_first_kl_is_0() -> None:
    assert watched().step()["kl/sequence"] == pytest.approx(0, abs=1e-4)


def test_verl_7495_a_sampler_that_never_gets_the_new_weights_stops_the_run() -> None:
    stale = tiny_model()

    def disconnected(model: LanguageModel, *args: Any, **kwargs: Any) -> Rollout:
        return sample(stale, *args, **kwargs)

    watch = watched(parts={"sampler": disconnected})
    watch.step()  # the two are still one
    with pytest.raises(GenerationError, match="between the sampler and the trainer"):
        watch.step()


def test_verl_7495_the_adapter_reaches_our_sampler() -> None:
    watch = watched(LORA)
    watch.step()
    asked = [PromptExample([5, 6], "de", {}, "")] * 4
    rollout, _ = watch.ppo.sample(asked)
    assert (rollout.logprobs - frozen_logprobs(tiny_model(), rollout.tokens)).abs().max() > 0.01  # the base alone
    torch.testing.assert_close(rollout.logprobs, frozen_logprobs(watch.ppo.policy, rollout.tokens), rtol=0, atol=1e-5)


def test_vime_64_a_gap_between_engine_and_trainer_is_no_matter_of_taste() -> None:
    def other_engine(*args: Any, **kwargs: Any) -> Rollout:
        rollout = sample(*args, **kwargs)
        return replace(rollout, logprobs=rollout.logprobs + 0.011 * rollout.mask)  # the smaller gap that was told

    with pytest.raises(GenerationError, match=r"differs by 0\.011"):
        watched(parts={"sampler": other_engine}).step()


@pytest.mark.parametrize("family", ["llama", "own", "gpt2"])
def test_openrlhf_217_a_batch_with_padding_gives_each_row_what_it_gets_alone(family: str) -> None:
    model = tiny_model(family=family)
    responses = [[9, 4, 1], [5], [6, 6], [3, 2, 8, 1]]
    together = frozen_logprobs(model, collate(IDS, responses))
    for row, (prompt, response) in enumerate(zip(IDS, responses, strict=True)):
        alone = frozen_logprobs(model, collate([prompt], [response]))[0]
        torch.testing.assert_close(together[row, : len(response)], alone, rtol=0, atol=1e-5)


def test_rllm_272_the_tokens_that_are_trained_are_those_that_were_sampled() -> None:
    sampled: list[Rollout] = []

    def noting(*args: Any, **kwargs: Any) -> Rollout:
        sampled.append(sample(*args, **kwargs))
        return sampled[0]

    watch = watched(parts={"sampler": noting})
    watch.step()
    (found,) = watch.experiences
    assert torch.equal(found.tokens.response_ids, sampled[0].tokens.response_ids)
    model = watch.ppo.policy
    again = [model.tokenizer.encode(model.text(ids)) for ids in lists(sampled[0])]
    assert again != lists(sampled[0])  # through the text they would have become others


def test_openrlhf_238_the_last_token_of_a_cut_answer_stays_what_it_was() -> None:
    short, long = draw(tiny_model(), IDS * 4, 4), draw(tiny_model(), IDS * 4, 8)
    cut = short.truncated
    assert 0 < cut.sum() < 16
    for was_cut, ids, further in zip(cut.tolist(), lists(short), lists(long), strict=True):
        assert ids == further[:4]
        assert (ids[-1] == EOS) is not was_cut


def test_trl_ppo_nothing_is_sampled_or_trained_on_after_the_stop_token() -> None:
    watch = watched(policy=tiny_model(), rollout=SamplingConfig(max_new_tokens=12))
    watch.step(PROMPTS * 2)
    (found,) = watch.experiences
    for ids, mask in zip(found.tokens.response_ids.tolist(), found.mask.tolist(), strict=True):
        counted = [token for token, counts in zip(ids, mask, strict=True) if counts]
        assert EOS not in counted[:-1]
    ended = [ids for ids in found.tokens.response_ids.tolist() if EOS in ids]
    assert 0 < len(ended) < 16


def test_trl_ppo_what_fills_up_an_ended_row_is_no_second_stop_token() -> None:
    rollout = draw(tiny_model(pad_is_eos=True), IDS * 4)
    assert [ids.count(EOS) for ids in lists(rollout)] == [int(not cut) for cut in rollout.truncated.tolist()]


def test_trl_5338_an_answer_is_cut_or_ended_by_the_stop_token_in_use() -> None:
    policy = tiny_model()
    policy.stop_ids = (7, 12, 20)  # and not its EOS
    nothing = lambda prompts, responses: [0.0] * len(responses)  # noqa: E731
    rules: dict[str, Any] = {"truncation": "penalty", "penalty_score": -4.0, "kl_coef": 0, "lam": 1.0}
    watch = watched(policy=policy, reward=nothing, **rules)
    watch.step()
    (found,) = watch.experiences
    lengths, ids = found.tokens.response_lengths.tolist(), found.tokens.response_ids.tolist()
    expected = [0.0 if row[n - 1] in {7, 12, 20} else -4.0 for row, n in zip(ids, lengths, strict=True)]
    assert found.returns[:, 0].tolist() == expected
    assert set(expected) == {0.0, -4.0}


def test_trl_1066_dropout_goes_without_eval_mode_which_would_end_checkpointing_too() -> None:
    policy = tiny_model(family="own")
    policy.module.train()
    watched(policy=policy).step()
    assert policy.module.training


@pytest.mark.parametrize("tuning", [FULL, LORA], ids=["full", "lora"])
def test_trl_4_dropout_is_off_in_training_and_sampling_alike(tuning: Any) -> None:
    policy = tiny_model(family="own")
    for part in policy.module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.5
        if isinstance(getattr(part, "dropout", None), float):
            part.dropout = 0.5
    policy.module.train()
    stats = watched(tuning, policy=policy, epochs=1).step()
    assert stats["policy/ratio"] == pytest.approx(1, abs=1e-5)


def test_openrlhf_634_log_softmax_is_float32_under_half_weights() -> None:
    model = tiny_model()
    model.module.to(torch.bfloat16)
    tokens = collate(IDS, [[9, 4], [5], [6, 6], [3]])
    logprobs = score(model, tokens).logprobs
    assert logprobs.dtype == torch.float32
    # In bfloat16, of 8 bits, the probabilities of 30 tokens would not add up to 1.
    logits = model.logits(model.hidden(torch.tensor([[5, 6]]))[0, -1])
    assert float(logits.log_softmax(-1).exp().sum()) == pytest.approx(1, abs=1e-6)


def test_areal_the_longest_answer_that_ended_is_not_bootstrapped() -> None:
    no_score = lambda prompts, responses: [0.0] * len(responses)  # noqa: E731
    policy = tiny_model()
    policy.stop_ids = tuple(range(30))  # every answer is one token long, as long as the batch is wide, and has ended
    watch = watched(policy=policy, reward=no_score, truncation="bootstrap", kl_coef=0, lam=1.0)
    with torch.no_grad():
        watch.ppo.critic.head.linear.bias.fill_(3.0)  # every state is worth 3
    watch.step()
    (found,) = watch.experiences
    assert found.returns.tolist() == [[0]] * 8


def test_trl_1536_a_cut_answer_is_followed_by_its_value() -> None:
    no_score = lambda prompts, responses: [0.0] * len(responses)  # noqa: E731
    watch = watched(reward=no_score, truncation="bootstrap", kl_coef=0, lam=1.0)
    with torch.no_grad():
        watch.ppo.critic.head.linear.bias.fill_(3.0)  # every state is worth 3
    watch.step()
    (found,) = watch.experiences
    lengths, ids = found.tokens.response_lengths.tolist(), found.tokens.response_ids.tolist()
    expected = [0.0 if row[n - 1] == EOS else 3.0 for row, n in zip(ids, lengths, strict=True)]
    assert found.returns[:, 0].tolist() == pytest.approx(expected)
    assert sorted(set(expected)) == [0.0, 3.0]
