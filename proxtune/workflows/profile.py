"""Where the time of one step goes: its phases, and in each the kinds of work and what Python adds (`profile=true`)."""

import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from proxtune import charts
from proxtune.evaluation.report import Block
from proxtune.runs import Run, write_atomic
from proxtune.training.metrics import PHASE, Metrics

STEP = 2  # the first one warms up
KINDS = {  # what the name of an operation holds -> the kind of work it is
    "matrix products": ("mm", "linear", "mkldnn", "bmm"),
    "attention": ("attention",),
    "Adam": ("adam",),
}
COLUMNS = [*KINDS, "other operations", "Python between them"]

Profile = dict[str, dict[str, float]]  # phase -> kind of work -> seconds


class StepProfiler:
    """Watches a run, measures its second step, prints where the time went and leaves `profile.json` in its folder."""

    def __init__(self, run: Run, console: Console) -> None:
        self.run, self.console = run, console
        self.profiler: Any = None

    def __call__(self, step: int, metrics: Metrics) -> None:
        if self.profiler is not None:
            self.profiler.stop()
            found, self.profiler = seconds(self.profiler.events(), metrics["time/step"]), None
            write_atomic(self.run.path / "profile.json", json.dumps(found, indent=2) + "\n")
            self.console.print(table(found))
        if step == STEP - 1:
            self.profiler = profile(activities=[ProfilerActivity.CPU])
            self.profiler.start()


def seconds(events: Any, whole: float) -> Profile:
    """The phases of a step of `whole` seconds, from the profiler's events."""
    found: Profile = defaultdict(lambda: dict.fromkeys(COLUMNS, 0.0))
    for event in events:
        phase = _phase_of(event)
        if phase is not None:
            found[phase][_kind(event.name)] += event.self_cpu_time_total / 1e6
    known = sum(sum(kinds.values()) for kinds in found.values())
    found["the rest"] = dict.fromkeys(COLUMNS, 0.0) | {COLUMNS[-1]: max(0.0, whole - known)}
    return dict(found)


def _phase_of(event: Any) -> str | None:
    while event is not None:
        if event.name.startswith(PHASE):
            return str(event.name.removeprefix(PHASE))
        event = event.cpu_parent
    return None


def _kind(name: str) -> str:
    if name.startswith(PHASE):
        return COLUMNS[-1]
    lowered = name.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in lowered for part in parts)), "other operations")


def rows(found: Profile) -> list[list[str]]:
    """A row for each phase, and one for the step: seconds, share, and the share of each kind of work."""
    kinds = {name: sum(phase[name] for phase in found.values()) for name in COLUMNS}
    whole = sum(kinds.values())

    def row(name: str, phase: dict[str, float]) -> list[str]:
        total = sum(phase.values())
        return [name, f"{total:.2f}", f"{total / whole:.0%}", *(f"{phase[kind] / whole:.0%}" for kind in COLUMNS)]

    return [*(row(name, phase) for name, phase in found.items()), row("the step", kinds)]


def table(found: Profile) -> Table:
    """For the terminal."""
    shown = Table("phase", "seconds", "share", *COLUMNS, title=f"Where the time of step {STEP} went")
    for row in rows(found):
        shown.add_row(*row)
    return shown


def block(run: Run) -> list[Block]:
    """For the report; nothing where the run was not profiled."""
    path = run.path / "profile.json"
    if not path.is_file():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    body = charts.table(rows(found), ["phase", "seconds", "share", *COLUMNS])
    return [Block(f"Where the time of step {STEP} went", body)]


def both(*watches: Callable[[int, Metrics], None]) -> Callable[[int, Metrics], None]:
    """Several watches as one."""

    def watch(step: int, metrics: Metrics) -> None:
        for each in watches:
            each(step, metrics)

    return watch
