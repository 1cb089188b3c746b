"""Where the figures of a run go besides its own folder, which always has metrics.jsonl and report.html."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from pydantic import Field

from proxtune.config import Section
from proxtune.errors import ConfigError
from proxtune.runs import Run

Report = Callable[[str], None]


class TrackingConfig(Section):
    """`tracking`: where figures go besides the run's folder. Keys, servers and modes are set as each library has it."""

    tensorboard: bool = Field(False, description="write tensorboard/ in the run's folder (tensorboard --logdir runs)")
    wandb: str | None = Field(None, min_length=1, description="project of Weights & Biases")
    mlflow: str | None = Field(None, min_length=1, description="experiment of MLflow")
    swanlab: str | None = Field(None, min_length=1, description="project of SwanLab")


class Tracker(Protocol):
    """Takes the figures of each step. Where the run is resumed, no step stands there twice."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files. The first step that is logged takes back what a killed process wrote of it and of later ones."""

    def __init__(self, library: Any, run: Run, *_: object) -> None:
        self.library, self.folder = library, str(run.path / "tensorboard")
        self.writer: Any = None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if self.writer is None:
            self.writer = self.library.SummaryWriter(self.folder, purge_step=step)
        for name, x in metrics.items():
            self.writer.add_scalar(name, x, step)
        self.writer.flush()  # a kill must not take what is older than the checkpoint

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


class WandB:
    """Weights & Biases, which leaves out steps that the run of this id has."""

    folder = ("dir", "")  # the argument, and what it is in the run's folder

    def __init__(self, library: Any, run: Run, project: str, options: Mapping[str, Any]) -> None:
        named = {"project": project, "id": _id(run), "name": run.path.name, "config": dict(options)}
        self.run = library.init(**named, resume="allow", **{self.folder[0]: str(run.path / self.folder[1])})

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.run.log(dict(metrics), step=step)

    def close(self) -> None:
        self.run.finish()


class SwanLab(WandB):
    """SwanLab, whose interface is that of Weights & Biases."""

    folder = ("log_dir", "swanlab")


class MLflow:
    """MLflow, which names runs itself and keeps whatever is logged: ours has a tag, and the last step as a figure."""

    def __init__(self, library: Any, run: Run, experiment: str, options: Mapping[str, Any]) -> None:
        self.library, tag = library, _id(run)
        library.set_experiment(experiment)
        ours = f"tags.proxtune = '{tag}'"
        found = library.search_runs(experiment_names=[experiment], filter_string=ours, output_format="list")
        self.last = found[0].data.metrics.get("step", 0) if found else 0
        run_id = found[0].info.run_id if found else None
        library.start_run(run_id=run_id, run_name=run.path.name, tags={"proxtune": tag})
        if not found:
            library.log_params(dict(options))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if step > self.last:
            self.library.log_metrics({**metrics, "step": float(step)}, step=step)

    def close(self) -> None:
        self.library.end_run()


KINDS: dict[str, Callable[[Any, Run, Any, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
    "swanlab": SwanLab,
}


class Trackers:
    """The chosen trackers as one. One that fails is named once, to `report`, and left out from then on.

    `options` is the run's config, nested. Raises ConfigError: a library is not there, or does not let the run begin.
    """

    def __init__(self, config: TrackingConfig, run: Run, options: Mapping[str, Any], report: Report) -> None:
        self.left: dict[str, Tracker] = {}
        self.report = report
        for name, library in libraries(config).items():
            try:
                self.left[name] = KINDS[name](library, run, getattr(config, name), options)
            except Exception as error:
                self.close()
                raise ConfigError(
                    f"tracking.{name} cannot begin: {str(error).rstrip('.')}; mend that, or leave it out"
                ) from error

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._each(lambda tracker: tracker.log(step, metrics))

    def close(self) -> None:
        self._each(lambda tracker: tracker.close())

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self.left.items()):
            try:
                act(tracker)
            except Exception as error:  # noqa: BLE001 (whatever a network, a server or a disk comes up with)
                del self.left[name]
                self.report(f"{name} failed, and the run goes on without it; metrics.jsonl has all figures: {error!r}")


def libraries(config: TrackingConfig) -> dict[str, Any]:
    """The libraries of the chosen trackers. Raises ConfigError: one is not installed."""
    found = {}
    for name in (name for name in KINDS if getattr(config, name)):
        try:
            found[name] = importlib.import_module("torch.utils.tensorboard" if name == "tensorboard" else name)
        except ImportError as error:
            install = f'install it with\n    pip install "proxtune[track-{name}]"'
            raise ConfigError(f"tracking.{name} needs {name}, which is not installed ({error}); {install}") from error
    return found


def _id(run: Run) -> str:
    """What the run is called elsewhere, whoever resumes it; one begun before there were ids is called by its name."""
    return str(run.manifest().get("id", run.path.name))
