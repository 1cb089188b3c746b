"""The critic: a value head on the policy's own trunk, or on a trunk of its own."""

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from proxtune.config import Section
from proxtune.data.collate import Tokens
from proxtune.errors import ModelError
from proxtune.models.heads import RewardModel, ScalarHead
from proxtune.models.language_model import LanguageModel
from proxtune.models.peft import TuningConfig, disable_dropout, tune
from proxtune.models.score import values, values_after
from proxtune.models.trunk import Below


class CriticConfig(Section):
    """`critic`: what estimates the values."""

    kind: Literal["shared", "separate"] = Field(
        "shared",
        description="shared: a head on the policy's trunk, its values come with the sampling pass; "
        "separate: a model of its own",
    )
    detach: bool = Field(True, description="shared only: stop the head's gradient at the trunk")
    learning_rate: float | None = Field(None, gt=0, description="of the critic; by default 5 times optim.learning_rate")
    warmup_steps: int | None = Field(
        None,
        ge=0,
        description="steps that train the critic alone; by default 10 for a separate critic with a new head, else 0",
    )

    def problems(self) -> list[tuple[str, str]]:
        if self.kind == "separate" and not self.detach:
            return [
                (
                    "detach",
                    "a separate critic has no policy trunk to train; set critic.kind=shared or remove critic.detach",
                )
            ]
        return []


@dataclass
class Critic:
    """`trunk` None is the policy's trunk. `warmup_steps` train the critic alone."""

    head: ScalarHead
    trunk: LanguageModel | None
    warmup_steps: int

    def trained(self) -> dict[str, nn.Parameter]:
        """The weights that are the critic's own, by name."""
        head = {f"head.{name}": p for name, p in self.head.named_parameters()}
        return head if self.trunk is None else head | {f"trunk.{name}": p for name, p in self.trunk.trained().items()}

    def values(self, tokens: Tokens, below: Below | None = None) -> Tensor:
        """[B, T], by the critic's own trunk."""
        assert self.trunk is not None
        return values(self.trunk, self.head, tokens, below)

    @torch.no_grad()
    def after(self, policy: LanguageModel, tokens: Tokens) -> Tensor:
        """[B], the value of the state after the last token."""
        return values_after(self.trunk or policy, self.head, tokens)


def build_critic(
    policy: LanguageModel, config: CriticConfig, tuning: TuningConfig, reward_model: RewardModel | None = None
) -> Critic:
    """The critic that `config` asks for.

    A separate one starts from the reward model where that has the policy's architecture (its head included, in units of
    the normalised score), else from a copy of the policy with a zero head and a warm-up. It is tuned as the policy is.
    Call this before the policy itself gets its adapter.
    """
    if config.kind == "separate" and policy.adapter is not None:
        raise ModelError("the policy has its adapter already; build a separate critic before the policy is tuned")
    new_head = ScalarHead(policy.hidden_size, zero=True).to(policy.device)
    if config.kind == "shared":
        return Critic(new_head, None, config.warmup_steps or 0)
    if reward_model is None or not _alike(reward_model.lm, policy):
        trunk = tune(policy.frozen_copy(), tuning)
        head, warmup = new_head, 10 if config.warmup_steps is None else config.warmup_steps
    else:
        trunk = tune(reward_model.lm.frozen_copy(), tuning)
        head, warmup = _scaled(reward_model), config.warmup_steps or 0
    disable_dropout(trunk.module)
    return Critic(head, trunk, warmup)


def _alike(one: LanguageModel, other: LanguageModel) -> bool:
    """Whether two models have one architecture and read the same tokens."""
    sizes = [(m.hidden_size, m.module.config.get_text_config().vocab_size) for m in (one, other)]
    return type(one.module) is type(other.module) and sizes[0] == sizes[1] and one.reads_as(other)


def _scaled(model: RewardModel) -> ScalarHead:
    """The reward model's head with its gain and bias folded in."""
    head = ScalarHead(model.lm.hidden_size, zero=True).to(model.lm.device)
    with torch.no_grad():
        head.linear.weight.copy_(model.gain * model.head.linear.weight)
        head.linear.bias.copy_(model.gain * model.head.linear.bias + model.bias)
    return head
