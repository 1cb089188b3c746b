"""One step of PPO: what must hold of its rollout, its credit and its updates."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from proxtune.algorithms.ppo import PPO, Experience
from proxtune.algorithms.ppo_config import PPOConfig
from proxtune.data.collate import collate
from proxtune.data.template import PromptExample
from proxtune.errors import ConfigError, GenerationError, RewardError
from proxtune.models.critic import CriticConfig, build_critic
from proxtune.models.heads import RewardModel, ScalarHead
from proxtune.models.language_model import LanguageModel, weight_hash
from proxtune.models.peft import TuningConfig, tune
from proxtune.models.score import frozen_logprobs
from proxtune.rewards.base import Answers, FunctionReward
from proxtune.rewards.combine import WeightedSum
from proxtune.rollouts.engine import sample
from proxtune.rollouts.rollout import Rollout
from proxtune.rollouts.sampling import SamplingConfig
from proxtune.training.optim import OptimConfig
from tests.tiny import ADAPTABLE, FAMILIES, tiny_model

FULL, LORA = TuningConfig(kind="full"), TuningConfig(rank=2)
PROMPTS = ["ab", "c", "defghij", "kl", "m", "nopq", "r", "st"]

each_tuning = pytest.mark.parametrize("tuning", [FULL, LORA], ids=["full", "lora"])


def count_a(prompts: list[str], responses: list[str]) -> list[float]:
    return [float(response.count("a")) for response in responses]


def ppo(
    tuning: TuningConfig = LORA,
    *,
    policy: LanguageModel | None = None,
    reward: Any = count_a,
    rollout: SamplingConfig | None = None,
    learning_rate: float = 1e-2,
    parts: dict[str, Any] | None = None,
    **config: Any,
) -> PPO:
    """PPO of a tiny model on eight prompts."""
    sizes = {"batch_size": 8, "minibatch_size": 8, "epochs": 2}
    return PPO(
        tune(policy or tiny_model(), tuning),
        reward,
        PPOConfig(**sizes | config),
        rollout=rollout or SamplingConfig(max_new_tokens=6),
        optim=OptimConfig(learning_rate=learning_rate, warmup=0),
        **parts or {},
    )


def separate(
    tuning: TuningConfig, *, warmup: int | None = None, reward_model: RewardModel | None = None
) -> dict[str, Any]:
    """The arguments that give PPO a critic of its own."""
    config = CriticConfig(kind="separate", warmup_steps=warmup)
    return {"critic": build_critic(tiny_model(), config, tuning, reward_model), "critic_config": config}


def trained(algorithm: PPO) -> dict[str, Tensor]:
    """A copy of every weight that is trained."""
    parts = {"policy": algorithm.policy.trained(), "critic": algorithm.critic.trained()}
    return {f"{part}.{name}": p.detach().clone() for part, weights in parts.items() for name, p in weights.items()}


def moved(algorithm: PPO, before: dict[str, Tensor]) -> set[str]:
    return {name for name, p in trained(algorithm).items() if not torch.equal(p, before[name])}


def with_plain_gradient_descent(algorithm: PPO) -> PPO:
    """Adam divides by the gradient's size, and so magnifies the rounding of gradients near 0."""
    groups = [{"params": weights, "lr": 0.05} for weights in algorithm.optimizer.groups.values()]
    algorithm.optimizer.adam = torch.optim.SGD(groups)
    algorithm.optimizer.peaks = dict.fromkeys(algorithm.optimizer.peaks, 0.05)
    return algorithm


# sample


