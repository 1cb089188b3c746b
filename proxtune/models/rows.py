"""Rows of different lengths, one after the other without padding: the attention that keeps them apart.

Everything else in a transformer works on each token by itself, so a pass over N tokens costs N tokens, however long
the longest row is. Attention alone is padded, or reads the keys and values of rows that the sampler goes on with.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

from proxtune.errors import ModelError

FILLED = 2 / 3  # of a padded row, at least: rows that are shorter make a group of their own
ATTENTION = "rows"  # the name under which transformers knows `attention`


class Memory(Protocol):
    """What is remembered of rows between passes, each row in a place of its own."""

    def write(self, layer: int, places: Tensor, positions: Tensor, keys: Tensor, values: Tensor) -> None: ...

    def read(self, layer: int, rows: int, limit: int) -> tuple[Tensor, Tensor]: ...


class Rows:
    """How the N tokens of a pass belong together: first one token of each row that goes on, then whole new rows.

    Args:
        lengths: tokens of each new row.
        going: [n] the positions of the tokens of the rows in places 0 to n − 1 of the memory.
        memory: where keys and values are left, those of new row i in place n + i; None: nowhere.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        going: Sequence[int] = (),
        memory: Memory | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.lengths, self.going, self.memory, self.device = list(lengths), len(going), memory, device
        self.limit = max(going, default=-1) + 1
        self.masks = dict[int | None, Tensor | None]()
        self.learned: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None  # see models/virtual.py
        count = torch.tensor(self.lengths, dtype=torch.int64)
        start = count.cumsum(0) - count
        row = torch.repeat_interleave(torch.arange(len(count)), count)
        offset = torch.arange(len(row)) - start[row]
        before = torch.tensor(going, dtype=torch.int64)
        self.positions = torch.cat([before, offset]).to(device)  # [N]
        self.places = torch.cat([torch.arange(len(going)), row + len(going)]).to(device)  # [N]

    def longer(self, count: int) -> "Rows":
        """The same rows, each `count` tokens longer at its beginning; those of rows that go on are remembered."""
        going = (self.positions[: self.going] + count).tolist()
        return Rows([count + length for length in self.lengths], going=going, memory=self.memory, device=self.device)

    @cached_property
    def groups(self) -> tuple[list[tuple[int, int]], Tensor | None]:
        """New rows of like lengths, padded to the longest of them.

        Returns:
            ((rows, width) of each group, where the tokens of new rows stand in all groups laid end to end; None where
            nothing is padded)
        """
        shapes, starts, end = list[tuple[int, int]](), torch.zeros(len(self.lengths), dtype=torch.int64), 0
        for row in sorted(range(len(self.lengths)), key=self.lengths.__getitem__, reverse=True):
            if not shapes or self.lengths[row] < FILLED * shapes[-1][1]:
                shapes.append((0, self.lengths[row]))
            count, width = shapes[-1]
            shapes[-1] = (count + 1, width)
            starts[row] = end
            end += width
        if len(shapes) == 1 and end == sum(self.lengths):
            return shapes, None
        places, positions = self.places[self.going :] - self.going, self.positions[self.going :]
        return shapes, starts.to(self.device)[places] + positions

    @cached_property
    def standing(self) -> list[Tensor | None]:
        """For each group [rows, 1, 1, width], True where a token stands; None where it is nowhere padded."""
        found, ordered = list[Tensor | None](), sorted(self.lengths, reverse=True)
        for count, width in self.groups[0]:
            lengths, ordered = ordered[:count], ordered[count:]
            stands = torch.arange(width) < torch.tensor(lengths)[:, None]
            found.append(None if lengths[-1] == width else stands[:, None, None, :].to(self.device))
        return found

    def visible(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """[n, 1, 1, limit]: 0 where a going row sees a remembered token, −inf elsewhere; None where it sees all."""
        if window not in self.masks:
            back = self.positions[: self.going, None] - torch.arange(self.limit, device=self.device)
            seen = back >= 0 if window is None else (back >= 0) & (back < window)
            mask = torch.zeros(seen.shape, dtype=dtype, device=self.device).masked_fill_(~seen, float("-inf"))
            self.masks[window] = None if seen.all() else mask[:, None, None, :]
        return self.masks[window]

    def attend(
        self,
        layer: int,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        *,
        scale: float | None = None,
        window: int | None = None,
        dropout: float = 0.0,
        causal: bool = True,
    ) -> Tensor:
        """Attention within each row, where `causal` to no token after the query's own.

        Args:
            query: [heads, N, d]; keys, values: [key heads, N, d], of fewer heads where several queries share one.
            window: how many tokens a query sees, itself included; None: all. A window is causal.

        Returns:
            [N, heads, d]
        """
        if self.learned is not None:
            keys, values = self.learned(layer, keys, values)
        if self.memory is not None:
            self.memory.write(layer, self.places, self.positions, keys.transpose(0, 1), values.transpose(0, 1))
        n, found = self.going, []
        if n:
            found.append(self._attend_going(layer, query[:, :n], scale, window))
        if self.lengths:
            found.append(self._attend_new(query[:, n:], keys[:, n:], values[:, n:], scale, window, dropout, causal))
        return found[0] if len(found) == 1 else torch.cat(found)

    def _attend_going(self, layer: int, query: Tensor, scale: float | None, window: int | None) -> Tensor:
        assert self.memory is not None
        keys, values = self.memory.read(layer, self.going, self.limit)
        heads, n, size = query.shape
        shared = query.transpose(0, 1).reshape(n, keys.shape[1], heads // keys.shape[1], size)
        mask = self.visible(window, query.dtype)
        out = F.scaled_dot_product_attention(shared, keys, values, attn_mask=mask, scale=scale)
        return out.reshape(n, heads, size)

    def _attend_new(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        scale: float | None,
        window: int | None,
        dropout: float,
        causal: bool,
    ) -> Tensor:
        shapes, slots = self.groups
        size, found = sum(count * width for count, width in shapes), []
        padded = [_laid_out(x.transpose(0, 1), slots, size) for x in (query, keys, values)]
        begin = 0
        for number, (count, width) in enumerate(shapes):
            part = slice(begin, begin := begin + count * width)
            q, k, v = (x[part].unflatten(0, (count, width)).transpose(1, 2) for x in padded)
            mask = None if causal else self.standing[number]
            if window is not None and window < width:
                back = torch.arange(width, device=self.device)
                back = back[:, None] - back
                mask = (back >= 0) & (back < window)
            out = F.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=mask,
                is_causal=causal and mask is None,
                scale=scale,
                dropout_p=dropout,
                enable_gqa=query.shape[0] != keys.shape[0],
            )
            found.append(out.transpose(1, 2).flatten(0, 1))
        flat = found[0] if len(found) == 1 else torch.cat(found)
        return flat if slots is None else _Taken.apply(flat, slots)  # type: ignore[no-untyped-call]


def _laid_out(tokens: Tensor, slots: Tensor | None, size: int) -> Tensor:
    """[N, heads, d] -> [size, heads, d], zero where no token stands."""
    return tokens if slots is None else tokens.new_zeros(size, *tokens.shape[1:]).index_copy(0, slots, tokens)


class _Taken(torch.autograd.Function):
    """`x[slots]` of slots that are all different: its gradient is copied, where indexing would add it up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slots: Tensor) -> Tensor:
        ctx.save_for_backward(slots)
        ctx.size = len(x)
        return x.index_select(0, slots)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (slots,) = ctx.saved_tensors
        return _laid_out(grad, slots, ctx.size), None


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    rows: Rows | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What every attention layer of a transformers model calls: its own where `rows` is None."""
    if rows is None:
        out, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return out, None
    causal = bool(getattr(module, "is_causal", True))
    if sliding_window is not None and not causal:
        raise ModelError("attention within a window to both sides is not supported; take an encoder without one")
    layer = int(getattr(module, "layer_idx", None) or 0)  # encoders may have none, and remember nothing
    out = rows.attend(
        layer, query[0], key[0], value[0], scale=scaling, window=sliding_window, dropout=dropout, causal=causal
    )
    return out[None], None


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
