"""A side of a speed benchmark as a process, and the records that come of it."""

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.speed_material import CACHE
from benchmarks.speed_tasks import Result, Side
from benchmarks.speed_venvs import python_of
from proxtune.evaluation.record import write_record

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "results" / "speed"
# record -> what stands in the way of its goal; the shares are those of the records NAME_bound
BOUNDS = {
    "ppo_small_speed": "what is no matrix product (ppo_small_bound), and is no faster here than in the peer",
    "ppo_135m_speed": "its matrix products (ppo_135m_bound) are nearly those that the peer makes too",
    "ppo_135m_memory": "weights of three models, gradients and moments of two: 4.5 GiB on both sides",
    "sampling_speed": "small operations and Python between them (sampling_bound), whatever the rows of a pass",
    "reward_model_speed": "its matrix products (reward_model_bound) are the peer's too: little is padding",
    "llama_cpp_1_speed": "small operations and Python between them (llama_cpp_1_bound)",
}
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}


def set_threads(count: int) -> None:
    """Of every worker that is started from now on."""
    ENVIRONMENT.update(OMP_NUM_THREADS=str(count), MKL_NUM_THREADS=str(count))


set_threads(2)


class Worker:
    """A side's process, and what it has told."""

    def __init__(self, side: Side) -> None:
        self.result = Result(side)
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=CACHE, suffix=".json", delete=False) as stream:
            json.dump(side.settings, stream)
        self.settings = Path(stream.name)
        self.log = self.settings.with_suffix(".log")
        with self.log.open("wb") as errors:
            self.process = subprocess.Popen(
                [python_of(side.environment), "-m", side.module, stream.name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                env=os.environ | ENVIRONMENT,
                text=True,
            )
        self.result.ready = self._read("ready")

    def step(self) -> dict[str, Any]:
        """Let it do one step, and wait for it."""
        self._say("step")
        self.result.steps.append(self._read("step"))
        return self.result.steps[-1]

    def end(self) -> Result:
        """Let it go; the result is whole now."""
        self._say("end")
        self.result.end = self._read("end")
        self.process.wait(timeout=60)
        self.close()
        return self.result

    def close(self) -> None:
        """Whatever happened, nothing stays."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for file in (self.settings, self.log):
            file.unlink(missing_ok=True)

    def _say(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def _read(self, what: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            tail = self.log.read_text(encoding="utf-8", errors="replace")[-3000:]
            raise SystemExit(f"{self.result.side.label} broke off:\n{tail}")
        figures: dict[str, Any] = json.loads(line)[what]
        return figures


def write(
    name: str,
    claim: str,
    value: float,
    interval: tuple[float, float] | None,
    sign: str,
    goal: float,
    *,
    bound: str | None,
    **common: Any,
) -> None:
    """A record, with what stands in the way if its goal is missed."""
    holds = value >= goal if sign == ">=" else value <= goal
    if interval is not None:  # a median of ratios' parts lies between the ratios, but for rounding
        interval = (min(interval[0], value), max(interval[1], value))
    write_record(
        RECORDS / f"{name}.json",
        claim=claim,
        value=value,
        unit="times",
        interval=interval,
        goal=f"{sign} {goal:g}",
        holds=holds,
        bound=None if holds else bound or BOUNDS.get(name),
        **common,
    )
    print(f"{name}: {value:.3g}, goal {sign} {goal:g}: {'holds' if holds else 'missed'}")
