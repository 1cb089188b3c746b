"""The run folder: who may write in it, what survives a kill, and seeds that are the same everywhere."""

import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from proxtune.errors import CheckpointError, ConfigError, DataError
from proxtune.runs import Run, derive_seed, environment, write_atomic
from tests.forked import exit_code, fork


def new_run(path: Path) -> Run:
    run = Run.create(path, resume=False)
    run.write_config("seed: 7\n")
    return run


def fork_and_hold(path: Path, *, orphan: bool = False) -> int:
    """A child process at work in the run folder `path` (with a worker process of its own, if `orphan`)."""
    ready, tell = os.pipe()

    def work() -> None:
        new_run(path)
        if orphan:
            fork(lambda: time.sleep(5))
        os.write(tell, b"!")
        time.sleep(60)

    pid = fork(work)
    assert os.read(ready, 1) == b"!"
    os.close(ready)
    os.close(tell)
    return pid


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    assert exit_code(pid) == -signal.SIGKILL


# Seeds


def test_a_seed_is_the_same_on_every_machine_and_in_every_version() -> None:
    # The first 63 bits of blake2b-64 of the text "(7, 'sample', 120, 3)".
    assert derive_seed(7, "sample", 120, 3) == 2515815345137291363


def test_seeds_differ_by_run_purpose_and_every_index() -> None:
    seeds = {
        derive_seed(seed, purpose, step, row)
        for seed in range(3)
        for purpose in ("sample", "shuffle")
        for step in range(20)
        for row in range(20)
    }
    assert len(seeds) == 3 * 2 * 20 * 20
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(1, "sample", 12) != derive_seed(1, "sample", 1, 2)


def test_a_numpy_integer_gives_the_seed_of_its_value() -> None:
    assert derive_seed(7, "sample", np.int64(120), np.int32(3)) == derive_seed(7, "sample", 120, 3)


# Whose folder it is


def test_create_makes_the_folder_and_its_parents(tmp_path: Path) -> None:
    with new_run(tmp_path / "runs" / "demo") as run:
        run.write_manifest({"seed": 7})
    reader = Run.open(str(tmp_path / "runs" / "demo"))
    assert reader.config_path.read_text() == "seed: 7\n"
    assert reader.manifest() == {"seed": 7}


def test_an_existing_run_is_not_overwritten(tmp_path: Path) -> None:
    new_run(tmp_path / "demo").close()
    with pytest.raises(ConfigError, match=r"demo holds a run already: add `--resume`.*or choose another name"):
        Run.create(tmp_path / "demo", resume=False)


def test_resume_keeps_what_is_there(tmp_path: Path) -> None:
    with new_run(tmp_path / "demo") as run:
        run.log(1, {"loss": 2.5})
    with Run.create(tmp_path / "demo", resume=True) as run:
        run.log(2, {"loss": 1.5})
        assert run.metrics() == [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 1.5}]


def test_resume_begins_a_run_that_was_killed_before_it_left_anything(tmp_path: Path) -> None:
    Run.create(tmp_path / "demo", resume=False).close()
    (tmp_path / "demo" / ".config.yaml.tmp").write_text("se")
    Run.create(tmp_path / "demo", resume=True).close()
    Run.create(tmp_path / "another", resume=True).close()


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_other_files_is_refused_and_left_alone(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match="files that are not a run's"):
        Run.create(tmp_path, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("x")
    with pytest.raises(ConfigError, match="demo is a file"):
        Run.create(tmp_path / "demo", resume=False)


def test_open_names_near_runs(tmp_path: Path) -> None:
    new_run(tmp_path / "demo-ppo").close()
    (tmp_path / "demo-pp").mkdir()  # near, but not a run
    with pytest.raises(ConfigError, match=r"demo-pop is not a run folder .*; did you mean \S*/demo-ppo\?"):
        Run.open(tmp_path / "demo-pop")
    with pytest.raises(ConfigError, match=r"not a run folder \(it has no config.yaml\)$"):
        Run.open(tmp_path / "nowhere" / "x")


def test_a_run_opened_to_read_or_closed_does_not_write(tmp_path: Path) -> None:
    run = new_run(tmp_path / "demo")
    run.close()
    for reader in (run, Run.open(tmp_path / "demo")):
        with pytest.raises(AssertionError):
            reader.log(1, {})
        with pytest.raises(AssertionError):
            reader.rewind(0)


# TR-6: two processes, one folder


def test_tr6_a_second_process_is_refused_at_once_and_told_who_is_first(tmp_path: Path) -> None:
    pid = fork_and_hold(tmp_path / "demo")
    try:
        begun = time.monotonic()
        with pytest.raises(ConfigError, match=rf"in use by another process \(host .+, pid {pid}, since \d{{4}}-"):
            Run.create(tmp_path / "demo", resume=True)
        assert time.monotonic() - begun < 1
        assert Run.open(tmp_path / "demo").metrics() == []  # reading needs no lock
    finally:
        kill(pid)


@pytest.mark.parametrize("orphan", [False, True])
def test_tr6_the_lock_of_a_dead_process_is_taken_over_though_its_workers_live(tmp_path: Path, orphan: bool) -> None:
    kill(fork_and_hold(tmp_path / "demo", orphan=orphan))
    with Run.create(tmp_path / "demo", resume=True):
        assert f"pid {os.getpid()}," in (tmp_path / "demo" / ".lock").read_text()


def test_tr6_close_lets_another_process_in(tmp_path: Path) -> None:
    new_run(tmp_path / "demo").close()
    pid = fork(lambda: Run.create(tmp_path / "demo", resume=True).close())
    assert exit_code(pid) == 0


# What is written


def test_metrics_come_back_exactly(tmp_path: Path) -> None:
    metrics = {"loss": 0.1, "tiny": 1e-320, "kl": math.inf, "low": -math.inf, "tokens": 10**20}
    with new_run(tmp_path / "demo") as run:
        run.log(3, metrics | {"nan": math.nan})
    (row,) = Run.open(tmp_path / "demo").metrics()
    assert math.isnan(row.pop("nan"))
    assert row == {"step": 3} | metrics


def test_samples_come_back_with_their_step(tmp_path: Path) -> None:
    with new_run(tmp_path / "demo") as run:
        run.log_samples(5, [{"prompt": "你好\nx", "score": 0.5}, {"prompt": "\udcff", "score": None}])
    assert Run.open(tmp_path / "demo").samples() == [
        {"step": 5, "prompt": "你好\nx", "score": 0.5},
        {"step": 5, "prompt": "\udcff", "score": None},
    ]


def test_a_line_is_in_the_file_as_soon_as_log_returns(tmp_path: Path) -> None:
    run = new_run(tmp_path / "demo")
    run.log(1, {"loss": 2.0})
    assert run.metrics_path.read_text() == '{"step": 1, "loss": 2.0}\n'
    run.close()


def test_rewind_drops_later_steps_and_a_torn_line(tmp_path: Path) -> None:
    with new_run(tmp_path / "demo") as run:
        for step in range(1, 6):
            run.log(step, {"loss": 1 / step})
            run.log_samples(step, [{"text": "a"}, {"text": "b"}])
        with run.metrics_path.open("a") as file:
            file.write('{"step": 6, "lo')
        assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4, 5]
        run.rewind(3)
        assert run.metrics() == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}, {"step": 3, "loss": 1 / 3}]
        assert [row["step"] for row in run.samples()] == [1, 1, 2, 2, 3, 3]
        run.log(4, {"loss": 0.0})
        assert run.metrics()[-1] == {"step": 4, "loss": 0.0}


