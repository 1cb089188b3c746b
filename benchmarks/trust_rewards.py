"""Measure what misbehaving rewards cost and what is told of them: for `python -m benchmarks.trust rewards`."""

import logging
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from proxtune.rewards.base import Reward
from proxtune.rewards.remote import RemoteReward
from tests.faults import FAULTS, FaultServer
from tests.rewards.test_worker import MISBEHAVIOURS, misbehaving, two_answers

DEADLINE = 2.0  # seconds: three tries with their pauses take 1.5
GRACE = 1.0  # beyond the deadline
MEASURES = ["budget", "child", "remote", "worker"]


def measure() -> list[dict[str, Any]]:
    """Every misbehaviour once, and once the default deadline: what it cost, what was told, and if that is right."""
    found = []
    for name, fault in FAULTS.items():
        with FaultServer(fault) as server:
            reward = RemoteReward(server.url, timeout=DEADLINE, max_failed=1, batch=2)
            row = tried(f"server: {name}", reward, fault.reason, DEADLINE)
            row |= {"tries": len(server.asked), "right": row["right"] and len(server.asked) == fault.tries}
        found.append(row)
    closed = RemoteReward(server.url, timeout=DEADLINE, max_failed=1)
    found.append(tried("server: nobody listens", closed, r"cannot connect .*, 3 tries", DEADLINE))
    for name, (body, reason) in MISBEHAVIOURS.items():
        with tempfile.TemporaryDirectory() as folder:
            worker = misbehaving(writer(Path(folder)), body, timeout=DEADLINE)
            found.append(tried(f"function: {name}", worker, reason, DEADLINE))
    with FaultServer(FAULTS["slow drip of the body"]) as server:
        reward = RemoteReward(server.url, max_failed=1)
        found.append(tried("server: slow drip, default deadline", reward, "no answer within 30 s", reward.timeout))
    return found


def writer(folder: Path) -> Callable[[str], str]:
    """What writes the file of a reward function."""

    def write(text: str) -> str:
        path = folder / "my_rewards.py"
        path.write_text(text)
        return str(path)

    return write


def tried(name: str, reward: Reward, reason: str, deadline: float) -> dict[str, Any]:
    """One call: no score, the right reason, and not much later than the deadline."""
    with listening() as messages:
        began = time.perf_counter()
        scores = reward(two_answers())
        seconds = time.perf_counter() - began
    told = messages[0].partition("answers: ")[2].removesuffix("; left out of this step") if messages else ""
    right = bool(scores.isnan().all()) and bool(re.search(reason, told)) and seconds <= deadline + GRACE
    print(f"{name:45} {seconds:6.2f} s  {told}", flush=True)
    return {
        "misbehaviour": name,
        "seconds": seconds,
        "beyond": max(0.0, seconds - deadline),
        "told": told,
        "right": right,
    }


@contextmanager
def listening() -> Iterator[list[str]]:
    """The warnings of the budget."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("proxtune.rewards.budget")
    logger.addHandler(handler)
    logger.propagate = False
    yield messages
    logger.removeHandler(handler)
    logger.propagate = True
