"""What `--resume` refuses, because it would be another run, and what it says."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from proxtune.errors import CheckpointError, ConfigError, ModelError
from proxtune.runs import Run
from proxtune.workflows.jobs import Job
from proxtune.workflows.terminal import terminal
from proxtune.workflows.train import execute
from tests.runs_tiny.lives import job, write_data


def begun(folder: Path, command: str = "sft") -> Job:
    """A run that ended after its second step, and the job to go on with it."""
    write_data(folder)
    first = job(command, folder, "run", steps=4)
    first.steps = 2
    execute(first, console=Console(quiet=True))
    run = Run.open(folder / "run")
    manifest = {key: x for key, x in run.manifest().items() if key != "finished"}
    run.manifest_path.write_text(json.dumps(manifest))
    return job(command, folder, "run", steps=4)


def said(job: Job) -> str:
    """What `--resume` prints, in one line."""
    page = io.StringIO()
    execute(job, resume=True, console=terminal(file=page, width=10_000))
    return page.getvalue()


def with_reward(job: Job) -> None:
    job.rewards = {"length": 1.0}


def with_weights(job: Job) -> None:
    job.base = job.base | {"hash": "0" * 64}


def with_data(job: Job) -> None:
    job.data = dict.fromkeys(job.data, "other")


@pytest.mark.parametrize(
    ("command", "change", "error", "message"),
    [
        (
            "ppo",
            with_reward,
            ConfigError,
            r"is rewarded by \{'brevity': 1.0\}, not by \{'length': 1.0\}; pass",
        ),
        ("sft", with_weights, CheckpointError, r"began from weights with sha256 [0-9a-f]{16}, but .* now has 0{16}"),
        (
            "sft",
            with_data,
            CheckpointError,
            r"the data of .*run changed since it began \(.*sft\.jsonl\); bring",
        ),
    ],
)
def test_what_makes_it_another_run_is_refused_and_nothing_is_touched(
    command: str, change: Callable[[Job], None], error: type[Exception], message: str, tmp_path: Path
) -> None:
    resumed = begun(tmp_path, command)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    change(resumed)
    with pytest.raises(error, match=message):
        said(resumed)
    del before[tmp_path / "run" / ".lock"]
    assert {path: path.read_bytes() for path in before} == before


def test_dl3_data_of_which_one_row_was_edited_is_refused(tmp_path: Path) -> None:
    begun(tmp_path)
    rows = (tmp_path / "sft.jsonl").read_text().splitlines()
    rows[7] = rows[7].replace(" ", "  ", 1)
    (tmp_path / "sft.jsonl").write_text("\n".join(rows) + "\n")
    with pytest.raises(CheckpointError, match=r"changed since it began \(.*sft\.jsonl\)"):
        said(job("sft", tmp_path, "run", steps=4))


def test_a_finished_run_says_so_and_is_left_as_it_is(tmp_path: Path) -> None:
    write_data(tmp_path)
    execute(job("sft", tmp_path, "run", steps=2), console=Console(quiet=True))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    told = said(job("sft", tmp_path, "run", steps=2))
    assert re.search(r"run is finished: 2 steps, model in .*run/model\. Nothing left to do\.", told)
    del before[tmp_path / "run" / ".lock"]
    assert {path: path.read_bytes() for path in before} == before


def test_another_number_of_threads_is_said_and_not_refused(tmp_path: Path) -> None:
    resumed = begun(tmp_path)
    manifest: dict[str, Any] = Run.open(tmp_path / "run").manifest()
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest | {"threads": 64}))
    told = said(resumed)
    assert re.search(r"began with 64 threads and goes on with \d+: the last bits .* may differ", told)
    assert "sft 4/4" in told


def test_the_same_number_of_threads_is_not_worth_a_word(tmp_path: Path) -> None:
    assert "goes on with" not in said(begun(tmp_path))


def test_ck3_a_model_for_which_there_is_no_room_is_an_error_that_says_so(tmp_path: Path) -> None:
    resumed = begun(tmp_path)

    def full(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise OSError(28, "No space left on device")

    save, resumed.save = resumed.save, full
    with pytest.raises(ModelError, match=r"cannot write .*run/model: .*No space.*; make room, then finish"):
        said(resumed)
    assert not (tmp_path / "run" / "model.partial").exists()
    resumed.save = save
    said(resumed)
    assert (tmp_path / "run" / "model" / "config.json").exists()