def test_resume_mends_a_torn_line_before_anything_is_appended(tmp_path: Path) -> None:
    with new_run(tmp_path / "demo") as run:
        run.log(1, {"loss": 1.0})
        with run.metrics_path.open("a") as file:
            file.write('{"step": 2')
    with Run.create(tmp_path / "demo", resume=True) as run:
        run.log(2, {"loss": 0.5})
        assert [row["step"] for row in run.metrics()] == [1, 2]


@pytest.mark.parametrize(("line", "reason"), [("{oops", "not JSON"), ('{"loss": 1}', 'integer "step"'), ("[]", "step")])
def test_a_damaged_line_is_named_not_skipped(tmp_path: Path, line: str, reason: str) -> None:
    with new_run(tmp_path / "demo") as run:
        run.log(1, {})
        with run.metrics_path.open("a") as file:
            file.write(line + "\n")
        with pytest.raises(DataError, match=rf"metrics\.jsonl:2: .*{reason}"):
            run.metrics()


def test_a_missing_manifest_is_empty_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    with new_run(tmp_path / "demo") as run:
        assert run.manifest() == {}
        run.manifest_path.write_text('{"a": ')
        with pytest.raises(DataError, match=r"manifest\.json is not JSON"):
            run.manifest()
        run.manifest_path.write_text("[]")
        with pytest.raises(DataError, match=r"expected a JSON object, got list"):
            run.manifest()


def test_ck3_an_atomic_write_that_fails_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(tmp_path / "manifest.json", "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"cannot write /.*/manifest\.json \(3 bytes\): .*No space.*; make room"):
        write_atomic(tmp_path / "manifest.json", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
    assert (tmp_path / "manifest.json").read_text() == "old"


def test_ck3_a_line_for_which_there_is_no_room_is_an_error_that_says_so(tmp_path: Path) -> None:
    def life() -> None:
        with new_run(tmp_path / "demo") as run:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))  # the disk takes 100 bytes of a file, and no more
            with pytest.raises(CheckpointError, match=r"cannot write /.*/metrics\.jsonl \(\d{3} bytes\): .*large"):
                run.log(1, {f"figure/{i}": 0.1 for i in range(30)})

    assert exit_code(fork(life)) == 0
    Run.create(tmp_path / "demo", resume=True).close()
    assert (tmp_path / "demo" / "metrics.jsonl").read_text() == ""  # the torn line is gone


def test_an_atomic_write_syncs_all_content_before_it_takes_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def record(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append(path.read_text() if path.is_file() else f"the names {[entry.name for entry in path.iterdir()]}")

    monkeypatch.setattr(os, "fsync", record)
    write_atomic(tmp_path / "manifest.json", "new")
    assert synced == ["new", "the names ['manifest.json']"]


# The environment


def test_the_environment_names_machine_versions_and_commit_as_json() -> None:
    found = json.loads(json.dumps(environment()))
    assert {"python", "platform", "cpu", "threads", "proxtune", "torch", "transformers"} <= found.keys()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["threads"] >= 1


def test_the_run_folder_needs_no_torch() -> None:
    code = "import sys, proxtune.runs; proxtune.runs.environment(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
