"""Every error that proxtune raises on purpose.

ProxtuneError
├── ConfigError (ValueError)   a key, value or combination in a config file or on the command line
├── DataError (ValueError)     a row, file or format; names the file and the line
├── ModelError                 a model, tokenizer or adapter that cannot be loaded, trained or saved
├── CheckpointError            a checkpoint that cannot be written, read or trusted
├── GenerationError            sampling that cannot go on (non-finite logits, no room in the context)
├── RewardError                a reward that raised, or returned something that is not one number a response
└── StoreError                 the store of human judgements

A message says what was given, what was expected and what to do. `assert` is for our own bugs only.
"""


class ProxtuneError(Exception):
    """The root: `except ProxtuneError` catches everything that a user can mend."""


class ConfigError(ProxtuneError, ValueError):
    """A config file or command line that asks for something unknown or impossible."""


class DataError(ProxtuneError, ValueError):
    """A data file or row that cannot be used; the message names file and line."""


class ModelError(ProxtuneError):
    """A model, tokenizer or adapter that cannot be loaded, trained or saved."""


class CheckpointError(ProxtuneError):
    """A checkpoint that cannot be written, read or trusted."""


class GenerationError(ProxtuneError):
    """Sampling that cannot go on."""


class RewardError(ProxtuneError):
    """A reward that raised, or did not return one finite number for each response."""


class StoreError(ProxtuneError):
    """The store of human judgements."""
