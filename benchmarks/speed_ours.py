"""Our side of the speed benchmarks, as workers: `python -m benchmarks.speed_ours SETTINGS`, a JSON file."""

import math
from collections.abc import Callable
from itertools import count
from typing import Any

import torch
from torch import Tensor
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from benchmarks.peers.wire import THREADS, Wire, count_optimizer_steps, endless, weights_hash
from proxtune.algorithms.ppo import PPO
from proxtune.algorithms.ppo_config import PPOConfig
from proxtune.algorithms.reward_model import RewardModelConfig, RewardTrainer
from proxtune.algorithms.sft import SFT, SFTConfig
from proxtune.data.template import Example, PreferenceExample, PromptExample
from proxtune.models.critic import CriticConfig, build_critic
from proxtune.models.heads import RewardModel, ScalarHead
from proxtune.models.load import ModelConfig, load
from proxtune.models.peft import TuningConfig, tune
from proxtune.rewards.base import Answers
from proxtune.rollouts.collect import collect
from proxtune.rollouts.engine import sample
from proxtune.rollouts.sampling import SamplingConfig
from proxtune.training.optim import OptimConfig

Step = Callable[[], dict[str, Any]]


class Even:
    """The share of a response's tokens whose id is even."""

    name = "even"

    def __call__(self, answers: Answers) -> Tensor:
        tokens = answers.tokens
        even = (tokens.response_ids % 2 == 0) & tokens.mask
        return even.sum(1) / tokens.response_lengths.clamp(min=1)


def vader() -> Callable[[list[str], list[str]], list[float]]:
    """A reward: VADER's compound score of each response."""
    lexicon = SentimentIntensityAnalyzer()
    return lambda _, responses: [lexicon.polarity_scores(response)["compound"] for response in responses]


def ppo(settings: dict[str, Any]) -> Step:
    """One PPO step on the same prompts each time."""
    algorithm = _ppo(settings)
    lm = algorithm.policy
    prompts = [PromptExample(ids, lm.text(ids), {}, "") for ids in settings["prompts"]]
    steps = count_optimizer_steps()

    def step() -> dict[str, Any]:
        figures = algorithm.step(prompts)
        return {
            "samples": len(prompts),
            "tokens": figures["tokens"],
            "optimizer_steps": steps(),
            "reward": figures["score/mean"],
            "reward_std": figures["score/std"],
            "kl": figures["kl/sequence"],
            "policy_loss": figures["policy/loss"],
            "value_loss": figures["value/loss"],
            "phases": {name: figures[name] for name in figures if name.startswith("time/")},
        }

    return step


def _ppo(settings: dict[str, Any]) -> PPO:
    """The algorithm that the settings describe: a separate critic and all weights, or the default, LoRA and shared."""
    lm = load(ModelConfig(name=settings["model"]))
    tuning, critic_config = TuningConfig(**settings["tuning"]), CriticConfig(**settings["critic"])
    critic = build_critic(lm, critic_config, tuning) if critic_config.kind == "separate" else None
    batch = len(settings["prompts"])
    config = PPOConfig(
        batch_size=batch,
        minibatch_size=batch,
        microbatch_size=settings["microbatch_size"],
        epochs=settings["epochs"],
        kl_coef=settings["kl_coef"],
        gamma=settings["gamma"],
        lam=settings["lam"],
        clip=settings["clip"],
        value_clip=settings["clip"],
        value_coef=settings["value_coef"],
    )
    return PPO(
        tune(lm, tuning),
        Even() if settings["reward"] == "even" else vader(),
        config,
        rollout=SamplingConfig(max_new_tokens=settings["max_new_tokens"]),
        optim=OptimConfig(**settings["optim"]),
        critic=critic,
        critic_config=critic_config,
    )


def sft(settings: dict[str, Any]) -> Step:
    """One optimiser step on the next batch."""
    lm = tune(load(ModelConfig(name=settings["model"])), TuningConfig(**settings["tuning"]))
    config = SFTConfig(batch_size=settings["batch_size"], microbatch_size=settings["microbatch_size"])
    algorithm = SFT(lm, config, optim=OptimConfig(**settings["optim"]))
    batches, steps = endless(settings["batches"]), count_optimizer_steps()

    def step() -> dict[str, Any]:
        batch = [Example(row["prompt_ids"], row["response_ids"], "", truncated=False) for row in next(batches)]
        figures = algorithm.step(batch)
        tokens = sum(len(example.prompt_ids) + len(example.response_ids) for example in batch)
        return {"samples": len(batch), "tokens": tokens, "optimizer_steps": steps(), "loss": figures["loss"]}

    return step


def reward_model(settings: dict[str, Any]) -> Step:
    """One optimiser step on the next pairs. The head begins where the peer's does, at cosines."""
    lm = tune(load(ModelConfig(name=settings["model"])), TuningConfig(**settings["tuning"]))
    head = ScalarHead(lm.hidden_size, zero=True)
    with torch.no_grad():
        head.linear.weight.copy_(torch.arange(lm.hidden_size).cos()[None] / math.sqrt(lm.hidden_size))
    head.linear.bias.requires_grad_(False)  # the peer's has none, and it moves no difference of scores
    config = RewardModelConfig(
        batch_size=settings["batch_size"],
        microbatch_size=settings["microbatch_size"],
        head_learning_rate=settings["optim"]["learning_rate"],
    )
    model = RewardModel(lm, head, settings["max_length"])
    algorithm = RewardTrainer(model, config, optim=OptimConfig(**settings["optim"]))
    batches, steps = endless(settings["batches"]), count_optimizer_steps()

    def step() -> dict[str, Any]:
        batch = [PreferenceExample(*row.values(), "") for row in next(batches)]
        figures = algorithm.step(batch)
        return {
            "samples": len(batch),
            "tokens": figures["tokens"],
            "optimizer_steps": steps(),
            "loss": figures["loss"],
        }

    return step


def sampling(settings: dict[str, Any]) -> Step:
    """Answers to the same prompts; temperature 0 is greedy."""
    lm = load(ModelConfig(name=settings["model"]))
    lm.__dict__["stop_ids"] = tuple(settings["stop_ids"] or [-1])
    config = SamplingConfig(max_new_tokens=settings["max_new_tokens"], temperature=settings["temperature"])
    numbers = count()

    def step() -> dict[str, Any]:
        rollout = collect(lm, settings["prompts"], config, sampler=sample, seed=0, step=next(numbers))
        lengths = rollout.tokens.response_lengths.tolist()
        first = rollout.tokens.response_ids[0, : min(lengths[0], 16)].tolist()
        return {"samples": len(lengths), "tokens": sum(lengths), "first": first}

    return step


WORKERS: dict[str, Callable[[dict[str, Any]], Step]] = {
    "ppo": ppo,
    "sft": sft,
    "reward_model": reward_model,
    "sampling": sampling,
}


def main() -> None:
    """Load, and make a step whenever the driver says so."""
    wire = Wire()
    torch.set_num_threads(THREADS)
    step = WORKERS[wire.settings["worker"]](wire.settings)
    wire.serve(step, weights=weights_hash(wire.settings["model"]))


if __name__ == "__main__":
    main()
