"""`proxtune tune`: many runs of one config, each with other values of some options, to find the best ones.

runs/<name>/
├── config.yaml      the config with its `search`
├── tune.db          every trial: values, figures, state, why (SQLite, as Optuna writes it)
├── trial-0007/      an ordinary run; trial-0007.log is what it said
├── best.yaml        the config of the best trial
└── tune.html        values over trials, importance, parallel coordinates
"""

import math
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.status import Status
from rich.table import Column, Table
from rich.text import Text

from proxtune.charts import duration, number
from proxtune.config import dump, load
from proxtune.errors import ConfigError, ModelError
from proxtune.runs import Run, environment, is_running, write_atomic
from proxtune.training import stop
from proxtune.workflows.terminal import terminal
from proxtune.workflows.tune_page import Direction, Ended, best_of, page, shown
from proxtune.workflows.tune_space import Search, direction_of, is_whole, metric_of, with_values
from proxtune.workflows.tune_study import Study, Trial
from proxtune.workflows.tune_worker import Functions, Worker, seconds_of, value_of

ENOUGH = 4  # finished trials, before others are held against their median, and before importance means anything
PAUSE = 0.25  # seconds between looks at the running trials
STYLES = {"finished": "green", "pruned": "yellow", "failed": "red"}


def tune(
    config: Search, *, resume: bool = False, functions: Functions | None = None, console: Console | None = None
) -> Path:
    """Search in runs/<name>, and return the best trial's config, `best.yaml` there; the page stands beside it.

    Every trial counts, the pruned and the failed ones too. Killed at any point and resumed, the search keeps the trials
    that ended, goes on with those that were running from their checkpoints, and ends with `search.trials` of them.

    Raises:
        ConfigError: the folder is taken and `resume` is not set, or the search there is another one.
        ModelError: no trial ended with a value.
        Stopped: by a signal; the trials wrote their checkpoints.
    """
    console = console or terminal()
    with stop.listening(), stop.held(), Run.create(config.runs / config.name, resume=resume) as run:
        began = time.perf_counter()
        manifest = _enter(config, run)
        metric, direction = metric_of(config), direction_of(config)
        whole = [key for key in config.search.space if is_whole(config.plain, key)]
        study = Study(run.path / "tune.db", config.search, direction, whole)
        console.print(f"{direction} {metric} in {config.search.trials} trials")
        with console.status("") as status:
            _Trials(config, functions or Functions(), run, study, status).go()
        ended = [_ended(trial, run.path) for trial in study.trials()]
        _show(console, ended, metric)
        values = {each.value for each in ended if each.value is not None}
        importance = study.importance() if len(values) > 1 and _finished(ended) >= ENOUGH else {}
        write_atomic(run.path / "tune.html", page(config.name, metric, direction, ended, importance))
        console.print(f"page    {run.path / 'tune.html'}", soft_wrap=True)
        manifest |= {"finished": _now(), "seconds": manifest.get("seconds", 0.0) + time.perf_counter() - began}
        run.write_manifest(manifest)
        best = best_of(ended, direction)
        if best is None:
            raise ModelError(f"none of {len(ended)} trials ended with a value; the last one: {ended[-1].why}")
        winner = with_values(config.base, best.values).model_copy(update={"name": f"{config.name}-best"})
        write_atomic(run.path / "best.yaml", dump(winner))
        told = f"trial {best.number}, {metric} {shown(best.value)}"
        console.print(f"best    {told}: {run.path / 'best.yaml'}", soft_wrap=True)
    return run.path / "best.yaml"


def behind(so_far: Mapping[int, float], others: Sequence[Mapping[int, float]], direction: Direction) -> str | None:
    """Why a trial is to end early: its best figure so far is worse than the median of the others at its last step.

    Args:
        so_far: step -> figure, of the trial.
        others: the same of each finished trial.

    Returns:
        None where it is not worse, or where fewer than ENOUGH others were measured at that step.
    """
    step = max(so_far)
    there = [other[step] for other in others if step in other]
    if len(there) < ENOUGH:
        return None
    middle = median(there)
    is_worse = max(so_far.values()) < middle if direction == "maximize" else min(so_far.values()) > middle
    now = number(so_far[step])
    return f"{now} at step {step}, the median of {len(there)} trials there was {number(middle)}" if is_worse else None


