"""A reward model that learns from ratings: R is the mean of what people gave."""

import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from proxtune import config as configs
from proxtune.algorithms.reward_model import (
    RATINGS,
    RewardModelConfig,
    RewardTrainer,
    normalise,
    rating_scale,
    standardise,
)
from proxtune.data.template import RatedExample
from proxtune.errors import DataError
from proxtune.evaluation.run import rating_fit
from proxtune.models.heads import RewardModel, ScalarHead
from proxtune.models.peft import TuningConfig, tune
from proxtune.models.score import answer_rewards
from proxtune.objectives import rating_loss
from proxtune.training.optim import OptimConfig
from proxtune.workflows.evaluate import evaluate_run
from proxtune.workflows.jobs import Job, reward_job
from proxtune.workflows.schemas import RewardRun
from proxtune.workflows.terminal import terminal
from proxtune.workflows.train import execute
from tests.tiny import tiny_model

A, EOS = 2, 1


def rated(count: int = 24) -> list[RatedExample]:
    """Answers that end in the letter a are rated 8, others 3."""
    kinds = [((A, 8.0) if i % 2 else (20, 3.0)) for i in range(count)]
    return [RatedExample([5 + i % 7], [10 + i % 5, last, EOS], rating, "") for i, (last, rating) in enumerate(kinds)]


def model() -> RewardModel:
    lm = tune(tiny_model(), TuningConfig(kind="full"))
    return RewardModel(lm, ScalarHead(32, zero=False, generator=torch.Generator().manual_seed(2)), max_length=64)


def test_the_loss_is_half_the_squared_distance() -> None:
    loss, stats = rating_loss(torch.tensor([1.0, -2.0]), torch.tensor([0.0, 1.0]))
    assert loss.item() == pytest.approx((0.5 * 1 + 0.5 * 9) / 2)
    assert stats["error"].item() == pytest.approx((1 + 3) / 2)


def test_ratings_are_learnt_with_mean_0_and_deviation_1() -> None:
    mean, deviation = rating_scale(rated())
    assert (mean, deviation) == (5.5, 2.5)
    assert {example.rating for example in standardise(rated(), mean, deviation)} == {1.0, -1.0}


def test_equal_ratings_teach_nothing() -> None:
    with pytest.raises(DataError, match="all 2 ratings are 8: there is nothing to learn from them"):
        rating_scale([e for e in rated(4) if e.rating == 8])


def test_micro_batches_change_no_result() -> None:
    examples = standardise(rated(6), 5.5, 2.5)
    whole, parts = (
        RewardTrainer(model(), RewardModelConfig(microbatch_size=size), judgements=RATINGS) for size in (None, 4)
    )
    one, two = whole.step(examples), parts.step(examples)
    assert one["loss"] == pytest.approx(two["loss"])
    assert one["error"] == pytest.approx(two["error"])
    assert one["gradient/model"] == pytest.approx(two["gradient/model"], rel=1e-4)
    assert one["tokens"] == 6 * 4


def test_what_people_liked_scores_higher() -> None:
    learner, examples = model(), standardise(rated(), 5.5, 2.5)
    trainer = RewardTrainer(learner, judgements=RATINGS, optim=OptimConfig(learning_rate=3e-3, warmup=0))
    losses = [trainer.step(examples)["loss"] for _ in range(40)]
    assert losses[-1] < 0.1 * losses[0]
    figures = rating_fit(learner, examples)
    assert figures["eval/correlation"] > 0.95
    normalise(learner, examples, judgements=RATINGS)
    scores = answer_rewards(learner, examples)
    assert scores.mean().item() == pytest.approx(0, abs=1e-4)
    assert scores.std(unbiased=False).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.slow
