"""The one training loop: it drives anything that has a `step`, and writes down enough to go on after a kill."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from pydantic import Field, NonNegativeInt, PositiveInt

from proxtune.config import Section
from proxtune.runs import Run, derive_seed
from proxtune.training import checkpoint
from proxtune.training.metrics import Metrics

Watch = Callable[[int, Metrics], None]


class TrainingConfig(Section):
    """`training`: how long, and what is kept on the way."""

    steps: PositiveInt | None = Field(None, description="steps in all; by default what `epochs` comes to")
    epochs: float = Field(1.0, gt=0, description="passes over the data, where steps is not given")
    save_every: NonNegativeInt = Field(50, description="steps between checkpoints; 0 keeps none")
    keep: PositiveInt = Field(2, ge=2, description="checkpoints that are kept")
    eval_every: NonNegativeInt = Field(0, description="steps between evaluations on held-out data; 0: at the end alone")
    samples: NonNegativeInt = Field(4, description="sampled answers a step that go into samples.jsonl")


class Algorithm(Protocol):
    """What can be trained. `state` must hold all that `step` reads and changes, but the batch."""

    def step(self, batch: Any) -> Metrics: ...

    def samples(self) -> Sequence[Mapping[str, Any]]: ...

    def state(self) -> dict[str, Any]: ...

    def load_state(self, state: Mapping[str, Any]) -> None: ...


class Batches(Iterator[Any], Protocol):
    """Endless batches that know where they are."""

    def state(self) -> dict[str, Any]: ...

    def load_state(self, state: Mapping[str, Any]) -> None: ...


def fit(
    algorithm: Algorithm,
    batches: Batches,
    run: Run,
    config: TrainingConfig,
    *,
    steps: int,
    seed: int = 0,
    evaluate: Callable[[], Metrics] | None = None,
    watch: Watch | None = None,
) -> None:
    """Train up to step number `steps`, from the newest checkpoint of `run` if it has one.

    Each step's figures are logged as they are made; what a killed process logged after its last checkpoint is taken
    back and made again. `evaluate` is called every `eval_every` steps and after the last one;
    it must not change the algorithm.

    Args:
        watch: called with each step's number and figures, for a progress bar.
    """
    start = restore(algorithm, batches, run)
    run.rewind(start)
    for step in range(start + 1, steps + 1):
        torch.manual_seed(derive_seed(seed, "step", step))  # dropout: the only draws without a generator of their own
        began = time.perf_counter()
        metrics = algorithm.step(next(batches))
        metrics["time/step"] = time.perf_counter() - began
        if "tokens" in metrics:
            metrics["time/tokens_per_second"] = metrics["tokens"] / metrics["time/step"]
        if evaluate is not None and _due(step, config.eval_every, steps):
            metrics |= evaluate()
        run.log(step, metrics)
        if config.samples:
            run.log_samples(step, [dict(row) for row in algorithm.samples()[: config.samples]])
        if watch is not None:
            watch(step, metrics)
        if config.save_every and _due(step, config.save_every, steps):
            checkpoint.save(run.checkpoints, step, {"algorithm": algorithm.state(), "batches": batches.state()})
            checkpoint.prune(run.checkpoints, config.keep)


def restore(algorithm: Algorithm, batches: Batches, run: Run) -> int:
    """Load the newest checkpoint that verifies; returns its step, or 0 where there is none."""
    folder = checkpoint.latest(run.checkpoints)
    if folder is None:
        return 0
    step, state = checkpoint.load(folder)
    algorithm.load_state(state["algorithm"])
    batches.load_state(state["batches"])
    return step


def _due(step: int, every: int, last: int) -> bool:
    return step == last or (every > 0 and step % every == 0)
