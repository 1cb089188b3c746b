"""A step in which no response may count."""

from proxtune.algorithms.ppo import PPO
from proxtune.algorithms.ppo_config import PPOConfig
from proxtune.models.peft import TuningConfig, tune
from proxtune.rollouts.sampling import SamplingConfig
from tests.tiny import tiny_model


def test_a_step_whose_responses_were_all_cut_moves_nothing() -> None:
    policy = tune(tiny_model(), TuningConfig(kind="full"))
    config = PPOConfig(batch_size=2, minibatch_size=2, truncation="mask")
    ppo = PPO(policy, lambda prompts, responses: [1.0, 2.0], config, rollout=SamplingConfig(max_new_tokens=1))
    before = {name: p.detach().clone() for name, p in policy.trained().items()}
    figures = ppo.step(["a", "b"])
    assert figures["length/truncated"] == 1.0
    assert figures["policy/epochs"] == 0.0
    assert all(p.equal(before[name]) for name, p in policy.trained().items())
