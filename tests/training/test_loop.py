"""The loop drives whatever has a step, and goes on after a kill as if there had been none."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from proxtune.data.loader import Loader
from proxtune.errors import CheckpointError, RewardError
from proxtune.runs import Run
from proxtune.training import checkpoint
from proxtune.training.loop import Best, TrainingConfig, fit, restore
from proxtune.training.optim import OptimConfig, Optimizer


class Sum:
    """Trains one number: it adds up what its batches hold, and a draw of the global generator."""

    def __init__(self, *, fails_at: int | None = None) -> None:
        self.total, self.steps, self.fails_at = torch.zeros(1), 0, fails_at

    def step(self, batch: list[int]) -> dict[str, float]:
        if self.fails_at == self.steps + 1:
            raise KeyboardInterrupt
        self.steps += 1
        self.total = self.total + sum(batch) + torch.rand(1)
        return {"total": float(self.total), "tokens": 10.0}

    def samples(self) -> list[Mapping[str, Any]]:
        return [{"text": f"{self.steps}.{i}"} for i in range(3)]

    def state(self) -> dict[str, Any]:
        return {"total": self.total, "steps": self.steps}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.total, self.steps = state["total"], state["steps"]


def loader() -> Loader[int]:
    return Loader(list(range(10)), 3, seed=0)


def train(
    path: Path,
    algorithm: Sum,
    *,
    steps: int = 10,
    evaluate: Callable[[], dict[str, float]] | None = None,
    best: Best | None = None,
    **options: Any,
) -> Sum:
    with Run.create(path, resume=True) as run:
        run.write_config("{}\n")
        config = TrainingConfig(**{"save_every": 3} | options)
        fit(algorithm, loader(), run, config, steps=steps, evaluate=evaluate, best=best)
    return algorithm


def figures(path: Path) -> list[dict[str, Any]]:
    """The metrics of a run, less the clock's."""
    return [{k: x for k, x in row.items() if not k.startswith("time/")} for row in Run.open(path).metrics()]


def checkpoints(path: Path) -> list[str]:
    return sorted(folder.name for folder in (path / "checkpoints").iterdir())


@pytest.mark.parametrize("fails_at", range(1, 11))
def test_tr1_a_run_that_was_killed_anywhere_goes_on_as_if_it_had_not_been(fails_at: int, tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", Sum())
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", Sum(fails_at=fails_at))
    resumed = train(tmp_path / "killed", Sum())
    assert torch.equal(resumed.total, whole.total)
    assert figures(tmp_path / "killed") == figures(tmp_path / "whole")
    assert [row["step"] for row in figures(tmp_path / "killed")] == list(range(1, 11))
    assert Run.open(tmp_path / "killed").samples() == Run.open(tmp_path / "whole").samples()


def test_tr1_a_run_may_be_killed_again_and_again(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", Sum())
    for fails_at in (2, 5, 5, 9):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "killed", Sum(fails_at=fails_at))
    assert torch.equal(train(tmp_path / "killed", Sum()).total, whole.total)
    assert figures(tmp_path / "killed") == figures(tmp_path / "whole")


def test_tr1_at_most_the_work_since_the_last_checkpoint_is_done_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, Sum(fails_at=9))
    with Run.create(tmp_path, resume=True) as run:
        again = Sum()
        assert restore(again, loader(), run) == (6, None)
        assert again.steps == 6


def test_a_finished_run_can_be_trained_on(tmp_path: Path) -> None:
    train(tmp_path / "longer", Sum(), steps=4)
    assert torch.equal(train(tmp_path / "longer", Sum()).total, train(tmp_path / "whole", Sum()).total)
    assert figures(tmp_path / "longer") == figures(tmp_path / "whole")


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    train(tmp_path, Sum())
    before = (tmp_path / "metrics.jsonl").read_text()
    assert train(tmp_path, Sum()).steps == 10
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_ck4_a_damaged_checkpoint_is_passed_over_and_its_steps_are_made_again(tmp_path: Path) -> None:
    train(tmp_path / "damaged", Sum())
    (tmp_path / "damaged/checkpoints/step-000010/state.json").write_text("{}")
    whole = train(tmp_path / "whole", Sum())
    assert torch.equal(train(tmp_path / "damaged", Sum()).total, whole.total)
    assert figures(tmp_path / "damaged") == figures(tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"save_every": 3}, ["step-000009", "step-000010"]),
        ({"save_every": 3, "keep": 3}, ["step-000006", "step-000009", "step-000010"]),
        ({"save_every": 100}, ["step-000010"]),
    ],
)
def test_the_newest_checkpoints_and_the_last_step_are_kept(
    options: dict[str, int], kept: list[str], tmp_path: Path
) -> None:
    train(tmp_path, Sum(), **options)
    assert checkpoints(tmp_path) == kept


