"""Where adapters stand in a block, and bottleneck adapters: small networks after the layers of a frozen model.

They are no change of a weight, so a model folder holds them beside the weights:

    adapters.json           the layers they stand after, an outer one before those inside it
    adapters.safetensors    <layer>.down.weight, .down.bias, .up.weight, .up.bias
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from proxtune.errors import ModelError

FILE, META = "adapters.safetensors", "adapters.json"
KEYS_OR_VALUES = re.compile(r"(k|v|key|value)(_proj|_lin)?")


class Bottleneck(nn.Module):
    """A layer y = inner(x) [..., H] and an adapter after it: y + W_up · relu(W_down · y + b_down) + b_up.

    W_up and b_up are 0 at the start, so that the model begins unchanged (Houlsby et al. 2019, arXiv 1902.00751).
    """

    def __init__(self, inner: nn.Module, size: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        kept: Any = inner.weight
        self.inner, self.on, self.dropout = inner, True, nn.Dropout(dropout)
        self.down = nn.Linear(outputs(inner), size, device=kept.device, dtype=kept.dtype)
        self.up = nn.Linear(size, outputs(inner), device=kept.device, dtype=kept.dtype)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        self.train(inner.training)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        return y + self.up(F.relu(self.down(self.dropout(y)))) if self.on else y


class Adapters:
    """The bottleneck adapters of one run: new ones after the named layers of a model whose own weights are frozen."""

    def __init__(self, module: nn.Module, layers: list[str], size: int, *, dropout: float = 0.0) -> None:
        module.requires_grad_(False)
        self.parts = [attach(module, name, size, dropout=dropout) for name in layers]

    def disable_adapter_layers(self) -> None:
        """The model as it is without them."""
        for part in self.parts:
            part.on = False

    def enable_adapter_layers(self) -> None:
        """The model with them."""
        for part in self.parts:
            part.on = True


class Sublayers(NamedTuple):
    """Names of linear layers of a block: those that make keys and values, the last of attention and of feed-forward."""

    keys_values: list[str]
    attention: str
    feedforward: str


def attach(module: nn.Module, layer: str, size: int, *, dropout: float = 0.0) -> Bottleneck:
    """Put a new adapter after the layer of that name."""
    part = Bottleneck(module.get_submodule(layer), size, dropout=dropout)
    module.set_submodule(layer, part)
    return part


def outputs(layer: Any) -> int:
    """The width of what a linear layer gives."""
    return int(layer.nf if isinstance(layer, Conv1D) else layer.out_features)


def linear_layers(part: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Every linear layer in the part of that name, in the order of the architecture; those of adapters are none."""
    if isinstance(part, nn.Linear | Conv1D):
        yield name, part
        return
    for key, child in part.named_children():
        if key == "inner" or not isinstance(part, Bottleneck):
            yield from linear_layers(child, f"{name}.{key}")


def sublayers(name: str, block: nn.Module, width: int) -> Sublayers | None:
    """The layers of the block of that name in a model of that width; None where it is built otherwise.

    Attention is what is called so; it and the feed-forward end with their last layer that gives states of the model's
    width. Where one layer makes keys, values and queries, it stands for all of them.
    """
    layers = dict(linear_layers(block, name))
    attention = [layer for layer in layers if "att" in layer.removeprefix(name).lower()]
    ends = [layer for layer, part in layers.items() if outputs(part) == width]
    last = [layer for layer in ends if layer in attention][-1:] + [x for x in ends if x not in attention][-1:]
    if len(last) < 2 or last[0] not in attention or len(attention) < 2:
        return None
    apart = [layer for layer in attention if KEYS_OR_VALUES.fullmatch(layer.rpartition(".")[2])]
    return Sublayers(apart or [layer for layer in attention if layer != last[0]], *last)


@contextmanager
def set_aside(module: nn.Module) -> Iterator[dict[str, Bottleneck]]:
    """Take all bottleneck adapters out of a model for a while; gives them by the name of the layer they stand after."""
    found = {name: part for name, part in module.named_modules() if isinstance(part, Bottleneck)}
    for name, part in reversed(found.items()):
        module.set_submodule(name, part.inner)
    try:
        yield found
    finally:
        for name, part in found.items():
            module.set_submodule(name, part)


def save_adapters(found: Mapping[str, Bottleneck], folder: Path) -> None:
    """Write adapters beside the weights of a model folder."""
    (folder / META).unlink(missing_ok=True)
    if not found:
        return
    weights = {
        f"{name}.{key}": x.detach().cpu().contiguous()
        for name, part in found.items()
        for key, x in part.state_dict().items()
        if not key.startswith("inner.")
    }
    save_file(weights, folder / FILE)
    (folder / META).write_text(json.dumps({"layers": list(found)}, indent=2) + "\n", encoding="utf-8")


def restore_adapters(module: nn.Module, folder: Path) -> None:
    """Put the adapters of a model folder, if it holds any, back after the layers of the model that was loaded from it.

    Raises:
        ModelError: they cannot be read, or do not fit the model.
    """
    if not (folder / META).exists():
        return
    try:
        weights = load_file(folder / FILE)
        for name in json.loads((folder / META).read_text(encoding="utf-8"))["layers"]:
            part = attach(module, name, len(weights[f"{name}.down.bias"]))
            for key in ("down", "up"):
                begin = f"{name}.{key}."
                own = {x.removeprefix(begin): weight for x, weight in weights.items() if x.startswith(begin)}
                part.get_submodule(key).load_state_dict(own)
    except Exception as error:
        raise ModelError(f"the adapters of the model {folder} cannot be read: {error}") from error
