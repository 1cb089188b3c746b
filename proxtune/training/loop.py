"""The one training loop: it drives anything that has a `step`, and writes down enough to go on after a kill."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypedDict

import torch
from pydantic import Field, NonNegativeInt, PositiveInt

from proxtune.config import Section
from proxtune.errors import DivergedError, RewardError
from proxtune.runs import Run, derive_seed
from proxtune.training import checkpoint, stop
from proxtune.training.metrics import Metrics

Watch = Callable[[int, Metrics], None]

logger = logging.getLogger(__name__)


class TrainingConfig(Section):
    """`training`: how long, and what is kept on the way."""

    steps: PositiveInt | None = Field(None, description="steps in all; by default what `epochs` comes to")
    epochs: float = Field(1.0, gt=0, description="passes over the data, where steps is not given")
    save_every: NonNegativeInt = Field(50, description="steps between checkpoints; 0: only when the run is stopped")
    keep: PositiveInt = Field(2, ge=2, description="checkpoints that are kept")
    eval_every: NonNegativeInt | None = Field(
        None,
        description="steps between evaluations on held-out data; 0: at the end alone; null: ten evaluations in a run "
        "that trains a head for a task, in others one at the end",
    )
    samples: NonNegativeInt = Field(4, description="sampled answers a step that go into samples.jsonl")
    best_by: str | None = Field(
        "auto",
        description="held-out figure, as eval/loss, whose best step becomes the model, not the last step; auto: the "
        "task's own in proxtune sft, eval/accuracy of pairs or eval/correlation of ratings in proxtune reward; null: "
        "the last step, as always in proxtune ppo",
    )
    patience: PositiveInt | None = Field(
        3, description="evaluations in a row without a better one that end the run, where best_by says what is better"
    )
    autocast: Literal["none", "bfloat16"] = Field(
        "none",
        description="bfloat16: the passes of a step multiply in bfloat16, on a CUDA device; weights, heads and losses "
        "stay float32 (sft, reward)",
    )


@dataclass
class Best:
    """The best evaluation so far by one held-out figure, and how many came after it."""

    figure: str
    rises: bool  # whether a higher figure is better
    step: int = 0
    value: float = math.nan
    since: int = 0

    def see(self, step: int, metrics: Metrics) -> bool | None:
        """The figures of a step. Returns whether it is the best, of equal ones the first; None: it was not measured."""
        value = metrics.get(self.figure)
        if value is None:
            return None
        better = (value > self.value if self.rises else value < self.value) or math.isnan(self.value)
        if better:
            self.step, self.value = step, value
        self.since = 0 if better else self.since + 1
        return better

    def state(self) -> dict[str, Any]:
        """What a later process needs to go on."""
        return {"step": self.step, "value": self.value, "since": self.since}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state` was taken."""
        self.step, self.value, self.since = state["step"], state["value"], state["since"]


class Algorithm(Protocol):
    """What can be trained.

    `state` holds all that `step` reads and changes, but the batch. Where `step` raises a RewardError, or opens a window
    for signals (`stop.interruptible`), it has not changed any of that yet. The `optimizer` that it may have hears of
    evaluations.
    """

    def step(self, batch: Any) -> Metrics: ...

    def samples(self) -> Sequence[Mapping[str, Any]]: ...

    def state(self) -> dict[str, Any]: ...

    def load_state(self, state: Mapping[str, Any]) -> None: ...


class Batches(Iterator[Any], Protocol):
    """Endless batches that know where they are."""

    def state(self) -> dict[str, Any]: ...

    def load_state(self, state: Mapping[str, Any]) -> None: ...


class Trained(TypedDict):
    """What a step that is done leaves to be written down."""

    metrics: Metrics
    samples: list[dict[str, Any]]


