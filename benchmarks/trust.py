"""Measure that no run is lost: write the records of results/trust. Usage:

python -m benchmarks.trust kills         20 kills each of sft, reward and ppo, and what they changed
python -m benchmarks.trust save_cost     a checkpoint against a plain file of the same tensors
python -m benchmarks.trust verify        what `doctor --verify` finds of jobs broken on purpose, and its time
python -m benchmarks.trust rewards       servers and functions that misbehave: what they cost and what is told
python -m benchmarks.trust configs       misspelt and mangled configs: what is told
python -m benchmarks.trust data          damaged data files, and one of a gigabyte
python -m benchmarks.trust classroom     two small models from scratch, PPO against a frozen teacher, three seeds
python -m benchmarks.trust dryrun        memory and time that a dry run foretells, against the run's own
"""

import argparse
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.numpy
import torch

from benchmarks import trust_classroom, trust_configs, trust_data, trust_dryrun, trust_rewards, trust_verify
from proxtune.evaluation.record import write_record
from proxtune.training import checkpoint
from tests.runs_tiny.lives import PHASES, SAVE_EVERY, kill_and_resume

RECORDS = Path(__file__).parents[1] / "results" / "trust"
MIB = 2**20


def kills(each: int = 20) -> list[str]:
    """Kill a tiny run of each command `each` times. Returns the phases in which they died."""
    raw: dict[str, Any] = {}
    for command in PHASES:
        with tempfile.TemporaryDirectory() as folder:
            deaths = kill_and_resume(command, Path(folder), each, seed=1)
        lost = max(death.logged - death.kept for death in deaths)
        phases = dict(Counter(death.phase or "between phases" for death in deaths))
        raw[command] = {
            "kills": len(deaths),
            "died in": phases,
            "most steps lost": lost,
            "deaths": list(map(asdict, deaths)),
        }
        print(command, phases, f"{lost} steps lost at most", flush=True)
    total = sum(x["kills"] for x in raw.values())
    claim = (
        "kill -9 in sampling, scoring, update, evaluation and save: kills after which each figure of each step "
        "(replayed ones, too) and the final weights are, to the bit, those of a run without; at most "
        f"{SAVE_EVERY} steps, one save interval, are made again"
    )
    _record(
        "kills",
        claim,
        total,
        "kills",
        f">= {each * len(PHASES)}",
        total >= each * len(PHASES),
        raw,
        [
            "proxtune/training/loop.py",
            "proxtune/training/checkpoint.py",
            "proxtune/training/optim.py",
            "proxtune/algorithms/ppo.py",
            "proxtune/algorithms/sft.py",
            "proxtune/algorithms/reward_model.py",
            "proxtune/data/loader.py",
            "proxtune/runs.py",
        ],
    )
    return [death["phase"] for x in raw.values() for death in x["deaths"]]


def save_cost(size: int = 48 * MIB, times: int = 15) -> None:
    """A checkpoint that is verified and synced, over safetensors' own file of the same tensors, not synced."""
    tensors = {f"weight.{i}": torch.randn(size // 4 // 12) for i in range(12)}
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    seconds: dict[str, list[float]] = {"checkpoint": [], "plain": []}
    with tempfile.TemporaryDirectory(dir=RECORDS.parents[1]) as temporary:
        folder = Path(temporary)
        for step in range(times):
            seconds["plain"].append(_timed(lambda: safetensors.numpy.save_file(arrays, folder / "plain.safetensors")))
            seconds["checkpoint"].append(_timed(lambda step=step: checkpoint.save(folder, step, tensors)))
            checkpoint.prune(folder, keep=2)
    durable, plain = (statistics.median(seconds[what]) for what in ("checkpoint", "plain"))
    claim = (
        "a checkpoint of 48 MiB (hashed, synced, renamed) against safetensors' save_file, which does neither: medians"
    )
    raw = {"median seconds": {"checkpoint": durable, "plain": plain}, "seconds": seconds}
    _record(
        "save_cost",
        claim,
        durable / plain,
        "times",
        "<= 3",
        durable <= 3 * plain,
        raw,
        ["proxtune/training/checkpoint.py"],
    )


def rewards() -> None:
    """Rewards that misbehave cost at most their deadline and a second, give no score, and tell the right reason."""
    tried = trust_rewards.measure()
    right, latest = sum(row["right"] for row in tried), max(row["beyond"] for row in tried)
    claim = (
        "rewards that misbehave (servers that stall, drip, lie or redirect; functions that hang, crash or take 4 GB): "
        "no score and never a 0, the right reason told, at most the deadline and a second"
    )
    raw = {"seconds_beyond": latest, "tried": tried}
    measures = [f"proxtune/rewards/{name}.py" for name in trust_rewards.MEASURES]
    _record("rewards", claim, right, "misbehaviours", f">= {len(tried)}", right == len(tried), raw, measures)


def configs() -> None:
    """Mangled configs: never a traceback, and a misspelt key told with its file, its line and what was meant."""
    tried = trust_configs.measure()
    named = [row for row in tried if row["must be named"]]
    right = sum(bool(row["right"]) for row in named)
    counts = Counter(str(row["mistake"]) for row in tried)
    claim = (
        f"{len(tried)} configs with a slip of the fingers, another value or a broken line: no traceback; misspelt keys "
        "of which file, line and what was meant are told"
    )
    raw = {"tried": len(tried), "misspelt": len(named), "mistakes": dict(counts.most_common())}
    holds = right == len(named) and all(row["right"] for row in tried)
    measures = ["proxtune/config/load.py", "proxtune/config/source.py"]
    _record("configs", claim, right, "misspelt keys", f">= {len(named)}", holds, raw, measures)


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _record(
    name: str, claim: str, value: float, unit: str, goal: str, holds: bool, raw: Any, measures: list[str]
) -> None:
    write_record(
        RECORDS / f"{name}.json", claim=claim, value=value, unit=unit, interval=None, goal=goal, holds=holds,
        against=None, seeds=[1], command=f"python -m benchmarks.trust {name}", measures=measures, raw=raw,
    )  # fmt: skip
    print(f"{name}: {value:.3g} {unit}, goal {goal}: {'holds' if holds else 'missed'}")


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", choices=["kills", "save_cost", "rewards", "configs", "data", "verify", "dryrun", "classroom"]
    )
    commands = {"kills": kills, "save_cost": save_cost, "rewards": rewards, "configs": configs, "data": trust_data.data}
    commands |= {"verify": trust_verify.measure, "dryrun": trust_dryrun.measure, "classroom": trust_classroom.classroom}
    commands[parser.parse_args().what]()


if __name__ == "__main__":
    main()
