"""`proxtune rlhf`: what the loop can be told."""

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from proxtune.algorithms.ppo_config import PPOConfig
from proxtune.algorithms.reward_model import RewardModelConfig
from proxtune.config import Section
from proxtune.data.sources import DataConfig
from proxtune.feedback.records import Options
from proxtune.models.critic import CriticConfig
from proxtune.models.load import ModelConfig
from proxtune.models.peft import TuningConfig
from proxtune.rollouts.store import RolloutConfig
from proxtune.training.loop import TrainingConfig
from proxtune.training.optim import OptimConfig


class AskConfig(Section):
    """`ask`: what people are shown in an iteration."""

    prompts: PositiveInt = Field(64, description="prompts that the policy answers")
    answers: int = Field(4, ge=2, le=6, description="answers to each; any two of them make a pair")
    pairs: PositiveInt = Field(64, description="pairs that people are asked about, of all that there are")
    choose: Literal["informative", "random"] = Field(
        "informative", description="the pairs that most is learnt from, or any"
    )
    people: PositiveInt = Field(1, description="how many are asked about a pair")
    again: float = Field(
        0.2, ge=0, le=1, description="share of the pairs that one person more is asked about: how far people agree"
    )
    held_out: float = Field(
        0.2, gt=0, lt=1, description="share of the prompts that nothing is trained on; judgements there measure"
    )
    compared: PositiveInt = Field(
        32, description="held-out prompts at which people compare the new policy with the one before"
    )
    wait: PositiveFloat = Field(
        86_400.0,
        description="seconds that the loop waits for the answers to its questions; anew when it goes on after a stop",
    )
    least: PositiveInt = Field(16, description="judged pairs without which it does not go on, however long it waits")


class PeopleConfig(Section):
    """`people`: whether PPO asks people about its own answers, and how."""

    reward: Literal["model", "people", "both"] = Field(
        "model",
        description="what PPO is rewarded by: the reward model; people's ratings of its answers, and an answer without "
        "one is left out; or ratings where there are any, else the model",
    )
    rate: PositiveInt = Field(1, description="people asked about each answer; R is the mean of their ratings")
    criteria: tuple[str, ...] = Field(Options().criteria, min_length=1, description="what is rated; R is their mean")
    scale: Literal[5, 7] = Field(5, description="ratings are 1 … scale, and R is brought to −1 … 1")
    wait: PositiveFloat = Field(600.0, description="seconds that a step of PPO waits for ratings")


class RewardStage(Section):
    """`reward`: how the reward model is trained, on all judgements so far."""

    tuning: TuningConfig = Field(TuningConfig(), description="which weights are trained")
    reward_model: RewardModelConfig = Field(RewardModelConfig(), description="the algorithm")
    optim: OptimConfig = Field(OptimConfig(), description="the optimiser")
    training: TrainingConfig = Field(TrainingConfig(), description="how long, and what is kept")


class PolicyStage(Section):
    """`policy`: how PPO improves the policy in an iteration."""

    tuning: TuningConfig = Field(TuningConfig(), description="which weights are trained")
    rollout: RolloutConfig = Field(RolloutConfig(), description="how responses are sampled, for people and for PPO")
    critic: CriticConfig = Field(CriticConfig(), description="what estimates the values")
    ppo: PPOConfig = Field(PPOConfig(), description="the algorithm")
    optim: OptimConfig = Field(OptimConfig(), description="the optimiser")
    training: TrainingConfig = Field(TrainingConfig(), description="how long, and what is kept")


class RLHFRun(Section):
    """`proxtune rlhf`."""

    name: str = Field("rlhf", description="the run's folder is <runs>/<name>")
    runs: Path = Field(Path("runs"), description="where runs live")
    seed: int = Field(1, description="every random draw of the run derives from it")
    model: ModelConfig = Field(ModelConfig(), description="the policy to start from, and what reward models start from")
    data: DataConfig = Field(description="the prompts")
    store: str | None = Field(
        None,
        description="where judgements are: a SQLite file, or postgresql://…; by default labels.db in the run's folder",
    )
    iterations: PositiveInt = Field(3, description="times round: sample, ask, reward model, PPO, compare")
    ask: AskConfig = Field(AskConfig(), description="what people are shown")
    people: PeopleConfig = Field(PeopleConfig(), description="whether PPO asks people itself")
    reward: RewardStage = Field(RewardStage(), description="the reward model")
    policy: PolicyStage = Field(PolicyStage(), description="PPO")

    def problems(self) -> list[tuple[str, str]]:
        if self.people.reward == "people" and self.policy.ppo.reward_scale != "none":
            message = "ratings are on one scale already; set none"
            return [("policy.ppo.reward_scale", message)]
        return []
