"""RW-2: a function of the command line runs in a process of its own, and whatever it does there costs bounded time."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxtune.data.collate import collate
from proxtune.errors import ConfigError, RewardError
from proxtune.rewards.base import Answers, FunctionReward
from proxtune.rewards.worker import WorkerReward, from_file
from tests.forked import fork

NO_SCORES = [True, True]


def two_answers(**columns: list[Any]) -> Answers:
    return Answers(["a", "b"], ["cc", "dddd"], collate([[2], [3]], [[4, 4], [5, 5, 5, 5]]), columns)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        path = tmp_path / "my_rewards.py"
        path.write_text(text)
        return str(path)

    return write


def misbehaving(write: Callable[[str], str], body: str, **limits: Any) -> WorkerReward:
    """A function that does `body` in its first call and scores by length in the next ones."""
    path = write(
        "import os, re, signal, subprocess, sys, time\nfrom pathlib import Path\n\n"
        "def f(prompts, responses):\n"
        "    called = Path(__file__).with_name('called')\n"
        "    if not called.exists():\n"
        "        called.touch()\n"
        f"        {body}\n"
        "    return [len(response) for response in responses]\n"
    )
    return WorkerReward(path, "f", **{"timeout": 0.5, "memory_gib": 1, "max_failed": 1} | limits)


MISBEHAVIOURS = {
    "an endless loop": ("while True: pass", r"no answer within [\d.]+ s \(reward\.timeout\)"),
    "an endless sleep": ("time.sleep(1e9)", r"no answer within [\d.]+ s"),
    "a regular expression that never ends": (
        "re.match('(a+)+$', 'a' * 40 + 'b')",
        r"no answer within [\d.]+ s",
    ),
    "a child that never ends": ("subprocess.run(['sleep', '1000'])", r"no answer within [\d.]+ s"),
    "stopping itself": ("os.kill(os.getpid(), signal.SIGSTOP)", r"no answer within [\d.]+ s"),
    "os._exit": ("os._exit(3)", r"its process ended with exit code 3$"),
    "a crash": ("os.kill(os.getpid(), signal.SIGSEGV)", r"its process was ended by SIGSEGV$"),
    "an alarm that nobody handles": (
        "signal.setitimer(signal.ITIMER_REAL, 0.01); time.sleep(9)",
        r"ended by SIGALRM$",
    ),
    "4 GB": ("memory = bytearray(4 * 2**30)", r"it ran out of memory \(reward\.memory_gib\)$"),
}


SLOW = {"an endless sleep", "a child that never ends", "stopping itself", "a regular expression that never ends"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(*case, id=name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name, case in MISBEHAVIOURS.items()
    ],
)
def test_rw2_what_hangs_or_dies_costs_its_answers_a_second_and_the_next_call_is_well(
    write: Callable[[str], str], caplog: pytest.LogCaptureFixture, body: str, reason: str
) -> None:
    reward = misbehaving(write, body)
    began = time.monotonic()
    assert reward(two_answers()).isnan().tolist() == NO_SCORES
    assert time.monotonic() - began < 0.5 + 1
    assert caplog.messages[0].startswith("the reward 'f' gave no score to 2 of 2 answers: 2 × ")
    assert re.search(reason, caplog.messages[0].removesuffix("; left out of this step"))
    reward.timeout = 30.0  # a new worker must come up, on a busy machine
    assert reward(two_answers()).tolist() == [2.0, 4.0]


def test_rw2_beyond_the_budget_the_run_stops_with_the_reason(write: Callable[[str], str]) -> None:
    with pytest.raises(RewardError, match=r"(?s)'f' gave no score to 2 of 2 answers: 2 × its process.*--resume"):
        misbehaving(write, "os._exit(1)", max_failed=0.05)(two_answers())


@pytest.mark.parametrize("body", ["raise KeyError('answer')", "{}['answer']"])
def test_a_function_that_raises_stops_the_run_and_its_line_is_named(write: Callable[[str], str], body: str) -> None:
    reward = misbehaving(write, body)
    with pytest.raises(RewardError) as caught:
        reward(two_answers())
    assert str(caught.value) == (
        "the reward 'f' raised KeyError: 'answer'\n"
        f"  {reward.command[3]}:8 in f: {body}\n"
        "A failed reward is not a reward of 0, so the run stops; mend the function and go on with --resume"
    )


def test_a_function_that_leaves_python_has_raised(write: Callable[[str], str]) -> None:
    with pytest.raises(RewardError, match="raised SystemExit: 2"):
        misbehaving(write, "sys.exit(2)")(two_answers())


def test_an_endless_recursion_is_told_in_a_few_lines(write: Callable[[str], str]) -> None:
    reward = WorkerReward(write("def f(p, r):\n    return f(p, r)\n"), "f")
    with pytest.raises(RewardError, match="raised RecursionError") as caught:
        reward(two_answers())
    assert len(str(caught.value).splitlines()) < 10


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("[0.0, float('nan')]", r"'f' returned nan for response 1; expected a finite number"),
        ("[1.0]", r"'f' returned shape \(1,\); expected \(2,\)"),
        ("['good', 'bad']", r"'f' returned \['good', 'bad'\]; expected 2 numbers"),
        ("None", r"'f' returned None; expected 2 numbers"),
        ("object()", r"'f' returned '<object object at .*>'; expected 2 numbers"),
        ("(len(r) for r in responses)", r"'f' returned '<generator .*>'; expected 2 numbers"),
    ],
)
def test_what_is_not_one_finite_number_a_response_is_refused(
    write: Callable[[str], str], returned: str, message: str
) -> None:
    with pytest.raises(RewardError, match=message):
        WorkerReward(write(f"def f(prompts, responses):\n    return {returned}\n"), "f")(two_answers())


@pytest.mark.parametrize("returned", ["(1, 2)", "[True, 2]", "np.array([1, 2])", "[np.float32(1), np.int64(2)]"])
def test_whatever_holds_one_number_a_response_will_do(write: Callable[[str], str], returned: str) -> None:
    path = write(f"import numpy as np\n\ndef f(prompts, responses):\n    return {returned}\n")
    assert WorkerReward(path, "f")(two_answers()).tolist() == [1.0, 2.0]


def test_what_a_function_prints_goes_to_standard_error_and_harms_nothing(
    write: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(
        "import os, sys\nprint('loading')\n\ndef f(prompts, responses):\n"
        "    print('{\"scores\": [9, 9]}')\n    os.write(1, b'raw\\n')\n    os.system('echo shell')\n"
        "    assert sys.stdin.read() == ''\n    return [1, 2]\n"
    )
    reward = WorkerReward(path, "f")
    assert reward(two_answers()).tolist() == [1.0, 2.0]
    reward.worker.close()
    shown = capfd.readouterr()
    assert shown.out == ""
    assert {"loading", '{"scores": [9, 9]}', "raw", "shell"} <= set(shown.err.splitlines())


def test_verl_5635_a_function_may_use_alarms(write: Callable[[str], str]) -> None:
    """Signals reach the main thread alone, and that is where the worker calls the function."""
    path = write(
        "import signal, time\n\nclass Late(Exception): ...\n\ndef ring(number, frame):\n    raise Late\n\n"
        "def f(prompts, responses):\n    signal.signal(signal.SIGALRM, ring)\n"
        "    signal.setitimer(signal.ITIMER_REAL, 0.01)\n    try:\n        time.sleep(9)\n"
        "    except Late:\n        signal.setitimer(signal.ITIMER_REAL, 0.05)\n        return [1, 2]\n"
    )
    reward = WorkerReward(path, "f", timeout=5)
    assert reward(two_answers()).tolist() == [1.0, 2.0]
    time.sleep(0.1)  # the second alarm, left behind, was put out
    assert reward(two_answers()).tolist() == [1.0, 2.0]


def test_a_call_larger_than_a_pipe_goes_through(write: Callable[[str], str]) -> None:
    path = write("def f(prompts, responses):\n    return [len(r) for r in responses] * 20_000\n")
    reward = WorkerReward(path, "f")
    with pytest.raises(RewardError, match=r"returned shape \(40000,\)"):
        reward(Answers(["a", "b"], ["é" * 300_000, "\ud83d"], two_answers().tokens, {}))


SIGNATURES = [
    "prompts, responses",
    "p, r",
    "prompts, responses, answer",
    "prompts, responses, answer=None, missing=3",
    "prompts, responses, **columns",
    "p, r, answer, **columns",
    "prompts, responses, *, level",
]


@pytest.mark.parametrize("signature", SIGNATURES)
def test_a_worker_gets_the_columns_that_a_function_in_this_process_gets(
    write: Callable[[str], str], signature: str
) -> None:
    text = f"def f({signature}):\n    raise ValueError(sorted(locals().items()))\n"
    names: dict[str, Any] = {}
    exec(text, names)
    asked = two_answers(answer=["x", None], level=[1, {"a": 2}], p=[3, 4], responses=["from", "data"])
    told = []
    for reward in (WorkerReward(write(text), "f"), FunctionReward(names["f"])):
        with pytest.raises(RewardError) as caught:
            reward(asked)
        told.append(str(caught.value).splitlines()[0].partition("ValueError: ")[2].partition(". A failed")[0])
    assert told[0] == told[1]
    assert "cc" in told[0]


def test_a_worker_loads_no_torch(write: Callable[[str], str]) -> None:
    path = write("import sys\n\ndef f(prompts, responses):\n    return [float('torch' in sys.modules)] * 2\n")
    assert WorkerReward(path, "f")(two_answers()).tolist() == [0.0, 0.0]


def test_a_file_may_import_its_neighbours_and_hold_dataclasses(write: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "rubric.py").write_text("POINTS = 7\n")
    path = write(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom rubric import POINTS\n\n"
        "@dataclass\nclass Grade:\n    points: int\n\n"
        "def f(prompts, responses):\n    return [Grade(POINTS).points] * 2\n"
    )
    assert WorkerReward(path, "f")(two_answers()).tolist() == [7.0, 7.0]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ends(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not alive(pid)


@pytest.mark.parametrize("busy", [False, True])
def test_rw2_the_worker_dies_with_its_parent_even_if_both_are_busy_and_the_parent_is_killed(
    write: Callable[[str], str], busy: bool, tmp_path: Path
) -> None:
    path = write(
        "import os, re\nfrom pathlib import Path\n\ndef f(prompts, responses):\n"
        "    Path(__file__).with_name('pid').write_text(f'{os.getpid()} ')\n"
        f"    if {busy}:\n        re.match('(a+)+$', 'a' * 40 + 'b')\n    return [1, 2]\n"
    )

    def call_and_wait() -> None:
        reward = WorkerReward(path, "f")
        reward(two_answers())
        time.sleep(60)

    parent = fork(call_and_wait)
    pid = tmp_path / "pid"
    while not (pid.exists() and pid.read_text().endswith(" ")):
        time.sleep(0.01)
    worker = int(pid.read_text())
    assert alive(worker)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    assert ends(worker)


def test_the_worker_ends_with_its_reward_and_so_does_what_it_began(write: Callable[[str], str], tmp_path: Path) -> None:
    path = write(
        "import subprocess\nfrom pathlib import Path\n\ndef f(prompts, responses):\n"
        "    sleeper = subprocess.Popen(['sleep', '60'])\n"
        "    Path(__file__).with_name('pid').write_text(str(sleeper.pid))\n    return [1, 2]\n"
    )
    reward = WorkerReward(path, "f")
    reward(two_answers())
    worker, sleeper = reward.worker.process.pid, int((tmp_path / "pid").read_text())
    del reward
    assert ends(worker)
    assert ends(sleeper)


def test_a_call_that_is_interrupted_leaves_no_reply_for_the_next_one(write: Callable[[str], str]) -> None:
    reward = misbehaving(write, "time.sleep(0.2); return [8, 9]", timeout=5)

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    with pytest.raises(KeyboardInterrupt):
        reward(two_answers())
    signal.signal(signal.SIGALRM, before)
    assert reward(two_answers()).tolist() == [2.0, 4.0]


def test_tr2_a_signal_at_the_start_of_a_call_leaves_nothing_that_keeps_the_process_alive(
    write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reward = misbehaving(write, "pass", timeout=5)
    begin = threading.Timer.start

    def interrupted(timer: threading.Timer) -> None:
        begin(timer)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Timer, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reward(two_answers())
    time.sleep(0.05)
    assert [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)] == []


def test_a_file_that_was_mended_is_read_anew_after_a_failure(write: Callable[[str], str]) -> None:
    reward = WorkerReward(write("import os\n\ndef f(p, r):\n    os._exit(1)\n"), "f", max_failed=1)
    write("def f(p, r):\n    return [1, 2]\n")
    assert reward(two_answers()).isnan().all()
    assert reward(two_answers()).tolist() == [1.0, 2.0]
    os.kill(reward.worker.process.pid, signal.SIGKILL)
    write("def g(p, r):\n    return [1, 2]\n")
    assert reward(two_answers()).isnan().all()
    with pytest.raises(RewardError, match=r"'f' cannot be loaded again: .* has no function 'f'; it has g\n"):
        reward(two_answers())


@pytest.fixture
def file(write: Callable[[str], str]) -> str:
    return write(
        "def brevity(prompts, responses):\n    return [-len(r) for r in responses]\n\n"
        "def _hidden(prompts, responses):\n    return []\n\nLIMIT = 3\n"
    )


@pytest.mark.parametrize(("suffix", "weight"), [("", 1.0), ("=0.5", 0.5), ("=-2", -2.0)])
def test_a_function_in_a_file_is_a_reward_with_a_weight(file: str, suffix: str, weight: float) -> None:
    reward, found = from_file(f"{file}:brevity{suffix}")
    assert (reward.name, found) == ("brevity", weight)
    assert reward(two_answers()).tolist() == [-2.0, -4.0]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{file}", r"no such file .*expected FILE.py:FUNCTION or FILE.py:FUNCTION=WEIGHT"),
        ("missing.py:brevity", r"no such file 'missing.py'"),
        ("brevity", r"no such file 'brevity'"),
        ("{file}:brief", r"my_rewards.py has no function 'brief'; it has brevity$"),
        ("{file}:LIMIT", r"has no function 'LIMIT'"),
        ("{file}:brevity=much", r"the weight 'much' is not a number"),
        ("{file}:brevity=nan", r"the weight 'nan' is not a number"),
    ],
)
def test_a_reward_that_cannot_be_had_is_named_with_what_to_write(file: str, spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_file(spec.format(file=file))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(:\n", r"my_rewards\.py cannot be run: SyntaxError: .*line 1"),
        (
            "import no_such_package\n",
            r"(?s)cannot be run: ModuleNotFoundError: No module .*my_rewards\.py:1 in <module>",
        ),
        ("raise SystemExit('not today')\n", r"cannot be run: SystemExit: not today"),
        ("import os\nos._exit(7)\n", r"cannot be run: its process ended with exit code 7"),
    ],
)
def test_a_file_that_cannot_be_run_is_named_before_anything_else_is_loaded(
    write: Callable[[str], str], text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        from_file(f"{write(text)}:f")
