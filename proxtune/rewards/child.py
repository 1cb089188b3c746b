"""What runs in the worker process of a reward function: a line of JSON in, a line of JSON out (see worker.py).

It is started by its path and imports nothing of ours, and torch only if the function's file does. It replies with
{"ready": true}, {"scores": …}, {"raised": "…"}, {"failed": "…"}, or {"error": "…"} where the file cannot be used.
"""

import ctypes
import importlib.util
import inspect
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

PR_SET_PDEATHSIG = 1  # linux/prctl.h
FRAMES = 5  # of a traceback: the innermost


def columns_taken(function: Callable[..., Any], columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Those of `columns` that a reward function names beside prompts and responses, or all others for `**columns`."""
    parameters = list(inspect.signature(function).parameters.values())
    answered = {p.name for p in parameters[:2]} | {"prompts", "responses"}
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = {p.name for p in parameters}
    return {name: x for name, x in columns.items() if name not in answered and (takes_all or name in named)}


def main(path: str, name: str, memory_gib: float, parent: int) -> None:
    """Answer each line of standard input, until it ends."""
    die_with(parent)
    limit_memory(int(memory_gib * 2**30))
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what the function prints goes to standard error
    sys.argv[:] = [path]
    try:
        functions = vars(load(path))
    except BaseException as error:  # noqa: BLE001 (whatever the file raises, sys.exit too)
        return reply(replies, error=f"{path} cannot be run: {described(error)}")
    if not callable(function := functions.get(name)):
        public = sorted(n for n, x in functions.items() if inspect.isfunction(x) and not n.startswith("_"))
        return reply(replies, error=f"{path} has no function {name!r}; it has {', '.join(public) or 'none'}")
    for line in requests:
        request = json.loads(line)
        if request is None:
            reply(replies, ready=True)
        else:
            call(replies, function, **request)
        signal.alarm(0)  # the function may have left one behind
    return None


def die_with(parent: int) -> None:
    """Have the kernel kill this process when the thread of `parent` that started it ends, however busy it is.

    Elsewhere than on Linux it ends with its input.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # ended already
            os._exit(1)


def limit_memory(size: int) -> None:
    """At most `size` bytes that can be written to. (RLIMIT_AS would count what torch and CUDA only reserve.)"""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = size if hard == resource.RLIM_INFINITY else min(size, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def load(path: str) -> ModuleType:
    """Run the file, which may import its neighbours."""
    sys.path.insert(0, str(Path(path).resolve().parent))
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(
    replies: BinaryIO,
    function: Callable[..., Any],
    prompts: list[str],
    responses: list[str],
    columns: dict[str, list[Any]],
) -> None:
    """Call the function and reply with its scores, or with what it raised."""
    try:
        scores = function(prompts, responses, **columns_taken(function, columns))
    except BaseException as error:  # noqa: BLE001 (sys.exit too, which is no way to end a run)
        if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):  # Python's and torch's
            return reply(replies, failed="it ran out of memory (reward.memory_gib)")
        return reply(replies, raised=described(error))
    try:
        return reply(replies, scores=scores)
    except (TypeError, ValueError, AttributeError, RecursionError):  # not JSON
        return reply(replies, scores=f"{scores!r:.200}")


def reply(replies: BinaryIO, **message: Any) -> None:
    """Write one line; arrays and tensors as lists."""
    replies.write(json.dumps(message, default=lambda x: x.tolist()).encode() + b"\n")
    replies.flush()


def described(error: BaseException) -> str:
    """What was raised, and where: the lines of this file and of the import system left out."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if f.filename != __file__ and not f.filename.startswith("<frozen importlib")]
    places = [f"\n  {f.filename}:{f.lineno} in {f.name}: {f.line}" for f in theirs[-FRAMES:]]
    return f"{type(error).__name__}: {error!s:.500}" + "".join(places)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
    sys.stdout.flush()
    os._exit(0)  # whatever threads the function began
