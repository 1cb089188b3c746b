"""What a dry run foretells against what the run then takes: peak memory, and time.

Time is CPU seconds of one thread, so that other work on the machine does not count; each job has processes of its own.

    python -m benchmarks.trust dryrun
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from proxtune import config as configs
from proxtune.data.reviews import read_reviews
from proxtune.evaluation.record import write_record
from proxtune.rewards.base import FunctionReward
from proxtune.workflows.dry_run import dry_run
from proxtune.workflows.film_reviews import part, write_parts
from proxtune.workflows.jobs import Job, ppo_job, reward_job, sft_job
from proxtune.workflows.machine import GIB, peak
from proxtune.workflows.schemas import PPORun, RewardRun, SFTRun
from proxtune.workflows.shapes import language_model
from proxtune.workflows.train import execute

ROOT = Path(__file__).parents[1]
STEPS, NEAR = 10, 0.25
QUIET = Console(quiet=True)
WORKFLOWS = [
    f"proxtune/workflows/{name}.py" for name in ("dry_run", "memory", "shapes", "probe", "jobs", "train", "reload")
]
SCRATCH = [
    "model.name=scratch:transformer",
    "model.scratch={layers: 8, hidden: 512, heads: 8, vocab_size: 4096, context: 256}",
    "tuning.kind=full",
    "tuning.top_layers=null",
]
MEASURES = [*WORKFLOWS, *(f"proxtune/algorithms/{name}.py" for name in ("sft", "reward_model", "ppo"))]


def brevity(prompts: list[str], responses: list[str]) -> list[float]:  # noqa: ARG001
    """Short answers are good ones."""
    return [-len(response) / 100 for response in responses]


def sft(folder: Path) -> Job:
    """LoRA on the top 8 blocks of a model of 135 million weights: the recipe."""
    overrides = [*_common(folder, "openings"), "data.max_length=96", "data.too_long=truncate"]
    return sft_job(configs.load(SFTRun, ["recipe:sft"], overrides))


def reward(folder: Path) -> Job:
    """Every weight of a model of 27 million, from scratch."""
    overrides = [*_common(folder, "pairs"), *SCRATCH, "data.max_length=96", "data.too_long=truncate"]
    return reward_job(configs.load(RewardRun, ["recipe:reward"], overrides))


def ppo(folder: Path) -> Job:
    """LoRA on the top 8 blocks, against a function: the recipe."""
    overrides = [*_common(folder, "prompts"), "rollout.max_new_tokens=32", "reward.models=[]"]
    return ppo_job(configs.load(PPORun, ["recipe:ppo"], overrides), [(FunctionReward(brevity, "brevity"), 1.0)])


def separate(folder: Path) -> Job:
    """PPO on every weight of a model of 27 million, with a reference and a critic of their own, in micro-batches."""
    overrides = [*_common(folder, "prompts"), *SCRATCH, "rollout.max_new_tokens=32", "reward.models=[]"]
    overrides += ["name=separate"]
    overrides += ["critic.kind=separate", "critic.warmup_steps=2", "ppo.microbatch_size=16", "ppo.entropy_coef=0.01"]
    return ppo_job(configs.load(PPORun, ["recipe:ppo"], overrides), [(FunctionReward(brevity, "brevity"), 1.0)])


JOBS: dict[str, Callable[[Path], Job]] = {"sft": sft, "reward": reward, "ppo": ppo, "separate": separate}


def measure() -> None:
    """Foretell and run each job, and write the two records."""
    raw: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        parts = part(read_reviews(), openings=700, seed=1)
        write_parts(parts, folder, pairs=600, held_out=64)
        for name in JOBS:
            raw[name] = {what: _in_process(what, name, folder) for what in ("foretold", "run")}
            print(name, raw[name], flush=True)
    for what, unit in (("memory", "GiB of peak resident memory"), ("time", "CPU seconds of one thread")):
        _record(what, unit, raw)


def _record(what: str, unit: str, raw: dict[str, Any]) -> None:
    bounds = {
        "memory": "the allocator: what glibc keeps of freed pieces depends on their order",
        "time": "two timed steps on a machine with other work",
    }
    off = {name: row["foretold"][what][1] / row["run"][what] - 1 for name, row in raw.items()}
    worst = max(map(abs, off.values()))
    write_record(
        ROOT / "results" / "trust" / f"dryrun_{what}.json",
        claim=f"a dry run's likely {what} ({unit}) against the run's own, the largest error over "
        f"{len(JOBS)} runs of {STEPS} steps: SFT, reward model, PPO, PPO with all weights and a separate critic",
        value=worst,
        unit="of the run's own",
        interval=None,
        goal=f"<= {NEAR}",
        holds=worst <= NEAR,
        against=None,
        seeds=[1],
        command="python -m benchmarks.trust dryrun",
        measures=MEASURES,
        raw={"error": off, **{name: {k: row[k][what] for k in row} for name, row in raw.items()}},
        bound=None if worst <= NEAR else bounds[what],
    )
    print(f"dryrun_{what}: off by {worst:.0%} at most, goal <= {NEAR:.0%}")


def foretell(job: Job) -> dict[str, Any]:
    """Low, likely and high, and the memory that the three steps held."""
    result = dry_run(job, QUIET, clock=time.process_time)
    assert result.probe is not None
    return {
        "memory": [size / GIB for size in result.memory.peak],
        "time": list(result.seconds),
        "memory of three steps": result.probe.peak / GIB,
    }


def run(job: Job) -> dict[str, Any]:
    """What the run took in the end."""
    execute(job, console=QUIET)
    return {"memory": peak(language_model(job).device) / GIB, "time": time.process_time()}


def _common(folder: Path, data: str) -> list[str]:
    files = [f"data.train={folder / data}.jsonl", f"data.eval={folder / 'held_'}{data}.jsonl"]
    return [*files, f"runs={folder}", f"training.steps={STEPS}", "training.save_every=5"]


def _in_process(what: str, name: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.trust_dryrun", what, name, str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """One process of the measurement."""
    what, name, folder = sys.argv[1:]
    job = JOBS[name](Path(folder))
    print(json.dumps(foretell(job) if what == "foretold" else run(job)))


if __name__ == "__main__":
    main()