@pytest.mark.parametrize(
    ("family", "tuning", "temperature"),
    [
        *((family, LORA, 1.0) for family in ADAPTABLE),
        ("llama", FULL, 1.0),
        ("llama", FULL, 0.7),
        ("own", LORA, 0.7),
        ("lstm", FULL, 1.0),
        ("lstm", FULL, 0.7),
    ],
)
def test_before_anything_has_moved_the_ratio_is_1_and_the_kl_0(
    family: str, tuning: TuningConfig, temperature: float
) -> None:
    rollout = SamplingConfig(max_new_tokens=6, temperature=temperature)
    stats = ppo(tuning, policy=tiny_model(family=family), rollout=rollout, epochs=1).step(PROMPTS)
    assert stats["policy/ratio"] == pytest.approx(1, abs=1e-5)
    assert stats["policy/approx_kl"] == pytest.approx(0, abs=1e-6)
    assert stats["policy/clip_fraction"] == 0
    assert stats["kl/sequence"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("lie", [1e-3, -0.5, torch.nan])
@pytest.mark.parametrize(
    ("kl_coef", "gap"),
    [(0, "between the sampler and the trainer"), (0.05, "between the policy and the reference it begins as")],
)
def test_a_sampler_that_misreports_a_logprob_is_caught_before_anything_moves(
    lie: float, kl_coef: float, gap: str
) -> None:
    def liar(*args: Any, **kwargs: Any) -> Rollout:
        rollout = sample(*args, **kwargs)
        logprobs = rollout.logprobs.clone()
        logprobs[3, 0] += lie
        return replace(rollout, logprobs=logprobs)

    algorithm = ppo(kl_coef=kl_coef, parts={"sampler": liar})
    before = trained(algorithm)
    with pytest.raises(GenerationError, match=rf"a token's log-prob differs by .* {gap}.*rollouts\.generate"):
        algorithm.step(PROMPTS)
    assert moved(algorithm, before) == set()


def test_every_step_is_held_to_a_ratio_of_1_not_the_first_alone() -> None:
    def liar_later(*args: Any, **kwargs: Any) -> Rollout:
        rollout = sample(*args, **kwargs)
        return replace(rollout, logprobs=rollout.logprobs - 0.01 * rollout.mask) if algorithm.steps == 2 else rollout

    algorithm = ppo(parts={"sampler": liar_later}, minibatch_size=4)
    algorithm.step(PROMPTS)
    algorithm.step(PROMPTS)
    with pytest.raises(GenerationError, match="between the sampler and the trainer"):
        algorithm.step(PROMPTS)


def test_an_adapter_that_was_trained_before_the_run_is_refused_until_it_is_merged() -> None:
    policy = tune(tiny_model(), LORA)
    with torch.no_grad():
        for weight in policy.trained().values():
            weight.add_(0.1)
    algorithm = PPO(
        policy, count_a, PPOConfig(batch_size=8, minibatch_size=8), rollout=SamplingConfig(max_new_tokens=6)
    )
    with pytest.raises(GenerationError, match=r"trained before must be merged \(LanguageModel\.save, then load\)"):
        algorithm.step(PROMPTS)


def test_what_a_sampler_leaves_in_masked_slots_changes_nothing() -> None:
    def untidy(*args: Any, **kwargs: Any) -> Rollout:
        rollout = sample(*args, **kwargs)
        assert rollout.values is not None
        logprobs, values = (x.masked_fill(~rollout.mask, torch.nan) for x in (rollout.logprobs, rollout.values))
        ids = rollout.tokens.response_ids.masked_fill(~rollout.mask, 17)
        return replace(rollout, tokens=replace(rollout.tokens, response_ids=ids), logprobs=logprobs, values=values)

    clean, other = ppo(), ppo(parts={"sampler": untidy})
    assert clean.step(PROMPTS) == other.step(PROMPTS)
    assert moved(other, trained(clean)) == set()


def test_a_sampler_of_ones_own_that_tells_the_truth_will_do() -> None:
    calls = []

    def counting(*args: Any, **kwargs: Any) -> Rollout:
        calls.append(len(args[1]))
        return sample(*args, **kwargs)

    ppo(parts={"sampler": counting}).step(PROMPTS)
    assert calls == [8]


def test_dropout_is_off_in_policy_reference_and_critic() -> None:
    policy = tiny_model(family="own")
    for part in policy.module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.5
        if isinstance(getattr(part, "dropout", None), float):
            part.dropout = 0.5
    policy.module.train()
    algorithm = ppo(LORA, policy=policy, epochs=1)
    stats = algorithm.step(PROMPTS)
    assert policy.module.training
    assert stats["policy/ratio"] == pytest.approx(1, abs=1e-5)
    assert stats["kl/sequence"] == pytest.approx(0, abs=1e-4)


def test_a_seed_fixes_every_figure_and_another_changes_them() -> None:
    first, second, other = ppo(), ppo(), ppo(parts={"seed": 1})
    runs = [[algorithm.step(PROMPTS) for _ in range(2)] for algorithm in (first, second, other)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    assert moved(second, trained(first)) == set()


# score


def test_prompts_are_strings_or_examples() -> None:
    examples = [PromptExample([2 + ord(c) - ord("a") for c in text], text, {}, "") for text in PROMPTS]
    assert ppo().step(PROMPTS) == ppo().step(examples)


def test_columns_of_the_data_reach_the_reward() -> None:
    seen: dict[str, list[Any]] = {}

    def reward(prompts: list[str], responses: list[str], answer: list[Any]) -> list[float]:
        seen.update(prompts=prompts, answer=answer)
        return [0.0] * len(prompts)

    prompts = [PromptExample([5], "d", {"answer": i} if i != 3 else {}, "") for i in range(8)]
    ppo(reward=reward).step(prompts)
    assert seen == {"prompts": ["d"] * 8, "answer": [0, 1, 2, None, 4, 5, 6, 7]}


def test_responses_reach_the_reward_without_their_stop_token() -> None:
    seen: list[Answers] = []

    class Watch:
        name = "watch"

        def __call__(self, answers: Answers) -> Tensor:
            seen.append(answers)
            return torch.zeros(len(answers.responses))

    ppo(reward=Watch()).step(PROMPTS)
    (answers,) = seen
    ended = answers.tokens.response_lengths < 6
    assert ended.any()
    for text, length, ends in zip(answers.responses, answers.tokens.response_lengths, ended, strict=True):
        assert "eos" not in text
        assert len(text.split()) <= int(length) - int(ends)


def test_several_rewards_are_weighted_and_each_has_its_curve() -> None:
    def constant(prompts: list[str], responses: list[str]) -> list[float]:
        return [2.0] * len(responses)

    reward = WeightedSum([(FunctionReward(count_a), 3.0), (FunctionReward(constant), -0.5)])
    stats = ppo(reward=reward).step(PROMPTS)
    assert stats["score/constant"] == 2
    assert stats["score/mean"] == pytest.approx(3 * stats["score/count_a"] - 1)


def test_a_reward_that_fails_stops_the_run_before_anything_moves() -> None:
    algorithm = ppo(reward=lambda prompts, responses: [math.nan] * 8)
    before = trained(algorithm)
    with pytest.raises(RewardError, match="returned nan for response 0"):
        algorithm.step(PROMPTS)
    assert moved(algorithm, before) == set()
    assert algorithm.steps == 0


def test_scores_are_scaled_by_their_running_deviation_then_clipped_and_reported_raw() -> None:
    algorithm = ppo(reward=lambda prompts, responses: [0.0, 40.0] * 4, reward_scale="running", reward_clip=1.5)
    # the deviation is 20, so 40 becomes 2, and 2 is clipped to 1.5
    assert algorithm.scaled(torch.tensor([0.0, 40.0] * 4)).tolist() == [0.0, 1.5] * 4
    assert algorithm.step(PROMPTS)["score/mean"] == 20
    assert algorithm.scale.count == 16


@each_tuning
def test_kl_coef_0_makes_no_reference_and_calls_none(tuning: TuningConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: LanguageModel) -> LanguageModel:
        raise AssertionError("a reference was made")

    monkeypatch.setattr(LanguageModel, "frozen_copy", refuse)
    monkeypatch.setattr(LanguageModel, "as_reference", refuse)
    algorithm = ppo(tuning, kl_coef=0)
    stats = algorithm.step(PROMPTS)
    assert algorithm.reference is None
    assert "kl/sequence" not in stats
    assert stats["kl/coef"] == 0


def test_lora_needs_no_copy_for_its_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: LanguageModel) -> LanguageModel:
        raise AssertionError("a copy was made")

    monkeypatch.setattr(LanguageModel, "frozen_copy", refuse)
    algorithm = ppo(LORA)
    algorithm.step(PROMPTS)
    assert algorithm.reference is None


@each_tuning
def test_the_reference_stays_what_the_policy_was_while_the_policy_moves(tuning: TuningConfig) -> None:
    algorithm = ppo(tuning)
    rollout, _ = algorithm.sample([PromptExample([5, 6], "de", {}, "")] * 4)
    before = frozen_logprobs(tiny_model(), rollout.tokens)
    stats = [algorithm.step(PROMPTS) for _ in range(3)]
    torch.testing.assert_close(algorithm.reference_logprobs(rollout), before, rtol=0, atol=1e-6)
    assert (frozen_logprobs(algorithm.policy, rollout.tokens) - before).abs().max() > 0.01
    assert stats[2]["kl/sequence"] > 0.01


def test_a_reference_of_ones_own_is_measured_against_and_never_changed() -> None:
    reference = tiny_model(seed=9)
    before = weight_hash(reference.module)
    algorithm = ppo(LORA, parts={"reference": reference})
    assert algorithm.step(PROMPTS)["kl/sequence"] > 1
    assert weight_hash(reference.module) == before


# credit


@pytest.mark.parametrize(
    ("rule", "expected_mask", "expected_scores", "bootstraps"),
    [
        ("none", [True, True, True], [1.0, 2.0, 3.0], False),
        ("penalty", [True, True, True], [1.0, -7.0, 3.0], False),
        ("mask", [True, False, True], [1.0, 2.0, 3.0], False),
        ("bootstrap", [True, True, True], [1.0, 2.0, 3.0], True),
    ],
)
@pytest.mark.parametrize("kind", ["shared", "separate"])
def test_what_becomes_of_an_answer_that_the_limit_cut(
    rule: str, expected_mask: list[bool], expected_scores: list[float], bootstraps: bool, kind: str
) -> None:
    parts = separate(LORA) if kind == "separate" else {}
    algorithm = ppo(truncation=rule, penalty_score=-7.0, parts=parts)
    nn.init.normal_(algorithm.critic.head.linear.weight, generator=torch.Generator().manual_seed(0))
    tokens = collate([[5], [6, 7], [8]], [[9, 1], [10, 11, 12], [13, 14, 15]])  # the limit is 3
    zeros = torch.zeros(3, 3)
    truncated = torch.tensor([False, True, False])  # the third met a stop token just in time
    rollout = Rollout(tokens, truncated, zeros, zeros, None)
    mask, scores, bootstrap = algorithm.settle(rollout, torch.tensor([1.0, 2.0, 3.0]))
    assert mask.any(1).tolist() == expected_mask
    assert torch.equal(mask, tokens.mask & torch.tensor(expected_mask)[:, None])
    assert scores.tolist() == expected_scores
    assert (bootstrap is not None) is bootstraps
    if bootstrap is not None:
        trunk = algorithm.critic.trunk or algorithm.policy
        with torch.no_grad():
            after = algorithm.critic.head(trunk.hidden(torch.tensor([[6, 7, 10, 11, 12]]))[0, -1])
        assert bootstrap[[0, 2]].tolist() == [0, 0]
        torch.testing.assert_close(bootstrap[1], after, rtol=0, atol=1e-5)


class Recorded(Exception):  # noqa: N818 (not an error: it carries what a step was about to learn)
    pass


def experience_of(algorithm: PPO, monkeypatch: pytest.MonkeyPatch) -> Experience:
    """What a step hands to its improvement."""

    def record(experience: Experience) -> dict[str, float]:
        raise Recorded(experience)

    monkeypatch.setattr(algorithm, "improve", record)
    with pytest.raises(Recorded) as caught:
        algorithm.step(PROMPTS)
    found = caught.value.args[0]
    assert isinstance(found, Experience)
    return found


def test_a_masked_answer_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    def reward_of(cut: float) -> Callable[..., list[float]]:
        return lambda prompts, responses: [cut if len(r.split()) == 6 else 1.0 for r in responses]

    first, other = (ppo(reward=reward_of(x), truncation="mask") for x in (0.0, 50.0))
    a, b = (experience_of(algorithm, monkeypatch) for algorithm in (first, other))
    assert 0 < a.mask.any(1).sum() < 8
    assert torch.equal(a.advantages, b.advantages)
    assert not a.advantages[~a.mask.any(1)].any()


def test_with_every_answer_masked_there_is_nothing_to_learn() -> None:
    algorithm = ppo(truncation="mask", rollout=SamplingConfig(max_new_tokens=1))
    algorithm.policy.stop_ids = (30,)  # no token of its vocabulary, so that none ends
    before = trained(algorithm)
    stats = algorithm.step(PROMPTS)
    assert stats["length/truncated"] == 1
    assert moved(algorithm, before) == set()


def test_advantages_have_mean_0_and_variance_1_over_the_whole_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    found = experience_of(ppo(minibatch_size=2), monkeypatch)
    counted = found.advantages[found.mask]
    assert counted.mean().item() == pytest.approx(0, abs=1e-5)
    assert counted.std(unbiased=False).item() == pytest.approx(1, abs=1e-4)
    assert not found.advantages[~found.mask].any()


def test_the_score_lands_on_the_last_token_of_short_and_long_answers_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    # with values of 0, γ = 1, λ = 1 and no KL, every token's return is its answer's score
    reward = lambda prompts, responses: [float(i + 1) for i in range(8)]  # noqa: E731
    found = experience_of(ppo(reward=reward, lam=1.0, kl_coef=0, whiten=False), monkeypatch)
    expected = torch.where(found.mask, torch.arange(1.0, 9.0)[:, None], 0)
    torch.testing.assert_close(found.returns, expected)
    # with λ = 0 only the last token is credited
    last = experience_of(ppo(reward=reward, lam=0.0, kl_coef=0, whiten=False), monkeypatch).advantages
    assert last.count_nonzero(1).tolist() == [1] * 8
    rows = torch.arange(8)
    assert last[rows, found.mask.sum(1) - 1].tolist() == [float(i + 1) for i in range(8)]


def test_the_kl_to_the_reference_is_in_the_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    zero = lambda prompts, responses: [0.0] * 8  # noqa: E731
    algorithm = ppo(reward=zero, kl_coef=0.5, lam=1.0, whiten=False, parts={"reference": tiny_model(seed=9)})
    found = experience_of(algorithm, monkeypatch)
    log_ratio = found.old_logprobs - frozen_logprobs(tiny_model(seed=9), found.tokens)
    total = torch.where(found.mask, -0.5 * log_ratio, 0).sum(1)
    torch.testing.assert_close(found.returns[:, 0], total, rtol=0, atol=1e-4)


# improve


@pytest.mark.parametrize(
    ("minibatch", "epochs"),
    [pytest.param(8, 4, marks=pytest.mark.slow), (4, 2), pytest.param(1, 1, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("microbatch", [None, 1])
def test_optimiser_steps_are_epochs_times_minibatches(
    minibatch: int, epochs: int, microbatch: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    algorithm = ppo(minibatch_size=minibatch, epochs=epochs, microbatch_size=microbatch)
    steps, apply = [], algorithm.optimizer.apply
    monkeypatch.setattr(algorithm.optimizer, "apply", lambda loss: steps.append(1) or apply(loss))
    stats = [algorithm.step(PROMPTS) for _ in range(2)]
    assert len(steps) == 2 * epochs * 8 // minibatch
    assert [row["policy/epochs"] for row in stats] == [epochs, epochs]


def test_each_epoch_sees_every_answer_once_in_an_order_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = ppo(minibatch_size=2, epochs=2)
    seen: list[tuple[int, ...]] = []

    def note(minibatch: Experience, number: int) -> dict[str, float]:
        seen.append(tuple(minibatch.tokens.prompt_ids[:, 0].tolist()))
        return {"policy/approx_kl": 0.0}

    monkeypatch.setattr(algorithm, "update", note)
    algorithm.step(PROMPTS)
    algorithm.step(PROMPTS)
    first, second, later = seen[:4], seen[4:8], seen[8:12]
    begins = sorted(2 + ord(text[0]) - ord("a") for text in PROMPTS)
    for epoch in (first, second, later):
        assert sorted(token for rows in epoch for token in rows) == begins
    assert first != second
    assert first != later


def test_the_loss_is_the_policys_plus_the_weighted_values_less_the_weighted_entropy() -> None:
    algorithm = ppo(value_coef=0.3, entropy_coef=0.2)
    rollout, values = algorithm.sample([PromptExample([5, 6], "de", {}, "")] * 4)
    ones = torch.ones_like(values)
    batch = Experience(rollout.tokens, rollout.mask, rollout.logprobs, values, ones, 5 * ones)
    ((loss, stats),) = algorithm.losses(batch, count=rollout.mask.sum(), rows=4, check=True)
    entropy = rollout.entropy[rollout.mask].mean().item()
    assert stats["policy/loss"].item() == pytest.approx(-1)  # ratio 1, advantages 1
    assert stats["value/loss"].item() == pytest.approx(12.5)  # values 0, returns 5
    assert loss.item() == pytest.approx(-1 + 0.3 * 12.5 - 0.2 * entropy, abs=1e-5)


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize(
    ("tuning", "options"),
    [
        (LORA, {}),
        (FULL, {"aggregate": "sequence"}),
        (LORA, {"entropy_coef": 0.1, "minibatch_size": 4}),
        (FULL, {"loss": "kl_penalty", "truncation": "mask"}),
    ],
    ids=["token", "sequence", "entropy", "penalty"],
)
def test_micro_batches_change_no_result(tuning: TuningConfig, size: int, options: dict[str, Any]) -> None:
    whole, split = (with_plain_gradient_descent(ppo(tuning, microbatch_size=n, **options)) for n in (None, size))
    stats = [algorithm.step(PROMPTS) for algorithm in (whole, split)]
    before, after = trained(whole), trained(split)
    assert max(float((after[name] - p).abs().max()) for name, p in before.items()) < 1e-6
    shares = {"value/explained_variance"}  # of a micro-batch's own returns: not a sum over rows
    for name in stats[0].keys() - shares:
        assert stats[1][name] == pytest.approx(stats[0][name], rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize(
    ("family", "kind", "tuning"),
    [
        *((family, "shared", LORA) for family in ADAPTABLE),
        *((family, "shared", FULL) for family in FAMILIES),
        *((family, "separate", tuning) for family in ("llama", "own") for tuning in (FULL, LORA)),
        ("lstm", "separate", FULL),
    ],
)
def test_every_weight_that_is_trained_moves_and_every_other_stays_bit_identical(
    tuning: TuningConfig, kind: str, family: str
) -> None:
    policy = tiny_model(family=family)
    config = CriticConfig(kind=kind, warmup_steps=0)
    critic = build_critic(policy, config, tuning)
    algorithm = ppo(tuning, policy=policy, parts={"critic": critic, "critic_config": config})
    modules = [policy.module] if critic.trunk is None else [policy.module, critic.trunk.module]
    frozen = [p for module in modules for p in module.parameters() if not p.requires_grad]
    assert bool(frozen) is (tuning.kind == "lora")
    kept, before = [p.clone() for p in frozen], trained(algorithm)
    for _ in range(2):  # a LoRA's A has no gradient until its B has moved
        algorithm.step(PROMPTS)
    assert moved(algorithm, before) == set(before)
    assert all(torch.equal(p, q) for p, q in zip(frozen, kept, strict=True))


@pytest.mark.parametrize("kind", ["shared", "separate"])
def test_a_warm_up_moves_the_critic_alone(kind: str) -> None:
    config = CriticConfig(kind=kind, warmup_steps=2)
    critic = build_critic(tiny_model(), config, LORA)
    algorithm = ppo(parts={"critic": critic, "critic_config": config}, entropy_coef=0.1)
    before = trained(algorithm)
    for _ in range(2):
        algorithm.step(PROMPTS)
    changed = moved(algorithm, before)
    assert changed
    assert all(name.startswith("critic.") for name in changed)
    algorithm.step(PROMPTS)
    assert any(name.startswith("policy.") for name in moved(algorithm, before))


@pytest.mark.parametrize(("detach", "reaches"), [(True, False), (False, True)])
def test_the_critics_gradient_stops_at_the_trunk_unless_it_is_let_through(detach: bool, reaches: bool) -> None:
    # the answers all score alike, so that the values alone have anything to learn
    algorithm = ppo(
        reward=lambda prompts, responses: [1.0] * 8,
        kl_coef=0,
        whiten=False,
        value_coef=1.0,
        parts={"critic_config": CriticConfig(detach=detach)},
    )
    nn.init.normal_(algorithm.critic.head.linear.weight, generator=torch.Generator().manual_seed(0))
    rollout, values = algorithm.sample([PromptExample([5, 6], "de", {}, "")] * 4)
    nothing = torch.zeros_like(values)
    batch = Experience(rollout.tokens, rollout.mask, rollout.logprobs, values, nothing, nothing + 5)
    ((loss, _),) = algorithm.losses(batch, count=rollout.mask.sum(), rows=4, check=True)
    loss.backward()
    assert algorithm.critic.head.linear.weight.grad is not None
    gradients = [p.grad for p in algorithm.policy.trained().values() if p.grad is not None]
    assert any(bool(gradient.any()) for gradient in gradients) is reaches


def test_a_separate_critic_begins_with_the_scores_of_the_reward_model() -> None:
    lm = tiny_model(seed=5)
    head = ScalarHead(32, zero=False, generator=torch.Generator().manual_seed(1))
    model = RewardModel(lm, head, max_length=64, gain=1.5, bias=0.5)
    algorithm = ppo(parts=separate(LORA, reward_model=model))
    rollout, values = algorithm.sample([PromptExample([5, 6], "de", {}, "")] * 4)
    assert rollout.values is None  # the sampler has no head to read them with
    with torch.no_grad():
        first = 1.5 * head(lm.hidden(torch.tensor([[5, 6]]))[0, -1]) + 0.5
    torch.testing.assert_close(values[:, 0], first.expand(4), rtol=0, atol=1e-5)
    assert not values.requires_grad
    algorithm.step(PROMPTS)


def test_a_critic_learns_what_a_steady_reward_is() -> None:
    algorithm = ppo(reward=lambda prompts, responses: [1.0] * 8, epochs=4, kl_coef=0, learning_rate=3e-3)
    losses = [algorithm.step(PROMPTS)["value/loss"] for _ in range(8)]
    assert losses[-1] < 0.5 * losses[0]


def test_kl_stop_ends_the_epochs() -> None:
    # the first epoch of one minibatch is measured before its update, so the second is the first to have moved
    assert ppo(epochs=4, kl_stop=1e-6).step(PROMPTS)["policy/epochs"] == 2
    assert ppo(epochs=4, kl_stop=1e6).step(PROMPTS)["policy/epochs"] == 4
    assert ppo(epochs=4, kl_stop=1e-6, minibatch_size=2).step(PROMPTS)["policy/epochs"] == 1


# coefficients


def test_kl_coef_falls_by_its_literal_share_while_the_kl_is_below_its_target() -> None:
    # the KL is 0: error −1, clipped to −0.2, times 8 of 80 responses
    algorithm = ppo(kl_coef=0.05, kl_target=6.0, kl_horizon=80)
    assert algorithm.step(PROMPTS)["kl/coef"] == 0.05
    assert algorithm.kl_coef == pytest.approx(0.05 * (1 - 0.2 * 8 / 80))


def test_kl_coef_rises_by_its_literal_share_while_the_kl_is_above_its_target() -> None:
    algorithm = ppo(kl_coef=0.05, kl_target=0.1, kl_horizon=80, parts={"reference": tiny_model(seed=9)})
    assert algorithm.step(PROMPTS)["kl/sequence"] > 0.12
    assert algorithm.kl_coef == pytest.approx(0.05 * (1 + 0.2 * 8 / 80))


def test_kl_coef_waits_for_the_end_of_the_warm_up_in_which_the_kl_is_0() -> None:
    algorithm = ppo(kl_coef=0.05, kl_target=6.0, kl_horizon=80, parts=separate(LORA, warmup=1))
    algorithm.step(PROMPTS)
    assert algorithm.kl_coef == 0.05
    algorithm.step(PROMPTS)
    assert algorithm.kl_coef < 0.05


def test_kl_coef_is_fixed_without_a_target() -> None:
    algorithm = ppo(kl_coef=0.05)
    algorithm.step(PROMPTS)
    assert algorithm.kl_coef == 0.05


@pytest.mark.parametrize(("target", "expected"), [(100.0, [0.5, 0.25]), (1e-9, [2.0, 4.0]), (None, [1.0, 1.0])])
def test_the_penalty_coefficient_halves_or_doubles_by_the_kl_of_the_last_epoch(
    target: float | None, expected: list[float]
) -> None:
    algorithm = ppo(loss="kl_penalty", penalty_target=target)
    found = []
    for _ in range(2):
        before = algorithm.penalty_coef
        assert algorithm.step(PROMPTS)["policy/penalty_coef"] == before
        found.append(algorithm.penalty_coef)
    assert found == expected


def test_the_penalty_coefficient_waits_for_the_end_of_the_warm_up() -> None:
    algorithm = ppo(loss="kl_penalty", parts=separate(LORA, warmup=2))
    algorithm.step(PROMPTS)
    assert algorithm.penalty_coef == 1.0


# figures and errors


def test_the_figures_of_a_step_are_those_of_its_rollout() -> None:
    algorithm = ppo()
    stats = algorithm.step(PROMPTS)
    rows = algorithm.samples()
    assert [row["prompt"] for row in rows] == PROMPTS
    assert stats["score/mean"] == pytest.approx(sum(row["score"] for row in rows) / 8)
    assert stats["kl/sequence"] == pytest.approx(sum(row["kl"] for row in rows) / 8)
    assert stats["length/truncated"] == sum(row["truncated"] for row in rows) / 8
    assert stats["length/mean"] * 8 == stats["tokens"]
    assert 0 < stats["entropy"] < math.log(30)
    assert stats["optim/learning_rate"] == 1e-2
    assert all(isinstance(x, float) and math.isfinite(x) for x in stats.values())


def test_tr3_a_gradient_that_is_not_finite_moves_nothing_and_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = ppo(epochs=1)
    before, losses = trained(algorithm), algorithm.losses

    def broken(*args: Any, **kwargs: Any) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        yield from ((loss * torch.nan, stats) for loss, stats in losses(*args, **kwargs))

    monkeypatch.setattr(algorithm, "losses", broken)
    assert algorithm.step(PROMPTS)["gradient/skipped"] == 1
    assert moved(algorithm, before) == set()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 8, "minibatch_size": 3}, r"minibatch_size: 3 does not divide batch_size=8; set a divisor"),
        (
            {"batch_size": 8, "minibatch_size": 4, "microbatch_size": 3},
            r"microbatch_size: 3 does not divide minibatch_size=4; set a divisor",
        ),
        ({"kl_coef": 0, "kl_target": 6}, r"set ppo\.kl_coef above 0 or remove ppo\.kl_target"),
        ({"loss": "kl_penalty", "aggregate": "sequence"}, r"set ppo\.aggregate=token or ppo\.loss=clip"),
        ({"kl_target": 0}, r"greater than 0"),
        ({"clip": 1.0}, r"less than 1"),
    ],
)
def test_options_that_cannot_work_together_are_refused_with_what_to_set(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PPOConfig(**options)


@pytest.mark.parametrize("sampling", [{"top_k": 5}, {"top_p": 0.9}, {"repetition_penalty": 1.2}, {"temperature": 0}])
def test_a_rollout_that_the_trainer_cannot_follow_is_refused(sampling: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(sampling))):
        ppo(rollout=SamplingConfig(**sampling))


def test_ppo_has_at_most_60_options() -> None:
    schemas: Sequence[type[Any]] = (PPOConfig, SamplingConfig, CriticConfig)
    assert sum(len(schema.model_fields) for schema in schemas) <= 60
