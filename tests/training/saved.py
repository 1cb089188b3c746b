"""States to save, and what it means to have them back."""

import math
import struct
from pathlib import Path
from typing import Any

import torch

from proxtune.training.checkpoint import State, load


def small_state(value: int) -> State:
    return {"weight": torch.full((64,), float(value)), "optimizer": {"count": value, "lr": 0.1}}


def read_value(folder: Path) -> int:
    """The `value` of the `small_state` in a checkpoint, after a check that all of it is there."""
    _, state = load(folder)
    value: int = state["optimizer"]["count"]
    assert same(state, small_state(value))
    return value


def same(left: Any, right: Any) -> bool:
    """Equal in type, order and every bit: NaN equals itself, 0.0 is not -0.0, 1 is not 1.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        described = [(x.dtype, x.shape, x.reshape(-1).view(torch.uint8).tolist()) for x in (left, right)]
        return described[0] == described[1]
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        return struct.pack("d", left) == struct.pack("d", right) or (math.isnan(left) and math.isnan(right))
    return bool(left == right)
