"""TR-3: what is not finite is found in the step in which it appears; it moves nothing, is logged, is never saved."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from proxtune.errors import CheckpointError, DivergedError, GenerationError
from proxtune.models.language_model import weight_hash
from proxtune.runs import Run
from proxtune.training.loop import TrainingConfig, fit
from tests.runs_tiny.test_resume import FULL, ppo, reward, sft

Made = tuple[Any, Any, dict[str, nn.Module]]

CASES: dict[str, Callable[[], Made]] = {
    "sft": lambda: sft(FULL),
    "reward": lambda: reward(FULL),
    "ppo": lambda: ppo(FULL, "shared"),
}


def poison_gradient(made: Made, steps: set[int]) -> None:
    """One entry of one weight's gradient is NaN in these steps (counted from 0)."""
    algorithm, _, modules = made
    weight = next(p for p in next(iter(modules.values())).parameters() if p.requires_grad and p.dim() == 2)

    def poisoned(gradient: Tensor) -> Tensor:
        if algorithm.steps not in steps:
            return gradient
        gradient = gradient.clone()
        gradient[0, 0] = math.nan
        return gradient

    weight.register_hook(poisoned)


def poison_loss(made: Made, steps: set[int]) -> None:
    """The hidden states, and so the loss, are infinite in these steps."""
    algorithm, _, modules = made
    module: Any = next(iter(modules.values()))

    def poisoned(_: nn.Module, __: Any, hidden: Tensor) -> Tensor | None:
        return hidden * math.inf if algorithm.steps in steps else None

    module.base_model.norm.register_forward_hook(poisoned)


def live(path: Path, made: Made, steps: int = 6) -> None:
    algorithm, batches, _ = made
    with Run.create(path, resume=True) as run:
        run.write_config("{}\n")
        fit(algorithm, batches, run, TrainingConfig(save_every=1), steps=steps)


def hashes(made: Made) -> list[str]:
    return [weight_hash(module) for module in made[2].values()]


@pytest.mark.parametrize("case", ["sft", "reward"])
@pytest.mark.parametrize(("poison", "figure"), [(poison_loss, "loss"), (poison_gradient, "gradient/model")])
def test_tr3_supervised_training_stops_in_that_step(
    case: str, poison: Callable[[Made, set[int]], None], figure: str, tmp_path: Path
) -> None:
    good = CASES[case]()
    live(tmp_path / "good", good, steps=3)
    made = CASES[case]()
    poison(made, {3})
    with pytest.raises(DivergedError, match=r"not finite: .*\(optimiser steps in a row: 1\); the weights were not"):
        live(tmp_path / "run", made)
    assert hashes(made) == hashes(good)
    last = Run.open(tmp_path / "run").metrics()[-1]
    assert last["step"] == 4
    assert not math.isfinite(last[figure])
    kept = sorted(folder.name for folder in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["step-000002", "step-000003"]


def test_tr3_ppo_leaves_out_an_update_and_goes_on(tmp_path: Path) -> None:
    """Two updates a step: those of step 2 are left out, which is fewer than 3 in a row."""
    made = CASES["ppo"]()
    poison_gradient(made, {1})
    live(tmp_path, made, steps=1)
    before = hashes(made)
    live(tmp_path, made, steps=2)
    assert hashes(made) == before
    live(tmp_path, made, steps=3)
    assert hashes(made) != before
    skipped = [row["gradient/skipped"] for row in Run.open(tmp_path).metrics()]
    assert skipped == [0, 1, 0]
    assert math.isnan(Run.open(tmp_path).metrics()[1]["gradient/policy"])


def test_tr3_ppo_stops_at_the_third_update_in_a_row(tmp_path: Path) -> None:
    made = CASES["ppo"]()
    poison_gradient(made, {1, 2})
    live(tmp_path, made, steps=1)
    before = hashes(made)
    with pytest.raises(DivergedError, match=r"gradient/policy nan \(optimiser steps in a row: 3\)"):
        live(tmp_path, made)
    assert hashes(made) == before
    last = Run.open(tmp_path).metrics()[-1]
    assert last["step"] == 3
    assert math.isnan(last["gradient/policy"])


def test_tr3_ppo_does_not_sample_from_logits_that_are_not_finite(tmp_path: Path) -> None:
    made = CASES["ppo"]()
    poison_loss(made, {1})
    live(tmp_path, made, steps=1)
    before = hashes(made)
    with pytest.raises(GenerationError, match=r"logits are not finite"):
        live(tmp_path, made)
    assert hashes(made) == before
    assert [row["step"] for row in Run.open(tmp_path).metrics()] == [1]


def test_tr3_weights_that_are_not_finite_get_no_checkpoint(tmp_path: Path) -> None:
    made = CASES["sft"]()
    live(tmp_path, made, steps=1)

    def broken() -> None:
        with torch.no_grad():
            next(p for p in made[2]["model"].parameters() if p.requires_grad).view(-1)[0] = math.inf

    apply = made[0].optimizer.apply
    made[0].optimizer.apply = lambda figures: (apply(figures), broken())[0]
    with pytest.raises(CheckpointError, match=r"state\.algorithm\.model\..* holds a number that is not finite"):
        live(tmp_path, made)
    assert [folder.name for folder in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]
