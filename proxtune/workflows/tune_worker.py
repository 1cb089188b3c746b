"""One trial of `proxtune tune`: an ordinary run in a process of its own, which may crash alone."""

import math
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from proxtune.errors import ProxtuneError
from proxtune.runs import Row, Run
from proxtune.training import stop
from proxtune.workflows.jobs import Job, ppo_job, reward_job, sft_job
from proxtune.workflows.rewards import functions_of
from proxtune.workflows.schemas import PPORun, RewardRun, RunConfig, SFTRun
from proxtune.workflows.train import execute

# A fork server has imported torch once and done nothing with it; elsewhere that is not safe, and each trial imports it.
_processes = (
    multiprocessing.get_context("forkserver") if sys.platform == "linux" else multiprocessing.get_context("spawn")
)
_processes.set_forkserver_preload([__name__])


@dataclass(frozen=True)
class Functions:
    """What does not stand in the config of a PPO run: FILE.py:FUNCTION[=WEIGHT] each."""

    rewards: Sequence[str] = ()
    judges: Sequence[str] = ()


class Worker:
    """A trial that is running, and what it has logged so far.

    Args:
        threads: of torch, in this process; None as many as there are.
    """

    def __init__(self, config: RunConfig, functions: Functions, threads: int | None) -> None:
        self.run = Run(config.runs / config.name)
        self.log = self.run.path.with_suffix(".log")
        arguments = (config, functions, threads, self.log)
        self.process: BaseProcess = _processes.Process(target=live, args=arguments)
        self.process.start()
        self.is_ending = False
        self._size, self._rows = 0, list[Row]()

    def rows(self) -> list[Row]:
        """The metrics so far; the file is read again only where it has grown."""
        path = self.run.metrics_path
        size = path.stat().st_size if path.exists() else 0
        if size != self._size:
            self._size, self._rows = size, self.run.metrics()
        return self._rows

    @property
    def done(self) -> float:
        """The share of its steps that the trial has taken."""
        steps, rows = self.run.manifest().get("steps"), self.rows()
        return rows[-1]["step"] / steps if steps and rows else 0.0

    def end(self) -> None:
        """Ask for the end, once: a second signal would kill it before its checkpoint is written."""
        if not self.is_ending:
            self.is_ending = True
            self.process.terminate()

    @property
    def failure(self) -> str:
        """Why the process ended without a finished run."""
        code = self.process.exitcode
        assert code is not None, "the trial is still running"
        if code < 0:
            memory = " (the system does that where memory runs out)" if code == -signal.SIGKILL else ""
            return f"killed by {signal.Signals(-code).name}{memory}"
        text = self.log.read_text(encoding="utf-8", errors="replace").strip() if self.log.exists() else ""
        return f"{text.rpartition(chr(10))[2]} ({self.log})" if text else f"exit code {code}"


def live(config: RunConfig, functions: Functions, threads: int | None, log: Path) -> None:
    """The life of a trial's process: train, from the newest checkpoint if there is one, and say into `log` what is."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends us, once
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        with stop.listening():
            execute(_job(config, functions), resume=True)
    except ProxtuneError as error:
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")
    except stop.Stopped as stopped:
        sys.exit(128 + stopped.number)


def value_of(run: Run, metric: str) -> tuple[float | None, str]:
    """The figure of the model that a finished run left, or None and why there is none."""
    rows = run.metrics()
    measured = {row["step"]: row[metric] for row in rows if metric in row}
    if not measured:
        names = sorted({name for row in rows for name in row if "/" in name and not name.startswith("time/")})
        return None, f"the run logged no {metric}; set search.metric to one of {', '.join(names)}"
    step = run.manifest().get("best", {}).get("step")
    value = measured.get(step, measured[max(measured)])
    return (value, "") if math.isfinite(value) else (None, f"{metric} is {value} at step {step or max(measured)}")


def seconds_of(run: Run) -> float:
    """What the run has taken so far."""
    return float(run.manifest().get("seconds") or sum(row.get("time/step", 0.0) for row in run.metrics()))


def _job(config: RunConfig, functions: Functions) -> Job:
    if isinstance(config, PPORun):
        judges = [judge for judge, _ in functions_of(config.reward, functions.judges)]
        return ppo_job(config, functions_of(config.reward, functions.rewards), judges=judges)
    if isinstance(config, SFTRun):
        return sft_job(config)
    assert isinstance(config, RewardRun)
    return reward_job(config)


def _end_with_parent() -> None:
    """Nobody would wait for this trial any more; it goes on where the search is resumed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
