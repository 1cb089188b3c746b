"""The terminal that commands write to: text is shown as it is, so a path or a label with brackets is no markup."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


def terminal(**options: Any) -> Console:
    """A console for `execute` and the other workflows; colours are given as a style.

    Args:
        options: as rich's Console takes them.
    """
    return Console(markup=False, emoji=False, highlight=False, **options)


@contextmanager
def share_bar(console: Console, what: str) -> Iterator[Callable[[float], None]]:
    """A bar in a terminal, with the time left once it is told what share is done."""
    columns = (TextColumn(what, markup=False), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda share: bar.update(task, completed=share, total=1.0)
