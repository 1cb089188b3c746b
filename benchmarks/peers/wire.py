"""How a worker of a benchmark talks to the driver: one JSON line for each thing that happened, on a pipe of its own.

    worker -> driver   {"ready": facts}      once the model is loaded
    driver -> worker   step                  do one step now
    worker -> driver   {"step": figures}     with wall and CPU seconds
    driver -> worker   end
    worker -> driver   {"end": facts}        with the peak of resident memory, then the worker is gone

Only the standard library and torch are used here, because a peer's virtual environment has nothing of ours.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

THREADS = int(os.environ.get("OMP_NUM_THREADS", "2"))  # as the driver says


class Wire:
    """The worker's end. Whatever else the process prints goes to standard error."""

    def __init__(self) -> None:
        self.settings: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
        self.lines = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        self.began = (0.0, 0.0)

    def ready(self, **facts: Any) -> None:
        """The model is loaded; `facts` say what was loaded."""
        self._tell("ready", facts | {"versions": versions(), "peak_bytes": peak_bytes()})

    def wait(self) -> bool:
        """Wait for the driver; True: do a step, whose time begins now."""
        asked = sys.stdin.readline().strip() == "step"
        self.began = (time.perf_counter(), time.process_time())
        return asked

    def done(self, **figures: Any) -> None:
        """The step is done; process time is that of all threads."""
        wall, cpu = time.perf_counter() - self.began[0], time.process_time() - self.began[1]
        self._tell("step", {"wall": wall, "cpu": cpu} | figures)

    def end(self, **facts: Any) -> None:
        """Tell the peak of memory, and leave at once, from whatever training loop stands above."""
        self._tell("end", facts | {"peak_bytes": peak_bytes()})
        os._exit(0)

    def serve(self, step: Callable[[], dict[str, Any]], **facts: Any) -> None:
        """All of the above, for a worker whose step is a function."""
        self.ready(**facts)
        while self.wait():
            self.done(**step())
        self.end()

    def _tell(self, what: str, figures: dict[str, Any]) -> None:
        self.lines.write(json.dumps({what: figures}) + "\n")
        self.lines.flush()


def peak_bytes() -> int:
    """The peak of this process's resident memory."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def versions() -> dict[str, str]:
    """Of the packages that decide how fast the worker is, where they are installed."""
    found = {}
    for package in ("torch", "transformers", "trl", "llama_cpp_python"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def weights_hash(folder: str) -> str:
    """SHA-256 of the weight file, by which the driver sees that both sides began alike."""
    with (Path(folder) / "model.safetensors").open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def count_optimizer_steps() -> Callable[[], int]:
    """A function that says how many optimiser steps were made since it was last asked."""
    from torch.optim.optimizer import (  # noqa: PLC0415 -- the worker of llama.cpp has no torch
        register_optimizer_step_post_hook,
    )

    made = [0]
    register_optimizer_step_post_hook(lambda *_: made.append(made.pop() + 1))

    def since() -> int:
        count, made[0] = made[0], 0
        return count

    return since


def endless(batches: list[Any]) -> Iterator[Any]:
    """The batches, again and again."""
    while True:
        yield from batches
