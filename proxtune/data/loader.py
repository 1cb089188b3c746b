"""Batches without end, shuffled anew each epoch, that can be resumed at any batch."""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Generic, Self, TypeVar

from proxtune.errors import CheckpointError, ConfigError, DataError
from proxtune.runs import derive_seed

R = TypeVar("R")


class Loader(Iterator[list[R]], Generic[R]):
    """An endless iterator of batches: exactly `batch_size` rows each.

    Every row comes exactly once an epoch. A batch goes on over an epoch's end, so that no row is dropped. The order of
    an epoch depends on `seed` and the epoch's number alone.
    """

    def __init__(self, rows: Sequence[R], batch_size: int, *, seed: int, shuffle: bool = True) -> None:
        if not rows:
            raise DataError("no row to make batches of")
        if batch_size < 1:
            raise ConfigError(f"batch_size: got {batch_size}, expected at least 1")
        self._rows = rows
        self._batch_size = batch_size
        self._seed = seed
        self._shuffle = shuffle
        self._start_epoch(0)

    @property
    def batches_per_epoch(self) -> int:
        """Batches until every row has come once; the last one may hold rows of the next epoch."""
        return math.ceil(len(self._rows) / self._batch_size)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> list[R]:
        return [self._next_row() for _ in range(self._batch_size)]

    def state(self) -> dict[str, int]:
        """Where the next batch begins: the epoch, and how many of its rows have been given out."""
        return {"epoch": self._epoch, "position": self._position}

    def load_state(self, state: Mapping[str, int]) -> None:
        """Go on exactly where `state` was taken. Raises CheckpointError if these rows have no such place."""
        epoch, position = state["epoch"], state["position"]
        if epoch < 0 or not 0 <= position < len(self._rows):
            raise CheckpointError(
                f"the data position is row {position} of epoch {epoch}, and the data has {len(self._rows)} rows: "
                "resume with the data the run began with"
            )
        self._start_epoch(epoch)
        self._position = position

    def _start_epoch(self, epoch: int) -> None:
        self._epoch = epoch
        self._position = 0
        self._order = list(range(len(self._rows)))
        if self._shuffle:
            random.Random(derive_seed(self._seed, "shuffle", epoch)).shuffle(self._order)  # noqa: S311 (not a secret)

    def _next_row(self) -> R:
        row = self._rows[self._order[self._position]]
        self._position += 1
        if self._position == len(self._rows):
            self._start_epoch(self._epoch + 1)
        return row
