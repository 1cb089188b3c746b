"""Every error that proxtune raises on purpose.

ProxtuneError
├── ConfigError (ValueError)   a key, value or combination in a config file or on the command line
├── DataError (ValueError)     a row, file or format; names the file and the line
├── ModelError                 a model, tokenizer or adapter that cannot be loaded, trained or saved
├── CheckpointError            a checkpoint or another file of a run that cannot be written, read or trusted
├── GenerationError            sampling that cannot go on (non-finite logits, no room in the context)
├── DivergedError              a loss or a gradient that is not finite; carries the figures of its step
├── RewardError                a reward that raised, or returned something that is not one number a response
└── StoreError                 the store of human judgements
    ├── StoreBusyError         it did not answer in time: try again
    ├── StoreFullError         it cannot be written: no room, or read-only
    └── ConflictError          somebody changed the same judgement meanwhile; carries how it stands now

A message says what was given, what was expected and what to do. `assert` is for our own bugs only.
"""

from collections.abc import Mapping


class ProxtuneError(Exception):
    """The root: `except ProxtuneError` catches everything that a user can mend."""


class ConfigError(ProxtuneError, ValueError):
    """A config file or command line that asks for something unknown or impossible."""


class DataError(ProxtuneError, ValueError):
    """A data file or row that cannot be used; the message names file and line."""


class ModelError(ProxtuneError):
    """A model, tokenizer or adapter that cannot be loaded, trained or saved."""


class CheckpointError(ProxtuneError):
    """A checkpoint, or another file of a run, that cannot be written, read or trusted."""


class GenerationError(ProxtuneError):
    """Sampling that cannot go on."""


class DivergedError(ProxtuneError):
    """A loss or a gradient that is not finite, and what was measured of the step until then."""

    def __init__(self, message: str, figures: Mapping[str, float]) -> None:
        super().__init__(message)
        self.figures = dict(figures)


class RewardError(ProxtuneError):
    """A reward that raised, or did not return one finite number for each response."""


class StoreError(ProxtuneError):
    """The store of human judgements."""


class StoreBusyError(StoreError):
    """The store did not answer in time; nothing was written."""


class StoreFullError(StoreError):
    """The store cannot be written; what was acknowledged before is safe."""


class ConflictError(StoreError):
    """A change of a judgement that has changed meanwhile; `current` is how it stands now."""

    def __init__(self, message: str, current: object) -> None:
        super().__init__(message)
        self.current = current
