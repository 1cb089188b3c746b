"""Measure the two classroom examples: how likely the teacher finds fresh answers, before and after PPO.

    python -m benchmarks.trust classroom

Student and teacher are trained anew for each seed, PPO twice from them: with A = G − V (lambda 1) and with GAE (0.95).
"""

import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.plots import draw
from proxtune import config as configs
from proxtune.data.sources import load as load_data
from proxtune.data.template import PromptExample, encode_prompts
from proxtune.evaluation.metrics import bootstrap_mean
from proxtune.evaluation.record import write_record
from proxtune.evaluation.run import fresh_answers
from proxtune.models.load import ModelConfig, load
from proxtune.models.score import frozen_logprobs
from proxtune.objectives import masked_mean
from proxtune.rewards.likelihood import TeacherLikelihood
from proxtune.rollouts.sampling import SamplingConfig
from proxtune.runs import Run
from proxtune.workflows.schemas import PPORun

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "results" / "trust"
FORMS = {"returns": "ppo.lam=1", "gae": "ppo.lam=0.95"}
GOAL = 0.3
LABELS = {"returns": "A = G − V", "gae": "GAE, lambda 0.95"}
OPENING = 4  # tokens that nearly every answer has: their score cannot rise by answers growing shorter
MEASURES = ["algorithms/ppo.py", "objectives/ppo.py", "rewards/likelihood.py", "rollouts/engine.py", "data/reviews.py"]


def classroom(seeds: Sequence[int] = (1, 2, 3)) -> None:
    """Both examples; what is finished is kept."""
    for model in ("lstm", "transformer"):
        for seed in seeds:
            train(model, seed)
        measure(model, seeds)


def train(model: str, seed: int) -> None:
    """The three commands of the recipe, and PPO once more with the other advantages."""
    runs = folder(model, seed)
    recipe = f"recipe:classroom-{model}"
    stages = {
        "student": ["sft", f"{recipe}/student", f"seed={seed}"],
        "teacher": ["sft", f"{recipe}/teacher", f"seed={seed + 100}", f"model.scratch.tokenizer={runs / 'student'}"],
    }
    for form, override in FORMS.items():
        start = [f"model.name={runs / 'student'}", f"reward.teachers=[{runs / 'teacher'}]"]
        stages[form] = ["ppo", recipe, f"seed={seed}", f"name={form}", override, *start]
    for name, arguments in stages.items():
        run = runs / name
        if run.exists() and Run.open(run).manifest().get("finished"):
            continue
        resume = ["--resume"] if run.exists() else []
        subprocess.run([sys.executable, "-m", "proxtune", *arguments, f"runs={runs}", *resume], check=True, cwd=ROOT)


def measure(model: str, seeds: Sequence[int]) -> None:
    """The record and the curves of one example."""
    raw: dict[str, Any] = {form: {} for form in FORMS}
    gains: list[float] = []
    curves: dict[str, list[tuple[float, float]]] = {}
    for seed in seeds:
        found = verdicts(model, seed)
        for form in FORMS:
            raw[form][str(seed)] = {"before": found["student"][1], "after": found[form][1]}
            rows = Run.open(folder(model, seed) / form).metrics()
            curves[f"{LABELS[form]}, seed {seed}"] = [(row["step"], row["score/mean"]) for row in rows]
        gains += [after - before for before, after in zip(found["student"][0], found["returns"][0], strict=True)]
    for form in FORMS:
        raw[form]["mean"] = {
            when: averages([each[when] for each in raw[form].values()]) for when in ("before", "after")
        }
    gain = bootstrap_mean(gains, seed=0)
    write_record(
        RECORDS / f"classroom_{model}.json",
        claim=f"{model} from scratch, PPO with A = G − V: log-likelihood under the frozen teacher of fresh answers to "
        "held-out prompts, after minus before",
        value=gain.mean,
        unit="nats a token",
        interval=(gain.low, gain.high),
        goal=f">= {GOAL}",
        holds=gain.mean >= GOAL,
        against=None,
        seeds=seeds,
        command="python -m benchmarks.trust classroom",
        measures=[*(f"proxtune/{name}" for name in MEASURES), f"proxtune/recipes/classroom-{model}/config.yaml"],
        raw=raw,
    )
    print(f"classroom_{model}: {gain}", flush=True)
    title = f"PPO on a small {'LSTM' if model == 'lstm' else model}: score by the teacher"
    draw(f"classroom_{model}", curves, records=RECORDS, title=title, y_label="nats a token")


def verdicts(model: str, seed: int) -> dict[str, tuple[list[float], dict[str, float]]]:
    """For the student before PPO and after each form of it: the score of each answer, and the figures of them all."""
    runs = folder(model, seed)
    config = configs.load(PPORun, [runs / "returns" / "config.yaml"])
    teacher = load(ModelConfig(name=str(runs / "teacher")))
    _, held_out = load_data(config.data, seed=seed)
    assert held_out is not None
    prompts, _ = encode_prompts(held_out.records, teacher.tokenizer, max_length=teacher.context)
    found = {}
    for run in ("student", *FORMS):
        scores, figures = judge(runs / run, TeacherLikelihood(teacher, same_tokenizer=True), prompts, config.rollout)
        last = Run.open(runs / run).metrics()[-1]
        figures |= {"kl": last["kl/sequence"], "entropy": last["entropy"]} if run in FORMS else {}
        found[run] = scores, figures
    people = -Run.open(runs / "teacher").metrics()[-1]["eval/loss"]
    found["student"][1]["people"] = people  # held-out sentences of the teacher's half, as people wrote them
    return found


def judge(
    run: Path, teacher: TeacherLikelihood, prompts: Sequence[PromptExample], config: SamplingConfig
) -> tuple[list[float], dict[str, float]]:
    """One fresh answer to each prompt, with the same luck for every run."""
    answers = fresh_answers(load(ModelConfig(name=str(run))), prompts, config, seed=0)
    scores = teacher(answers).tolist()
    opening = frozen_logprobs(teacher.teacher, answers.tokens)[:, :OPENING]
    figures = {
        "score": sum(scores) / len(scores),
        "opening": float(masked_mean(opening, answers.tokens.mask[:, :OPENING])),
        "distinct_2": distinct(answers.responses),
        "tokens": float(answers.tokens.response_lengths.float().mean()),
        "truncated": sum(answers.truncated) / len(scores),
    }
    return scores, figures


def distinct(texts: Sequence[str]) -> float:
    """distinct-2 (Li et al. 2016): different pairs of neighbouring words over all such pairs."""
    found = [pair for text in texts for pair in pairwise(text.split())]
    return len(set(found)) / len(found)


def averages(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure over seeds."""
    return {name: sum(each[name] for each in figures) / len(figures) for name in figures[0]}


def folder(model: str, seed: int) -> Path:
    """Where the runs of one seed live."""
    return Path("runs") / f"classroom-{model}-{seed}"
