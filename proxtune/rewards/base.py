"""What a reward is: a function from answers to one number each. Any Python function of texts will do."""

import importlib.util
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from proxtune.data.collate import Tokens
from proxtune.data.template import PromptExample
from proxtune.errors import ConfigError, RewardError
from proxtune.models.language_model import LanguageModel
from proxtune.rollouts.rollout import Rollout


@dataclass(frozen=True)
class Answers:
    """B sampled answers as a reward sees them: text for people's functions, tokens for models."""

    prompts: list[str]
    responses: list[str]
    tokens: Tokens
    columns: dict[str, list[Any]]  # the other columns of the prompt's row; None where a row has no such column
    truncated: Sequence[bool] = ()  # which answers the length limit cut; none by default


def answers_of(model: LanguageModel, prompts: Sequence[PromptExample], rollout: Rollout) -> Answers:
    """A rollout as rewards see it."""
    lengths = rollout.tokens.response_lengths.tolist()
    responses = [model.text(ids[:length]) for ids, length in zip(rollout.tokens.response_ids, lengths, strict=True)]
    names = {name for prompt in prompts for name in prompt.columns}
    columns = {name: [prompt.columns.get(name) for prompt in prompts] for name in names}
    texts = [prompt.text for prompt in prompts]
    return Answers(texts, responses, rollout.tokens, columns, rollout.truncated.tolist())


@runtime_checkable
class Reward(Protocol):
    """`name` labels its curve; calling it gives [B] float32 on the CPU."""

    name: str

    def __call__(self, answers: Answers) -> Tensor: ...


class FunctionReward:
    """A Python function as a reward: `f(prompts, responses)` -> a number for each response.

    The function may name further columns of the data as keyword arguments, or take them all with `**columns`.
    """

    def __init__(self, function: Callable[..., Sequence[float] | Tensor], name: str | None = None) -> None:
        self.function = function
        self.name: str = name or str(getattr(function, "__name__", "reward"))
        parameters = inspect.signature(function).parameters.values()
        self.takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
        answered = {p.name for p in list(parameters)[:2]} | {"prompts", "responses"}
        self.takes = {p.name for p in parameters} - answered
        self.answered = answered

    def __call__(self, answers: Answers) -> Tensor:
        columns = {
            name: x
            for name, x in answers.columns.items()
            if name in self.takes or (self.takes_all and name not in self.answered)
        }
        try:
            scores = self.function(answers.prompts, answers.responses, **columns)
        except Exception as error:
            raise RewardError(
                f"the reward {self.name!r} raised {type(error).__name__}: {error}. "
                "A failed reward is not a reward of 0, so the run stops; mend the function and go on with --resume"
            ) from error
        return checked(self.name, scores, len(answers.responses))


def checked(name: str, scores: Sequence[float] | Tensor, expected: int) -> Tensor:
    """`scores` as [B] float32, or RewardError where it is not one finite number for each response."""
    try:
        tensor = torch.as_tensor(scores, dtype=torch.float32).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise RewardError(
            f"the reward {name!r} returned {scores!r:.200}; expected {expected} numbers, one a response"
        ) from error
    if tensor.shape != (expected,):
        raise RewardError(
            f"the reward {name!r} returned shape {tuple(tensor.shape)}; expected ({expected},), one number a response"
        )
    if not tensor.isfinite().all():
        row = int((~tensor.isfinite()).nonzero()[0])
        raise RewardError(
            f"the reward {name!r} returned {tensor[row].item()} for response {row}; expected a finite number"
        )
    return tensor


def as_reward(reward: "Reward | Callable[..., Sequence[float]]") -> Reward:
    """A reward as it is, or a plain function made into one."""
    if isinstance(reward, Reward):
        return reward
    return FunctionReward(reward)


def from_file(spec: str) -> tuple[Reward, float]:
    """`my_rewards.py:brevity` or `my_rewards.py:brevity=0.5` -> (reward, weight).

    The file is the caller's own code and is run.
    """
    target, _, weight = spec.partition("=")
    path, _, name = target.rpartition(":")
    if not path or not Path(path).is_file():
        raise ConfigError(
            f"--reward {spec}: no such file {path or target!r}; expected FILE.py:FUNCTION or FILE.py:FUNCTION=WEIGHT"
        )
    module_spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"--reward {spec}: {path} cannot be run: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        public = sorted(n for n, x in vars(module).items() if inspect.isfunction(x) and not n.startswith("_"))
        raise ConfigError(f"--reward {spec}: {path} has no function {name!r}; it has {', '.join(public) or 'none'}")
    try:
        number = float(weight or 1)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"--reward {spec}: the weight {weight!r} is not a number")
    return FunctionReward(function), number
