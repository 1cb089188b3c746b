"""Measure the main road: write its records (results/road), its stored curves and its plots (docs/images).

Usage, on an idle machine:

    python -m benchmarks.road demo --seeds 1 2 3         the demo for each seed, one after the other
    python -m benchmarks.road reference --seeds 1 2 3    the package's PPO and reference/ppo.py on one task
    python -m benchmarks.road house                      lines to read, longest file, packages, time of `make check`
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from torch import nn

from benchmarks.plots import draw
from proxtune.algorithms.ppo import PPO
from proxtune.evaluation.metrics import bootstrap_mean
from proxtune.evaluation.record import write_record
from proxtune.models.critic import CriticConfig
from proxtune.models.peft import TuningConfig, tune
from proxtune.rollouts.sampling import SamplingConfig
from proxtune.runs import Run
from proxtune.training.optim import OptimConfig
from reference import ppo as oracle
from tests import test_reference as same
from tests.tiny import tiny_model

ROOT = Path(__file__).parents[1]
RECORDS, RUNS = ROOT / "results" / "road", ROOT / "runs"
STEP = ("algorithms/ppo.py", "objectives/ppo.py", "rollouts/collect.py", "models/score.py")
ROAD = [
    "proxtune/algorithms/ppo.py",
    "proxtune/algorithms/reward_model.py",
    "proxtune/algorithms/sft.py",
    "proxtune/objectives/ppo.py",
    "proxtune/workflows/demo.py",
    "proxtune/workflows/film_reviews.py",
]
JUDGES = {  # judge -> (record, what it says, goal)
    "TF-IDF + logistic regression": (
        "demo_tfidf",
        "held-out judge, TF-IDF + logistic regression on other reviews",
        0.2,
    ),
    "VADER": ("demo_vader", "held-out judge, VADER", 0.2),
    "training reward": ("demo_reward", "training reward, the learned reward model", 0.5),
}
CURVES = {  # plot -> (stage, figure, title, axis)
    "sft": ("sft", "loss", "SFT on openings of film reviews", "nats a token"),
    "reward": ("reward", "accuracy", "Reward model: pairs ranked right", "share of the batch"),
    "ppo": ("ppo", "score/mean", "PPO: score of the reward model", "standard deviations"),
    "ppo_kl": ("ppo", "kl/sequence", "PPO: KL to the reference", "nats a response"),
}


def demo(seeds: Sequence[int]) -> None:
    """Run the demo for each seed in a process of its own; what is finished is kept."""
    for seed in seeds:
        folder = RUNS / f"road-{seed}"
        if "verdicts" in (Run.open(folder).manifest() if folder.exists() else {}):
            continue
        resume = ["--resume"] if folder.exists() else []
        command = [sys.executable, "-m", "proxtune", "demo", "--name", folder.name, "--seed", str(seed), *resume]
        subprocess.run(command, check=True, cwd=ROOT)
    manifests = {seed: Run.open(RUNS / f"road-{seed}").manifest() for seed in seeds}
    common = {"seeds": list(seeds), "measures": ROAD, "command": _command("demo", seeds)}
    for judge, (name, what, goal) in JUDGES.items():
        verdicts = {seed: next(v for v in m["verdicts"] if v["judge"] == judge) for seed, m in manifests.items()}
        gain = bootstrap_mean([g for v in verdicts.values() for g in v["gains"]], seed=0)
        unit = next(iter(verdicts.values()))["unit"]
        raw = {str(seed): {key: v[key] for key in ("before", "after", "gain")} for seed, v in verdicts.items()}
        claim = f"{what}: fresh answers after PPO minus before"
        _record(name, claim, gain.mean, unit, (gain.low, gain.high), f">= {goal}", gain.mean >= goal, raw, **common)
    accuracy, kl = _last("reward", "eval/accuracy", seeds), _last("ppo", "kl/sequence", seeds)
    minutes = {str(seed): m["minutes"] for seed, m in manifests.items()}
    whole = [sum(stages.values()) for stages in minutes.values()]
    memory = [m["peak_memory_gib"] for m in manifests.values()]
    claim = "reward model: held-out pairs ranked as people labelled them"
    _spread("reward_accuracy", claim, accuracy, "share", ">= 0.6", min(accuracy) >= 0.6, accuracy, **common)
    claim = "KL to the reference in the last step of PPO"
    _spread("demo_kl", claim, kl, "nats a response", "<= 40", max(kl) <= 40, kl, **common)
    claim = "the demo after installation, two threads"
    _spread("demo_minutes", claim, whole, "minutes", "< 20", max(whole) < 20, minutes, **common)
    claim = "peak resident memory of the demo"
    _spread("demo_memory", claim, memory, "GiB", "< 8", max(memory) < 8, memory, **common)
    plots(seeds)


def plots(seeds: Sequence[int]) -> None:
    """Store the curves of the demo's stages and draw them."""
    for plot, (stage, figure, title, unit) in CURVES.items():
        rows = {seed: Run.open(RUNS / f"road-{seed}" / stage).metrics() for seed in seeds}
        curves = {f"seed {seed}": [(row["step"], row[figure]) for row in run] for seed, run in rows.items()}
        draw(plot, curves, records=RECORDS, title=title, y_label=unit)


