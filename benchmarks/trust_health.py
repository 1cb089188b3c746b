"""Measure the diagnosis: six runs made sick on purpose must each be found out, three healthy ones must not.

All are real runs of a tiny model on docs/examples, in a folder that is thrown away. Usage:

    python -m benchmarks.trust_health --seeds 1 2 3
"""

import argparse
import io
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from proxtune import config as configs
from proxtune.evaluation.health import Health
from proxtune.evaluation.record import write_record
from proxtune.rewards.base import FunctionReward
from proxtune.runs import Run
from proxtune.training.loop import fit
from proxtune.workflows.jobs import Job, ppo_job, reward_job, sft_job
from proxtune.workflows.progress import Progress
from proxtune.workflows.schemas import PPORun, RewardRun, SFTRun
from proxtune.workflows.train import execute

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs" / "examples"
QUIET = Console(quiet=True)

Score = Callable[[Sequence[str], Sequence[str]], list[float]]


def alike(_: Sequence[str], responses: Sequence[str]) -> list[float]:
    """A reward that does not tell answers apart."""
    return [1.0 for _ in responses]


def wordiness(_: Sequence[str], responses: Sequence[str]) -> list[float]:
    """A reward that pays for length alone."""
    return [len(response) / 10 for response in responses]


def praise(_: Sequence[str], responses: Sequence[str]) -> list[float]:
    """A reward with a hole: it counts kind words, and any number of them."""
    return [float(sum(response.count(word) for word in ("good", "lovely", "joy"))) for response in responses]


def grammar(_: Sequence[str], responses: Sequence[str]) -> list[float]:
    """A judge that knows what a review looks like: one sentence that begins and ends as reviews do, no word twice."""
    return [float(_is_a_sentence(response.split())) for response in responses]


def _is_a_sentence(words: list[str]) -> bool:
    return len(set(words)) == len(words) > 3 and words[0] in ("It", "What") and words[-1].endswith(".")


@dataclass(frozen=True)
class Sick:
    """A run with one thing wrong: the findings of which one at least must come, and what was done to it."""

    findings: tuple[str, ...]
    overrides: tuple[str, ...]
    reward: Score | None = None  # in the place of the reward model
    judge: Score | None = None


SICK = {
    "learning rate 0.03": Sick(("KL runaway", "entropy collapse"), ("optim.learning_rate=0.03",)),
    "constant reward": Sick(("equal rewards",), (), alike),
    "reward pays for length": Sick(
        ("length exploitation",), ("ppo.kl_coef=0.001", "optim.learning_rate=1e-3", "training.steps=40"), wordiness
    ),
    "hackable reward without KL": Sick(
        ("reward hacking",),
        ("ppo.kl_coef=0", "optim.learning_rate=1e-3", "training.eval_every=2", "data.eval_fraction=0.5"),
        praise,
        grammar,
    ),
    "learning rate 1e-12": Sick(
        ("policy does not move", "critic does not learn"), ("optim.learning_rate=1e-12", "training.steps=60")
    ),
    "stop token never learnt": Sick(("answers never end",), ("model.name={folder}/endless", "ppo.truncation=mask")),
}


def sft(folder: Path, seed: int, name: str = "sft", *overrides: str) -> Job:
    """Fine-tuning as in the tour."""
    given = [f"data.train={EXAMPLES / 'answers.jsonl'}", "training.epochs=10", "optim.learning_rate=3e-3"]
    return sft_job(configs.load(SFTRun, *_config("sft", folder, seed, name, [*given, *overrides])))


def reward(folder: Path, seed: int) -> Job:
    """The tour's reward model."""
    given = [f"data.train={EXAMPLES / 'pairs.jsonl'}", "training.epochs=3", "optim.learning_rate=1e-3"]
    return reward_job(
        configs.load(RewardRun, *_config("reward", folder, seed, "reward", [*given, f"model.name={folder / 'sft'}"]))
    )


def ppo(folder: Path, seed: int, name: str = "ppo", sick: Sick | None = None) -> Job:
    """The tour's PPO, or the same with one thing wrong."""
    given = [
        f"data.train={EXAMPLES / 'prompts.jsonl'}",
        f"model.name={folder / 'sft'}",
        "optim.learning_rate=5e-4",
        "ppo.kl_coef=0.3",
        "rollout.max_new_tokens=24",
        "training.steps=25",
        f"reward.models=[{'' if sick and sick.reward else folder / 'reward'}]",
    ]
    overrides = [override.format(folder=folder) for override in sick.overrides] if sick else []
    config = configs.load(PPORun, *_config("ppo", folder, seed, name, [*given, *overrides]))
    functions = [(FunctionReward(sick.reward), 1.0)] if sick and sick.reward else []
    judges = [FunctionReward(sick.judge)] if sick and sick.judge else []
    return ppo_job(config, functions, judges=judges)


