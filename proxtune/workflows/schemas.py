"""What the training commands can be told: the sections of a config, by the name of the command."""

from pathlib import Path

from pydantic import Field

from proxtune.algorithms.ppo_config import PPOConfig
from proxtune.algorithms.ptx import PtxConfig
from proxtune.algorithms.reward_model import RewardModelConfig
from proxtune.algorithms.sft import SFTConfig
from proxtune.config import Section
from proxtune.data.sources import DataConfig
from proxtune.evaluation.task import TaskConfig
from proxtune.evaluation.tasks import TASKS
from proxtune.evaluation.tasks.writing import HEADLINES
from proxtune.models.critic import CriticConfig
from proxtune.models.load import ModelConfig
from proxtune.models.peft import TuningConfig
from proxtune.rollouts.sampling import training_problems
from proxtune.rollouts.store import RolloutConfig
from proxtune.training.loop import TrainingConfig
from proxtune.training.optim import OptimConfig
from proxtune.training.trackers import TrackingConfig
from proxtune.workflows.rewards import RewardConfig


class RunConfig(Section):
    """What every run has."""

    name: str = Field("run", description="the run's folder is <runs>/<name>")
    runs: Path = Field(Path("runs"), description="where runs live")
    seed: int = Field(1, description="every random draw of the run derives from it")
    model: ModelConfig = Field(ModelConfig(), description="the language model to start from")
    tuning: TuningConfig = Field(TuningConfig(), description="which weights are trained")
    data: DataConfig = Field(description="what to learn from")
    optim: OptimConfig = Field(OptimConfig(), description="the optimiser")
    training: TrainingConfig = Field(TrainingConfig(), description="how long, and what is kept")
    tracking: TrackingConfig = Field(TrackingConfig(), description="where figures go besides the run's folder")

    def problems(self) -> list[tuple[str, str]]:
        if self.training.autocast == "none" or self.model.dtype == "float32":
            return []
        message = f"keeps weights in float32, and model.dtype={self.model.dtype} makes them smaller; set one of the two"
        return [("training.autocast", message)]


class SupervisedRun(RunConfig):
    """A run that learns from given examples, and whose best evaluation may become the model."""

    def problems(self) -> list[tuple[str, str]]:
        found = super().problems()
        if self.optim.schedule != "plateau":
            return found
        why = "optim.schedule=plateau lowers the rate by held-out figures, and none is measured on the way"
        if not self.training.eval_every:
            found.append(("training.eval_every", f"{why}; set it above 0"))
        if self.training.best_by is None:
            found.append(("training.best_by", f"{why}; set auto"))
        if self.data.eval is None and not self.data.eval_fraction:
            found.append(("data.eval", f"{why}; give a file, or set data.eval_fraction"))
        return found


class SFTRun(SupervisedRun):
    """`proxtune sft`."""

    name: str = Field("sft", description="the run's folder is <runs>/<name>")
    task: TaskConfig = Field(TaskConfig(), description="what is learnt of the rows")
    sft: SFTConfig = Field(SFTConfig(), description="the algorithm")

    @property
    def headline(self) -> str:
        """The figure of held-out data that tells models of this task apart."""
        if self.task.kind != "language":
            return f"eval/{TASKS[self.task.kind].headline}"
        return "eval/loss" if self.task.answers is None else f"eval/{HEADLINES[self.task.answers]}"


class RewardRun(SupervisedRun):
    """`proxtune reward`."""

    name: str = Field("reward", description="the run's folder is <runs>/<name>")
    reward_model: RewardModelConfig = Field(RewardModelConfig(), description="the algorithm")


class PPORun(RunConfig):
    """`proxtune ppo`."""

    name: str = Field("ppo", description="the run's folder is <runs>/<name>")
    rollout: RolloutConfig = Field(RolloutConfig(), description="how responses are sampled")
    reward: RewardConfig = Field(RewardConfig(), description="what is rewarded")
    critic: CriticConfig = Field(CriticConfig(), description="what estimates the values")
    ppo: PPOConfig = Field(PPOConfig(), description="the algorithm")
    ptx: PtxConfig = Field(PtxConfig(), description="language modelling mixed into the updates")
    profile: bool = Field(False, description="measure where the time of the second step goes; shown, and in the report")

    def problems(self) -> list[tuple[str, str]]:
        found = super().problems() + self._no_best()
        found += [(f"rollout.{key}", message) for key, message in training_problems(self.rollout)]
        if self.optim.layer_decay != 1:
            found.append(("optim.layer_decay", "PPO moves every block at one rate; set 1"))
        if self.training.autocast != "none":
            message = (
                "PPO holds the log-probs of sampling against those of training, and a token is sampled at a time, for "
                "which autocast would convert every weight anew; set training.autocast=none, or model.dtype=bfloat16"
            )
            found.append(("training.autocast", message))
        if self.tuning.dropout > 0:
            found.append(
                ("tuning.dropout", "PPO needs the sampler and the trainer to be one function; set tuning.dropout=0")
            )
        if self.tuning.kind == "adalora":
            message = "adalora moves rank by the gradients of one steady loss, and PPO's changes with every batch"
            found.append(("tuning.kind", f"{message}; set tuning.kind=lora"))
        if self.tuning.kind == "head":
            found.append(("tuning.kind", "head trains no weight of the policy; set tuning.kind=lora"))
        if self.critic.kind == "separate" and self.ppo.value_coef == 0:
            found.append(
                ("ppo.value_coef", "is 0, so the separate critic would never learn; set ppo.value_coef above 0")
            )
        if self.reward.teachers and self.reward.likelihood == "sum" and self.ppo.reward_clip is not None:
            clip = f"{self.ppo.reward_clip:g}"
            found.append(
                (
                    "ppo.reward_clip",
                    f"{clip} would make every summed log-likelihood below −{clip} alike; set ppo.reward_clip=null",
                )
            )
        return found

    def _no_best(self) -> list[tuple[str, str]]:
        """What would choose among evaluations, where it is not as it stands in every config."""
        why = "PPO ends with its last step, for the reward rises with what the policy finds to exploit"
        found = []
        if self.training.best_by not in ("auto", None):
            found.append(("training.best_by", f"{why}; set null"))
        if self.training.patience not in (TrainingConfig.model_fields["patience"].default, None):
            found.append(("training.patience", f"{why}, and no evaluation ends it; set null"))
        if self.optim.schedule == "plateau":
            found.append(("optim.schedule", f"{why}, and plateau follows the best evaluation; set linear"))
        return found
