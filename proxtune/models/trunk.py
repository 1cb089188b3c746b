"""The frozen lower part of a trunk: where it ends, what comes out of it, and passes that begin above it.

A run that trains the top blocks alone computes the states below them once, while it samples; reference, critic and
every epoch of the update go on from there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Below:
    """What leaves the lowest `blocks` blocks: states [..., H]."""

    states: Tensor
    blocks: int

    def __getitem__(self, index: Any) -> "Below":
        return Below(self.states[index], self.blocks)


def blocks(module: nn.Module) -> tuple[str, nn.ModuleList]:
    """The list of a model's blocks, lowest first, and its name; an empty one where it has none."""
    lists = [(name, part) for name, part in module.named_modules() if isinstance(part, nn.ModuleList)]
    return max(lists, key=lambda found: len(found[1]), default=("", nn.ModuleList()))


def stacks(module: nn.Module) -> list[tuple[str, nn.ModuleList]]:
    """The lists of blocks with their names: one, or in an encoder-decoder that of each half."""
    if not module.config.is_encoder_decoder:  # type: ignore[union-attr]
        return [blocks(module)]
    lists = {name: part for name, part in module.named_modules() if isinstance(part, nn.ModuleList)}
    return [(name, part) for name, part in lists.items() if not name.startswith(tuple(f"{other}." for other in lists))]


def frozen_blocks(module: nn.Module) -> int:
    """How many of the lowest blocks are not trained; 0 where anything outside the blocks is, or nothing at all."""
    path, _ = blocks(module)
    trained = [name for name, weight in module.named_parameters() if weight.requires_grad]
    if not trained or not all(name.startswith(f"{path}.") for name in trained):
        return 0
    return min(int(name.removeprefix(f"{path}.").partition(".")[0]) for name in trained)


def below(module: nn.Module, count: int) -> list[nn.Parameter]:
    """The weights that the states above the lowest `count` blocks depend on."""
    path, found = blocks(module)
    outside = [weight for name, weight in module.named_parameters() if not name.startswith(f"{path}.")]
    return [*outside, *(weight for block in found[:count] for weight in block.parameters())]


@contextmanager
def capture(module: nn.Module, count: int) -> Iterator[list[Tensor]]:
    """Note the states [N, H] that leave the lowest `count` blocks."""
    noted: list[Tensor] = []

    def note(_: nn.Module, __: object, output: Tensor) -> None:
        noted.append(output[0])

    handle = blocks(module)[1][count - 1].register_forward_hook(note)
    try:
        yield noted
    finally:
        handle.remove()


@contextmanager
def begin_above(module: nn.Module, below: Below) -> Iterator[None]:
    """Run only the blocks above those whose states [N, H] are given."""
    with _instead(blocks(module)[1][: below.blocks], below.states):
        yield


@contextmanager
def end_below(module: nn.Module, count: int) -> Iterator[None]:
    """Run the lowest `count` blocks alone."""
    with _instead(blocks(module)[1][count:], None):
        yield


@contextmanager
def _instead(skipped: nn.ModuleList, states: Tensor | None) -> Iterator[None]:
    """Let blocks hand on what they are given, the last of them `states`."""

    def hand_on(hidden: Tensor, *_: object, **__: object) -> Tensor:
        return hidden

    def hand_out(*_: object, **__: object) -> Tensor:
        assert states is not None
        return states[None]

    for block in skipped:
        block.forward = hand_on if states is None or block is not skipped[-1] else hand_out
    try:
        yield
    finally:
        for block in skipped:
            del block.forward
