"""A Python function of the command line as a reward, in a process of its own: it may hang, die, or be killed."""

import json
import os
import signal
import subprocess
import sys
import weakref
from contextlib import suppress
from pathlib import Path
from threading import Timer
from typing import Any

from torch import Tensor

from proxtune.errors import ConfigError, RewardError
from proxtune.rewards import child
from proxtune.rewards.base import Answers, checked
from proxtune.rewards.budget import Budget
from proxtune.rewards.combine import weight_of

LOADING = 300.0  # seconds in which a function's file must have been run when a run begins


class WorkerReward:
    """The function `name` of the file `path`, called in a worker process: `f(prompts, responses)` -> numbers.

    The worker's main thread makes the calls, so that a function may use `signal.alarm`. A call that hangs, or a worker
    that dies, leaves its answers without a score; the next call has a new worker. A function that raises stops the run.

    Args:
        timeout: seconds that a call may take.
        memory_gib: GiB of memory that the worker may write to.
        max_failed: share of a call's answers that may go without a score, see `Budget`.

    Raises:
        ConfigError: the file cannot be run, or has no such function.
    """

    def __init__(
        self, path: str, name: str, *, timeout: float = 30.0, memory_gib: float = 8.0, max_failed: float = 0.05
    ) -> None:
        self.name, self.timeout = name, timeout
        self.command = [sys.executable, "-uBP", child.__file__, path, name, str(memory_gib), str(os.getpid())]
        self.budget = Budget(name, max_failed)
        self.worker = _Worker(self.command)
        reply = self.worker.ask(b"null", LOADING)
        if "ready" not in reply:
            raise ConfigError(reply.get("error") or f"{path} cannot be run: {reply['failed']}")

    def __call__(self, answers: Answers) -> Tensor:
        try:
            reply = self.worker.ask(answers.to_json(allow_nan=True), self.timeout, " (reward.timeout)")
        except BaseException:  # Ctrl-C: the reply to come would be taken for that of the next call
            self._renew()
            raise
        if "failed" in reply:
            self._renew()
            return self.budget.scores([reply["failed"]] * len(answers.responses))
        if "scores" not in reply:
            what = f"raised {reply['raised']}" if "raised" in reply else f"cannot be loaded again: {reply['error']}"
            raise RewardError(
                f"the reward {self.name!r} {what}\n"
                "A failed reward is not a reward of 0, so the run stops; mend the function and go on with --resume"
            )
        scores = checked(self.name, reply["scores"], len(answers.responses))
        return self.budget.scores(scores.tolist())

    def _renew(self) -> None:
        self.worker.close()
        self.worker = _Worker(self.command)  # it reads the file while the run goes on


class _Worker:
    """A process that answers a line with a line. It dies with its parent, and with this object."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(  # noqa: S603 (the operator's own file)
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self.close = weakref.finalize(self, _end, self.process)
        self.late = False

    def ask(self, line: bytes, seconds: float, option: str = "") -> dict[str, Any]:
        """The reply to `line`, or {"failed": the reason} where there is none within `seconds`, which `option` sets."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        timer = Timer(seconds, self._expire)
        timer.daemon = True  # a process that is stopped does not wait for it
        try:
            timer.start()
            with suppress(BrokenPipeError):  # it has ended, perhaps with a last word
                self.process.stdin.write(line + b"\n")
                self.process.stdin.flush()
            reply = self.process.stdout.readline()
        finally:
            timer.cancel()
        if self.late:
            return {"failed": f"no answer within {seconds:g} s{option}"}
        if not reply.endswith(b"\n"):
            return {"failed": self._ended()}
        answer: dict[str, Any] = json.loads(reply)
        return answer

    def _expire(self) -> None:
        self.late = True
        _kill(self.process)

    def _ended(self) -> str:
        try:
            code = self.process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return "its process closed its output"
        if code >= 0:
            return f"its process ended with exit code {code}"
        return f"its process was ended by {signal.Signals(-code).name}"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill it and whatever it began: they are a process group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes]) -> None:
    _kill(process)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with suppress(BrokenPipeError):  # what was not written any more
            pipe.close()  # type: ignore[union-attr]


def from_file(
    spec: str, *, timeout: float = 30.0, memory_gib: float = 8.0, max_failed: float = 0.05
) -> tuple[WorkerReward, float]:
    """`my_rewards.py:brevity` or `my_rewards.py:brevity=0.5` -> (reward, weight).

    The file is the caller's own code and is run, in a worker process. Raises ConfigError where it cannot be.
    """
    target, _, weight = spec.partition("=")
    path, _, name = target.rpartition(":")
    if not path or not Path(path).is_file():
        raise ConfigError(
            f"--reward {spec}: no such file {path or target!r}; expected FILE.py:FUNCTION or FILE.py:FUNCTION=WEIGHT"
        )
    try:
        number = weight_of(weight or "1")
    except ValueError as error:
        raise ConfigError(f"--reward {spec}: the weight {weight!r} is not a number") from error
    try:
        return WorkerReward(path, name, timeout=timeout, memory_gib=memory_gib, max_failed=max_failed), number
    except ConfigError as error:
        raise ConfigError(f"--reward {spec}: {error}") from error
