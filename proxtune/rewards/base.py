"""What a reward is: a function from answers to one number each. Any Python function of texts will do."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from proxtune.data.collate import Tokens
from proxtune.data.template import PromptExample
from proxtune.errors import RewardError
from proxtune.models.language_model import LanguageModel
from proxtune.rewards.child import columns_taken
from proxtune.rollouts.rollout import Rollout


@dataclass(frozen=True)
class Answers:
    """B sampled answers as a reward sees them: text for people's functions, tokens for models."""

    prompts: list[str]
    responses: list[str]
    tokens: Tokens
    columns: dict[str, list[Any]]  # the other columns of the prompt's row; None where a row has no such column
    truncated: Sequence[bool] = ()  # which answers the length limit cut; none by default

    def to_json(self, rows: slice = slice(None), *, allow_nan: bool = False) -> bytes:
        """The texts and columns of `rows` as one line, for a reward in another process or on another machine.

        Raises RewardError: a column holds what JSON cannot say.
        """
        columns = {name: column[rows] for name, column in self.columns.items()}
        message = {"prompts": self.prompts[rows], "responses": self.responses[rows], "columns": columns}
        try:
            return json.dumps(message, allow_nan=allow_nan).encode()
        except (TypeError, ValueError) as error:
            raise RewardError(f"a column of the data cannot be sent to the reward as JSON: {error}") from error


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
    """`name` labels its curve; calling it gives [B] float32 on the CPU, NaN where a row has no score: its call failed.

    Only rewards that depend on another process may leave rows without a score (see `Budget`).
    """

    name: str

    def __call__(self, answers: Answers) -> Tensor: ...


class FunctionReward:
    """A Python function as a reward, called in this process: `f(prompts, responses)` -> a number for each response.

    The function may name further columns of the data as keyword arguments, or take them all with `**columns`.
    """

    def __init__(self, function: Callable[..., Sequence[float] | Tensor], name: str | None = None) -> None:
        self.function = function
        self.name: str = name or str(getattr(function, "__name__", "reward"))

    def __call__(self, answers: Answers) -> Tensor:
        try:
            scores = self.function(answers.prompts, answers.responses, **columns_taken(self.function, answers.columns))
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
