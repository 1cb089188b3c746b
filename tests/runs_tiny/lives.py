"""Tiny runs that live several lives: they are killed within a given phase, and taken up by another process."""

import json
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from proxtune import config as configs
from proxtune.rewards.base import FunctionReward
from proxtune.runs import Run
from proxtune.training import checkpoint
from proxtune.workflows.jobs import Job, ppo_job, reward_job, sft_job
from proxtune.workflows.schemas import PPORun, RewardRun, SFTRun
from proxtune.workflows.train import execute
from tests.forked import fork

WORDS = ("the", "film", "was", "a", "slow", "fine", "dull", "warm", "story", "about", "love", "and", "war", "music")
SAVE_EVERY, BATCH, ROWS = 3, 8, 80
PHASES = {
    "sft": ("step", "update", "eval", "save"),
    "reward": ("step", "update", "eval", "save"),
    "ppo": ("rollout", "scoring", "update", "eval", "save"),
}


def write_data(folder: Path) -> None:
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=6)) for _ in range(2 * ROWS)]
    pairs = list(zip(texts[:ROWS], texts[ROWS:], strict=True))
    rows: dict[str, list[dict[str, str]]] = {
        "sft": [{"prompt": a, "completion": f" {b}"} for a, b in pairs],
        "reward": [{"prompt": a, "chosen": f" good {b}", "rejected": f" bad {b}"} for a, b in pairs],
        "ppo": [{"prompt": text} for text in texts[:ROWS]],
    }
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def brevity(prompts: list[str], responses: list[str]) -> list[float]:
    return [-len(response) / 20 for response in responses]


def job(command: str, folder: Path, name: str, *, steps: int = 12, reward: Callable[..., Any] = brevity) -> Job:
    """A run of a random model with dropout (in supervised training) on the data that `write_data` left in `folder`."""
    common = [
        "model.name=scratch:transformer",
        "model.scratch={vocab_size: 300, layers: 2, hidden: 32, heads: 2, context: 64, dropout: 0.1}",
        f"training={{steps: {steps}, save_every: {SAVE_EVERY}, eval_every: 4, samples: {BATCH}}}",
        "optim.learning_rate=3e-3",
        f"runs={folder}",
        f"name={name}",
        f"data.train={folder / command}.jsonl",
        "data.eval_fraction=0.1",
    ]
    if command == "sft":
        return sft_job(configs.load(SFTRun, [], [*common, f"sft.batch_size={BATCH}", "sft.microbatch_size=4"]))
    if command == "reward":
        return reward_job(configs.load(RewardRun, [], [*common, f"reward_model.batch_size={BATCH}"]))
    ppo = [
        "rollout.max_new_tokens=8",
        f"ppo={{batch_size: {BATCH}, minibatch_size: 4, epochs: 2, kl_target: 4.0, reward_scale: running}}",
    ]
    return ppo_job(configs.load(PPORun, [], [*common, *ppo]), [(FunctionReward(reward, "brevity"), 1.0)])


def watch(job: Job, mark: Callable[[str, int], None]) -> None:
    """Call `mark(phase, steps done)` whenever the job enters a phase, or falls back into an outer one ("" is none)."""
    algorithm: Any = job.algorithm
    phases = [""]

    def marked(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            phases.append(phase)
            mark(phase, algorithm.steps)
            try:
                return function(*args, **kwargs)
            finally:
                phases.pop()
                mark(phases[-1], algorithm.steps)

        return call

    algorithm.step = marked("step", algorithm.step)
    algorithm.optimizer.apply = marked("update", algorithm.optimizer.apply)
    job.evaluate = marked("eval", job.evaluate) if job.evaluate else None
    checkpoint.save = marked("save", checkpoint.save)  # of this process: a forked child
    if job.command == "ppo":
        algorithm.sampler = marked("rollout", algorithm.sampler)
        part, _ = algorithm.reward.rewards[0]
        part.function = marked("scoring", part.function)


def train(job: Job) -> None:
    execute(job, resume=True, console=Console(quiet=True))


@dataclass
class Death:
    """What one kill found."""

    phase: str  # that the process was in; "" between phases
    logged: int  # the last step in the log
    kept: int  # the step of the newest checkpoint


def killed_life(build: Callable[[], Job], run: Path, phase: str, after: int, delay: float) -> Death:
    """Train in a child, and kill it `delay` seconds after it enters `phase` with at least `after` steps done."""
    here = Path(f"{run}.phase")
    reader, writer = os.pipe()

    def life() -> None:
        descriptor = os.open(here, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

        def mark(entered: str, steps: int) -> None:
            os.pwrite(descriptor, entered.ljust(16).encode(), 0)
            if entered == phase and steps >= after:
                os.write(writer, b"x")

        built = build()
        watch(built, mark)
        train(built)

    child = fork(life)
    os.close(writer)
    entered = os.read(reader, 1)
    os.close(reader)
    assert entered, f"the run ended before it entered {phase!r} after step {after}"
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    found = Run.open(run)
    steps = [row["step"] for row in found.metrics()]
    return Death(here.read_text().strip(), steps[-1] if steps else 0, newest_step(found))


def newest_step(run: Run) -> int:
    newest = checkpoint.latest(run.checkpoints)
    return 0 if newest is None else checkpoint.load(newest)[0]


def kill_and_resume(
    command: str, folder: Path, kills: int, *, phases: Sequence[str] = (), seed: int = 0
) -> list[Death]:
    """Train one run as a whole and one in `kills` + 1 lives; AssertionError unless both are the same to the bit."""
    phases = phases or PHASES[command]
    rng = random.Random(f"{command} {seed}")
    write_data(folder)
    steps = 3 * (kills + 1)
    build = lambda name: job(command, folder, name, steps=steps)  # noqa: E731
    train(build("whole"))
    whole = Run.open(folder / "whole")
    deaths: list[Death] = []
    for number in range(kills):
        after = min(3 * number + rng.randrange(3), steps - 4)
        death = killed_life(
            lambda: build("killed"), folder / "killed", phases[number % len(phases)], after, rng.random() * 0.002
        )
        deaths.append(death)
        assert death.logged - death.kept <= SAVE_EVERY, death
        assert figures(Run.open(folder / "killed")) == figures(whole)[: death.logged]  # each replayed step, too
    train(build("killed"))
    killed = Run.open(folder / "killed")
    assert figures(killed) == figures(whole)
    assert killed.samples() == whole.samples()
    for file in sorted(path.name for path in whole.model.glob("*.safetensors")):
        assert (whole.model / file).read_bytes() == (killed.model / file).read_bytes(), file
    return deaths


def figures(run: Run) -> list[dict[str, Any]]:
    """Every figure of every step to its last bit, less the clock's."""
    rows = [{k: x for k, x in row.items() if not k.startswith("time/")} for row in run.metrics()]
    return [{k: x.hex() if isinstance(x, float) else x for k, x in row.items()} for row in rows]
