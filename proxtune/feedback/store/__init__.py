"""The store of judgements, and the only SQL of the package."""

from proxtune.feedback.store.store import Store

__all__ = ["Store"]
