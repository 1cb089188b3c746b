"""Three real steps, and what they say of the whole run: how long it will take, and how much memory it held."""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from proxtune.algorithms.ppo import PPO
from proxtune.algorithms.reward_model import RewardTrainer
from proxtune.algorithms.sft import SFT
from proxtune.algorithms.task import TaskTrainer
from proxtune.evaluation.run import likelihood
from proxtune.runs import derive_seed
from proxtune.training.metrics import Metrics
from proxtune.workflows import memory
from proxtune.workflows.jobs import Job
from proxtune.workflows.machine import existing, peak
from proxtune.workflows.memory import Sizes
from proxtune.workflows.rewards import mean_scores
from proxtune.workflows.shapes import LOOKED_AT, Shape, language_model, rows_of, upcoming

STEPS = 3
MEASURED = 32  # held-out rows that are evaluated, at most
WRITTEN = 32 * 2**20  # bytes of the trial of the disk
NOISE = (0.85, 1.25)  # of a measured rate, where the machine has other things to do

Clock = Callable[[], float]


@dataclass(frozen=True)
class Probe:
    """What was measured. Work is counted in padded tokens."""

    seconds: list[float]  # of each step; the first one is a warm-up
    work: list[float]  # of each step
    metrics: list[Metrics]
    evaluation: float  # seconds of one evaluation on all held-out rows
    write: float  # seconds a byte: written, synced and hashed
    samples: list[dict[str, Any]]  # of the first step
    peak: int  # bytes


@dataclass(frozen=True)
class Part:
    """A part of the guess, in seconds."""

    name: str
    how: str
    seconds: Sizes


def probe(job: Job, *, clock: Clock = time.perf_counter, watch: Callable[[int], None] | None = None) -> Probe:
    """Take the first steps of the run, as the run itself would, and evaluate a few rows. Nothing is written down.

    The weights change in memory, so this job cannot become a run any more.

    Args:
        clock: what seconds are; `time.process_time` where the machine is shared.
        watch: called with the number of each step that is done.
    """
    ppo = job.algorithm if isinstance(job.algorithm, PPO) else None
    if ppo is not None and ppo.store is not None and not ppo.store.replay:
        ppo.store = None
    seconds, work, metrics, samples = [], [], [], list[dict[str, Any]]()
    for step in range(1, STEPS + 1):
        torch.manual_seed(derive_seed(job.config.seed, "step", step))
        batch = next(job.batches)
        began = clock()
        metrics.append(job.algorithm.step(batch))
        seconds.append(clock() - began)
        work.append(work_of(batch, metrics[-1].get("length/mean", 0)))
        samples = samples or [dict(row) for row in job.algorithm.samples()]
        if watch is not None:
            watch(step)
    evaluation, write = _evaluation(job, clock), _writing(job.config.runs, clock)
    return Probe(seconds, work, metrics, evaluation, write, samples, peak(language_model(job).device))


def guess(job: Job, measured: Probe, *, begun: float) -> list[Part]:
    """How long the run will take, part by part, from the probe's second and third step.

    Args:
        begun: seconds that it took to build the job.
    """
    timed = [s / w for s, w in zip(measured.seconds[1:], measured.work[1:], strict=True)]
    rate, total = sum(measured.seconds[1:]) / sum(measured.work[1:]), _all_work(job, measured)
    warming = max(0.0, measured.seconds[0] - rate * measured.work[0])
    low, high = NOISE
    longest = _longest_answers(job, measured)
    steps = (low * min(timed) * total, rate * total + warming, high * max(timed) * total * longest + warming)
    config = job.config.training
    evaluations = 0 if job.evaluate is None else _times(job.steps, config.eval_every or 0)
    evaluated = evaluations * measured.evaluation
    saves = _times(job.steps, config.save_every) if config.save_every else 0
    each = memory.checkpoint_bytes(job) * measured.write * (1 + config.keep / 2)  # `prune` reads what it keeps
    closing = begun / 2  # the model is loaded again, but not the data
    if job.command == "reward":  # the scale of its scores is that of the held-out answers, or else of all
        forward = rate * measured.work[0] / 3  # of a step's time
        closing += measured.evaluation or forward * job.batches.batches_per_epoch
    return [
        Part("start", "measured: reading the data, building the model", (begun,) * 3),
        Part("steps", f"{job.steps} × {rate * total / job.steps:.2f} s, measured on steps 2 and 3", steps),
        Part(
            "evaluations",
            f"{evaluations} × {measured.evaluation:.1f} s on {len(job.held_out)} rows",
            _around(evaluated, low, high * longest),
        ),
        Part("checkpoints", f"{saves} × {each:.1f} s", _around(saves * each, low, 2 * high)),
        Part("model", "saved, and loaded again to compare", _around(closing, low, 2 * high)),
    ]


def work_of(batch: Sequence[Any], answer: float) -> float:
    """Padded tokens of a batch, its responses taken to be `answer` tokens long where they are still to be sampled."""
    return float(Shape.of([row for example in batch for row in rows_of(example, round(answer))]).tokens)


def _all_work(job: Job, measured: Probe) -> float:
    """The work of all steps, from the batches that the run will see."""
    answer = sum(metrics.get("length/mean", 0.0) for metrics in measured.metrics) / STEPS
    looked = [work_of(batch, answer) for batch in upcoming(job, min(job.steps, LOOKED_AT))]
    return sum(looked) / len(looked) * job.steps


def _longest_answers(job: Job, measured: Probe) -> float:
    """How much longer a step takes where every response goes to the limit."""
    if not isinstance(job.algorithm, PPO):
        return 1.0
    [batch] = upcoming(job, 1)
    answer = sum(metrics.get("length/mean", 0.0) for metrics in measured.metrics) / STEPS
    return work_of(batch, job.algorithm.rollout.max_new_tokens) / work_of(batch, answer)


@torch.no_grad()
def _evaluation(job: Job, clock: Clock) -> float:
    """Seconds of an evaluation on all held-out rows, from one on the first few."""
    rows = job.held_out[:MEASURED]
    if job.evaluate is None or not rows:
        return 0.0
    began = clock()
    match job.algorithm:
        case SFT(model=model):
            likelihood(model, rows)
        case TaskTrainer(model=model, task=task):
            task.predict(model, rows)
        case RewardTrainer(model=model, judgements=judgements):
            judgements.scores(model, rows)
        case PPO(policy=policy, reward=reward, rollout=rollout):
            mean_scores(policy, {"eval/score": reward}, rows, rollout, seed=job.config.seed)
    return (clock() - began) * len(job.held_out) / len(rows)


def _writing(folder: Path, clock: Clock) -> float:
    """Seconds to write, sync and hash a byte where the run will stand, by a file that has no name there."""
    data = bytes(WRITTEN)
    began = clock()
    with tempfile.TemporaryFile(dir=existing(folder)) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    hashlib.sha256(data).digest()
    return (clock() - began) / WRITTEN


def _times(steps: int, every: int) -> int:
    """How often something is due that is done every so many steps, and after the last."""
    return (steps - 1) // every + 1 if every else 1


def _around(likely: float, low: float, high: float) -> Sizes:
    return low * likely, likely, high * likely
