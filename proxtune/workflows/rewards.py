"""What PPO is rewarded for, from the config and the command line to one reward."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field

from proxtune.config import Section
from proxtune.data.template import PromptExample
from proxtune.errors import ConfigError
from proxtune.evaluation.run import fresh_answers
from proxtune.models.heads import RewardModel
from proxtune.models.language_model import LanguageModel
from proxtune.models.load import ModelConfig, resolve
from proxtune.models.load import load as load_model
from proxtune.rewards.base import Reward
from proxtune.rewards.combine import WeightedSum
from proxtune.rewards.learned import LearnedReward
from proxtune.rollouts.sampling import SamplingConfig
from proxtune.training.metrics import Metrics


class RewardConfig(Section):
    """`reward`: what PPO is rewarded for. Python functions come by `--reward FILE.py:FUNCTION`, never from a config."""

    models: list[str] = Field([], description="reward models: RUN or FOLDER, or RUN=WEIGHT")
    judges: list[str] = Field(
        [], description="reward models that score the held-out answers and are never trained on: RUN or FOLDER"
    )

    def weights(self) -> dict[str, float]:
        """Run or folder -> weight, 1 where none is given."""
        return {name: float(weight or 1) for name, _, weight in (model.partition("=") for model in self.models)}

    def problems(self) -> list[tuple[str, str]]:
        try:
            self.weights()
        except ValueError as error:
            return [("models", f"{error}; write RUN or RUN=WEIGHT, as in runs/helpful=0.5")]
        return []


def build_reward(
    config: RewardConfig,
    like: ModelConfig,
    functions: Sequence[tuple[Reward, float]],
    policy: LanguageModel,
    *,
    needed: bool = True,
) -> tuple[WeightedSum, RewardModel | None]:
    """The weighted sum of all rewards, and the first reward model, which a separate critic starts from."""
    if needed and not config.models and not functions:
        raise ConfigError("nothing is rewarded: set reward.models=[runs/NAME], or pass --reward FILE.py:FUNCTION")
    weights = config.weights()
    models = {name: reward_model_of(name, like) for name in weights}
    learned: list[tuple[Reward, float]] = [
        (LearnedReward(model, same_tokenizer=model.lm.reads_as(policy), name=Path(name).name), weights[name])
        for name, model in models.items()
    ]
    return WeightedSum([*learned, *functions]), next(iter(models.values()), None)


def reward_model_of(name: str, like: ModelConfig) -> RewardModel:
    """The reward model in a run or folder, with the dtype and device of `like`."""
    folder = Path(resolve(name))
    lm = load_model(like.model_copy(update={"name": str(folder)}))
    return RewardModel.load(lm, folder)


def build_judges(
    config: RewardConfig, like: ModelConfig, functions: Sequence[Reward], reward: WeightedSum, policy: LanguageModel
) -> dict[str, Reward]:
    """What scores the held-out answers and is never trained on, by the name of its figure, `judge/<name>`."""
    models = {name: reward_model_of(name, like) for name in config.judges}
    judges: list[Reward] = [
        LearnedReward(model, same_tokenizer=model.lm.reads_as(policy), name=Path(name).name)
        for name, model in models.items()
    ]
    judges += functions
    names = [part.name for part, _ in reward.rewards] + [judge.name for judge in judges]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"{', '.join(twice)} is named twice among the rewards and judges of the run; a judge must be "
            "something that is not trained on, with a name of its own"
        )
    return {f"judge/{judge.name}": judge for judge in judges}


def mean_scores(
    policy: LanguageModel,
    rewards: Mapping[str, Reward],
    prompts: Sequence[PromptExample],
    rollout: SamplingConfig,
    *,
    seed: int,
) -> Metrics:
    """The mean of each reward over the same answers, under its name; an answer without a score (NaN) is left out.

    One fresh answer to each held-out prompt, drawn alike at every evaluation.
    """
    answers = fresh_answers(policy, prompts, rollout, seed=seed)
    return {name: float(reward(answers).nanmean()) for name, reward in rewards.items()}
