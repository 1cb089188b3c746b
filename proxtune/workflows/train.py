"""A job becomes a run: written down, trained, saved, reported."""

import shutil
import time
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from secrets import token_hex
from typing import Any

import torch
from rich.console import Console
from safetensors import SafetensorError

from proxtune import config as configs
from proxtune.errors import CheckpointError, ConfigError, ModelError
from proxtune.evaluation.report import write_report
from proxtune.runs import Run, environment
from proxtune.training import stop
from proxtune.training.loop import Watch, fit
from proxtune.training.trackers import Trackers, libraries
from proxtune.workflows.jobs import Job
from proxtune.workflows.profile import StepProfiler, block, both
from proxtune.workflows.progress import Progress
from proxtune.workflows.reload import reload_gap, said_by
from proxtune.workflows.rewards import LIMITS
from proxtune.workflows.schemas import PPORun, RunConfig
from proxtune.workflows.terminal import terminal


def execute(job: Job, *, resume: bool = False, console: Console | None = None) -> Run:
    """Train the job in its run folder and leave there a model, the figures and a report.

    SIGTERM and Ctrl-C are answered while it trains (`training.stop`); while the model is written they wait.

    Raises:
        ConfigError: the folder is taken and `resume` is not set, or the run there was another one; or a tracker that
            the config names is not installed, or not ready.
        Stopped: by a signal; the checkpoint is written.
    """
    console = console or terminal()
    libraries(job.config.tracking)
    with stop.listening(), stop.held(), Run.create(job.config.runs / job.config.name, resume=resume) as run:
        for note in job.notes:
            console.print(note, style="dim", soft_wrap=True)
        manifest = _enter(job, run)
        if manifest.get("finished"):
            console.print(f"{run.path} is finished: {_steps(run)} steps, model in {run.model}. Nothing left to do.")
            return run
        if manifest["threads"] != (threads := torch.get_num_threads()):
            console.print(
                f"{run.path} began with {manifest['threads']} threads and goes on with {threads}: the last bits of its "
                f"figures may differ from a run that was not interrupted (OMP_NUM_THREADS={manifest['threads']})",
            )
        began, options = time.perf_counter(), job.config.model_dump(mode="json")
        warn = partial(console.print, style="yellow", soft_wrap=True)
        with (
            closing(Trackers(job.config.tracking, run, options, warn)) as trackers,
            Progress(job.command, job.steps, console, run, options) as progress,
        ):
            watches: list[Watch] = [progress, trackers.log]
            if isinstance(job.config, PPORun) and job.config.profile:
                watches.append(StepProfiler(run, console))
            fit(
                job.algorithm,
                job.batches,
                run,
                job.config.training,
                steps=job.steps,
                seed=job.config.seed,
                evaluate=job.evaluate,
                best=job.best,
                watch=both(*watches),
            )
        if job.best is not None and job.best.step:
            told = f"best    {job.best.figure} {job.best.value:.4g} at step {job.best.step}: the model is that one"
            console.print(f"{told}{_early(job, run)}", soft_wrap=True)
        gap = save_model(job, run)
        console.print(f"reloaded: same {said_by(job)}s (largest difference {gap:.1g})")
        if job.best is not None:
            manifest["best"] = {"figure": job.best.figure, **job.best.state()}
        manifest |= {"finished": _now(), "seconds": manifest.get("seconds", 0.0) + time.perf_counter() - began}
        run.write_manifest(manifest)
        report = write_report(run, extra=block(run))
        console.print(f"model   {run.model}\nreport  {report}", soft_wrap=True)
    return run


def _steps(run: Run) -> int:
    return int(run.metrics()[-1]["step"])


def _early(job: Job, run: Run) -> str:
    """Why the run ended before its last step, if it did."""
    last = _steps(run)
    if job.best is None or last == job.steps:
        return ""
    since = f"{job.best.since} evaluations in a row were" if job.best.since > 1 else "an evaluation was"
    return f"; the run ended at step {last} of {job.steps}, as {since} no better"


def save_model(job: Job, run: Run) -> float:
    """Write the model beside its final name, load it again, then rename: `model/` is whole and right, or not there.

    Returns the largest difference to the trained model. Raises ModelError: it cannot be written, or is another model.
    """
    partial = run.path / "model.partial"
    for folder in (partial, run.model):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        partial.mkdir()
        job.save(partial)
        gap = reload_gap(job, partial)
        partial.rename(run.model)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise ModelError(f"cannot write {run.model}: {error}; make room, then finish with --resume") from error
    return gap


def _enter(job: Job, run: Run) -> dict[str, Any]:
    """Write config and manifest of a new run, or hold the job against those of the run that is resumed."""
    text = configs.dump(job.config)
    if not run.manifest():
        run.write_config(text)
        manifest: dict[str, Any] = {
            "id": token_hex(8),  # what trackers call the run
            "command": job.command,
            "began": _now(),
            "steps": job.steps,
            "base": job.base,
            "data": job.data,
            "rewards": job.rewards,
            "judges": job.judges,
            "parameters": job.parameters,
            "threads": torch.get_num_threads(),
            "environment": environment(),
        }
        run.write_manifest(manifest)
        return manifest
    manifest = run.manifest()
    old = configs.dump(_as_now(configs.load(type(job.config), [run.config_path]), job.config))
    if old != text:
        raise ConfigError(
            f"{run.path} was begun with another config:\n{difference(old, text)}\n"
            "give the run's own values to resume it"
        )
    if manifest["rewards"] != job.rewards:
        raise ConfigError(
            f"{run.path} is rewarded by {manifest['rewards']}, not by {job.rewards}; pass the same --reward"
        )
    judges = manifest.get("judges", [])  # runs of 0.1.0 had none
    if judges != job.judges:
        raise ConfigError(f"{run.path} is judged by {judges}, not by {job.judges}; pass the same --judge")
    if manifest["base"] != job.base:
        raise CheckpointError(
            f"{run.path} began from weights with sha256 {manifest['base']['hash'][:16]}, but {job.base['name']} now "
            f"has {job.base['hash'][:16]}; the reference would be another one. "
            "Bring the old weights back, or begin a new run"
        )
    if manifest["data"] != job.data:
        raise CheckpointError(
            f"the data of {run.path} changed since it began ({', '.join(job.data)}); bring it back, or begin a new run"
        )
    run.write_config(text)
    return manifest


def _as_now(old: RunConfig, new: RunConfig) -> RunConfig:
    """The old config with the new trackers, and the new limits of rewards: a run that they stopped may need others."""
    old = old.model_copy(update={"tracking": new.tracking})
    if not (isinstance(old, PPORun) and isinstance(new, PPORun)):
        return old
    limits = {name: getattr(new.reward, name) for name in LIMITS}
    return old.model_copy(update={"reward": old.reward.model_copy(update=limits)})


def difference(old: str, new: str) -> str:
    """The lines of two configs that the other has not."""
    before, after = old.splitlines(), new.splitlines()
    return "\n".join(
        [f"  run:  {line}" for line in before if line not in after]
        + [f"  now:  {line}" for line in after if line not in before]
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
