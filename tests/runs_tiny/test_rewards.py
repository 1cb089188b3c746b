"""RW-1 to RW-4 in whole runs: a few lost scores are counted, many stop the run, and it goes on to the same bytes."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from proxtune import config as configs
from proxtune.cli import main
from proxtune.errors import RewardError
from proxtune.rewards import remote
from proxtune.runs import Run
from proxtune.training import checkpoint
from proxtune.workflows.jobs import Job, ppo_job
from proxtune.workflows.rewards import functions_of
from proxtune.workflows.schemas import PPORun
from proxtune.workflows.train import execute
from tests.faults import Body, FaultServer, Handler, well
from tests.forked import exit_code, fork
from tests.runs_tiny.lives import figures, write_data

BATCH, HELD_OUT = 40, 8
CANARY = "canary-7d1e0b"


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "BACKOFF", 0.01)


def settings(folder: Path, name: str, *more: str) -> list[str]:
    return [
        "model.name=scratch:transformer",
        "model.scratch={vocab_size: 300, layers: 2, hidden: 32, heads: 2, context: 64}",
        "training={steps: 4, save_every: 3, samples: 2}",
        "rollout.max_new_tokens=6",
        f"ppo={{batch_size: {BATCH}, minibatch_size: 20, epochs: 1}}",
        f"runs={folder}",
        f"name={name}",
        f"data.train={folder}/ppo.jsonl",
        "data.eval_fraction=0.1",
        *more,
    ]


def job(folder: Path, name: str, *more: str, functions: tuple[str, ...] = ()) -> Job:
    config = configs.load(PPORun, [], settings(folder, name, *more))
    return ppo_job(config, functions_of(config.reward, functions))


def train(job: Job) -> Run:
    return execute(job, resume=True, console=Console(quiet=True))


def at_step(job: Job, step: int, act: Callable[[], object]) -> Job:
    """The job, with `act` called once before its step number `step`."""
    algorithm: Any = job.algorithm
    plain = algorithm.step

    def stepping(batch: Any) -> Any:
        if algorithm.steps == step - 1:
            act()
        return plain(batch)

    algorithm.step = stepping
    return job


def assert_same(run: Run, other: Run) -> None:
    assert figures(run) == figures(other)
    assert run.samples() == other.samples()
    weights = sorted(path.name for path in run.model.glob("*.safetensors"))
    assert weights
    assert [(run.model / name).read_bytes() for name in weights] == [
        (other.model / name).read_bytes() for name in weights
    ]


@pytest.mark.slow
def test_rw1_a_score_that_is_missing_is_counted_and_the_rest_is_trained_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def behave(handler: Handler, body: Body, number: int) -> None:
        handler.answer(b"", 400) if number == BATCH + 5 else well(handler, body, number)

    write_data(tmp_path)
    with FaultServer(behave) as server:
        run = train(job(tmp_path, "flaky", f"reward.remote=[{server.url}]"))
        assert len(server.asked) == 4 * BATCH + HELD_OUT
    rows = run.metrics()
    assert [row["score/failed"] for row in rows] == pytest.approx([0, 1 / 40, 0, 0])
    assert all(abs(row["score/mean"]) < 100 for row in rows)
    assert rows[1]["policy/loss"] != 0
    assert f"'{server.url.removeprefix('http://')}' gave no score to 1 of 40 answers: 1 × HTTP 400" in caplog.text


@pytest.mark.slow
def test_rw1_when_the_server_dies_the_run_stops_saved_and_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    write_data(tmp_path)
    with FaultServer() as server:
        asking = f"reward.remote=[{server.url}]"
        whole = train(job(tmp_path, "whole", asking))
        dying = at_step(job(tmp_path, "stopped", asking), 3, lambda: server.__exit__(None, None, None))
        with pytest.raises(
            RewardError, match=r"gave no score to 40 of 40 answers: 40 × cannot connect .*3 tries"
        ) as caught:
            train(dying)
    assert caught.value.__notes__ == ["stopped at step 2 of 4; checkpoint saved"]
    newest = checkpoint.latest(Run.open(tmp_path / "stopped").checkpoints)
    assert newest is not None
    assert checkpoint.load(newest)[0] == 2
    with FaultServer(port=server.server_port) as again:
        resumed = job(tmp_path, "stopped", asking, "reward.max_failed=0.5", "reward.timeout=60")  # limits may change
        assert_same(train(resumed), whole)
        assert len(again.asked) == 2 * BATCH + HELD_OUT


@pytest.mark.slow
def test_rw3_after_a_kill_no_answer_that_has_a_score_is_scored_again(tmp_path: Path) -> None:
    def killed_in_step_3() -> None:
        doomed = job(tmp_path, "killed", asking)
        algorithm: Any = doomed.algorithm
        apply = algorithm.optimizer.apply
        algorithm.optimizer.apply = lambda *args: (
            os.kill(os.getpid(), signal.SIGKILL) if algorithm.steps == 2 else apply(*args)
        )
        train(doomed)

    write_data(tmp_path)
    with FaultServer() as server:
        asking = f"reward.remote=[{server.url}]"
        whole = train(job(tmp_path, "whole", asking))
        asked = len(server.asked)
        assert exit_code(fork(killed_in_step_3)) == -signal.SIGKILL
        assert not list(Run.open(tmp_path / "killed").checkpoints.glob("step-*"))  # it begins anew
        assert len(server.asked) == asked + 3 * BATCH
        assert_same(train(job(tmp_path, "killed", asking)), whole)
        assert len(server.asked) == 2 * asked


@pytest.mark.slow
def test_rw2_when_a_function_hangs_the_run_stops_saved_and_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    text = "def brevity(prompts, responses):\n    return [-len(response) / 20 for response in responses]\n"
    write_data(tmp_path)
    file, limits = tmp_path / "my_rewards.py", "reward.timeout=2"
    file.write_text(text)
    whole = train(job(tmp_path, "whole", limits, functions=(f"{file}:brevity",)))
    file.write_text(
        text.replace(
            "return", "if Path(__file__).with_name('hang').exists():\n        while True: pass\n    return", 1
        ).replace("def", "from pathlib import Path\n\ndef", 1)
    )
    hanging = job(tmp_path, "stopped", limits, functions=(f"{file}:brevity",))
    with pytest.raises(RewardError, match=r"'brevity' gave no score to 40 of 40 answers: 40 × no answer within 2 s"):
        train(at_step(hanging, 3, (tmp_path / "hang").touch))
    (tmp_path / "hang").unlink()
    assert_same(train(job(tmp_path, "stopped", limits, functions=(f"{file}:brevity",))), whole)


@pytest.mark.slow
@pytest.mark.parametrize("knows_it", [True, False])
def test_rw4_the_token_is_in_no_file_and_no_output_of_a_run(
    knows_it: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def behave(handler: Handler, body: Body, number: int) -> None:
        if knows_it and handler.headers["Authorization"] == f"Bearer {CANARY}":
            well(handler, body, number)
        else:  # a page that shows what it was sent
            handler.answer(str(handler.headers).encode(), 401, X_Echo=handler.headers["Authorization"])

    write_data(tmp_path)
    monkeypatch.setenv("PROXTUNE_TOKEN", CANARY)
    with FaultServer(behave) as server:
        asking = [f"reward.remote=[{server.url}]", "reward.token_env=PROXTUNE_TOKEN"]
        monkeypatch.setattr(sys, "argv", ["proxtune", "ppo", *settings(tmp_path, "run", *asking)])
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == (0 if knows_it else 1)
    shown = "".join(capfd.readouterr())
    assert ("report" in shown) if knows_it else ("HTTP 401" in shown)
    assert CANARY not in shown
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {"config.yaml", "manifest.json"} <= {path.name for path in files}
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []
