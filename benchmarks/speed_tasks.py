"""The speed benchmarks: what each side is told to do, and how one sees that both did the same work."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal

from benchmarks import speed_material as material

Settings = dict[str, Any]
OPTIM = {"learning_rate": 3e-6, "beta2": 0.999, "eps": 1e-8, "max_grad_norm": 1e9, "schedule": "constant"}
PPO = {"epochs": 4, "kl_coef": 0.05, "gamma": 1.0, "lam": 0.95, "clip": 0.2, "value_coef": 0.1}
FULL = {"tuning": {"kind": "full"}, "critic": {"kind": "separate", "learning_rate": 3e-6, "warmup_steps": 0}}
DEFAULT = {"tuning": {"kind": "lora", "top_layers": 8}, "critic": {"kind": "shared"}}
SPARE = {"pad_token": "<jupyter_script>", "pad_id": 15}  # a token of the bundled model that reviews do not hold
SHARED = [
    "benchmarks/speed.py",
    "benchmarks/speed_tasks.py",
    "benchmarks/speed_ours.py",
    "benchmarks/speed_material.py",
]
SAMPLER = ["proxtune/rollouts/engine.py", "proxtune/rollouts/cache.py", "proxtune/rollouts/sampling.py"]
PASSES = ["proxtune/models/score.py", "proxtune/models/language_model.py"]


@dataclass(frozen=True)
class Side:
    """A worker: a module that is run by the interpreter of an environment, ours for None."""

    label: str
    module: str
    settings: Settings
    environment: str | None = None


@dataclass
class Result:
    """What a worker told: of its model, of each step, and at its end."""

    side: Side
    ready: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    end: dict[str, Any] = field(default_factory=dict)

    @property
    def counted(self) -> list[dict[str, Any]]:
        """All steps but the first, which warms up; that one, if there is no other."""
        return self.steps[1:] or self.steps

    def mean(self, figure: str) -> float:
        return fmean(step[figure] for step in self.steps)


@dataclass(frozen=True)
class Task:
    """A benchmark. Where the peer has several ways, each is a worker, and the fastest is compared with.

    differences: what of two results is not the same work, in words; none, if all is well.
    unit: what the rate counts; goals: our rate over the peer's, our peak of memory over the peer's.
    """

    claim: str
    against: str
    peers: Sequence[Side]
    ours: Side
    differences: Callable[[Result, Result], list[str]]
    measures: Sequence[str]
    speed_goal: float
    memory_goal: float | None = None
    unit: Literal["tokens", "samples"] = "tokens"
    curve: str | None = None


def ppo_small() -> Task:
    """A 7M Llama, batch 32, at most 64 tokens: where overhead counts."""
    work = PPO | {"model": material.small_model(), "prompts": material.random_prompts(32), "max_new_tokens": 64}
    claim = "PPO on a 7M Llama, all weights, separate critic and reference, 4 epochs, 32 responses of at most 64 tokens"
    rate = {"learning_rate": 1e-8}  # so small that answers stay as long as they begin, on both sides
    work |= {"reward": "even", "pad_token": "<pad>"} | rate
    ours = {"tuning": FULL["tuning"], "optim": OPTIM | rate, "critic": FULL["critic"] | rate}
    return _ppo(claim, work, ours | {"microbatch_size": None}, 3.0, 0.6)


def ppo_135m() -> Task:
    """The bundled model with the peer's very mathematics."""
    claim = (
        "PPO on SmolLM2-135M, all weights, separate critic and reference, 4 epochs, 8 responses of at most 32 tokens"
    )
    return _ppo(claim, _work_135m("even"), FULL | {"microbatch_size": None}, 2.5, 0.85)


def ppo_default() -> Task:
    """The bundled model: our default configuration, the peer's whole work."""
    claim = (
        "PPO on SmolLM2-135M, 4 epochs, 8 responses of at most 32 tokens: ours in the default configuration (LoRA on "
        "the top 8 blocks, shared critic), the peer with all weights and a separate critic"
    )
    ours = DEFAULT | {"microbatch_size": None, "optim": {"schedule": "constant"}}
    return _ppo(claim, _work_135m("vader"), ours, 5.0, 0.3, unit="samples", curve="VADER's compound score")


def level(learning_rate: float) -> Task:
    """Film prompts, VADER as reward: what `benchmarks.speed_level` runs until a level is reached."""
    work = PPO | SPARE | {"kl_coef": 0.02, "reward": "vader", "max_new_tokens": 24}
    work |= {"model": material.bundled_model(), "prompts": material.film_prompts(32)}
    ours = {
        "tuning": {"kind": "lora", "top_layers": 8},
        "critic": {"kind": "shared", "learning_rate": 1e-3},
        "optim": {"learning_rate": 5e-4, "schedule": "constant"},
        "microbatch_size": None,
    }
    return _ppo("", work | {"learning_rate": learning_rate}, ours, 5.0, None)


