"""`proxtune doctor`: the facts are there, and each thing that hurts is said in words."""

import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from proxtune.cli import app
from proxtune.runs import Run
from proxtune.workflows import doctor
from proxtune.workflows.doctor import BUNDLED, Facts, facts, warnings
from tests.forked import exit_code, fork

ROOT = Path(__file__).parents[2]
WELL = Facts(
    environment={"python": "3.11.7", "commit": "abc"},
    variables={},
    cores=4,
    threads=4,
    load=0.1,
    memory=16.0,
    memory_free=12.0,
    runs="/home/me/runs",
    disk_free=100.0,
    runs_writable=True,
    devices=[],
    cuda_build=False,
    driver=False,
    encoding="utf-8",
    locale="en_US.UTF-8",
    cache="/home/me/.cache/proxtune",
    cache_size=0.5,
    extras={"dev": []},
    bundled={"bundled:smollm2": True},
    outdated=[],
    stale={},
)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"threads": 8}, "torch uses 8 threads on 4 cores, which is slower: set OMP_NUM_THREADS=4"),
        ({"load": 9.0}, "the machine is busy: 9.0 processes want its 4 cores"),
        ({"memory_free": 1.5}, "1.5 GiB of memory are free; the demo needs 2.9"),
        ({"disk_free": 1.0}, "1.0 GiB of disk are free for /home/me/runs"),
        ({"runs_writable": False}, "/home/me/runs cannot be written to: set runs=FOLDER"),
        ({"outdated": ["torch 2.0 (needed: >=2.10)"]}, "torch 2.0 (needed: >=2.10) is too old: pip install --upgrade"),
        ({"environment": {"commit": "abc-dirty"}}, "the checkout has changes that are in no commit"),
        (
            {"variables": {"HF_HUB_OFFLINE": "1"}},
            "HF_HUB_OFFLINE=1: a model by hub id loads from the local cache alone",
        ),
        ({"cuda_build": True}, "torch is a CUDA build but sees no device"),
        ({"driver": True}, "there is an NVIDIA driver, but torch is a CPU build"),
        ({"encoding": "ascii"}, "the output's encoding is ascii"),
        (
            {"stale": {"runs/a": "host h, pid 7"}},
            "runs/a was ended before it was done (host h, pid 7): go on with --resume",
        ),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_what_hurts_is_said_and_nothing_else(change: dict[str, Any], said: str) -> None:
    (told,) = warnings(replace(WELL, **change))
    assert told.startswith(said)


@pytest.mark.parametrize(
    "change",
    [{}, {"memory_free": None}, {"variables": {"HF_HUB_OFFLINE": "0"}}, {"encoding": "UTF8"}, {"load": 4.5}],
    ids=str,
)
def test_a_machine_that_is_well_gets_no_warning(change: dict[str, Any]) -> None:
    assert warnings(replace(WELL, **change)) == []


def test_a_run_that_was_killed_is_stale_and_one_at_work_or_done_is_not(tmp_path: Path) -> None:
    def abandon() -> None:
        Run.create(tmp_path / "killed", resume=False).write_config("x: 1\n")

    assert exit_code(fork(abandon)) == 0  # ends without closing, as after kill -9
    with Run.create(tmp_path / "done", resume=False):
        pass
    ready = tmp_path / "ready"
    child = fork(lambda: hold(tmp_path / "at work", ready))
    while not ready.exists():
        time.sleep(0.01)
    try:
        assert list(facts(tmp_path).stale) == [str(tmp_path / "killed")]
    finally:
        ready.unlink()
    assert exit_code(child) == 0


def hold(path: Path, while_there: Path) -> None:
    with Run.create(path, resume=False):
        while_there.touch()
        while while_there.exists():
            time.sleep(0.01)


def test_facts_of_this_machine_are_what_a_report_of_a_bug_needs(tmp_path: Path) -> None:
    found = facts(tmp_path / "not" / "there" / "yet")
    assert {"python", "platform", "cpu", "torch", "transformers", "peft", "proxtune"} <= found.environment.keys()
    assert found.cores >= 1
    assert found.threads >= 1
    assert found.disk_free > 0
    assert found.outdated == []
    assert set(found.bundled) == set(BUNDLED.values())
    assert "dev" in found.extras


def test_a_package_below_its_bound_is_outdated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "requires", lambda _: ["torch>=999", "numpy>=1", 'mlflow>=3; extra == "track-mlflow"'])
    (outdated,) = doctor._outdated()
    assert re.fullmatch(r"torch \S+ \(needed: >=999\)", outdated)
    assert doctor._extras() == {"track-mlflow": ["mlflow"]}


def test_the_bundled_packages_are_those_of_the_demo() -> None:
    lines = (ROOT / "requirements" / "demo.txt").read_text().splitlines()
    assert set(BUNDLED) == {line.partition("==")[0] for line in lines if line and not line.startswith("#")}


@pytest.mark.parametrize("in_json", [False, True], ids=["table", "json"])
def test_the_command_prints_the_facts(in_json: bool, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", "--runs", str(tmp_path), *["--json"] * in_json])
    assert done.exit_code == 0
    if in_json:
        told = json.loads(done.stdout)
        assert told["environment"]["torch"]
        assert isinstance(told["warnings"], list)
    else:
        assert all(word in done.stdout for word in ("torch", "memory", "cache", "extras"))


def test_a_config_without_verify_is_a_mistake(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", str(tmp_path / "ppo.yaml")])
    assert "add --verify to check a config" in str(done.exception)
