"""A small PPO, on which what went wrong elsewhere is tried."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from proxtune.algorithms.ppo import PPO, Experience
from proxtune.algorithms.ppo_config import PPOConfig
from proxtune.models.critic import CriticConfig, build_critic
from proxtune.models.language_model import LanguageModel
from proxtune.models.peft import TuningConfig, tune
from proxtune.rollouts.sampling import SamplingConfig
from proxtune.training.optim import OptimConfig
from tests.tiny import tiny_model

EOS = 1
FULL, LORA = TuningConfig(kind="full"), TuningConfig(rank=2)
PROMPTS = ["ab", "c", "defghij", "kl", "m", "nopq", "r", "st"]


def count_a(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    return [float(response.count("a")) for response in responses]


@dataclass
class Watched:
    """A PPO whose steps are written down: what each handed to its improvement, and every optimiser step."""

    ppo: PPO
    experiences: list[Experience] = field(default_factory=list)
    updates: int = 0

    def step(self, prompts: Any = PROMPTS) -> dict[str, float]:
        return self.ppo.step(prompts)


def watched(
    tuning: TuningConfig = LORA,
    *,
    policy: LanguageModel | None = None,
    reward: Any = count_a,
    rollout: SamplingConfig | None = None,
    optim: OptimConfig | None = None,
    critic: CriticConfig | None = None,
    parts: dict[str, Any] | None = None,
    **config: Any,
) -> Watched:
    """PPO of a tiny model on eight prompts."""
    policy = policy or tiny_model()
    built = None if critic is None else build_critic(policy, critic, tuning)
    sizes = {"batch_size": 8, "minibatch_size": 8, "epochs": 2}
    algorithm = PPO(
        tune(policy, tuning),
        reward,
        PPOConfig(**sizes | config),
        rollout=rollout or SamplingConfig(max_new_tokens=6),
        optim=optim or OptimConfig(learning_rate=1e-2, warmup=0),
        critic=built,
        critic_config=critic,
        **parts or {},
    )
    return _watch(Watched(algorithm))


def _watch(watch: Watched) -> Watched:
    improve = watch.ppo.improve

    def improve_and_note(experience: Experience, *args: Any, **kwargs: Any) -> dict[str, float]:
        watch.experiences.append(experience)
        return improve(experience, *args, **kwargs)

    def count(*_: Any) -> None:
        watch.updates += 1

    watch.ppo.improve = improve_and_note  # type: ignore[method-assign]
    watch.ppo.optimizer.adam.register_step_post_hook(count)
    return watch


def weights(ppo: PPO) -> dict[str, Tensor]:
    """A copy of all that is trained."""
    parts = {"policy": ppo.policy.trained(), "critic": ppo.critic.trained()}
    return {f"{part}.{name}": p.detach().clone() for part, ps in parts.items() for name, p in ps.items()}


def unmoved(step: Callable[[], object], trained: dict[str, Any]) -> list[str]:
    """The names of the weights that two steps leave as they were (a LoRA's A waits until its B has moved)."""
    before = {name: p.detach().clone() for name, p in trained.items()}
    step()
    step()
    return [name for name, p in trained.items() if torch.equal(p, before[name])]
