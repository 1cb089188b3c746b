"""TR-2: wherever a signal lands, the run saves where it stands, says how to go on, and goes on as if nothing was."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxtune import cli
from proxtune.errors import RewardError
from proxtune.runs import Run
from tests.forked import exit_code, fork
from tests.runs_tiny.lives import brevity, figures, job, newest_step, train, watch, write_data

STEPS = 8  # save_every is 3, eval_every 4


def commanded(work: Callable[[], Any], errors: Path) -> None:
    """`proxtune ppo ppo.yaml` with `work` in its place; never returns."""
    sys.argv = ["proxtune", "ppo", "ppo.yaml"]
    cli.app = work  # type: ignore[assignment]
    with errors.open("w") as sys.stderr:
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
    os._exit(code)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and the runs that nothing stopped."""
    folder = tmp_path_factory.mktemp("runs")
    write_data(folder)
    for command in ("sft", "reward", "ppo"):
        train(job(command, folder, command, steps=STEPS))
    return folder


def assert_equal(stopped: Run, whole: Run) -> None:
    assert figures(stopped) == figures(whole)
    assert stopped.samples() == whole.samples()
    for file in sorted(path.name for path in whole.model.glob("*.safetensors")):
        assert (whole.model / file).read_bytes() == (stopped.model / file).read_bytes(), file


def signalled(folder: Path, command: str, phase: str, after: int, number: int = signal.SIGTERM) -> tuple[int, float]:
    """Train in a child that gets a signal in `phase` after `after` steps: its exit code, and its time to end."""
    name = f"{command}-{phase}"
    sent = folder / f"{name}.sent"

    def send() -> None:
        if not sent.exists():
            sent.touch()
            os.kill(os.getpid(), number)

    def slow(prompts: list[str], responses: list[str]) -> list[float]:
        if sent.exists():
            time.sleep(60)  # a reward that does not come
        return brevity(prompts, responses)

    def work() -> None:
        built = job(command, folder, name, steps=STEPS, reward=slow if phase == "waiting" else brevity)
        if phase == "waiting":
            part = built.algorithm.reward.rewards[0][0]  # type: ignore[attr-defined]
            asked = part.function
            part.function = lambda *args: (send() if built.algorithm.steps == after else None, asked(*args))[1]  # type: ignore[attr-defined]
        else:
            watch(built, lambda entered, steps: send() if entered == phase and steps >= after else None)
        train(built)

    pid = fork(lambda: commanded(work, folder / f"{name}.stderr"))
    code = exit_code(pid)
    return code, time.time() - sent.stat().st_mtime


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "phase", "after", "stands_at"),
    [
        ("sft", "update", 5, 5),  # in the middle of step 5, which is finished
        ("reward", "eval", 4, 4),  # step 4 is trained, and not evaluated
        ("sft", "save", 3, 3),
        ("ppo", "rollout", 4, 4),  # step 5 is given up: nothing has changed yet
        ("ppo", "waiting", 4, 4),  # likewise
        ("ppo", "update", 4, 5),
        ("ppo", "eval", 4, 4),
        ("ppo", "save", 6, 6),
    ],
)
def test_tr2_sigterm_saves_where_the_run_stands(
    command: str, phase: str, after: int, stands_at: int, folder: Path
) -> None:
    code, seconds = signalled(folder, command, phase, after)
    assert code == 143
    assert seconds < 10
    stopped = Run.open(folder / f"{command}-{phase}")
    assert newest_step(stopped) == stands_at
    told = (folder / f"{command}-{phase}.stderr").read_text()
    line = f"stopped at step {stands_at} of 8; checkpoint saved. Go on with: proxtune ppo ppo.yaml --resume"
    assert told.strip().splitlines()[-1] == line

    train(job(command, folder, stopped.path.name, steps=STEPS))
    assert_equal(stopped, Run.open(folder / command))


@pytest.mark.slow
def test_tr2_ctrl_c_has_the_exit_code_130(folder: Path) -> None:
    code, _ = signalled(folder, "reward", "update", 2, signal.SIGINT)
    assert code == 130
    assert newest_step(Run.open(folder / "reward-update")) == 2


def test_tr2_before_the_training_a_signal_ends_the_command_at_once(tmp_path: Path) -> None:
    def prepare_data() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    began = time.monotonic()
    assert exit_code(fork(lambda: commanded(prepare_data, tmp_path / "stderr"))) == 143
    assert time.monotonic() - began < 2
    assert (tmp_path / "stderr").read_text() == "stopped by SIGTERM; nothing had to be saved\n"


def fails_at(call: int) -> Callable[..., list[float]]:
    """A reward that raises once."""
    calls = []

    def reward(prompts: list[str], responses: list[str]) -> list[float]:
        calls.append(call)
        if len(calls) == call:
            raise ValueError("no connection")
        return brevity(prompts, responses)

    return reward


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "logged"),
    [
        (6, 4),  # in step 5, after an evaluation: what is kept is step 4, though checkpoints are 3 steps apart
        (5, 3),  # in the evaluation after step 4: it is trained, and is evaluated in the next life
    ],
)
def test_a_reward_that_fails_loses_neither_a_step_nor_its_figures(call: int, logged: int, folder: Path) -> None:
    name = f"fails-{call}"
    with pytest.raises(RewardError, match="no connection") as caught:
        train(job("ppo", folder, name, steps=STEPS, reward=fails_at(call)))
    assert caught.value.__notes__ == ["stopped at step 4 of 8; checkpoint saved"]
    stopped = Run.open(folder / name)
    assert newest_step(stopped) == 4
    assert [row["step"] for row in stopped.metrics()] == list(range(1, logged + 1))
    train(job("ppo", folder, name, steps=STEPS))
    assert_equal(stopped, Run.open(folder / "ppo"))
