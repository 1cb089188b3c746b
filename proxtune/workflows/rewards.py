"""What PPO is rewarded for, from the config and the command line to one reward."""

from collections.abc import Sequence
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
) -> list[Reward]:
    """What scores the held-out answers and is never trained on.

    Raises:
        ConfigError: two judges of one name, or a judge that is a reward of the run.
    """
    models = {name: reward_model_of(name, like) for name in config.judges}
    judges: list[Reward] = [
        LearnedReward(model, same_tokenizer=model.lm.reads_as(policy), name=Path(name).name)
        for name, model in models.items()
    ]
    judges += functions
    trained_on = [part.name for part, _ in reward.rewards]
    for name in (judge.name for judge in judges):
        if name in trained_on:
            raise ConfigError(f"the judge {name!r} is a reward of this run: it would judge what is trained on it")
        if [judge.name for judge in judges].count(name) > 1:
            raise ConfigError(f"two judges are called {name!r}; rename one")
    return judges


def mean_score(
    policy: LanguageModel,
    reward: Reward,
    prompts: Sequence[PromptExample],
    rollout: SamplingConfig,
    *,
    seed: int,
    judges: Sequence[Reward] = (),
) -> Metrics:
    """`eval/score` and `judge/<name>`: the means of the reward and of each judge over the same answers.

    One fresh answer to each held-out prompt, drawn alike at every evaluation.
    """
    answers = fresh_answers(policy, prompts, rollout, seed=seed)
    return {"eval/score": float(reward(answers).mean())} | {
        f"judge/{judge.name}": float(judge(answers).mean()) for judge in judges
    }