def test_save_every_0_keeps_none(tmp_path: Path) -> None:
    train(tmp_path, Sum(), save_every=0)
    assert not (tmp_path / "checkpoints").exists()


def test_a_checkpoint_holds_the_algorithm_and_the_place_in_the_data(tmp_path: Path) -> None:
    train(tmp_path, Sum(), steps=4)
    step, state = checkpoint.load(tmp_path / "checkpoints/step-000004")
    assert step == 4
    assert state["algorithm"]["steps"] == 4
    assert state["batches"] == {"epoch": 1, "position": 2}  # 12 rows of 10


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path) -> None:
    train(tmp_path, Sum(), steps=3)
    with Run.create(tmp_path, resume=True) as run, pytest.raises(CheckpointError, match="resume with the data"):
        fit(Sum(), Loader([1, 2], 3, seed=0), run, TrainingConfig(), steps=6)


@pytest.mark.parametrize(("every", "steps"), [(0, [10]), (4, [4, 8, 10]), (5, [5, 10])])
def test_evaluation_comes_every_so_often_and_after_the_last_step(every: int, steps: list[int], tmp_path: Path) -> None:
    train(tmp_path, Sum(), evaluate=lambda: {"eval/x": 1.5}, eval_every=every)
    assert [row["step"] for row in figures(tmp_path) if row.get("eval/x") == 1.5] == steps


def test_evaluation_that_draws_does_not_change_training(tmp_path: Path) -> None:
    def evaluate() -> dict[str, float]:
        return {"eval/draw": float(torch.rand(7).sum())}

    with_evaluation = train(tmp_path / "a", Sum(), evaluate=evaluate, eval_every=1)
    assert torch.equal(with_evaluation.total, train(tmp_path / "b", Sum()).total)


def test_every_step_is_logged_as_it_is_made_with_its_time(tmp_path: Path) -> None:
    class Watched(Sum):
        def step(self, batch: list[int]) -> dict[str, float]:
            assert len(list(lines(tmp_path / "metrics.jsonl"))) == self.steps
            return super().step(batch)

    train(tmp_path, Watched())
    row = Run.open(tmp_path).metrics()[4]
    assert row["step"] == 5
    assert row["time/step"] > 0
    assert row["time/tokens_per_second"] == pytest.approx(10 / row["time/step"])


def lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        yield from map(json.loads, path.read_text().splitlines())


@pytest.mark.parametrize(("samples", "texts"), [(2, ["1.0", "1.1"]), (0, []), (9, ["1.0", "1.1", "1.2"])])
def test_as_many_samples_are_kept_as_were_asked_for(samples: int, texts: list[str], tmp_path: Path) -> None:
    train(tmp_path, Sum(), steps=1, samples=samples)
    assert [row["text"] for row in Run.open(tmp_path).samples()] == texts


def test_whoever_watches_sees_each_step(tmp_path: Path) -> None:
    seen = []
    with Run.create(tmp_path, resume=False) as run:
        watch = lambda step, metrics: seen.append((step, metrics["tokens"]))  # noqa: E731
        fit(Sum(), loader(), run, TrainingConfig(save_every=0), steps=3, watch=watch)
    assert seen == [(1, 10.0), (2, 10.0), (3, 10.0)]


def test_fewer_than_two_checkpoints_cannot_be_kept() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        TrainingConfig(keep=1)


def test_another_seed_draws_otherwise(tmp_path: Path) -> None:
    totals = []
    for seed in (0, 1):
        algorithm = Sum()
        with Run.create(tmp_path / str(seed), resume=False) as run:
            fit(algorithm, loader(), run, TrainingConfig(save_every=0), steps=2, seed=seed)
        totals.append(float(algorithm.total))
    assert totals[0] != totals[1]