@stop.held()
def fit(
    algorithm: Algorithm,
    batches: Batches,
    run: Run,
    config: TrainingConfig,
    *,
    steps: int,
    seed: int = 0,
    evaluate: Callable[[], Metrics] | None = None,
    best: Best | None = None,
    watch: Watch | None = None,
) -> None:
    """Train up to step number `steps`, from the newest checkpoint of `run` if it has one.

    Each step's figures are logged as they are made; what a killed process logged after its last checkpoint is taken
    back and made again. A signal (while `stop.listening`) or a failing reward ends the run with a checkpoint of where
    it stands: after the current step; or before it, where nothing had changed; or between a step and its evaluation.

    Args:
        evaluate: called every `eval_every` steps and after the last one; it must not change the algorithm.
        best: keep the best evaluation's checkpoint, end the run after `config.patience` worse ones in a row, and leave
            the algorithm where it was best. It is brought up to date.
        watch: called with each step's number and figures, for a progress bar.

    Raises:
        Stopped, RewardError: the checkpoint is written.
        DivergedError: a loss or gradient is not finite; the step's figures are logged, and nothing was moved by it.
    """
    step, trained = restore(algorithm, batches, run, best)
    run.rewind(step if trained is None else step - 1)

    def save(place: dict[str, Any]) -> None:
        state = {"algorithm": algorithm.state(), "batches": place, "trained": trained}
        checkpoint.save(run.checkpoints, step, state | ({"best": best.state()} if best else {}))
        checkpoint.prune(run.checkpoints, config.keep, also=best.step if best else None)

    while (step < steps and not _is_over(best, config)) or trained is not None:
        place = batches.state()
        try:
            if trained is None:
                stop.check()
                trained = _train(algorithm, next(batches), step + 1, seed, config.samples)
                step, place = step + 1, batches.state()
            if evaluate is not None and _due(step, config.eval_every or 0, steps):
                trained["metrics"] |= _evaluate(evaluate, best, step, seed)
        except DivergedError as error:
            run.log(step + 1, error.figures)
            raise
        except (stop.Stopped, RewardError) as error:
            save(place)
            error.add_note(f"stopped at step {step} of {steps}; checkpoint saved")
            raise
        run.log(step, trained["metrics"])
        run.log_samples(step, trained["samples"])
        if watch is not None:
            watch(step, trained["metrics"])
        is_best, trained = best is not None and _hear(best, algorithm, step, trained["metrics"]), None
        if (is_best and step < steps) or (config.save_every and _due(step, config.save_every, steps)):
            save(place)
    _go_back(algorithm, best, step, run)


def _hear(best: Best, algorithm: Algorithm, step: int, metrics: Metrics) -> bool:
    """Tell `best` and the optimiser of a step's figures, evaluated or not. Returns whether it is the best."""
    better = best.see(step, metrics)
    optimizer = getattr(algorithm, "optimizer", None)
    if better is not None and optimizer is not None:
        optimizer.evaluated(better=better)
    return bool(better)


def _go_back(algorithm: Algorithm, best: Best | None, step: int, run: Run) -> None:
    """From `step` to the best one, where there is one."""
    if best is not None and best.step not in (0, step):
        _, state = checkpoint.load(checkpoint.folder_of(run.checkpoints, best.step))
        algorithm.load_state(state["algorithm"])


def _is_over(best: Best | None, config: TrainingConfig) -> bool:
    return best is not None and config.patience is not None and best.since >= config.patience


def restore(algorithm: Algorithm, batches: Batches, run: Run, best: Best | None = None) -> tuple[int, Trained | None]:
    """Load the newest checkpoint that verifies, and that did not fail to load twice.

    Returns:
        Its step, 0 where there is none; and what is to be written down of that step, where it was not evaluated yet.
    """
    checkpoint.set_aside(run.checkpoints)
    folder = checkpoint.latest(run.checkpoints)
    if folder is None:
        return 0, None
    with checkpoint.restoring(folder):
        step, state = checkpoint.load(folder)
        algorithm.load_state(state["algorithm"])
        batches.load_state(state["batches"])
        if best is not None and "best" in state:
            best.load_state(state["best"])
    return step, state["trained"]


def _train(algorithm: Algorithm, batch: Any, step: int, seed: int, samples: int) -> Trained:
    torch.manual_seed(derive_seed(seed, "step", step))  # dropout: the only draws without a generator of their own
    began = time.perf_counter()
    metrics = algorithm.step(batch)
    metrics["time/step"] = time.perf_counter() - began
    metrics |= {f"time/{phase}": took for phase, took in getattr(algorithm, "seconds", {}).items()}
    if "tokens" in metrics:
        metrics["time/tokens_per_second"] = metrics["tokens"] / metrics["time/step"]
    return {"metrics": metrics, "samples": [dict(row) for row in algorithm.samples()[:samples]]}


def _evaluate(evaluate: Callable[[], Metrics], best: Best | None, step: int, seed: int) -> Metrics:
    torch.manual_seed(derive_seed(seed, "evaluation", step))  # the same in the process that takes up the step
    with stop.interruptible():
        figures = evaluate()
    if best is not None and best.figure not in figures:
        logger.warning(
            "training.best_by=%s is not measured, so no step is the best; expected one of %s", best.figure, [*figures]
        )
    return figures


def _due(step: int, every: int, last: int) -> bool:
    return step == last or (every > 0 and step % every == 0)
