"""What a model remembers of the tokens it has read: every row in a place of its own, with its own length.

Places are given in advance. Those that are taken stand together from 0 on, so that a pass reads one view of them: a row
that ends is overwritten by the last one. A decoder remembers keys and values in slots 0, 1, 2, …; an LSTM one state; an
encoder-decoder what its encoder made of the prompts, and what its decoder has written.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from proxtune.models.encoder_decoder import EncoderDecoder, Read
from proxtune.models.language_model import LanguageModel
from proxtune.models.lstm import LSTM, State


class Memory(Protocol):
    """What the engine carries from pass to pass."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Let place `target` remember the first `length` tokens of place `source`."""


def memory_for(model: LanguageModel, rows: int, slots: int) -> "RowStates | KeysAndValues | BothHalves":
    """The memory that the architecture uses, empty; `slots` is the length of the longest row to come."""
    if isinstance(model, EncoderDecoder):
        return BothHalves()
    if isinstance(model.module, LSTM):
        return RowStates(rows)
    return KeysAndValues(rows, slots, before=0 if model.virtual is None else model.virtual.count)


class RowStates:
    """An LSTM's (h, c) of each row, at that row's own last token: each [layers, rows, H]."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.state: State | None = None

    def read(self, going: int) -> State | None:
        """The states of the first `going` rows."""
        return None if self.state is None or not going else (self.state[0][:, :going], self.state[1][:, :going])

    def write(self, state: State) -> None:
        """Those of the first rows, as the pass left them."""
        if self.state is None:
            h, c = state
            self.state = tuple(x.new_zeros(x.shape[0], self.rows, x.shape[2]) for x in (h, c))  # type: ignore[assignment]
        assert self.state is not None
        for mine, new in zip(self.state, state, strict=True):
            mine[:, : new.shape[1]] = new

    def copy(self, source: int, target: int, length: int) -> None:  # noqa: ARG002 (one state, whatever the length)
        assert self.state is not None
        for x in self.state:
            x[:, target] = x[:, source]


class KeysAndValues:
    """Each layer's keys and values, [rows, heads, slots, d], and states [rows, slots, H] that a frozen trunk left.

    Args:
        before: virtual tokens that every row begins with, which have slots of their own.
    """

    def __init__(self, rows: int, slots: int, before: int = 0) -> None:
        self.rows, self.slots, self.before = rows, before + slots, before
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.states: Tensor | None = None

    def write(self, layer: int, places: Tensor, positions: Tensor, keys: Tensor, values: Tensor) -> None:
        """Leave keys and values [N, heads, d] of the tokens at `positions` of the rows at `places`."""
        if layer not in self.layers:
            sizes = [(self.rows, x.shape[1], self.slots, x.shape[2]) for x in (keys, values)]
            self.layers[layer] = (keys.new_zeros(sizes[0]), values.new_zeros(sizes[1]))
        for mine, new in zip(self.layers[layer], (keys, values), strict=True):
            mine[places, :, positions] = new

    def read(self, layer: int, rows: int, limit: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the first `limit` slots of the first `rows` places."""
        keys, values = self.layers[layer]
        return keys[:rows, :, :limit], values[:rows, :, :limit]

    def note(self, places: Tensor, positions: Tensor, states: Tensor) -> None:
        """Leave the states [N, H] of a frozen trunk."""
        if self.states is None:
            self.states = states.new_zeros(self.rows, self.slots, states.shape[-1])
        self.states[places, positions] = states

    def copy(self, source: int, target: int, length: int) -> None:
        for layer in self.layers.values():
            for x in layer:
                x[target, :, : self.before + length] = x[source, :, : self.before + length]
        if self.states is not None:
            self.states[target, :length] = self.states[source, :length]


class BothHalves:
    """An encoder-decoder's states of each prompt, and transformers' own keys and values of each answer.

    Rows that are answered together began together: all answers have one length, and nothing in them is padded.
    """

    read: Read
    past: Any

    def begin(self, model: EncoderDecoder, prompts: list[list[int]]) -> None:
        """Read new prompts, those that are equal once, in place of all that was remembered."""
        alike = {tuple(prompt): place for place, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
        found = model.read([list(prompt) for prompt in alike])
        places = torch.tensor([alike[tuple(prompt)] for prompt in prompts], device=model.device)
        self.read, self.past = Read(found.states[places], found.mask[places]), None

    def write(self, model: EncoderDecoder, answers: list[list[int]]) -> Tensor:
        """Go on with the first n rows, and forget all others: the states [n, H] after their answers so far."""
        count = len(answers)
        if count < len(self.read.mask):
            self.read = Read(self.read.states[:count], self.read.mask[:count])
            self.past.batch_select_indices(torch.arange(count, device=model.device))
        ids = torch.tensor([[model.start, *answer][-1:] for answer in answers], device=model.device)
        hidden, self.past = model.write(self.read, ids, self.past, cache=True)
        return hidden[:, -1]

    def copy(self, source: int, target: int, length: int) -> None:  # noqa: ARG002 (all rows have one length)
        caches = (self.past.self_attention_cache, self.past.cross_attention_cache)
        held = [x for cache in caches for layer in cache.layers for x in (layer.keys, layer.values)]
        for x in (*self.read, *held):
            x[target] = x[source]
