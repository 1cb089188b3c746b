"""The terminal that commands write to: text is shown as it is, so a path or a label with brackets is no markup."""

from typing import Any

from rich.console import Console


def terminal(**options: Any) -> Console:
    """A console for `execute` and the other workflows; colours are given as a style.

    Args:
        options: as rich's Console takes them.
    """
    return Console(markup=False, emoji=False, highlight=False, **options)
