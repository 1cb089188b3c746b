"""The whole road on one tiny model: fine-tune, learn a reward, improve by PPO, save, and load again."""

from pathlib import Path

import pytest
import torch

from proxtune.algorithms.ppo import PPO
from proxtune.algorithms.ppo_config import PPOConfig
from proxtune.algorithms.reward_model import RewardTrainer, normalise
from proxtune.algorithms.sft import SFT
from proxtune.data.loader import Loader
from proxtune.data.template import Example, PreferenceExample
from proxtune.models.critic import CriticConfig, build_critic
from proxtune.models.heads import RewardModel, ScalarHead
from proxtune.models.load import ModelConfig, load
from proxtune.models.peft import TuningConfig, tune
from proxtune.models.score import pair_rewards
from proxtune.rewards.learned import LearnedReward
from proxtune.rollouts.collect import collect
from proxtune.rollouts.engine import sample
from proxtune.rollouts.sampling import SamplingConfig
from proxtune.runs import Run
from proxtune.training.loop import TrainingConfig, fit
from proxtune.training.optim import OptimConfig
from tests.tiny import tiny_model

A, B, EOS = 2, 3, 1
PROMPTS = [[5 + i] for i in range(12)]
KEEP_NOTHING = TrainingConfig(save_every=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["shared", "separate"])
def test_a_model_learns_to_answer_then_what_is_liked_then_to_be_liked(kind: str, tmp_path: Path) -> None:
    # SFT: answers are four letters, a or b
    generator = torch.Generator().manual_seed(0)
    answers = [torch.randint(A, B + 1, (4,), generator=generator).tolist() for _ in range(48)]
    examples = [Example(PROMPTS[i % 12], [*ids, EOS], "", truncated=False) for i, ids in enumerate(answers)]
    model = tune(tiny_model(family="own"), TuningConfig(kind="full"))
    with Run.create(tmp_path / "sft", resume=False) as run:
        fit(
            SFT(model, optim=OptimConfig(learning_rate=1e-2)), Loader(examples, 16, seed=0), run, KEEP_NOTHING, steps=40
        )
        losses = [row["loss"] for row in run.metrics()]
    model.save(tmp_path / "sft/model")
    assert losses[-1] < 0.75 < losses[0]  # four free choices of five tokens: (4 log 2) / 5 = 0.55 at best

    # Reward: more a's are better, and of answers cut short it sees enough to know that they are no way out
    cut = [ids[: i % 5] for i, ids in enumerate(reversed(answers))]
    ranked = [sorted(pair, key=lambda ids: ids.count(A)) for pair in zip(answers, cut, strict=True)]
    pairs = [
        PreferenceExample(PROMPTS[i % 12], [*best, EOS], [*worst, EOS], "")
        for i, (worst, best) in enumerate(ranked)
        if best.count(A) > worst.count(A)
    ]
    lm = tune(load(ModelConfig(name=str(tmp_path / "sft/model"))), TuningConfig(kind="full"))
    reward_model = RewardModel(lm, ScalarHead(lm.hidden_size, zero=False, generator=generator), max_length=8)
    trainer = RewardTrainer(reward_model, optim=OptimConfig(learning_rate=3e-3))
    with Run.create(tmp_path / "reward", resume=False) as run:
        fit(trainer, Loader(pairs, 16, seed=0), run, KEEP_NOTHING, steps=60)
    normalise(reward_model, pairs)
    reward_model.save(tmp_path / "reward/model")
    with torch.no_grad():
        chosen, rejected = pair_rewards(reward_model, pairs)
    assert (chosen > rejected).float().mean() > 0.9

    # PPO: from the tuned model, against the learnt reward, as another process would load them
    folder = tmp_path / "reward/model"
    learnt = RewardModel.load(load(ModelConfig(name=str(folder))), folder)
    policy = load(ModelConfig(name=str(tmp_path / "sft/model")))
    tuning, config = TuningConfig(rank=4), CriticConfig(kind=kind, learning_rate=1e-2)
    critic = build_critic(policy, config, tuning, learnt)
    algorithm = PPO(
        tune(policy, tuning),
        LearnedReward(learnt, same_tokenizer=True),
        PPOConfig(batch_size=48, minibatch_size=24, epochs=2, kl_coef=0.01, truncation="penalty"),
        rollout=SamplingConfig(max_new_tokens=6),
        optim=OptimConfig(learning_rate=3e-3),
        critic=critic,
        critic_config=config,
    )
    texts = [policy.tokenizer.decode(ids) for ids in PROMPTS]
    with Run.create(tmp_path / "ppo", resume=False) as run:
        training = TrainingConfig(save_every=0, samples=48)
        fit(algorithm, Loader(texts, 48, seed=0), run, training, steps=12)
        scores = [row["score/mean"] for row in run.metrics()]
        letters = [sum(row["response"].count("a") for row in run.samples() if row["step"] == t) / 48 for t in (1, 12)]
    policy.save(tmp_path / "ppo/model")
    assert sum(scores[-3:]) / 3 > scores[0] + 0.2
    assert letters[0] < 2.2  # a's an answer: half of four
    assert letters[1] > letters[0] + 0.6

    # and what was saved answers as the run ended
    served = load(ModelConfig(name=str(tmp_path / "ppo/model")))
    greedy = SamplingConfig(max_new_tokens=6, temperature=0)
    before, after = (
        collect(model, PROMPTS, greedy, sampler=sample, seed=0, step=0).tokens.response_ids
        for model in (policy, served)
    )
    assert torch.equal(before, after)