def _config(
    command: str, folder: Path, seed: int, name: str, given: Sequence[str]
) -> tuple[list[str | Path], list[str]]:
    common = [f"runs={folder}", f"name={name}", f"seed={seed}", "training.save_every=0"]
    return [f"recipe:{command}", EXAMPLES / "scratch.yaml"], [*common, *given]


def trained(job: Job) -> Health:
    """Run the job; its health as the run folder tells it."""
    return Health.of(execute(job, console=QUIET))


def healthy_runs(folder: Path, seed: int) -> dict[str, Health]:
    """The road of the tour, which the sick runs start from."""
    return {
        "sft": trained(sft(folder, seed)),
        "reward": trained(reward(folder, seed)),
        "ppo": trained(ppo(folder, seed)),
    }


def sick_run(folder: Path, seed: int, name: str) -> Health:
    """One of the SICK, where the road has been walked."""
    if "endless" in "".join(SICK[name].overrides):  # answers cut before their end have no stop token
        execute(sft(folder, seed, "endless", "data.max_length=12", "data.too_long=truncate"), console=QUIET)
    return trained(ppo(folder, seed, name.replace(" ", "-"), SICK[name]))


def told(run: str, seed: int, health: Health, *, sick: bool) -> dict[str, Any]:
    """One run for the record: an alarm is right where the run is sick, and names what was done to it."""
    findings = [{"finding": f.name, "level": f.level, "step": f.step, "what": f.what} for f in health.findings]
    expected = SICK[run].findings if sick else tuple(health.found)
    alarm = any(each["finding"] in expected for each in findings)
    print(f"seed {seed}  {run}: {health}", flush=True)
    return {"run": run, "seed": seed, "sick": sick, "alarm": alarm, "findings": findings}


def measure(seeds: Sequence[int]) -> None:
    """Write results/trust/health.json, and the picture of the panel."""
    raw: list[Any] = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            raw += [told(name, seed, health, sick=False) for name, health in healthy_runs(folder, seed).items()]
            raw += [told(name, seed, sick_run(folder, seed, name), sick=True) for name in SICK]
            if seed == seeds[0]:
                picture(folder, seed)
    found = [sum(each["alarm"] for each in raw if each["sick"] and each["seed"] == seed) for seed in seeds]
    false = [f"{each['run']} (seed {each['seed']})" for each in raw if each["alarm"] and not each["sick"]]
    holds = min(found) == len(SICK) and not false
    missed = [f"{each['run']} (seed {each['seed']})" for each in raw if each["sick"] and not each["alarm"]]
    write_record(
        ROOT / "results" / "trust" / "health.json",
        claim=f"runs made sick that are found out, for the worst seed; false alarms in {3 * len(seeds)} healthy ones: "
        f"{len(false)}",
        value=float(min(found)),
        unit=f"of {len(SICK)} sick runs",
        interval=None,
        goal=f"= {len(SICK)}, and no false alarm",
        holds=holds,
        against=None,
        seeds=seeds,
        command=f"python -m benchmarks.trust_health --seeds {' '.join(map(str, seeds))}",
        measures=[f"proxtune/evaluation/{name}.py" for name in ("health", "checks", "checks_ppo")],
        raw=raw,
        bound=None if holds else f"missed: {missed}; false alarms: {false}",
    )


def picture(folder: Path, seed: int) -> None:
    """What a person sees on a terminal 18 steps into a run whose reward is being hacked: docs/images/health.svg."""
    job = ppo(folder, seed, "picture", SICK["hackable reward without KL"])
    console = Console(record=True, force_terminal=True, width=108, file=io.StringIO())
    with Run.create(folder / "picture", resume=False) as run:
        progress = Progress("ppo", job.steps, console, run, job.config.model_dump(mode="json"))
        fit(job.algorithm, job.batches, run, job.config.training, steps=18, evaluate=job.evaluate, watch=progress)
    console.print(progress.show())
    image = re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title="proxtune ppo"), flags=re.DOTALL)  # a CDN's
    (ROOT / "docs" / "images" / "health.svg").write_text(image, encoding="utf-8")


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    measure(parser.parse_args().seeds)


if __name__ == "__main__":
    main()
