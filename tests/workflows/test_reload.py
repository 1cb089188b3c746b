"""What was written is what was trained; a folder that is not is refused, and the run is not finished."""

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from proxtune.errors import ModelError
from proxtune.runs import Run
from proxtune.workflows.jobs import Job
from proxtune.workflows.reload import reload_gap
from proxtune.workflows.terminal import terminal
from proxtune.workflows.train import execute
from tests.runs_tiny.lives import job, write_data

COMMANDS = ("sft", "reward", "ppo")


def saved(command: str, folder: Path) -> tuple[Job, Path]:
    """A job two steps on, and its model's folder."""
    write_data(folder)
    trained = job(command, folder, "run", steps=2)
    for _ in range(2):
        trained.algorithm.step(next(trained.batches))
    model = folder / "saved"
    model.mkdir()
    trained.save(model)
    return trained, model


def change(folder: Path, name: str, factor: float) -> None:
    """Multiply one tensor of a model folder."""
    file = folder / ("head.safetensors" if name.startswith("linear") else "model.safetensors")
    tensors = load_file(file)
    tensors[name] = tensors[name] * factor
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize("command", COMMANDS)
def test_a_saved_model_says_what_the_trained_one_says(command: str, tmp_path: Path) -> None:
    trained, folder = saved(command, tmp_path)
    # The adapter's update is small beside the weights it is merged into: float32 loses 2^-24 of each weight at most.
    assert reload_gap(trained, folder) < 1e-5


@pytest.mark.parametrize("command", COMMANDS)
def test_one_changed_tensor_is_found(command: str, tmp_path: Path) -> None:
    trained, folder = saved(command, tmp_path)
    change(folder, "model.layers.1.attention.out.weight", 3.0)
    with pytest.raises(ModelError, match=r"another model than the one that was trained: a (log-prob|score) on"):
        reload_gap(trained, folder)


def test_a_weight_that_is_not_a_number_is_found(tmp_path: Path) -> None:
    trained, folder = saved("sft", tmp_path)
    change(folder, "model.layers.0.up.weight", float("nan"))
    with pytest.raises(ModelError, match="differs by nan"):
        reload_gap(trained, folder)


@pytest.mark.parametrize("key", ["gain", "bias"])
def test_a_reward_models_scale_is_compared_too(key: str, tmp_path: Path) -> None:
    trained, folder = saved("reward", tmp_path)
    scale = json.loads((folder / "head.json").read_text())
    (folder / "head.json").write_text(json.dumps(scale | {key: scale[key] + 0.1 * max(1, scale["gain"])}))
    with pytest.raises(ModelError, match="a score on the training data differs"):
        reload_gap(trained, folder)


def test_the_next_batch_stays_the_next_one(tmp_path: Path) -> None:
    trained, folder = saved("sft", tmp_path)
    before = trained.batches.state()
    reload_gap(trained, folder)
    assert trained.batches.state() == before


def test_a_run_whose_model_was_not_written_right_is_not_finished_until_it_is(tmp_path: Path) -> None:
    write_data(tmp_path)
    broken = job("sft", tmp_path, "run", steps=2)
    write = broken.save

    def write_wrong(folder: Path) -> None:
        write(folder)
        change(folder, "model.layers.1.down.weight", 3.0)

    broken.save = write_wrong
    with pytest.raises(ModelError, match="look for a failing disk"):
        execute(broken, console=Console(quiet=True))
    run = Run.open(tmp_path / "run")
    assert "finished" not in run.manifest()
    assert not run.model.exists()

    shown = io.StringIO()
    execute(job("sft", tmp_path, "run", steps=2), resume=True, console=terminal(file=shown, width=200))
    assert "reloaded: same log-probs (largest difference" in shown.getvalue()
    assert "finished" in run.manifest()
    assert (run.model / "model.safetensors").exists()
    assert torch.isfinite(load_file(run.model / "model.safetensors")["model.layers.1.down.weight"]).all()
