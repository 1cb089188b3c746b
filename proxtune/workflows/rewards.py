"""What PPO is rewarded for, from the config and the command line to one reward."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field, PositiveInt

from proxtune.config import Section
from proxtune.data.template import PromptExample
from proxtune.errors import ConfigError
from proxtune.evaluation.run import fresh_answers
from proxtune.models.heads import RewardModel
from proxtune.models.language_model import LanguageModel
from proxtune.models.load import ModelConfig, resolve
from proxtune.models.load import load as load_model
from proxtune.rewards.base import Reward
from proxtune.rewards.combine import WeightedSum, weight_of
from proxtune.rewards.learned import LearnedReward
from proxtune.rewards.likelihood import Likelihood, TeacherLikelihood
from proxtune.rewards.remote import RemoteReward, server_name, split_weight
from proxtune.rewards.worker import from_file
from proxtune.rollouts.sampling import SamplingConfig
from proxtune.training.metrics import Metrics

LIMITS = ("token_env", "timeout", "max_failed", "memory_gib")  # options of `reward` that a resumed run may change


class RewardConfig(Section):
    """`reward`: what PPO is rewarded for. Python functions come by `--reward FILE.py:FUNCTION`, never from a config."""

    models: list[str] = Field([], description="reward models: RUN or FOLDER, or RUN=WEIGHT")
    teachers: list[str] = Field(
        [], description="language models that score an answer by its likelihood: RUN or FOLDER, or RUN=WEIGHT"
    )
    likelihood: Likelihood = Field(
        "mean", description="a teacher's score: log-likelihood a token, or the sum, which punishes length"
    )
    judges: list[str] = Field(
        [], description="reward models that score the held-out answers and are never trained on: RUN or FOLDER"
    )
    remote: list[str] = Field([], description="servers that score, see docs/rewards.md: URL, or URL=WEIGHT")
    token_env: str | None = Field(
        None,
        pattern="^PROXTUNE_[A-Z0-9_]+$",
        description="environment variable PROXTUNE_… with a token that every server of reward.remote gets",
    )
    batch: PositiveInt = Field(1, description="answers of a request to a server; one that fails costs all their scores")
    timeout: float = Field(30.0, gt=0, description="seconds that a server or a function may take for a step's answers")
    max_failed: float = Field(
        0.05, ge=0, le=1, description="share of a step's answers that a server or a function may leave without a score"
    )
    memory_gib: float = Field(8.0, gt=0, description="memory that the process of a function may write to")

    def weights(self) -> dict[str, float]:
        """Run or folder of a reward model -> weight, 1 where none is given."""
        return _weights(self.models)

    def teacher_weights(self) -> dict[str, float]:
        """Run or folder of a teacher -> weight, 1 where none is given."""
        return _weights(self.teachers)

    def servers(self) -> dict[str, float]:
        """URL -> weight, 1 where none is given."""
        return dict(map(split_weight, self.remote))

    def problems(self) -> list[tuple[str, str]]:
        found = []
        for key, read in (("models", self.weights), ("teachers", self.teacher_weights)):
            try:
                read()
            except ValueError as error:
                found.append((key, f"{error}; write RUN or RUN=WEIGHT, as in runs/helpful=0.5"))
        try:
            for url in self.servers():
                server_name(url)
        except ValueError as error:
            found.append(("remote", str(error)))
        if self.token_env and not self.remote:
            found.append(("token_env", "has no server to go to; set reward.remote, or leave it out"))
        return found


def _weights(names: Sequence[str]) -> dict[str, float]:
    return {name: weight_of(weight or "1") for name, _, weight in (given.partition("=") for given in names)}


def build_reward(
    config: RewardConfig,
    like: ModelConfig,
    functions: Sequence[tuple[Reward, float]],
    policy: LanguageModel,
    *,
    needed: bool = True,
) -> tuple[WeightedSum, RewardModel | None]:
    """The weighted sum of all rewards, and the first reward model, which a separate critic starts from."""
    if needed and not (config.models or config.teachers or config.remote or functions):
        raise ConfigError(
            "nothing is rewarded: set reward.models=[runs/NAME], reward.teachers=[runs/NAME] or reward.remote=[URL], "
            "or pass --reward FILE.py:FUNCTION"
        )
    weights = config.weights()
    models = {name: reward_model_of(name, like) for name in weights}
    learned = [(_learned(name, model, policy), weights[name]) for name, model in models.items()]
    parts = [*learned, *teachers_of(config, like, policy), *remote_rewards(config), *functions]
    return WeightedSum(parts), next(iter(models.values()), None)


def longest_scored(reward: WeightedSum) -> int | None:
    """Tokens of the longest answer, its prompt included, that every model among the rewards can score."""
    models = [part for part, _ in reward.rewards if isinstance(part, LearnedReward | TeacherLikelihood)]
    return min((model.max_length for model in models), default=None)


def scorers(reward: WeightedSum) -> list[LanguageModel]:
    """The models among the rewards, frozen."""
    learned = [part.model.lm for part, _ in reward.rewards if isinstance(part, LearnedReward)]
    return learned + [part.teacher for part, _ in reward.rewards if isinstance(part, TeacherLikelihood)]


def teachers_of(config: RewardConfig, like: ModelConfig, policy: LanguageModel) -> list[tuple[Reward, float]]:
    """The teachers of the config, frozen, with the dtype and device of `like`."""
    found: list[tuple[Reward, float]] = []
    for name, weight in config.teacher_weights().items():
        teacher = load_model(like.model_copy(update={"name": name}))
        same, label = teacher.reads_as(policy), Path(name).name
        reward = TeacherLikelihood(teacher, same_tokenizer=same, likelihood=config.likelihood, name=label)
        found.append((reward, weight))
    return found


def remote_rewards(config: RewardConfig) -> list[tuple[Reward, float]]:
    """The servers of the config. Raises ConfigError where the token that they need is not in the environment."""
    token = None
    if config.token_env is not None:
        token = os.environ.get(config.token_env, "").strip()
        if not (token.isascii() and token.isprintable() and token):
            raise ConfigError(
                f"reward.token_env: the environment variable {config.token_env} holds no token; export it"
            )
    limits = {"timeout": config.timeout, "max_failed": config.max_failed}
    return [
        (RemoteReward(url, batch=config.batch, token=token, **limits), weight)
        for url, weight in config.servers().items()
    ]


def functions_of(config: RewardConfig, specs: Sequence[str]) -> list[tuple[Reward, float]]:
    """FILE.py:FUNCTION[=WEIGHT] of the command line -> (reward, weight), in a worker within the config's limits."""
    return [
        from_file(spec, timeout=config.timeout, memory_gib=config.memory_gib, max_failed=config.max_failed)
        for spec in specs
    ]


def reward_model_of(name: str, like: ModelConfig) -> RewardModel:
    """The reward model in a run or folder, with the dtype and device of `like`."""
    folder = Path(resolve(name))
    lm = load_model(like.model_copy(update={"name": str(folder)}))
    return RewardModel.load(lm, folder)


def _learned(name: str, model: RewardModel, policy: LanguageModel) -> Reward:
    return LearnedReward(model, same_tokenizer=model.lm.reads_as(policy), name=Path(name).name)


def build_judges(
    config: RewardConfig, like: ModelConfig, functions: Sequence[Reward], reward: WeightedSum, policy: LanguageModel
) -> dict[str, Reward]:
    """What scores the held-out answers and is never trained on, by the name of its figure, `judge/<name>`."""
    judges = [*(_learned(name, reward_model_of(name, like), policy) for name in config.judges), *functions]
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
