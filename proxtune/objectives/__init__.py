"""The public maths: pure functions on tensors, which import torch and nothing of ours."""

from proxtune.objectives.labels import balanced_weights, class_loss, class_set_loss
from proxtune.objectives.masked import masked_mean, token_entropy, whiten
from proxtune.objectives.ppo import (
    clipped_policy_loss,
    clipped_value_loss,
    gae,
    kl_estimate,
    kl_penalty_loss,
    kl_shaped_rewards,
    next_kl_coef,
    next_penalty_coef,
)
from proxtune.objectives.preference import dpo_loss
from proxtune.objectives.reward import bradley_terry_loss, rating_loss
from proxtune.objectives.sft import sft_loss

__all__ = [
    "balanced_weights",
    "bradley_terry_loss",
    "class_loss",
    "class_set_loss",
    "clipped_policy_loss",
    "clipped_value_loss",
    "dpo_loss",
    "gae",
    "kl_estimate",
    "kl_penalty_loss",
    "kl_shaped_rewards",
    "masked_mean",
    "next_kl_coef",
    "next_penalty_coef",
    "rating_loss",
    "sft_loss",
    "token_entropy",
    "whiten",
]