def reference(seeds: Sequence[int]) -> None:
    """Learning curves of the package and of the one-file reference, and for how many steps they are one curve.

    They part where rounding, 1e-6 in a log-prob, first moves a draw across the boundary between two tokens.
    """
    steps = 40
    curves: dict[str, list[tuple[float, float]]] = {}
    equal: list[float] = []
    for seed in seeds:
        package, oracle_scores = _learning_curves(seed, steps)
        curves[f"package, seed {seed}"] = list(enumerate(package, start=1))
        curves[f"reference, seed {seed}"] = list(enumerate(oracle_scores, start=1))
        same_score = [abs(a - b) <= 1e-5 for a, b in zip(package, oracle_scores, strict=True)]
        equal.append(same_score.index(False) if False in same_score else steps)
    title = "Package and reference/ppo.py, the same seeds"
    draw("reference", curves, records=RECORDS, title=title, y_label="score")
    measures = ["proxtune/algorithms/ppo.py", "proxtune/objectives/ppo.py", "reference/ppo.py"]
    claim = f"PPO steps, of {steps}, in which package and reference/ppo.py score the same to 1e-5"
    common = {"seeds": list(seeds), "measures": measures, "command": _command("reference", seeds)}
    _spread("reference_equal", claim, equal, "steps", ">= 10", min(equal) >= 10, equal, **common)


def _learning_curves(seed: int, steps: int) -> tuple[list[float], list[float]]:
    """The mean score of each step, by the package and by the reference, on the tiny model and task of their test."""
    settings = replace(same.SETTINGS, kl_coef=0.02)
    policy = tune(tiny_model(), TuningConfig(kind="full"))
    package = PPO(
        policy,
        same.Points(),
        same.CONFIG.model_copy(update={"kl_coef": settings.kl_coef}),
        rollout=SamplingConfig(max_new_tokens=settings.max_new_tokens, temperature=settings.temperature),
        optim=OptimConfig(learning_rate=settings.learning_rate, max_grad_norm=settings.max_grad_norm),
        critic_config=CriticConfig(learning_rate=settings.critic_learning_rate),
        seed=seed,
    )
    ours = [package.step(same.PROMPTS)["score/mean"] for _ in range(steps)]
    lm = tune(tiny_model(), TuningConfig(kind="full"))
    critic = nn.Linear(lm.hidden_size, 1)
    nn.init.zeros_(critic.weight)
    nn.init.zeros_(critic.bias)
    batches = [[lm.tokenizer.encode(prompt) for prompt in same.PROMPTS]] * steps
    figures = oracle.train(
        same.OneRow(lm.module), critic, same.points, batches, end=same.END, settings=settings, seed=seed
    )
    return ours, [row["score/mean"] for row in figures]


