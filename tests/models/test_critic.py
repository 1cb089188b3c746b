"""Where the values come from."""

import pytest
import torch
from pydantic import ValidationError

from proxtune.data.collate import collate
from proxtune.errors import ModelError
from proxtune.models.critic import CriticConfig, build_critic
from proxtune.models.heads import RewardModel, ScalarHead
from proxtune.models.language_model import weight_hash
from proxtune.models.peft import TuningConfig, tune
from proxtune.models.score import rewards
from tests.tiny import tiny_model

TOKENS = collate([[5, 6], [7]], [[8, 9, 1], [10, 11, 12, 13]])
SEPARATE = CriticConfig(kind="separate")

each_tuning = pytest.mark.parametrize("tuning", [TuningConfig(kind="full"), TuningConfig(rank=2)], ids=["full", "lora"])


def reward_model(family: str = "llama") -> RewardModel:
    lm = tiny_model(family=family, seed=5)
    head = ScalarHead(lm.hidden_size, zero=False, generator=torch.Generator().manual_seed(1))
    return RewardModel(lm, head, max_length=64, gain=2.5, bias=-0.75)


def test_a_shared_critic_is_a_head_alone_that_begins_at_zero() -> None:
    critic = build_critic(tiny_model(), CriticConfig(), TuningConfig())
    assert critic.trunk is None
    assert set(critic.trained()) == {"head.linear.weight", "head.linear.bias"}
    assert critic.warmup_steps == 0
    assert not critic.after(tiny_model(), TOKENS).any()


@each_tuning
def test_a_separate_critic_without_a_reward_model_begins_at_zero_on_a_copy_of_the_policy(tuning: TuningConfig) -> None:
    policy = tiny_model()
    before = weight_hash(policy.module)
    critic = build_critic(policy, SEPARATE, tuning)
    assert critic.trunk is not None
    assert critic.trunk.module is not policy.module
    assert not critic.values(TOKENS).any()
    assert critic.warmup_steps == 10
    assert weight_hash(policy.module) == before
    assert policy.trained() == {}


@each_tuning
def test_a_separate_critic_begins_at_the_reward_models_normalised_score(tuning: TuningConfig) -> None:
    model = reward_model()
    before = weight_hash(model.lm.module)
    critic = build_critic(tiny_model(), SEPARATE, tuning, model)
    torch.testing.assert_close(critic.after(tiny_model(), TOKENS), rewards(model, TOKENS).detach(), rtol=0, atol=1e-5)
    assert critic.warmup_steps == 0
    with torch.no_grad():
        for weight in critic.trained().values():
            weight.add_(1)
    assert weight_hash(model.lm.module) == before


@each_tuning
def test_a_separate_critic_is_tuned_as_the_policy_is(tuning: TuningConfig) -> None:
    critic = build_critic(tiny_model(), SEPARATE, tuning, reward_model())
    names = [name for name in critic.trained() if name.startswith("trunk.")]
    assert names
    assert all(".lora_" in name for name in names) is (tuning.kind == "lora")


def test_a_reward_model_of_another_architecture_is_not_taken() -> None:
    critic = build_critic(tiny_model(), SEPARATE, TuningConfig(), reward_model("qwen2"))
    assert not critic.values(TOKENS).any()
    assert critic.warmup_steps == 10


def test_a_reward_model_that_reads_other_tokens_is_not_taken() -> None:
    model = reward_model()
    model.lm.module.resize_token_embeddings(40)
    critic = build_critic(tiny_model(), SEPARATE, TuningConfig(), model)
    assert not critic.values(TOKENS).any()


def test_a_separate_critic_is_built_before_the_policy_has_its_adapter() -> None:
    policy = tune(tiny_model(), TuningConfig(rank=2))
    with pytest.raises(ModelError, match=r"build a separate critic before the policy is tuned"):
        build_critic(policy, SEPARATE, TuningConfig())
    assert build_critic(policy, CriticConfig(), TuningConfig()).trunk is None


def test_a_warm_up_can_be_set() -> None:
    config = CriticConfig(kind="separate", warmup_steps=3)
    assert build_critic(tiny_model(), config, TuningConfig()).warmup_steps == 3
    assert build_critic(tiny_model(), config, TuningConfig(), reward_model()).warmup_steps == 3


def test_a_separate_critic_has_no_trunk_of_the_policy_to_reach() -> None:
    with pytest.raises(ValidationError, match=r"set critic\.kind=shared or remove critic\.detach"):
        CriticConfig(kind="separate", detach=False)
