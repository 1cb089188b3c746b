"""One optimiser step: the rate, the clip, and what is refused."""

import json
import math
from typing import Any

import pytest
import torch
from torch import nn

from proxtune.config import load
from proxtune.errors import ConfigError, DivergedError
from proxtune.training import checkpoint
from proxtune.training.optim import OptimConfig, Optimizer, schedule_factor
from proxtune.workflows.schemas import PPORun, RewardRun, RunConfig, SFTRun


def weights(*sizes: int) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(size, generator=generator)) for size in sizes]


OPTIMISERS: dict[str, dict[str, Any]] = {
    "adamw": {"name": "adamw"},
    "sgd": {"name": "sgd"},
    "sgd without momentum": {"name": "sgd", "momentum": 0.0},
    "adafactor": {"name": "adafactor"},
}


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
        ("plateau", 0.2, [1 / 2, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
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


@pytest.mark.parametrize("options", OPTIMISERS.values(), ids=OPTIMISERS)
@pytest.mark.parametrize("schedule", ["linear", "plateau"])
def test_an_optimiser_goes_on_bit_for_bit_from_a_checkpoint(
    options: dict[str, Any], schedule: Any, tmp_path: Any
) -> None:
    config = OptimConfig(learning_rate=0.3, weight_decay=0.01, schedule=schedule, plateau_patience=2, **options)
    whole = [nn.Parameter(torch.randn(3, 4)), *weights(5, 3)]
    optimizer = made(whole, config)
    for step in range(3):
        descend(optimizer, whole, step)
        optimizer.evaluated(better=False)  # the rate falls after the second; the third is counted
    whole[1].grad = torch.full((5,), torch.nan)
    optimizer.apply()
    folder = checkpoint.save(tmp_path, 3, {"optimizer": optimizer.state(), "weights": [w.detach() for w in whole]})
    _, state = checkpoint.load(folder)
    resumed = [nn.Parameter(w) for w in state["weights"]]
    other = made(resumed, config)
    other.load_state(state["optimizer"])
    assert other.skipped_in_a_row == 1
    for step in range(3, 6):
        assert descend(optimizer, whole, step) == descend(other, resumed, step)
        assert optimizer.learning_rate == other.learning_rate
        for each in (optimizer, other):
            each.evaluated(better=False)
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


def made(given: list[nn.Parameter], config: OptimConfig) -> Optimizer:
    return Optimizer({"a": given[:1], "b": given[1:]}, config, total=6, factors={given[2]: 0.5})


def test_an_optimiser_that_has_not_stepped_has_a_state_too() -> None:
    optimizer = Optimizer({"model": weights(2)}, OptimConfig())
    fresh = Optimizer({"model": weights(2)}, OptimConfig())
    fresh.load_state(optimizer.state())
    assert fresh.state() == {"moments": {}, "skipped_in_a_row": 0}


def test_a_step_of_sgd_is_the_gradient_and_its_momentum() -> None:
    # v = g, then v = 0.5 · v + g: the moves are 0.1 · 3 and 0.1 · (1.5 + 3); the last, without a gradient, 0.1 · 2.25
    weight = nn.Parameter(torch.tensor([1.0]))
    config = OptimConfig(name="sgd", learning_rate=0.1, momentum=0.5, max_grad_norm=100)
    optimizer = Optimizer({"model": [weight]}, config)
    for gradient, expected in ((3.0, 0.7), (3.0, 0.25), (0.0, 0.025)):
        weight.grad = torch.tensor([gradient])
        optimizer.apply()
        torch.testing.assert_close(weight.detach(), torch.tensor([expected]))


def test_sgd_adds_the_decay_to_the_gradient() -> None:
    weight = nn.Parameter(torch.tensor([2.0]))
    config = OptimConfig(name="sgd", learning_rate=0.1, momentum=0.0, weight_decay=0.5, max_grad_norm=100)
    weight.grad = torch.tensor([3.0])
    Optimizer({"model": [weight]}, config).apply()
    torch.testing.assert_close(weight.detach(), torch.tensor([2.0 - 0.1 * (3.0 + 0.5 * 2.0)]))


def test_adafactor_moves_by_a_share_of_the_weights_size_and_keeps_a_row_and_a_column() -> None:
    # the first step of a matrix of one gradient is rate · rms(w) · sign(g): 0.1 · 2 here
    weight = nn.Parameter(torch.full((3, 4), 2.0))
    optimizer = Optimizer({"model": [weight]}, OptimConfig(name="adafactor", learning_rate=0.1, max_grad_norm=100))
    weight.grad = torch.full((3, 4), 0.5)
    optimizer.apply()
    torch.testing.assert_close(weight.detach(), torch.full((3, 4), 1.8))
    kept = optimizer.state()["moments"]["0"]
    assert {name: tuple(x.shape) for name, x in kept.items()} == {"step": (), "row_var": (3, 1), "col_var": (1, 4)}


@pytest.mark.parametrize("options", OPTIMISERS.values(), ids=OPTIMISERS)
def test_every_optimiser_goes_down(options: dict[str, Any]) -> None:
    given = weights(4)
    optimizer = Optimizer({"model": given}, OptimConfig(learning_rate=0.1, **options))
    before = given[0].detach().abs().sum()
    for _ in range(20):
        descend(optimizer, given, 0)
    assert given[0].detach().abs().sum() < 0.6 * before


def test_factors_split_a_group_by_rate_but_not_its_gradient_norm() -> None:
    low, high, head = weights(2, 2, 2)
    config = OptimConfig(name="sgd", momentum=0.0, learning_rate=0.1, max_grad_norm=5.0)
    groups = {"model": [low, high], "head": [head]}
    optimizer = Optimizer(groups, config, rates={"head": 1.0}, factors={low: 0.25})
    assert [group["lr"] for group in optimizer.adam.param_groups] == [0.1, 0.025, 1.0]
    assert optimizer.learning_rate == 0.1  # that of the highest
    before = [w.detach().clone() for w in (low, high, head)]
    low.grad, high.grad, head.grad = torch.tensor([6.0, 0.0]), torch.tensor([0.0, 8.0]), torch.tensor([0.0, 1.0])
    norms = optimizer.apply()
    assert norms == pytest.approx({"gradient/model": 10.0, "gradient/head": 1.0, "gradient/skipped": 0.0})
    moves = [(b - w.detach()).sum() for b, w in zip(before, (low, high, head), strict=True)]
    # halved by the norm of both: 0.025 · 3, 0.1 · 4, and the head's own 1.0 · 1
    torch.testing.assert_close(torch.stack(moves), torch.tensor([0.075, 0.4, 1.0]))


def test_factors_of_one_change_nothing() -> None:
    runs = []
    for factors in ({}, dict.fromkeys(range(2), 1.0)):
        given = weights(3, 2)
        named = {given[i]: x for i, x in factors.items()}
        optimizer = Optimizer({"model": given}, OptimConfig(weight_decay=0.1), total=4, factors=named)
        figures = [descend(optimizer, given, step) for step in range(4)]
        runs.append((figures, [w.tolist() for w in given], json.dumps(optimizer.state(), default=torch.Tensor.tolist)))
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    ("patience", "better", "expected"),
    [
        (1, [True, False, True, False, False], [1, 1, 0.5, 0.5, 0.25, 0.125]),
        (2, [False, True, False, False, False, False], [1, 1, 1, 1, 0.5, 0.5, 0.25]),
    ],
)
def test_a_plateau_lowers_the_rate_after_so_many_evaluations_in_a_row(
    patience: int, better: list[bool], expected: list[float]
) -> None:
    config = OptimConfig(learning_rate=1.0, schedule="plateau", plateau_patience=patience, warmup=0)
    optimizer = Optimizer({"model": weights(2)}, config, total=10)
    rates = []
    for step, told in enumerate([*better, True]):
        optimizer.begin(step)
        rates.append(optimizer.learning_rate)
        optimizer.evaluated(better=told)
    assert rates == expected


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_other_schedules_do_not_hear_of_evaluations(schedule: Any) -> None:
    rates = []
    for hears in (False, True):
        optimizer = Optimizer({"model": weights(2)}, OptimConfig(schedule=schedule), total=10)
        for step in range(5):
            optimizer.begin(step)
            if hears:
                optimizer.evaluated(better=False)
        rates.append((optimizer.learning_rate, optimizer.state()))
    assert rates[0] == rates[1]


PLATEAU = ["optim.schedule=plateau", "data.train=rows.jsonl", "training.eval_every=5"]


@pytest.mark.parametrize(
    ("schema", "options", "message"),
    [
        (SFTRun, ["training.eval_every=0"], r"training\.eval_every=0: .*none is measured on the way; set it above 0"),
        (SFTRun, ["training.best_by=null"], r"training\.best_by=\w+: .*; set auto"),
        (SFTRun, ["data.eval_fraction=0"], r"data\.eval: .*; give a file, or set data\.eval_fraction"),
        (RewardRun, ["training.eval_every=0"], r"training\.eval_every=0: .*; set it above 0"),
        (RewardRun, ["training.best_by=null"], r"training\.best_by=\w+: .*; set auto"),
        (
            PPORun,
            [],
            r"optim\.schedule=\"plateau\": PPO ends with its last step, .* plateau follows the best evaluation",
        ),
        (PPORun, ["training.best_by=eval/score"], r"training\.best_by=.*: PPO ends with its last .*; set null"),
        (PPORun, ["training.patience=5"], r"training\.patience=5: PPO ends .*, and no evaluation ends it; set null"),
        (
            PPORun,
            ["optim.schedule=linear", "optim.layer_decay=0.9"],
            r"optim\.layer_decay=0\.9: PPO .* one rate; set 1",
        ),
    ],
)
def test_what_nothing_would_act_on_is_refused(schema: type[RunConfig], options: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(schema, [], [*PLATEAU, *options])


@pytest.mark.parametrize("schema", [SFTRun, RewardRun])
@pytest.mark.parametrize("options", [[], ["data.eval_fraction=0", "data.eval=held_out.jsonl"]])
def test_a_plateau_is_taken_where_something_is_evaluated(schema: type[RunConfig], options: list[str]) -> None:
    assert load(schema, [], [*PLATEAU, *options]).optim.plateau_factor == 0.5


def test_ppo_takes_what_stands_in_every_config_and_what_asks_for_the_last_step() -> None:
    config = load(PPORun, [], ["data.train=rows.jsonl"])
    whole = [f"{name}={json.dumps(section)}" for name, section in config.model_dump(mode="json").items()]
    assert load(PPORun, [], whole) == config
    assert load(PPORun, [], [*whole, "training.best_by=null", "training.patience=null"]).training.patience is None
