"""What reads one number out of a hidden state: the value head, and the reward model built on it."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

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
        out: Tensor = self.linear(hidden.float())
        return out.squeeze(-1)


@dataclass
class RewardModel:
    """A trunk and a head that give a whole answer one number: gain · head(h_last) + bias.

    `gain` and `bias` bring the reference answers' scores to mean 0 and standard deviation 1 (Ziegler et al. 2019).
    `max_length` is the longest sequence, in tokens, that the model was trained on.
    """

    lm: LanguageModel
    head: ScalarHead
    max_length: int
    gain: float = 1.0
    bias: float = 0.0

    def save(self, folder: Path) -> None:
        """A model folder with the head beside the weights."""
        self.lm.save(folder)
        save_file(
            {name: x.detach().cpu().contiguous() for name, x in self.head.state_dict().items()},
            folder / "head.safetensors",
        )
        meta = {"max_length": self.max_length, "gain": self.gain, "bias": self.bias}
        (folder / "head.json").write_text(json.dumps(meta, indent=2) + "\n")

    @classmethod
    def load(cls, lm: LanguageModel, folder: Path) -> "RewardModel":
        """The head and scale that stand in `folder`, on the language model loaded from it."""
        if not (folder / "head.json").exists():
            raise ModelError(f"{folder} holds no reward model (no head.json); expected the result of `proxtune reward`")
        head = ScalarHead(lm.hidden_size, zero=True)
        try:
            head.load_state_dict(load_file(folder / "head.safetensors"))
            meta = json.loads((folder / "head.json").read_text(encoding="utf-8"))
            length, gain, bias = int(meta["max_length"]), float(meta["gain"]), float(meta["bias"])
        except Exception as error:
            raise ModelError(f"the head of the reward model {folder} cannot be read: {error}") from error
        return cls(lm, head.to(lm.device), length, gain, bias)
