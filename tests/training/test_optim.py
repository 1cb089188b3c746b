"""One optimiser step: the rate, the clip, and what is refused."""

import json
import math
from typing import Any

import pytest
import torch
from torch import nn

from proxtune.errors import DivergedError
from proxtune.training import checkpoint
from proxtune.training.optim import OptimConfig, Optimizer, schedule_factor


def weights(*sizes: int) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(size, generator=generator)) for size in sizes]


def descend(optimizer: Optimizer, parameters: list[nn.Parameter], step: int) -> dict[str, float]:
    """One step down ½·Σ(w − step)²."""
    optimizer.begin(step)
    sum(((w - step) ** 2).sum() / 2 for w in parameters).backward()  # type: ignore[union-attr]
    return optimizer.apply()


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        # of 10 steps 2 warm up (to 1/2, 2/2), then 8 go from the peak towards 0
        ("linear", 0.2, [1 / 2, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        ("linear", 0.0, [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]),
        ("constant", 0.2, [1 / 2, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        # (1 + cos(π k/8)) / 2
        ("cosine", 0.2, [1 / 2, 1, 1, 0.961940, 0.853553, 0.691342, 0.5, 0.308658, 0.146447, 0.038060]),
        # 0.11 · 10 rounds up to 2
        ("constant", 0.11, [1 / 2, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_the_schedule_has_these_values(schedule: Any, warmup: float, expected: list[float]) -> None:
    config = OptimConfig(schedule=schedule, warmup=warmup)
    assert [schedule_factor(step, 10, config) for step in range(10)] == pytest.approx(expected, abs=1e-6)


def test_a_run_of_one_step_takes_it_at_the_peak() -> None:
    assert schedule_factor(0, 1, OptimConfig()) == 1


def test_each_group_has_its_own_peak_and_they_fall_together() -> None:
    policy, critic = weights(2, 2)
    config = OptimConfig(learning_rate=0.1, warmup=0)
    optimizer = Optimizer({"policy": [policy], "critic": [critic]}, config, total=10, rates={"critic": 0.5})
    rates = []
    for step in (0, 5, 9, 12):
        optimizer.begin(step)
        rates.append([group["lr"] for group in optimizer.adam.param_groups])
    assert rates == [pytest.approx(row) for row in ([0.1, 0.5], [0.05, 0.25], [0.01, 0.05], [0.01, 0.05])]
    assert optimizer.learning_rate == pytest.approx(0.01)


def test_without_a_total_the_rate_is_constant() -> None:
    optimizer = Optimizer({"model": weights(2)}, OptimConfig(learning_rate=0.1))
    for step in (0, 1_000_000):
        optimizer.begin(step)
        assert optimizer.learning_rate == 0.1


def test_a_group_without_weights_is_left_out() -> None:
    optimizer = Optimizer({"policy": weights(2), "critic": []}, OptimConfig())
    assert list(optimizer.groups) == ["policy"]


def test_a_step_is_adams() -> None:
    # Adam's first step is the rate times g / (|g| + ε), whatever the size of g
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = Optimizer({"model": [weight]}, OptimConfig(learning_rate=0.1, eps=1e-8, max_grad_norm=100))
    weight.grad = torch.tensor([3.0, -0.5])
    optimizer.apply()
    torch.testing.assert_close(weight.detach(), torch.tensor([0.9, -1.9]))


def test_weight_decay_is_decoupled_from_the_gradient() -> None:
    weight = nn.Parameter(torch.tensor([2.0]))
    optimizer = Optimizer({"model": [weight]}, OptimConfig(learning_rate=0.1, weight_decay=0.5))
    weight.grad = torch.zeros(1)
    optimizer.apply()
    torch.testing.assert_close(weight.detach(), torch.tensor([2.0 * (1 - 0.1 * 0.5)]))


def test_a_gradient_is_forgotten_once_it_is_applied() -> None:
    weight = nn.Parameter(torch.ones(2))
    optimizer = Optimizer({"model": [weight]}, OptimConfig())
    weight.grad = torch.ones(2)
    optimizer.apply()
    assert weight.grad is None


def test_each_group_is_clipped_to_the_norm_by_itself_and_its_norm_before_is_told() -> None:
    small, large = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    optimizer = Optimizer({"small": [small], "large": [large]}, OptimConfig(max_grad_norm=1.0, beta1=0.0))
    small.grad, large.grad = torch.tensor([0.3, 0.4]), torch.tensor([30.0, 40.0])
    norms = optimizer.apply()
    assert norms == pytest.approx({"gradient/small": 0.5, "gradient/large": 50.0, "gradient/skipped": 0.0})
    first_moments = [optimizer.adam.state[weight]["exp_avg"] for weight in (small, large)]
    torch.testing.assert_close(first_moments[0], torch.tensor([0.3, 0.4]))
    torch.testing.assert_close(first_moments[1], torch.tensor([0.6, 0.8]))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_tr3_a_gradient_that_is_not_finite_moves_nothing(bad: float) -> None:
    policy, critic = weights(3, 3)
    optimizer = Optimizer({"policy": [policy], "critic": [critic]}, OptimConfig())
    descend(optimizer, [policy, critic], 0)
    before, state = (policy.detach().clone(), critic.detach().clone()), json.dumps(optimizer.state(), default=str)
    policy.grad, critic.grad = torch.ones(3), torch.tensor([0.0, bad, 0.0])
    norms = optimizer.apply()
    assert norms["gradient/skipped"] == 1
    assert not math.isfinite(norms["gradient/critic"])
    assert torch.equal(policy, before[0])
    assert torch.equal(critic, before[1])
    assert policy.grad is None
    assert json.dumps(optimizer.state(), default=str) == state.replace('"skipped_in_a_row": 0', '"skipped_in_a_row": 1')
    assert descend(optimizer, [policy, critic], 1)["gradient/skipped"] == 0


def test_tr3_the_third_such_step_in_a_row_stops_the_run() -> None:
    (weight,) = weights(1)
    optimizer = Optimizer({"model": [weight]}, OptimConfig())

    def broken_step() -> None:
        weight.grad = torch.tensor([torch.nan])
        optimizer.apply()

    broken_step()
    broken_step()
    descend(optimizer, [weight], 0)  # a good one begins the count anew
    broken_step()
    broken_step()
    before = weight.detach().clone()
    with pytest.raises(
        DivergedError, match=r"not finite: gradient/model nan .*in a row: 3.*Lower optim\.lear"
    ) as caught:
        broken_step()
    assert caught.value.figures["gradient/skipped"] == 1
    assert torch.equal(weight, before)


@pytest.mark.parametrize("name", ["loss", "value/loss"])
def test_tr3_a_loss_that_is_not_finite_moves_nothing_though_its_gradient_is(name: str) -> None:
    (weight,) = weights(2)
    optimizer = Optimizer({"model": [weight]}, OptimConfig(), patience=1)
    before = weight.detach().clone()
    weight.grad = torch.ones(2)
    with pytest.raises(DivergedError, match=rf"not finite: {name} inf \(optimiser steps in a row: 1\)") as caught:
        optimizer.apply({name: math.inf, "ratio": 1.0})
    assert torch.equal(weight, before)
    assert caught.value.figures == {
        name: math.inf, "ratio": 1.0, "gradient/model": pytest.approx(2**0.5), "gradient/skipped": 1.0
    }  # fmt: skip


def test_figures_that_are_no_loss_may_be_anything() -> None:
    (weight,) = weights(2)
    weight.grad = torch.ones(2)
    told = Optimizer({"model": [weight]}, OptimConfig()).apply({"explained_variance": -math.inf, "loss": 1.0})
    assert told["gradient/skipped"] == 0
    assert told["explained_variance"] == -math.inf


def test_a_weight_without_a_gradient_stays() -> None:
    moved, still = weights(2, 2)
    optimizer = Optimizer({"moved": [moved], "still": [still]}, OptimConfig(weight_decay=0.1))
    before = still.detach().clone()
    descend(optimizer, [moved], 0)
    assert torch.equal(still, before)


def test_an_optimiser_goes_on_bit_for_bit_from_a_checkpoint(tmp_path: Any) -> None:
    config = OptimConfig(learning_rate=0.3, weight_decay=0.01)
    whole = weights(5, 3)
    optimizer = Optimizer({"a": whole[:1], "b": whole[1:]}, config, total=6)
    for step in range(3):
        descend(optimizer, whole, step)
    whole[0].grad = torch.full((5,), torch.nan)
    optimizer.apply()
    folder = checkpoint.save(tmp_path, 3, {"optimizer": optimizer.state(), "weights": [w.detach() for w in whole]})
    _, state = checkpoint.load(folder)
    resumed = [nn.Parameter(w) for w in state["weights"]]
    other = Optimizer({"a": resumed[:1], "b": resumed[1:]}, config, total=6)
    other.load_state(state["optimizer"])
    assert other.skipped_in_a_row == 1
    for step in range(3, 6):
        assert descend(optimizer, whole, step) == descend(other, resumed, step)
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_an_optimiser_that_has_not_stepped_has_a_state_too() -> None:
    optimizer = Optimizer({"model": weights(2)}, OptimConfig())
    fresh = Optimizer({"model": weights(2)}, OptimConfig())
    fresh.load_state(optimizer.state())
    assert fresh.state() == {"moments": {}, "skipped_in_a_row": 0}