class _Trials:
    """What runs now, what is still to be taken up again, and how far the search is."""

    def __init__(self, config: Search, functions: Functions, run: Run, study: Study, status: Status) -> None:
        self.config, self.functions, self.run, self.study, self.status = config, functions, run, study, status
        self.metric, self.search = metric_of(config), config.search
        self.live: dict[int, Worker] = {}
        self.figures: dict[int, dict[int, float]] = {}  # of the live ones: step -> metric
        self.waiting = [trial for trial in study.trials() if trial.state == "running"]
        self.began, self.before = time.monotonic(), self.over

    @property
    def over(self) -> int:
        return sum(trial.state != "running" for trial in self.study.trials())

    def go(self) -> None:
        """Until all trials are over. Whatever happens, no process is left behind."""
        try:
            while self.fill():
                _pause()
                self.look_at_all()
        except stop.Stopped as stopped:
            stopped.add_note(f"stopped after {self.over} of {self.search.trials} trials; those that ran are saved")
            raise
        finally:
            for worker in self.live.values():
                worker.end()
            for worker in self.live.values():
                worker.process.join()

    def fill(self) -> bool:
        """Begin trials, or take them up, while there is room; False where none runs and none is left."""
        while len(self.live) < self.search.workers:
            if self.waiting:
                self.start(self.waiting.pop(0))
            elif len(self.study.trials()) < self.search.trials:
                self.start(self.study.begin())
            else:
                break
        return bool(self.live)

    def start(self, trial: Trial) -> None:
        folder = _folder(self.run.path, trial.number)
        while is_running(folder):  # the process of a search that was killed may end a step later
            _pause()
        if trial.pruned:
            self.conclude(trial.number, "")
            return
        try:
            config = with_values(self.config.base, trial.values)
        except ConfigError as error:
            self.conclude(trial.number, " ".join(str(error).split()))
            return
        config = config.model_copy(update={"name": folder.name, "runs": folder.parent})
        threads = max(1, torch.get_num_threads() // self.search.workers) if self.search.workers > 1 else None
        self.figures[trial.number] = {}
        self.live[trial.number] = Worker(config, self.functions, threads)

    def look_at_all(self) -> None:
        for trial, worker in list(self.live.items()):
            self.look(trial, worker)
        self.status.update(f"{self.over}/{self.search.trials}  {len(self.live)} running  {self.left()}")

    def look(self, trial: int, worker: Worker) -> None:
        """Write down what a trial has measured; end it early if it is behind; conclude it if it is over."""
        is_over = not worker.process.is_alive()
        figures = self.figures[trial]
        others = self.study.measured() if self.search.pruner == "median" else []
        why = None
        for row in worker.rows():
            value = row.get(self.metric, math.nan)
            if math.isfinite(value) and row["step"] not in figures:
                figures[row["step"]] = value
                self.study.report(trial, row["step"], value)
                why = why or behind(figures, others, self.study.direction)
        if is_over:
            del self.live[trial]
            self.conclude(trial, worker.failure)
        elif why is not None and worker.done < 1 and not worker.is_ending:
            self.study.condemn(trial, why)
            worker.end()

    def conclude(self, trial: int, failure: str) -> None:
        """A trial has finished where its run has; else it was pruned, if it was to be; else it failed."""
        run = Run(_folder(self.run.path, trial))
        value, why = value_of(run, self.metric) if run.manifest().get("finished") else (None, failure)
        if value is not None:
            self.study.finish(trial, value)
        elif self.study.trials()[trial].pruned:
            self.study.prune(trial)
        else:
            self.study.fail(trial, why)
        one = _ended(self.study.trials()[trial], self.run.path)
        told = f"trial {trial} {one.state}: {one.why or f'{self.metric} {shown(one.value)}'}"
        line = f"{self.over}/{self.search.trials}  {told}  {self.left()}"
        self.status.console.print(line, soft_wrap=True)

    def left(self) -> str:
        """The time left, if trials go on to be done as fast as they were; a part of one counts as that part."""
        over = self.over
        done = over - self.before + sum(worker.done for worker in self.live.values())
        if not done or over == self.search.trials:
            return ""
        seconds = (time.monotonic() - self.began) / done * (self.search.trials - self.before - done)
        return f"about {duration(seconds)} left"


def _enter(config: Search, run: Run) -> dict[str, Any]:
    """Write config and manifest of a new search, or hold the config against that of the search that is resumed."""
    text = dump(config)
    if not run.manifest():
        run.write_config(text)
        manifest: dict[str, Any] = {"command": "tune", "began": _now(), "environment": environment()}
        run.write_manifest(manifest)
        return manifest
    old = load(type(config), [run.config_path])
    extent = {"trials": config.search.trials, "workers": config.search.workers}
    before = dump(old.model_copy(update={"search": old.search.model_copy(update=extent)})).splitlines()
    if before != text.splitlines():
        differing = "\n".join(f"  search:  {line}" for line in before if line not in text.splitlines())
        raise ConfigError(
            f"{run.path} was begun with another config:\n{differing}\ngive the search's own values to resume it; "
            "search.trials and search.workers alone may change"
        )
    run.write_config(text)
    return run.manifest()


def _ended(trial: Trial, folder: Path) -> Ended:
    why = {"pruned": trial.pruned, "failed": trial.failed}.get(trial.state, "")
    return Ended(
        trial.number, trial.values, trial.value, trial.state, why, seconds_of(Run(_folder(folder, trial.number)))
    )


def _finished(ended: Sequence[Ended]) -> int:
    return sum(each.value is not None for each in ended)


def _folder(search: Path, trial: int) -> Path:
    return search / f"trial-{trial:04}"


def _pause() -> None:
    with stop.interruptible():
        time.sleep(PAUSE)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _show(console: Console, ended: Sequence[Ended], metric: str) -> None:
    """The table of the trials."""
    columns = ("trial", *ended[0].values, metric, "state", "why", "minutes")
    table = Table(*(Column(name, overflow="fold") for name in columns), box=SIMPLE_HEAD)
    for each in ended:
        *first, state, why, minutes = each.cells
        table.add_row(*map(shown, first), Text(state, STYLES[state]), Text(why), f"{minutes:.1f}")
    console.print(table)
