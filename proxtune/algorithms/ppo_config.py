"""The options of PPO, and the combinations of them that cannot be."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from proxtune.config import Section


class PPOConfig(Section):
    """`ppo`: the algorithm."""

    batch_size: PositiveInt = Field(32, description="prompts of a step, one response each")
    epochs: NonNegativeInt = Field(
        4, description="passes over a step's rollout; 0 samples and scores, and trains nothing"
    )
    minibatch_size: PositiveInt = Field(32, description="responses of an optimiser step; divides batch_size")
    microbatch_size: PositiveInt | None = Field(
        None, description="responses of a forward pass; divides minibatch_size, changes no result"
    )
    loss: Literal["clip", "kl_penalty"] = Field(
        "clip", description="clipped surrogate, or surrogate − penalty_coef · KL(old‖new)"
    )
    clip: float = Field(0.2, gt=0, lt=1, description="the ratio is clipped to 1 − clip …")
    clip_high: float | None = Field(None, gt=0, description="… and 1 + clip_high; by default clip")
    aggregate: Literal["token", "sequence"] = Field(
        "token", description="mean over tokens, or over rows of their token means"
    )
    penalty_coef: float = Field(1.0, gt=0, description="loss=kl_penalty: first coefficient")
    penalty_target: float | None = Field(
        0.01, gt=0, description="loss=kl_penalty: KL(old‖new) aimed at, nats a token; null: fixed"
    )
    value_clip: float | None = Field(
        0.2, gt=0, description="values move at most this far from the old ones; null: no clipping"
    )
    value_coef: float = Field(0.1, ge=0, description="weight of the value loss")
    entropy_coef: float = Field(0.0, ge=0, description="weight of the entropy bonus")
    gamma: float = Field(1.0, gt=0, le=1, description="discount")
    lam: float = Field(0.95, ge=0, le=1, description="λ of generalised advantage estimation")
    whiten: bool = Field(True, description="advantages to mean 0 and variance 1 over the whole rollout")
    kl_coef: float = Field(
        0.05, ge=0, description="weight of the KL to the reference in the reward; 0 loads no reference"
    )
    kl_estimator: Literal["k1", "k2", "k3"] = Field("k1", description="estimator of the KL in the reward")
    kl_target: float | None = Field(None, gt=0, description="adapt kl_coef to this KL, nats a sequence; null: fixed")
    kl_horizon: float = Field(10_000, gt=0, description="responses over which kl_coef adapts")
    kl_stop: float | None = Field(None, gt=0, description="end the epochs once KL(old‖new) exceeds it, nats a token")
    reward_scale: Literal["none", "running"] = Field(
        "none", description="divide scores by their running standard deviation"
    )
    reward_clip: float | None = Field(10.0, gt=0, description="scores are clipped to ± this; null: not at all")
    truncation: Literal["none", "penalty", "mask", "bootstrap"] = Field(
        "none",
        description="responses cut at the length limit: as any other, get penalty_score, are left out, "
        "or end in their value",
    )
    penalty_score: float = Field(-1.0, description="truncation=penalty: the score of a response without a stop token")

    def problems(self) -> list[tuple[str, str]]:
        found = []
        if self.batch_size % self.minibatch_size:
            found.append(
                ("minibatch_size", f"{self.minibatch_size} does not divide batch_size={self.batch_size}; set a divisor")
            )
        if self.microbatch_size and self.minibatch_size % self.microbatch_size:
            found.append(
                (
                    "microbatch_size",
                    f"{self.microbatch_size} does not divide minibatch_size={self.minibatch_size}; set a divisor",
                )
            )
        if self.kl_target is not None and self.kl_coef == 0:
            found.append(
                (
                    "kl_coef",
                    "is 0, which an adaptive coefficient never leaves; set ppo.kl_coef above 0 or remove ppo.kl_target",
                )
            )
        if self.loss == "kl_penalty" and self.aggregate == "sequence":
            found.append(
                ("aggregate", "the KL-penalty form is a mean over tokens; set ppo.aggregate=token or ppo.loss=clip")
            )
        return found
