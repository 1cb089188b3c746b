"""Rank moves to the layers that make most of it, within its budget, and a resumed run moves it the same."""

import math
from pathlib import Path

import pytest
import torch

from proxtune.algorithms.sft import SFT, SFTConfig
from proxtune.data.template import Example
from proxtune.errors import ModelError
from proxtune.models.adalora import AdaLora
from proxtune.models.language_model import LanguageModel, weight_hash
from proxtune.models.peft import TuningConfig, tune
from proxtune.training import checkpoint
from proxtune.training.optim import OptimConfig
from tests.tiny import ADAPTABLE, tiny_model

pytestmark = pytest.mark.slow  # together they take longer than `make check` has

ADALORA = TuningConfig(kind="adalora", rank=2, alpha=4)
EXAMPLES = [Example([5, 6], [7, 8, 1], "", truncated=False), Example([9], [10, 11, 12], "", truncated=False)]


def trainer(steps: int, *, family: str = "llama", microbatch: int | None = None) -> SFT:
    model = tune(tiny_model(family=family), ADALORA)
    config = SFTConfig(batch_size=2, microbatch_size=microbatch)
    return SFT(model, config, optim=OptimConfig(learning_rate=1e-2), total_steps=steps)


def singular_values(model: LanguageModel) -> dict[str, torch.Tensor]:
    return {name: p for name, p in model.trained().items() if "lora_E" in name}


def ranks(model: LanguageModel) -> list[int]:
    return [int(p.count_nonzero()) for p in singular_values(model).values()]


def adapter(model: LanguageModel) -> AdaLora:
    assert isinstance(model.adapter, AdaLora)
    return model.adapter


@pytest.mark.parametrize("steps", [2, 3, 12])
@pytest.mark.parametrize("family", ADAPTABLE)
def test_a_run_of_any_length_ends_with_its_budget_and_ranks_that_differ(family: str, steps: int) -> None:
    sft = trainer(steps, family=family)
    layers = len(singular_values(sft.model))
    for _ in range(steps):
        sft.step(EXAMPLES)
    found = ranks(sft.model)
    assert sum(found) == 2 * layers
    assert len(set(found)) > 1
    assert max(found) <= 3


def test_rank_falls_between_the_first_tenth_and_the_last_third() -> None:
    sft, budgets = trainer(30), list[int]()
    for _ in range(30):
        sft.step(EXAMPLES)
        budgets.append(sum(ranks(sft.model)))
    assert budgets[:4] == [42] * 4  # 14 layers of rank 3, of which no entry stays 0
    assert budgets[20:] == [28] * 10
    assert sorted(budgets, reverse=True) == budgets
    # 14 · (1 − (10 − 3) / (20 − 3))³ + 28 = 30.85, and whole
    assert budgets[10] == 30


def test_once_the_budget_is_met_the_places_stay() -> None:
    sft = trainer(12)
    places = []
    for _ in range(12):
        sft.step(EXAMPLES)
        places.append([(p != 0).tolist() for p in singular_values(sft.model).values()])
    assert places[4] != places[8] == places[9] == places[11]


def test_what_counts_is_the_weight_times_its_gradient() -> None:
    model = tune(tiny_model(), ADALORA)
    optimizer = torch.optim.SGD(model.trained().values(), lr=0.1)
    model.follow(optimizer, 10)
    name, weight = next(iter(singular_values(model).items()))
    weight.grad = torch.tensor([[1.0], [-2.0], [0.0]])
    for other in model.trained().values():
        other.grad = torch.zeros_like(other) if other.grad is None else other.grad
    optimizer.step()
    # E = −0.1 · gradient, |E · gradient| = (0.1, 0.4, 0), and 0.15 of it begins the mean
    torch.testing.assert_close(adapter(model).state()["sensitivity"][name], torch.tensor([[0.015], [0.06], [0.0]]))


def test_the_penalty_is_the_distance_from_orthonormal_vectors() -> None:
    model = tune(tiny_model(), ADALORA)
    sides = [p for name, p in model.trained().items() if "lora_E" not in name]
    with torch.no_grad():
        for p in sides:
            p.zero_()
    assert adapter(model).penalty().item() == pytest.approx(0.5 * math.sqrt(3))  # ½ · ‖I₃‖
    with torch.no_grad():
        for p in sides:
            p.copy_(torch.eye(*p.shape))
    assert adapter(model).penalty().item() == 0


@pytest.mark.parametrize("microbatch", [None, 1])
def test_the_penalty_pulls_once_a_step_however_the_batch_is_cut(microbatch: int | None) -> None:
    sft = trainer(10, microbatch=microbatch)
    before = {name: p.detach().clone() for name, p in sft.model.trained().items()}
    seen = dict[str, torch.Tensor]()

    def note(*_: object) -> None:
        seen.update({name: p.grad.clone() for name, p in sft.model.trained().items() if p.grad is not None})

    sft.optimizer.config = sft.optimizer.config.model_copy(update={"max_grad_norm": 1e9})
    sft.optimizer.adam.register_step_pre_hook(note)
    sft.step(EXAMPLES)
    for name, p in before.items():
        if "lora_A" in name:  # of no influence on the likelihood while λ is 0
            gram = p @ p.T - torch.eye(3)
            torch.testing.assert_close(seen[name], 0.5 / 28 * 2 * gram @ p / gram.norm(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("at", [2, 5, 10])
def test_a_resumed_run_ends_in_the_same_bits(at: int, tmp_path: Path) -> None:
    whole = trainer(12)
    for step in range(12):
        if step == at:
            checkpoint.save(tmp_path, at, whole.state())
        whole.step(EXAMPLES)
    resumed = trainer(12)
    resumed.load_state(checkpoint.load(tmp_path / f"step-{at:06d}")[1])
    for _ in range(at, 12):
        resumed.step(EXAMPLES)
    assert weight_hash(resumed.model.module) == weight_hash(whole.model.module)
    assert adapter(resumed.model).state()["ranks"] == adapter(whole.model).state()["ranks"]


@pytest.mark.parametrize("steps", [0, 1])
def test_a_run_too_short_to_learn_and_move_is_refused(steps: int) -> None:
    with pytest.raises(ModelError, match=rf"this one has {steps} .*expected at least 2.*tuning\.kind=lora"):
        trainer(steps)
