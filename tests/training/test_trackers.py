"""Trackers get every figure of a step once, over kills too, and never stand in the way of the run.

TensorBoard and W&B (offline) are the real libraries; MLflow and SwanLab, which bring much with them, are stand-ins that
keep what they are given as those do.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from proxtune.errors import ConfigError
from proxtune.runs import Run
from proxtune.training.trackers import Trackers, TrackingConfig, libraries
from proxtune.workflows.jobs import Job
from proxtune.workflows.train import execute
from tests.runs_tiny.lives import job, write_data

pytestmark = pytest.mark.slow  # together they take longer than `make check` has

HEADER = 7  # bytes that a file of W&B begins with
OPTIONS = {"optim": {"learning_rate": 0.1}}


class FakeMLflow:
    """Experiments of runs; a metric is a list of (step, value), however often a step comes."""

    def __init__(self) -> None:
        self.runs: list[SimpleNamespace] = []
        self.active: SimpleNamespace | None = None

    def set_experiment(self, name: str) -> None:
        self.experiment = name

    def search_runs(self, *, experiment_names: list[str], filter_string: str, output_format: str) -> list[Any]:
        assert (experiment_names, output_format) == ([self.experiment], "list")
        return [run for run in self.runs if filter_string == f"tags.proxtune = '{run.tags['proxtune']}'"]

    def start_run(self, *, run_id: str | None, run_name: str, tags: dict[str, str]) -> None:
        if run_id is None:
            data = SimpleNamespace(metrics={})
            info = SimpleNamespace(run_id=f"run {len(self.runs)}", run_name=run_name)
            self.runs.append(SimpleNamespace(tags=tags, info=info, data=data, history={}, params={}))
        (self.active,) = (run for run in self.runs if run_id in (None, run.info.run_id))

    def log_params(self, params: dict[str, Any]) -> None:
        assert self.active is not None
        assert not self.active.params, "a parameter cannot be changed"
        self.active.params = params

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        assert self.active is not None
        for name, x in metrics.items():
            self.active.history.setdefault(name, []).append((step, x))
            self.active.data.metrics[name] = x

    def end_run(self) -> None:
        self.active = None


class FakeSwanLab:
    """Runs by id; a step that is there already is left out."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, list[tuple[int, float]]]] = {}
        self.begun: list[dict[str, Any]] = []
        self.steps: dict[str, int] = {}

    def init(self, **given: Any) -> Any:
        self.begun.append(given)
        history = self.runs.setdefault(given["id"], {})

        def log(metrics: dict[str, float], step: int) -> None:
            if step > self.steps.get(given["id"], 0):
                for name, x in metrics.items():
                    history.setdefault(name, []).append((step, x))
                self.steps[given["id"]] = step

        return SimpleNamespace(log=log, finish=lambda: None)


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    found = SimpleNamespace(mlflow=FakeMLflow(), swanlab=FakeSwanLab())
    for name, fake in vars(found).items():
        monkeypatch.setitem(sys.modules, name, fake)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    return found


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with Run.create(tmp_path / "mine", resume=False) as made:
        made.write_manifest({"id": "0123abcd"})
        yield made


def tensorboard(folder: Path) -> dict[str, list[tuple[int, float]]]:
    read = EventAccumulator(str(folder / "tensorboard"))
    read.Reload()
    return {name: [(row.step, row.value) for row in read.Scalars(name)] for name in read.Tags()["scalars"]}


def history(name: str, run: Run, fakes: SimpleNamespace) -> dict[str, list[tuple[int, float]]]:
    if name == "tensorboard":
        return tensorboard(run.path)
    if name == "mlflow":
        return dict(fakes.mlflow.runs[0].history)
    return dict(fakes.swanlab.runs["0123abcd"])


def broken(*_: object, **__: object) -> None:
    raise OSError("no route to host")


CHOSEN: dict[str, Any] = {"tensorboard": True, "mlflow": "proj", "swanlab": "proj"}


@pytest.mark.parametrize("name", CHOSEN)
def test_what_is_logged_stands_there_once_though_the_run_was_killed(
    name: str, run: Run, fakes: SimpleNamespace
) -> None:
    config, reports = TrackingConfig(**{name: CHOSEN[name]}), list[str]()
    killed = Trackers(config, run, OPTIONS, reports.append)
    for step in range(1, 8):
        killed.log(step, {"loss": 1 / step, "gradient/model": 0.5})
    resumed = Trackers(config, run, OPTIONS, reports.append)  # from the checkpoint of step 5
    for step in range(6, 11):
        resumed.log(step, {"loss": 1 / step, "gradient/model": 0.5, "eval/x": math.nan})
    resumed.close()
    found = history(name, run, fakes)
    assert found["loss"] == [(step, pytest.approx(1 / step)) for step in range(1, 11)]
    assert found["gradient/model"] == [(step, 0.5) for step in range(1, 11)]
    assert [step for step, _ in found["eval/x"]][-3:] == [8, 9, 10]
    assert reports == []


def test_tensorboard_has_what_came_before_a_kill(run: Run) -> None:
    killed = Trackers(TrackingConfig(tensorboard=True), run, OPTIONS, print)
    killed.log(1, {"loss": 0.5})
    assert tensorboard(run.path) == {"loss": [(1, 0.5)]}  # nothing was closed
    killed.close()


