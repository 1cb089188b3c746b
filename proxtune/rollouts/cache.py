"""What a model remembers of the tokens it has read, every row with its own length.

Rows are padded on the right only, so rows of different lengths share a batch and leave it when they are done. A decoder
keeps the sequence of row b in slots 0, 1, 2, … of a preallocated key/value cache; an LSTM keeps one state a row.
"""

from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import Cache

from proxtune.models.language_model import LanguageModel
from proxtune.models.lstm import LSTM, State


class Memory(Protocol):
    """What the engine carries from pass to pass, and hands to the model as its cache."""

    def place(self, positions: Tensor, real: Tensor | None) -> Any:
        """Get ready for a pass at `positions` [B, S], with tokens where `real` (None: everywhere); returns its mask."""

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these."""


def memory_for(model: LanguageModel, slots: int) -> Memory:
    """The memory that the model's architecture uses, empty; `slots` is the length of the longest row to come."""
    return RowState() if isinstance(model.module, LSTM) else RowCache(model, slots)


class RowState:
    """An LSTM's (h, c) of each row, at that row's own last token."""

    def __init__(self) -> None:
        self.state: State | None = None

    def place(self, positions: Tensor, real: Tensor | None) -> Tensor | None:  # noqa: ARG002 (it counts by itself)
        return real

    def keep(self, rows: Tensor) -> None:
        assert self.state is not None
        h, c = self.state
        self.state = h[:, rows], c[:, rows]


class RowCache(Cache):
    """Each layer's keys and values [B, heads, slots, d]; a pass writes at `positions` and reads slots below `limit`."""

    def __init__(self, model: LanguageModel, slots: int) -> None:
        super().__init__(layers=[])
        self.model, self.slots = model, slots
        self.keys: list[Tensor] = []
        self.stored: list[Tensor] = []
        self.positions = torch.empty(0)
        self.limit = 0

    def place(self, positions: Tensor, real: Tensor | None) -> Any:  # noqa: ARG002 (none sees the padding after it)
        self.positions, self.limit = positions, int(positions.max()) + 1
        return attend(self.model, positions, self.limit)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        if layer_idx == len(self.keys):
            batch, heads = key_states.shape[:2]
            self.keys.append(key_states.new_zeros(batch, heads, self.slots, key_states.shape[-1]))
            self.stored.append(value_states.new_zeros(batch, heads, self.slots, value_states.shape[-1]))
        keys, stored = self.keys[layer_idx], self.stored[layer_idx]
        rows = torch.arange(keys.shape[0], device=keys.device)[:, None]
        keys[rows, :, self.positions] = key_states.transpose(1, 2)
        stored[rows, :, self.positions] = value_states.transpose(1, 2)
        return keys[:, :, : self.limit], stored[:, :, : self.limit]

    def keep(self, rows: Tensor) -> None:
        self.keys = [x[rows] for x in self.keys]
        self.stored = [x[rows] for x in self.stored]

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002 (the base class has it)
        """Positions are always passed explicitly; transformers asks all the same."""
        return self.limit


def attend(model: LanguageModel, positions: Tensor, limit: int) -> Any:
    """The attention mask of a pass at `positions` [B, S] over `limit` slots: each query sees those up to its own.

    Returns:
        [B, 1, S, limit], to be added to the attention scores (eager attention takes no other), or one for each kind of
        layer where the model mixes full and sliding attention.
    """
    config = model.module.config.get_text_config()
    back = positions[:, None, :, None] - torch.arange(limit, device=positions.device)
    is_past = back >= 0
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    hidden = torch.finfo(model.module.dtype).min

    def additive(visible: Tensor) -> Tensor:
        return torch.zeros(visible.shape, dtype=model.module.dtype, device=visible.device).masked_fill(~visible, hidden)

    full = additive(is_past)
    near = full if window is None else additive(is_past & (back < window))
    if "sliding_attention" in kinds:
        return {"full_attention": full, "sliding_attention": near}
    return full if kinds == {"full_attention"} or getattr(config, "use_sliding_window", True) is False else near
