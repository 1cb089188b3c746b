"""What reads numbers out of hidden states: the value head, the reward model, and models with a head for a task."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from proxtune.errors import ModelError
from proxtune.models.language_model import LanguageModel


class ScalarHead(nn.Module):
    """h ↦ w·h + b, in float32.

    `zero=True` starts at 0 everywhere (a critic that knows nothing); otherwise w ~ N(0, 1/(d+1)) and b = 0, as a reward
    model's head begins in Ziegler et al. 2019.
    """

    def __init__(self, hidden_size: int, *, zero: bool, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.linear.bias)
        if zero:
            nn.init.zeros_(self.linear.weight)
        else:
            nn.init.normal_(self.linear.weight, std=1 / math.sqrt(hidden_size + 1), generator=generator)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., H] -> [...]"""
        with torch.autocast(hidden.device.type, enabled=False):
            out: Tensor = self.linear(hidden.float())
        return out.squeeze(-1)


@dataclass
class RewardModel:
    """A trunk and a head that give a whole answer one number: gain · head(h_last) + bias.

    `gain` and `bias` bring the reference answers' scores to mean 0 and standard deviation 1 (Ziegler et al. 2019).
    `max_length` is the longest sequence, in tokens, that the model was trained on; `ratings` are mean and deviation of
    the ratings that it learnt from, None of one that learnt from pairs.
    """

    lm: LanguageModel
    head: ScalarHead
    max_length: int
    gain: float = 1.0
    bias: float = 0.0
    ratings: tuple[float, float] | None = None

    def save(self, folder: Path) -> None:
        """A model folder with the head beside the weights."""
        self.lm.save(folder)
        meta = {"max_length": self.max_length, "gain": self.gain, "bias": self.bias, "ratings": self.ratings}
        _write(self.head, meta, folder)

    @classmethod
    def load(cls, lm: LanguageModel, folder: Path) -> "RewardModel":
        """The head and scale that stand in `folder`, on the language model loaded from it."""
        meta = head_of(folder)
        if "gain" not in meta:
            raise ModelError(
                f"{folder} holds no reward model (no head.json of one); expected the result of `proxtune reward`"
            )
        head = ScalarHead(lm.hidden_size, zero=True)
        with _reading(folder):
            length, gain, bias = int(meta["max_length"]), float(meta["gain"]), float(meta["bias"])
            ratings = None
            if meta.get("ratings") is not None:
                mean, deviation = map(float, meta["ratings"])
                ratings = mean, deviation
            head.load_state_dict(load_file(folder / FILE))
        return cls(lm, head.to(lm.device), length, gain, bias, ratings)


class LinearHead(nn.Module):
    """h ↦ W · dropout(h) + b, in float32; W ~ N(0, 0.02), b = 0, as a new layer of BERT begins (Devlin et al. 2019)."""

    def __init__(
        self, hidden_size: int, outputs: int, *, dropout: float = 0.0, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden_size, outputs)
        nn.init.normal_(self.linear.weight, std=0.02, generator=generator)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., H] -> [..., outputs]"""
        with torch.autocast(hidden.device.type, enabled=False):
            out: Tensor = self.linear(self.dropout(hidden.float()))
        return out


@dataclass
class TaskModel:
    """A trunk and a head for a task. `task` says what the head's numbers mean: its kind, its labels.

    `max_length` is the longest sequence, in tokens, that the model was trained on.
    """

    lm: LanguageModel
    head: LinearHead
    max_length: int
    task: dict[str, Any]

    def save(self, folder: Path) -> None:
        """A model folder with the head beside the weights."""
        self.lm.save(folder)
        _write(self.head, {"max_length": self.max_length, "task": self.task}, folder)

    @classmethod
    def load(cls, lm: LanguageModel, folder: Path) -> "TaskModel":
        """The head that stands in `folder`, on the language model loaded from it."""
        meta = head_of(folder)
        if "task" not in meta:
            raise ModelError(f"{folder} has no head for a task; expected the result of `proxtune sft` with a task")
        with _reading(folder):
            weights = load_file(folder / FILE)
            head = LinearHead(lm.hidden_size, len(weights["linear.bias"]))
            head.load_state_dict(weights)
            length, task = int(meta["max_length"]), dict(meta["task"])
        return cls(lm, head.to(lm.device).eval(), length, task)


FILE, META = "head.safetensors", "head.json"


def head_of(folder: Path) -> dict[str, Any]:
    """What `folder` says of the head that stands in it; nothing where there is none."""
    if not (folder / META).exists():
        return {}
    with _reading(folder):
        return dict(json.loads((folder / META).read_text(encoding="utf-8")))


def _write(head: nn.Module, meta: dict[str, Any], folder: Path) -> None:
    save_file({name: x.detach().cpu().contiguous() for name, x in head.state_dict().items()}, folder / FILE)
    (folder / META).write_text(json.dumps(meta, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise ModelError(f"the head of the model {folder} cannot be read: {error}") from error
