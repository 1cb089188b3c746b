"""The classroom's recipes on a language of a few words: PPO brings the student nearer to what its teacher would say."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from proxtune import config as configs
from proxtune.runs import Run
from proxtune.workflows.jobs import ppo_job, sft_job
from proxtune.workflows.schemas import PPORun, SFTRun
from proxtune.workflows.train import execute

QUIET = Console(quiet=True)
RECIPES = ("classroom-lstm", "classroom-transformer")
SIZES = {"vocab_size": 300, "layers": 1, "hidden": 32, "heads": 2, "context": 64}
each_recipe = pytest.mark.parametrize("recipe", RECIPES)


@each_recipe
def test_the_recipes_are_what_the_lesson_says(recipe: str) -> None:
    student, teacher = (configs.load(SFTRun, [f"recipe:{recipe}/{role}"]) for role in ("student", "teacher"))
    ppo = configs.load(PPORun, [f"recipe:{recipe}"])
    assert student.model.name == teacher.model.name == recipe.replace("classroom-", "scratch:")
    assert teacher.model.scratch.tokenizer == str(student.runs / student.name) == ppo.model.name
    assert ppo.reward.teachers == [str(teacher.runs / teacher.name)]
    assert student.data.train != teacher.data.train
    assert (ppo.ppo.gamma, ppo.ppo.lam, ppo.ppo.clip, ppo.critic.kind) == (0.99, 1.0, 0.2, "shared")
    assert ppo.ppo.kl_coef > 0  # without it the best answer is the same few words again and again


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("lam", [1.0, 0.95])
@each_recipe
def test_the_teachers_likelihood_of_the_students_answers_rises(recipe: str, lam: float, tmp_path: Path) -> None:
    """Of seeds 1 to 4 the least gain of any is 0.52 nats a token; 0.3 is asked for, of the fixed seed 1."""
    words = [("the", "a"), ("cat", "dog", "cow", "hen"), ("saw", "ate", "met"), ("it", "us", "me")]
    sentences = [" ".join(chosen) for chosen in itertools.product(*words)]
    halves = {"student": sentences[::2], "teacher": [s for s in sentences[1::2] if "cat" in s]}

    def overrides(name: str, data: Path, **options: Any) -> list[str]:
        given = {"name": name, "runs": tmp_path, "data.train": data, "data.eval_fraction": 0, **options}
        return [f"{key}={value}" for key, value in given.items()]

    for role, texts in halves.items():
        data = write(tmp_path / f"{role}.jsonl", [{"text": text} for text in texts])
        options = {f"model.scratch.{key}": size for key, size in SIZES.items()} | {"training.steps": 60}
        if role == "teacher":
            options["model.scratch.tokenizer"] = tmp_path / "student"
        execute(
            sft_job(configs.load(SFTRun, [f"recipe:{recipe}/{role}"], overrides(role, data, **options))), console=QUIET
        )
    data = write(tmp_path / "prompts.jsonl", [{"prompt": word} for word in ("the", "a", "the cat", "a dog")])
    options = {
        "model.name": tmp_path / "student",
        "reward.teachers": f"[{tmp_path / 'teacher'}]",
        "rollout.max_new_tokens": 12,
        "optim.learning_rate": 2e-3,
        "ppo.lam": lam,
        "training.steps": 15,
    }
    run = execute(ppo_job(configs.load(PPORun, [f"recipe:{recipe}"], overrides("ppo", data, **options))), console=QUIET)
    scores = [row["score/teacher"] for row in Run.open(run.path).metrics()]
    assert sum(scores[-3:]) / 3 > sum(scores[:3]) / 3 + 0.3