def _work_135m(reward: str) -> Settings:
    work = {"model": material.bundled_model(), "prompts": material.review_prompts(8), "max_new_tokens": 32}
    return PPO | SPARE | work | {"reward": reward}


def _ppo(claim: str, work: Settings, ours: Settings, speed: float, memory: float | None, **more: Any) -> Task:
    same = ours["tuning"]["kind"] == "full"
    return Task(
        claim=claim,
        against="TRL 1.12.0",
        peers=[Side("TRL", "benchmarks.peers.trl_ppo", {"learning_rate": 3e-6} | work, "trl-1.12.0")],
        ours=Side("proxtune", "benchmarks.speed_ours", {"worker": "ppo", "optim": OPTIM} | work | ours),
        differences=same_ppo if same else same_sampling_of_ppo,
        measures=[
            "proxtune/algorithms/ppo.py",
            "proxtune/objectives/ppo.py",
            *SAMPLER,
            *PASSES,
            *SHARED,
            "benchmarks/peers/trl_ppo.py",
        ],
        speed_goal=speed,
        memory_goal=memory,
        **more,
    )


def sampling() -> Task:
    """Answers of uneven length to prompts of uneven length."""
    work = SPARE | {"model": material.bundled_model(), "prompts": material.review_prompts(64), "max_new_tokens": 64}
    work |= {"stop_ids": material.sentence_ends(), "temperature": 1.0}
    ways = [{"batch": size, "sorted": True, "cache": "dynamic"} for size in (16, 32, 64)]
    ways += [{"batch": 64, "sorted": False, "cache": "dynamic"}, {"batch": 32, "sorted": True, "cache": "static"}]
    return Task(
        claim="sampling from SmolLM2-135M: 64 prompts of 4 to 40 tokens, answered by a sentence or 64 tokens",
        against="transformers' generate, 5.23.0, the fastest of its ways",
        peers=[Side("generate", "benchmarks.peers.transformers_generate", work | {"ways": ways})],
        ours=Side("proxtune", "benchmarks.speed_ours", work | {"worker": "sampling"}),
        differences=same_lengths,
        measures=[*SAMPLER, *PASSES, *SHARED, "benchmarks/peers/transformers_generate.py"],
        speed_goal=3.0,
    )


def llama_cpp(streams: int) -> Task:
    """Decoding without stops, greedily, by the same float32 weights."""
    prompts = [ids[:16] for ids in material.review_prompts(64) if len(ids) >= 16][:streams]
    work = {"prompts": prompts, "max_new_tokens": 64, "temperature": 0.0, "stop_ids": []}
    ours = {"worker": "sampling", "model": material.bundled_model()}
    return Task(
        claim=f"decoding with SmolLM2-135M in float32: {streams} at once, 64 tokens each after prompts of 16",
        against="llama.cpp (llama-cpp-python 0.3.36)",
        peers=[Side("llama.cpp", "benchmarks.peers.llama_cpp", work | {"gguf": material.float_gguf()}, "llama-cpp")],
        ours=Side("proxtune", "benchmarks.speed_ours", work | ours),
        differences=same_text,
        measures=[*SAMPLER, *PASSES, *SHARED, "benchmarks/peers/llama_cpp.py"],
        speed_goal=0.8,
    )


def sft() -> Task:
    """Full fine-tuning on beginnings of film reviews."""
    work = _supervised("sft") | {"batches": material.review_batches(24, 16, 96), "pack": 0}
    claim = "SFT of SmolLM2-135M, all weights, 16 beginnings of film reviews a step, at most 96 tokens"
    return _trainer(claim, work, [("padded", {}), ("packed", {"pack": 192})], "proxtune/algorithms/sft.py")


def reward_model() -> Task:
    """A reward model learnt from pairs of film reviews."""
    work = _supervised("reward_model") | {"batches": material.pair_batches(24, 16, 96)}
    claim = "reward model on SmolLM2-135M, all weights, 16 pairs of pieces of film reviews a step, at most 96 tokens"
    return _trainer(claim, work, [("padded", {})], "proxtune/algorithms/reward_model.py")


def _supervised(worker: str) -> Settings:
    work = {"worker": worker, "model": material.bundled_model(), "batch_size": 16, "max_length": 96}
    return work | SPARE | {"learning_rate": OPTIM["learning_rate"], "max_grad_norm": OPTIM["max_grad_norm"]}


def _trainer(claim: str, work: Settings, ways: Sequence[tuple[str, Settings]], measured: str) -> Task:
    module = "benchmarks.peers.trl_supervised"
    ours = {"tuning": {"kind": "full"}, "optim": OPTIM, "microbatch_size": 8}
    return Task(
        claim=claim,
        against="TRL 1.16.0",
        peers=[Side(f"TRL, {name}", module, work | options, "trl-1.16.0") for name, options in ways],
        ours=Side("proxtune", "benchmarks.speed_ours", work | ours),
        differences=same_training,
        measures=[measured, *PASSES, *SHARED, "benchmarks/peers/trl_supervised.py"],
        speed_goal=1.5,
        memory_goal=0.7,
    )