def house() -> None:
    """Counts that a reader can check."""
    common = {"seeds": [], "command": "python -m benchmarks.road house"}
    began = time.perf_counter()
    subprocess.run(["make", "check"], check=True, cwd=ROOT)
    wall, took = time.perf_counter() - began, os.times()
    worked = took.children_user + took.children_system
    files = {path: _lines(ROOT / "proxtune" / path) for path in STEP}
    measures = [f"proxtune/{path}" for path in STEP]
    total = sum(files.values())
    claim = "lines of the four files that one PPO step runs through"
    _record("step_lines", claim, total, "lines", None, "<= 900", total <= 900, files, measures=measures, **common)
    longest = max((ROOT / "proxtune").rglob("*.py"), key=_lines)
    count = _lines(longest)
    name = str(longest.relative_to(ROOT))
    claim = "the longest file of the package"
    _record("longest_file", claim, count, "lines", None, "<= 400", count <= 400, name, measures=[name], **common)
    packages = sorted(_closure("proxtune"))
    count = len(packages)
    claim, measures = "packages that a core install brings", ["pyproject.toml"]
    _record("core_packages", claim, count, "packages", None, "< 80", count < 80, packages, measures=measures, **common)
    claim, measures = "wall time of `make check`", ["Makefile"]
    bound = None if wall < 90 else f"{worked:.0f} s of processor time, of which two cores need half; most is fast tests"
    raw = {"wall": wall, "processor": worked}
    _record(
        "check_seconds", claim, wall, "seconds", None, "< 90", wall < 90, raw, measures=measures, bound=bound, **common
    )


def _closure(package: str) -> set[str]:
    """The distributions that `package` needs, and what they need, without extras."""
    found: set[str] = set()
    waiting = [package]
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        try:
            needs = [Requirement(text) for text in requires(name) or ()]
        except PackageNotFoundError:
            continue
        found.add(name)
        wanted = [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
        waiting += [need for need in wanted if need.lower().replace("_", "-") not in found]
    return found - {package}


def _spread(
    name: str, claim: str, values: list[float], unit: str, goal: str, holds: bool, raw: Any, **common: Any
) -> None:
    """A record of the mean over seeds, between the smallest and the largest."""
    low, high = min(values), max(values)
    mean = min(max(sum(values) / len(values), low), high)
    _record(name, f"{claim} (mean, and range over seeds)", mean, unit, (low, high), goal, holds, raw, **common)


def _record(
    name: str,
    claim: str,
    value: float,
    unit: str,
    interval: tuple[float, float] | None,
    goal: str,
    holds: bool,
    raw: Any,
    **common: Any,
) -> None:
    write_record(
        RECORDS / f"{name}.json",
        claim=claim,
        value=value,
        unit=unit,
        interval=interval,
        goal=goal,
        holds=holds,
        against=None,
        raw=raw,
        **common,
    )
    print(f"{name}: {value:.3g} {unit}, goal {goal}: {'holds' if holds else 'missed'}")


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def _last(stage: str, figure: str, seeds: Sequence[int]) -> list[float]:
    """A figure of the stage's last step, for each seed."""
    return [Run.open(RUNS / f"road-{seed}" / stage).metrics()[-1][figure] for seed in seeds]


def _command(what: str, seeds: Sequence[int]) -> str:
    return f"python -m benchmarks.road {what} --seeds {' '.join(map(str, seeds))}"


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["demo", "plots", "reference", "house"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    given = parser.parse_args()
    if given.what == "house":
        house()
    else:
        {"demo": demo, "plots": plots, "reference": reference}[given.what](given.seeds)


if __name__ == "__main__":
    main()
