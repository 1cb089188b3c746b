"""A dry run shows what a run would do and cost, and leaves nothing behind; every recipe passes one."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from proxtune import config as configs
from proxtune.config import recipes
from proxtune.rewards.base import FunctionReward
from proxtune.runs import Run
from proxtune.training.loop import fit
from proxtune.training.optim import OptimConfig, Optimizer
from proxtune.workflows import machine, memory
from proxtune.workflows.dry_run import DryRun, dry_run
from proxtune.workflows.jobs import Job, ppo_job, reward_job, sft_job
from proxtune.workflows.probe import probe
from proxtune.workflows.schemas import PPORun, RewardRun, SFTRun
from proxtune.workflows.shapes import Shape, language_model, upcoming
from proxtune.workflows.terminal import terminal
from tests.labelled import DATA, write
from tests.runs_tiny.lives import brevity, job, write_data

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
TINY = [
    "model.name=scratch:transformer",
    "model.scratch={vocab_size: 300, layers: 2, hidden: 32, heads: 2, context: 512, tokenizer: null}",
    "tuning.kind=full",
    "tuning.top_layers=null",
    "data.format=auto",
    "data.eval=null",
    "data.eval_fraction=0.1",
    "training.steps=4",
]
KINDS = {"ppo": "prompts", "reward_model": "pairs", "sft": "answers"}  # the section of an algorithm -> its example
COMMANDS = ("sft", "reward", "ppo")


def shown(job: Job) -> tuple[str, DryRun]:
    page = io.StringIO()
    result = dry_run(job, terminal(file=page, width=150))
    return page.getvalue(), result


def tried(command: str, folder: Path) -> tuple[str, DryRun]:
    write_data(folder)
    return shown(job(command, folder, "run"))


def recipe_job(recipe: str, folder: Path) -> Job:
    """The job of a recipe on the examples of the docs, with a tiny model and a function as the reward."""
    base = recipe.partition("/")[0].replace("task-models", "sentiment")  # its files are given after a task's recipe
    text = recipes()[recipe].read_text(encoding="utf-8")
    whole = recipes()[base].read_text(encoding="utf-8")
    task = re.search(r"^task:\n  kind: (\w+)", whole, re.MULTILINE)
    if task is not None and task[1] in DATA:  # its other files say what another model needs beside the recipe itself
        data = write(task[1], folder.parent / f"{task[1]}.jsonl")
        files = [f"recipe:{base}"] if recipe == base else [f"recipe:{base}", f"recipe:{recipe}"]
        return sft_job(configs.load(SFTRun, files, [*TINY, "data.columns={}", f"data.train={data}", f"runs={folder}"]))
    section = next(name for name in KINDS if re.search(rf"^{name}:", text, re.MULTILINE))
    overrides = [*TINY, f"data.train={EXAMPLES / KINDS[section]}.jsonl", f"runs={folder}"]
    if section == "sft":
        return sft_job(configs.load(SFTRun, [f"recipe:{recipe}"], overrides))
    if section == "reward_model":
        return reward_job(configs.load(RewardRun, [f"recipe:{recipe}"], overrides))
    overrides += ["reward.models=[]", "reward.teachers=[]", "reward.judges=[]", "rollout.max_new_tokens=4"]
    overrides += ["ppo.batch_size=8", "ppo.minibatch_size=8"]
    return ppo_job(configs.load(PPORun, [f"recipe:{recipe}"], overrides), [(FunctionReward(brevity, "b"), 1.0)])


@pytest.mark.parametrize("command", COMMANDS)
def test_it_leaves_nothing_behind(command: str, tmp_path: Path) -> None:
    write_data(tmp_path)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    shown(job(command, tmp_path, "run"))
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


@pytest.mark.slow
@pytest.mark.parametrize("recipe", sorted(set(recipes()) - {"rlhf"}))
def test_every_recipe_passes_a_dry_run(recipe: str, tmp_path: Path) -> None:
    page, result = shown(recipe_job(recipe, tmp_path))
    assert "memory, GiB" in page
    assert result.probe is not None
    assert list(tmp_path.iterdir()) == []


def test_the_data_the_config_and_the_first_rows_are_shown(tmp_path: Path) -> None:
    page, _ = tried("sft", tmp_path)
    assert "read 80 = kept 80" in page
    assert "learning_rate: 0.003" in page
    assert "first batch, [trained] in brackets" in page
    assert re.search(r"^[a-z<|>][^\[\n]*\[ [a-z ]+<\|eos\|>\]", page, re.MULTILINE)  # given[ trained<|eos|>]


def test_the_answers_of_the_first_step_are_shown_with_their_scores(tmp_path: Path) -> None:
    write_data(tmp_path)
    page, result = shown(job("ppo", tmp_path, "run"))
    assert "sampled in the first step" in page
    assert result.probe is not None
    assert f"{result.probe.samples[0]['score']:.3g}" in page


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_its_steps_are_the_first_steps_of_the_run(command: str, tmp_path: Path) -> None:
    write_data(tmp_path)
    measured = probe(job(command, tmp_path, "run"))
    real = job(command, tmp_path, "run")
    with Run.create(tmp_path / "run", resume=False) as run:
        fit(real.algorithm, real.batches, run, real.config.training, steps=3, seed=real.config.seed)
    logged = [{k: v for k, v in row.items() if not k.startswith("time/") and k != "step"} for row in run.metrics()]
    assert measured.metrics == logged


def test_time_is_guessed_from_the_second_and_third_step(tmp_path: Path) -> None:
    write_data(tmp_path)
    ticks = iter([0.0, 100.0, 100.0, 102.0, 102.0, 104.0, *([104.0] * 100)])  # steps of 100, 2 and 2 seconds
    page = io.StringIO()
    result = dry_run(job("sft", tmp_path, "run"), terminal(file=page, width=150), clock=lambda: next(ticks))
    [steps] = [part for part in result.time if part.name == "steps"]
    # 12 steps of 2 s, and what the first took longer; rows differ in length, so work does by a tenth at most
    assert 12 * 2 * 0.9 + 98 <= steps.seconds[1] <= 12 * 2 * 1.1 + 98.5
    assert steps.seconds[0] < steps.seconds[1] < steps.seconds[2]


def test_a_run_that_does_not_fit_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available", lambda device: 2**20)
    page, result = tried("sft", tmp_path)
    assert "will not fit" in page
    assert result.probe is None


def test_a_disk_that_is_too_small_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_disk", lambda folder: 1000)
    page, _ = tried("sft", tmp_path)
    assert "will not fit on the disk" in page


def test_adam_and_gradients_are_three_times_the_trained_weights(tmp_path: Path) -> None:
    write_data(tmp_path)
    made = job("reward", tmp_path, "run")
    terms = {term.name: term.sizes for term in memory.estimate(made).terms}
    head, trained = 4 * 33, 4 * sum(p.numel() for p in language_model(made).trained().values())
    assert terms["gradients"] == (trained + head,) * 3
    assert terms["Adam's moments"] == (2 * (trained + head),) * 3
    assert memory.checkpoint_bytes(made) == 3 * (trained + head)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "Adam's moments"),
        ({"name": "sgd"}, "SGD's momentum"),
        ({"name": "sgd", "momentum": 0.0}, "SGD's momentum"),
        ({"name": "adafactor"}, "Adafactor's moments"),
    ],
    ids=str,
)
def test_what_the_optimiser_keeps_is_foretold_to_the_byte(options: dict[str, Any], name: str) -> None:
    weights = [nn.Parameter(torch.randn(size)) for size in ((8, 5), (3, 4, 6), (7,))]
    config = OptimConfig(**options)
    optimizer = Optimizer({"model": weights}, config)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.apply()
    kept = [x for moment in optimizer.state()["moments"].values() for x in moment.values() if x is not None]
    told, _, size = memory.moments(weights, config)
    assert (told, size) == (name, sum(x.nbytes for x in kept if x.ndim))  # without the counts of steps


def test_the_estimate_and_the_checkpoint_have_what_the_optimiser_keeps(tmp_path: Path) -> None:
    write_data(tmp_path)
    made = job("reward", tmp_path, "run")
    made.config = made.config.model_copy(update={"optim": OptimConfig(name="sgd", momentum=0.0)})
    terms = {term.name: term.sizes[1] for term in memory.estimate(made).terms}
    assert {name for name in terms if "moment" in name} == set()
    assert memory.checkpoint_bytes(made) == terms["gradients"]


def test_logits_are_counted_on_response_tokens_alone(tmp_path: Path) -> None:
    write_data(tmp_path)
    made = job("sft", tmp_path, "run")
    [logits] = [term for term in memory.estimate(made).terms if term.name == "logits"]
    vocabulary = language_model(made).module.config.vocab_size
    batches = [next(made.batches) for _ in range(made.steps)]
    most = max(sum(len(e.response_ids) for e in batch[i : i + 4]) for batch in batches for i in (0, 4))
    assert logits.sizes[1] <= memory.LOGITS * 4 * max(64, most) * vocabulary
    assert logits.sizes[1] >= 0.8 * memory.LOGITS * 4 * most * vocabulary  # the micro-batch has most tokens of both


def test_frozen_lower_blocks_keep_no_activations(tmp_path: Path) -> None:
    write_data(tmp_path)
    made = job("sft", tmp_path, "run")
    model, shape = language_model(made), Shape(4, 16, 20, 64)
    whole, _ = memory.kept_by_autograd(made, model, shape)
    for name, weight in model.module.named_parameters():
        weight.requires_grad_("layers.1" in name)
    half, _ = memory.kept_by_autograd(made, model, shape)
    # one block of two; embedding and last norm are the rest, and a frozen weight's input is not kept either
    assert 0.35 * whole < half < 0.6 * whole


def test_the_peak_is_the_largest_phase_and_never_a_sum_over_phases(tmp_path: Path) -> None:
    terms = [
        memory.Term("always", "", (1, 2, 3), ("rollout", "update")),
        memory.Term("rollout", "", (9, 1, 1), ("rollout",)),
        memory.Term("update", "", (4, 5, 6), ("update",)),
    ]
    estimated = memory.Estimate(terms)
    assert estimated.phase == "update"
    assert estimated.peak == (10, 7, 9)


def test_the_batches_that_were_looked_at_are_still_the_next_ones(tmp_path: Path) -> None:
    write_data(tmp_path)
    made = job("sft", tmp_path, "run")
    seen = upcoming(made, 3)
    assert [next(made.batches) for _ in range(3)] == seen