@pytest.mark.slow
def test_wandb_goes_on_with_the_run_of_this_id_in_the_runs_folder(run: Run) -> None:
    for first in (1, 2):
        trackers = Trackers(TrackingConfig(wandb="proj"), run, OPTIONS, print)
        for step in (first, first + 1):
            trackers.log(step, {"loss": 0.4375, "eval/x": 2.0})
        assert trackers.left["wandb"].run.resumed is False  # type: ignore[attr-defined] # offline it cannot know
        trackers.close()
        assert list(trackers.left) == ["wandb"]
        (written,) = (run.path / "wandb" / "latest-run").glob("*.wandb")
        assert written.name == "run-0123abcd.wandb"
        for _ in range(100):  # another process writes it, now and then a moment after `finish` came back
            content = written.read_bytes()
            if len(content) > HEADER:
                break
            time.sleep(0.1)
        assert all(part in content for part in (b"loss", b"0.4375", b"eval/x", b"proj", b"mine", b"learning_rate"))


def test_the_others_are_told_whose_run_it_is(run: Run, fakes: SimpleNamespace) -> None:
    Trackers(TrackingConfig(mlflow="exp", swanlab="proj"), run, OPTIONS, print).close()
    (made,) = fakes.mlflow.runs
    assert (fakes.mlflow.experiment, made.info.run_name, made.params) == ("exp", "mine", OPTIONS)
    assert fakes.swanlab.begun == [
        {
            "project": "proj",
            "id": "0123abcd",
            "name": "mine",
            "resume": "allow",
            "log_dir": str(run.path / "swanlab"),
            "config": OPTIONS,
        }
    ]


def test_a_run_that_was_begun_without_an_id_has_its_name(run: Run, fakes: SimpleNamespace) -> None:
    run.write_manifest({})
    Trackers(TrackingConfig(swanlab="proj"), run, OPTIONS, print)
    assert fakes.swanlab.begun[0]["id"] == "mine"


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow", "swanlab"])
def test_a_library_that_is_not_installed_is_named_with_the_line_that_installs_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard" if name == "tensorboard" else name, None)
    with pytest.raises(
        ConfigError, match=rf'tracking\.{name} needs {name}.*\n    pip install "proxtune\[track-{name}\]"'
    ):
        libraries(TrackingConfig(**{name: CHOSEN.get(name, "proj")}))


def test_what_is_not_chosen_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch.utils.tensorboard", "wandb", "mlflow", "swanlab"):
        monkeypatch.setitem(sys.modules, name, None)
    assert libraries(TrackingConfig()) == {}


@pytest.mark.parametrize("fails", ["log", "finish"])
def test_a_tracker_that_fails_is_named_once_and_the_others_go_on(
    fails: str, run: Run, fakes: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = list[str]()
    trackers = Trackers(TrackingConfig(tensorboard=True, swanlab="proj"), run, OPTIONS, reports.append)
    setattr(trackers.left["swanlab"].run, fails, broken)  # type: ignore[attr-defined]
    for step in (1, 2, 3):
        trackers.log(step, {"loss": 1.0})
    trackers.close()
    assert len(reports) == 1
    assert reports[0].startswith("swanlab failed, and the run goes on without it")
    assert "no route to host" in reports[0]
    assert tensorboard(run.path)["loss"] == [(1, 1.0), (2, 1.0), (3, 1.0)]


def test_a_tracker_that_cannot_begin_ends_the_run_before_it_trains_and_closes_the_others(
    run: Run, fakes: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fakes.swanlab, "init", broken)
    with pytest.raises(ConfigError, match=r"tracking\.swanlab cannot begin: no route to host; mend"):
        Trackers(TrackingConfig(mlflow="exp", swanlab="proj"), run, OPTIONS, print)
    assert len(fakes.mlflow.runs) == 1
    assert fakes.mlflow.active is None


def test_a_name_may_not_be_empty() -> None:
    with pytest.raises(ValueError, match="wandb"):
        TrackingConfig(wandb="")


def tracked(folder: Path, name: str, *, steps: int = 4, **chosen: Any) -> Job:
    made = job("sft", folder, name, steps=steps)
    made.config = made.config.model_copy(update={"tracking": TrackingConfig(**chosen)})
    return made


def figures(folder: Path) -> list[Mapping[str, Any]]:
    """Of every step, less the clock's."""
    return [{k: x for k, x in row.items() if not k.startswith("time/")} for row in Run.open(folder).metrics()]


def test_a_missing_library_is_found_before_there_is_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="track-wandb"):
        execute(tracked(tmp_path, "run", wandb="proj"), console=Console(quiet=True))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_is_the_same_with_trackers_and_may_be_resumed_with_others(
    tmp_path: Path, fakes: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data(tmp_path)
    execute(tracked(tmp_path, "plain"), console=Console(quiet=True))
    with pytest.raises(KeyboardInterrupt):
        execute(killed_after(3, tracked(tmp_path, "run", tensorboard=True, mlflow="exp")), console=Console(quiet=True))
    execute(tracked(tmp_path, "run", tensorboard=True, swanlab="proj"), resume=True, console=Console(quiet=True))
    assert figures(tmp_path / "run") == figures(tmp_path / "plain")
    logged = tensorboard(tmp_path / "run")
    rows = Run.open(tmp_path / "run").metrics()
    assert logged["loss"] == [(row["step"], pytest.approx(row["loss"], rel=1e-6)) for row in rows]
    assert logged["eval/loss"] == [(4, pytest.approx(rows[-1]["eval/loss"], rel=1e-6))]
    name = Run.open(tmp_path / "run").manifest()["id"]
    assert [run.tags["proxtune"] for run in fakes.mlflow.runs] == [name]
    assert list(fakes.swanlab.runs) == [name]
    assert Run.open(tmp_path / "plain").manifest()["id"] != name


def killed_after(steps: int, made: Job) -> Job:
    step: Callable[..., Any] = made.algorithm.step

    def stepped(batch: Any) -> Any:
        if made.algorithm.state()["steps"] == steps:
            raise KeyboardInterrupt
        return step(batch)

    made.algorithm.step = stepped  # type: ignore[method-assign]
    return made