def same_start(ours: Result, peer: Result) -> list[str]:
    """The same weights, and in each step as many samples and optimiser steps."""
    found = []
    if "weights" in peer.ready and ours.ready["weights"] != peer.ready["weights"]:
        found.append("the weights loaded are not the same")
    for figure in ("samples", "optimizer_steps"):
        counts = [[step.get(figure) for step in result.steps] for result in (ours, peer)]
        if counts[0] != counts[1] and not peer.side.settings.get("pack"):
            found.append(f"{figure}: ours {counts[0]}, the peer's {counts[1]}")
    return found


def same_lengths(ours: Result, peer: Result, tolerance: float = 0.25) -> list[str]:
    """As many tokens but for chance: some hundred answers whose lengths spread as widely as their mean."""
    found, ratio = same_start(ours, peer), ours.mean("tokens") / peer.mean("tokens")
    if abs(ratio - 1) > tolerance:
        found.append(f"tokens a step: ours {ours.mean('tokens'):.0f}, the peer's {peer.mean('tokens'):.0f}")
    return found


def same_sampling_of_ppo(ours: Result, peer: Result) -> list[str]:
    """The same policy in the first step: its mean reward, within four standard errors of the difference."""
    return same_lengths(ours, peer) + same_reward(ours.steps[:1], peer.steps[:1])


def same_ppo(ours: Result, peer: Result) -> list[str]:
    """The same policy and the same losses all along.

    Both draw their own samples, so rewards agree within four standard errors. The value loss is half the mean squared
    return as long as values are near 0: rewards whose means agree put it within a quarter (the peer's last reward
    stands one token later, which is one power of λ). The policy loss is near 0, because advantages are whitened.
    """
    found = same_lengths(ours, peer) + same_reward(ours.steps, peer.steps)
    ratio = ours.mean("value_loss") / peer.mean("value_loss")
    if not 0.75 <= ratio <= 1.33:
        found.append(f"value loss: ours {ours.mean('value_loss'):.4g}, the peer's {peer.mean('value_loss'):.4g}")
    if abs(ours.mean("policy_loss") - peer.mean("policy_loss")) > 0.02:
        found.append(f"policy loss: ours {ours.mean('policy_loss'):.4g}, the peer's {peer.mean('policy_loss'):.4g}")
    return found


def same_reward(ours: Sequence[dict[str, Any]], peer: Sequence[dict[str, Any]]) -> list[str]:
    """The mean rewards of these steps, within four standard errors of their difference."""
    means, variances = [], []
    for steps in (ours, peer):
        count = sum(step["samples"] for step in steps)
        means.append(fmean(step["reward"] for step in steps))
        variances.append(fmean(step["reward_std"] ** 2 for step in steps) / count)
    far = abs(means[0] - means[1]) > 4 * math.sqrt(sum(variances)) + 1e-6
    return [f"mean reward: ours {means[0]:.4f}, the peer's {means[1]:.4f}"] if far else []


def same_text(ours: Result, peer: Result) -> list[str]:
    """The first answer goes on with the same tokens on both sides."""
    found, (mine, theirs) = same_start(ours, peer), (ours.steps[0]["first"], peer.steps[0]["first"])
    return found if mine == theirs else [*found, f"greedy continuation: ours {mine}, the peer's {theirs}"]


def same_training(ours: Result, peer: Result) -> list[str]:
    """On the same batches the losses agree to 1% in every step; packed rows are other batches of the same texts."""
    found = same_start(ours, peer)
    if peer.side.settings.get("pack"):
        if abs(ours.mean("loss") / peer.mean("loss") - 1) > 0.1:
            found.append(f"mean loss: ours {ours.mean('loss'):.3f}, the peer's {peer.mean('loss'):.3f}")
        return found
    for number, (mine, theirs) in enumerate(zip(ours.steps, peer.steps, strict=True), start=1):
        if mine["tokens"] != theirs["tokens"]:
            found.append(f"step {number}: {mine['tokens']} tokens, the peer {theirs['tokens']}")
        if abs(mine["loss"] / theirs["loss"] - 1) > 0.01:
            found.append(f"step {number}: loss {mine['loss']:.4f}, the peer's {theirs['loss']:.4f}")
    return found


TASKS: dict[str, Callable[[], Task]] = {
    "ppo_small": ppo_small,
    "ppo_135m": ppo_135m,
    "ppo_default": ppo_default,
    "sampling": sampling,
    "sft": sft,
    "reward_model": reward_model,
    "llama_cpp_1": lambda: llama_cpp(1),
    "llama_cpp_16": lambda: llama_cpp(16),
}