def test_rated_rows_become_a_reward_model_by_command(tmp_path: Path) -> None:
    kinds = [(" grand", [9, 7, 9]), (" bad", [8, 7, 0])]
    rows = [
        {"prompt": f"chat {i} about films", "response": kinds[i % 2][0], "scores": kinds[i % 2][1]} for i in range(60)
    ]
    (tmp_path / "rated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = [
        "model.name=scratch:transformer",
        "model.scratch={vocab_size: 300, layers: 2, hidden: 32, heads: 2, context: 64}",
        "tuning.kind=full",
        "optim.learning_rate=3e-3",
        "training={steps: 25, save_every: 0}",
        f"data.train={tmp_path / 'rated.jsonl'}",
        "data.eval_fraction=0.2",
        f"runs={tmp_path}",
    ]
    job = reward_job(configs.load(RewardRun, [], options))
    assert any(note.startswith("ratings: mean") for note in job.notes)
    run = execute(job, console=Console(quiet=True))
    assert run.metrics()[-1]["eval/correlation"] > 0.9
    logged = {name: value for name, value in run.metrics()[-1].items() if name.startswith("eval/")}
    assert evaluate_run(run.path) == pytest.approx(logged, abs=1e-3)
    (tmp_path / "one.jsonl").write_text(json.dumps(rows[0]) + "\n")
    assert evaluate_run(run.path, tmp_path / "one.jsonl").keys() == {"eval/loss", "eval/error"}


def reward_of(tmp_path: Path, rows: list[dict[str, Any]], *options: str) -> Job:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [
        "model.name=scratch:transformer",
        "model.scratch={vocab_size: 300, layers: 1, hidden: 16, heads: 2, context: 64}",
        "tuning.kind=full",
        "optim={learning_rate: 1e-2, warmup: 0}",
        "training={steps: 30, eval_every: 3, save_every: 0}",
        f"data.train={tmp_path / 'rows.jsonl'}",
        "data.eval_fraction=0.3",
        f"runs={tmp_path}",
    ]
    return reward_job(configs.load(RewardRun, [], [*given, *options]))


def by_chance(count: int = 30) -> list[dict[str, Any]]:
    """Pairs of which nothing can be learnt: what is learnt by heart makes the held-out loss worse."""
    rng = random.Random(3)
    words = ["".join(rng.choices("abcdefgh", k=6)) for _ in range(3 * count)]
    return [{"prompt": words[i], "chosen": words[i + 1], "rejected": words[i + 2]} for i in range(0, 3 * count, 3)]


@pytest.mark.parametrize(("rated", "figure"), [(False, "eval/accuracy"), (True, "eval/correlation")])
def test_the_model_is_chosen_by_accuracy_or_by_correlation_and_it_is_said_before(
    rated: bool, figure: str, tmp_path: Path
) -> None:
    rows = [{"prompt": f"{i}", "response": "ab" * (i % 4 + 1), "rating": i % 4} for i in range(30)]
    job = reward_of(tmp_path, rows if rated else by_chance())
    assert job.best is not None
    assert (job.best.figure, job.best.rises) == (figure, True)
    said = f"the model will be that of the best {figure}, evaluated every 3 steps; 3 in a row without a "
    assert any(note.startswith(said) for note in job.notes)
    assert reward_of(tmp_path, by_chance(), "training.best_by=null").best is None
    assert reward_of(tmp_path, by_chance(), "data.eval_fraction=0").best is None


def test_the_best_evaluation_becomes_the_reward_model_and_worse_ones_end_the_run(tmp_path: Path) -> None:
    console = terminal(file=io.StringIO(), record=True)
    run = execute(reward_of(tmp_path, by_chance(), "training.best_by=eval/loss"), console=console)
    losses = {row["step"]: row["eval/loss"] for row in run.metrics() if "eval/loss" in row}
    best = min(losses, key=lambda step: losses[step])
    assert run.manifest()["best"] == {"figure": "eval/loss", "step": best, "value": losses[best], "since": 3}
    assert max(losses) == best + 9 < 30
    ended = f"the run ended at step {best + 9} of 30, as 3 evaluations in a row were no better"
    assert ended in console.export_text()
    accuracies = {row["step"]: row["eval/accuracy"] for row in run.metrics() if "eval/loss" in row}
    found = evaluate_run(run.path)
    assert found["eval/accuracy"] == accuracies[best] != accuracies[max(losses)]
    assert found["eval/loss"] == pytest.approx(losses[best], abs=1e-3)


def test_a_plateau_lowers_the_rate_of_a_reward_model(tmp_path: Path) -> None:
    options = ["training.best_by=eval/loss", "training.patience=null", "optim.schedule=plateau"]
    run = execute(reward_of(tmp_path, by_chance(), *options), console=Console(quiet=True))
    rates = [row["optim/learning_rate"] for row in run.metrics()]
    assert rates[0] == 1e-2
    assert rates[-1] <= 1e-2 / 4
