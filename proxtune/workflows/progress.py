"""What a person sees while a run trains: a bar with the time left, its main figures, and what is wrong with them."""

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from proxtune.evaluation.health import Finding, Health
from proxtune.runs import Run
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
COLOURS = {"sick": "red", "watch": "yellow"}


class Progress:
    """A live bar with a panel of findings on a terminal; elsewhere a line every half minute, and one a finding.

    Args:
        options: the run's config, nested.
    """

    def __init__(self, title: str, steps: int, console: Console, run: Run, options: Mapping[str, Any]) -> None:
        self.steps, self.console, self.title, self.run = steps, console, title, run
        self.health = Health(options)
        self.bar = RichProgress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self.task = self.bar.add_task(title, total=steps)
        self.figures = ""
        self.spoke = self.began = time.monotonic()
        self.first: int | None = None
        self.live = Live(get_renderable=self.show, console=console, refresh_per_second=4)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self.live.stop()
        self.console.print(f"health  {self.health}", soft_wrap=True)

    def __call__(self, step: int, metrics: Metrics) -> None:
        rows = [{"step": step, **metrics}] if self.health.rows else self.run.metrics()  # with those before a resume
        new = [finding for row in rows for finding in self.health.add(row)]
        self.figures = "  ".join(f"{label} {metrics[name]:.3g}" for name, label in SHOWN.items() if name in metrics)
        self.bar.update(self.task, completed=step)
        self.first = step - 1 if self.first is None else self.first
        if not self.console.is_terminal:
            self.speak(step, new)

    def speak(self, step: int, new: Sequence[Finding]) -> None:
        """Print what is due where nothing can be drawn over."""
        for finding in new:
            self.console.print(
                f"{finding.level}   step {finding.step}  {finding.name}: {finding.what}\n        try: {finding.try_}",
                soft_wrap=True,
            )
        now = time.monotonic()
        if now - self.spoke > QUIET_SECONDS or step == self.steps:
            assert self.first is not None
            left = (now - self.began) / (step - self.first) * (self.steps - step)
            self.console.print(f"{self.title} {step}/{self.steps}  {left:.0f} s left  {self.figures}", soft_wrap=True)
            self.spoke = now

    def show(self) -> RenderableType:
        """The bar, the figures, and below them the findings so far, the worst first; those that are over are dimmed."""
        lines: list[RenderableType] = [self.bar, Text(self.figures)]
        if self.health.found:
            lines.append(Panel(self.findings(), title="health", title_align="left"))
        return Group(*lines)

    def findings(self) -> Table:
        """A row for each: level, step, what was measured and what to try."""
        table = Table.grid("", "", "", padding=(0, 2, 0, 0))
        for finding in self.health.findings:
            told = Text.assemble((finding.name, "bold"), f": {finding.what}\n", (f"try: {finding.try_}", "dim"))
            over = "dim" if self.health.passed(finding) else ""
            level = Text(finding.level, COLOURS[finding.level])
            table.add_row(level, Text(f"step {finding.step}"), told, style=over)
        return table
