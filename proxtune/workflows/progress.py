"""What a person sees while a run trains: a bar with the time left and the figures that matter."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from proxtune.training.metrics import Metrics

# The figures on the bar, in this order, where a run has them.
SHOWN = {
    "loss": "loss",
    "accuracy": "accuracy",
    "score/mean": "score",
    "kl/sequence": "KL",
    "entropy": "entropy",
    "policy/clip_fraction": "clipped",
    "value/explained_variance": "explained",
    "time/tokens_per_second": "tokens/s",
}
QUIET_SECONDS = 30.0  # between lines where there is no terminal


class Progress:
    """A live bar on a terminal; elsewhere a line every half minute and at the end."""

    def __init__(self, title: str, steps: int, console: Console) -> None:
        self.steps, self.console, self.title = steps, console, title
        self.bar = RichProgress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task(title, total=steps, figures="")
        self.spoke = self.began = time.monotonic()
        self.first: int | None = None

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def __call__(self, step: int, metrics: Metrics) -> None:
        figures = "  ".join(f"{label} {metrics[name]:.3g}" for name, label in SHOWN.items() if name in metrics)
        self.bar.update(self.task, completed=step, figures=figures)
        now = time.monotonic()
        self.first = step - 1 if self.first is None else self.first
        if not self.console.is_terminal and (now - self.spoke > QUIET_SECONDS or step == self.steps):
            left = (now - self.began) / (step - self.first) * (self.steps - step)
            self.console.print(
                f"{self.title} {step}/{self.steps}  {left:.0f} s left  {figures}", highlight=False, soft_wrap=True
            )
            self.spoke = now