NAN = math.nan
LOSSES = [5.0, 4.0, 2.0, 3.0, 2.5, 2.0, 6.0, 7.0, 8.0, 9.0]  # after each of ten steps: the best is the third


class Descent(Sum):
    """A `Sum` with a weight that an optimiser moves, whose rate is among the figures."""

    def __init__(self, *, fails_at: int | None = None) -> None:
        super().__init__(fails_at=fails_at)
        self.weight = nn.Parameter(torch.ones(3))
        config = OptimConfig(schedule="plateau", plateau_patience=2, learning_rate=0.1, warmup=0)
        self.optimizer = Optimizer({"model": [self.weight]}, config, total=10)

    def step(self, batch: list[int]) -> dict[str, float]:
        figures = super().step(batch)
        self.optimizer.begin(self.steps - 1)
        (self.weight * self.total).sum().backward()
        return self.optimizer.apply(figures | {"rate": self.optimizer.learning_rate})

    def state(self) -> dict[str, Any]:
        return super().state() | {"weight": self.weight.detach(), "optimizer": self.optimizer.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        super().load_state(state)
        self.weight.data = state["weight"].clone()
        self.optimizer.load_state(state["optimizer"])


def best_of(
    path: Path, algorithm: Sum, losses: list[float] = LOSSES, *, rises: bool = False, every: int = 1, **options: Any
) -> tuple[Sum, Best]:
    """Train with the loss of each step as the held-out figure."""
    best = Best("eval/loss", rises=rises)
    evaluate = lambda: {"eval/loss": losses[algorithm.steps - 1]}  # noqa: E731
    train(path, algorithm, steps=len(losses), evaluate=evaluate, best=best, eval_every=every, **options)
    return algorithm, best


@pytest.mark.parametrize(
    ("rises", "values", "better", "step", "since"),
    [
        (False, [3.0, 2.0, 2.0, 1.0], [True, True, False, True], 4, 0),  # of equal ones the first
        (True, [3.0, 2.0, 4.0, 4.0, 1.0], [True, False, True, False, False], 3, 2),
        (False, [NAN, 2.0, NAN], [True, True, False], 2, 1),  # any number is better than none
        (True, [NAN, -math.inf], [True, True], 2, 0),
    ],
)
def test_the_best_is_the_lowest_or_the_highest(
    rises: bool, values: list[float], better: list[bool], step: int, since: int
) -> None:
    best = Best("eval/loss", rises=rises)
    assert [best.see(i, {"eval/loss": x, "loss": 0.0}) for i, x in enumerate(values, 1)] == better
    assert best.state() == {"step": step, "value": values[step - 1], "since": since}
    assert best.see(9, {"loss": -1.0}) is None  # not evaluated
    assert best.state() == {"step": step, "value": values[step - 1], "since": since}


def test_the_best_checkpoint_is_kept_and_what_is_left_is_that_step(tmp_path: Path) -> None:
    left, best = best_of(tmp_path / "run", Sum(), patience=None)
    assert (best.step, best.value, best.since) == (3, 2.0, 7)
    assert torch.equal(left.total, train(tmp_path / "short", Sum(), steps=3).total)
    assert checkpoints(tmp_path / "run") == ["step-000003", "step-000009", "step-000010"]
    assert [row["step"] for row in figures(tmp_path / "run")] == list(range(1, 11))


def test_a_higher_figure_is_the_best_where_it_rises(tmp_path: Path) -> None:
    left, best = best_of(tmp_path, Sum(), [1.0, 3.0, 2.0, 2.0], rises=True)
    assert (left.steps, best.step) == (2, 2)


def test_where_the_last_step_is_the_best_it_stays(tmp_path: Path) -> None:
    left, best = best_of(tmp_path, Sum(), [4.0, 3.0, 2.0, 1.0])
    assert (left.steps, best.step, best.since) == (4, 4, 0)


def test_only_what_is_evaluated_can_be_the_best(tmp_path: Path) -> None:
    left, best = best_of(tmp_path, Sum(), every=4, patience=None)  # steps 4, 8 and 10
    assert (left.steps, best.step, best.value, best.since) == (4, 4, 3.0, 2)


@pytest.mark.parametrize(("patience", "every", "last"), [(1, 1, 4), (3, 1, 6), (2, 2, 10), (1, 2, 8), (7, 1, 10)])
def test_evaluations_in_a_row_without_a_better_one_end_the_run(
    patience: int, every: int, last: int, tmp_path: Path
) -> None:
    # every second step: 4, 3, 2, 7, 9; the best is the sixth
    left, best = best_of(tmp_path, Sum(), patience=patience, every=every)
    assert [row["step"] for row in figures(tmp_path)] == list(range(1, last + 1))
    assert left.steps == best.step == (3 if every == 1 else 6)


def test_a_run_that_is_over_stays_over(tmp_path: Path) -> None:
    left, best = best_of(tmp_path, Sum(), patience=2)
    again, known = best_of(tmp_path, Sum(), patience=2)
    assert torch.equal(again.total, left.total)
    assert known == best
    assert [row["step"] for row in figures(tmp_path)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(  # the best step itself, and after it
    "fails_at", [3, pytest.param(4, marks=pytest.mark.slow), 7, pytest.param(10, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("options", [{"patience": None}, {"patience": 7}, {"patience": None, "save_every": 0}])
def test_tr1_a_run_killed_before_or_after_its_best_step_ends_with_the_same_model(
    fails_at: int, options: dict[str, Any], tmp_path: Path
) -> None:
    whole, best = best_of(tmp_path / "whole", Descent(), **options)
    with pytest.raises(KeyboardInterrupt):
        best_of(tmp_path / "killed", Descent(fails_at=fails_at), **options)
    resumed, again = best_of(tmp_path / "killed", Descent(), **options)
    assert isinstance(whole, Descent)
    assert isinstance(resumed, Descent)
    assert torch.equal(resumed.weight, whole.weight)
    assert torch.equal(resumed.total, whole.total)
    assert resumed.steps == best.step == 3
    assert again == best
    assert figures(tmp_path / "killed") == figures(tmp_path / "whole")


@pytest.mark.parametrize("fails_at", [3, 4, 10])
def test_tr1_a_run_that_was_stopped_within_an_evaluation_ends_with_the_same_model(
    fails_at: int, tmp_path: Path
) -> None:
    whole, best = best_of(tmp_path / "whole", Descent(), patience=None)
    stopped = Descent()

    def evaluate() -> dict[str, float]:
        if stopped.steps == fails_at:
            raise RewardError("no answer")
        return {"eval/loss": LOSSES[stopped.steps - 1]}

    options: dict[str, Any] = {"eval_every": 1, "patience": None}
    with pytest.raises(RewardError):
        train(tmp_path / "run", stopped, evaluate=evaluate, best=Best("eval/loss", rises=False), **options)
    resumed, again = best_of(tmp_path / "run", Descent(), patience=None)
    assert torch.equal(resumed.total, whole.total)
    assert again == best
    assert figures(tmp_path / "run") == figures(tmp_path / "whole")


def test_the_rate_falls_after_evaluations_that_were_no_better(tmp_path: Path) -> None:
    best_of(tmp_path, Descent(), patience=None)
    # after steps 4 and 5, then 6 and 7, then 8 and 9, each two without a better one than the third
    rates = [0.1] * 5 + [0.05] * 2 + [0.025] * 2 + [0.0125]
    assert [row["rate"] for row in figures(tmp_path)] == pytest.approx(rates)


def test_without_a_best_nothing_is_kept_stopped_or_taken_back(tmp_path: Path) -> None:
    evaluated = train(tmp_path / "run", Sum(), evaluate=lambda: {"eval/loss": 1.0}, eval_every=1, patience=1)
    plain = train(tmp_path / "plain", Sum())
    assert torch.equal(evaluated.total, plain.total)
    assert checkpoints(tmp_path / "run") == checkpoints(tmp_path / "plain") == ["step-000009", "step-000010"]
    _, state = checkpoint.load(tmp_path / "run/checkpoints/step-000010")
    assert state.keys() == {"algorithm", "batches", "trained"}


def test_a_figure_that_is_not_measured_is_told_of_and_the_last_step_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    best = Best("eval/los", rises=False)
    left = train(tmp_path, Sum(), evaluate=lambda: {"eval/loss": 1.0}, best=best, eval_every=5)
    assert (left.steps, best.step) == (10, 0)
    said = "training.best_by=eval/los is not measured, so no step is the best; expected one of ['eval/loss']"
    assert [record.getMessage() for record in caplog.records] == [said, said]  # steps 5 and 10
