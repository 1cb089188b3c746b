"""Credit: advantages, the KL in the reward, and the coefficients that adapt to it."""

import math
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from proxtune.objectives import gae, kl_estimate, kl_shaped_rewards, next_kl_coef, next_penalty_coef

NAN = math.nan


def row(*numbers: float) -> Tensor:
    """[1, T] float64."""
    return torch.tensor([numbers], dtype=torch.float64)


def bits(text: str) -> Tensor:
    """[1, T] bool from "1101"."""
    return torch.tensor([[letter == "1" for letter in text]])


# ---- Advantages ------------------------------------------------------------------------------------------------------

# Five actions and two gaps, tool output and padding. Reward 1 at the last action, γ = 1, λ = 0.95.
MASK = bits("1100011100")
VALUES = row(0.30, 0.35, 0.9, 0.9, 0.9, 0.50, 0.60, 0.70, 2.0, 2.0)  # what stands outside the mask is rubbish
REWARDS = row(0, 0, 0, 0, 0, 0, 0, 1, 0, 0)
# On the actions δ = .05 .15 .10 .10 .30, and from behind .300, .10 + .95 · .300 = .385, .46575, .5924625, .612839375.
OURS = [0.612839375, 0.5924625, 0.46575, 0.385, 0.3]


def dense(values: Tensor) -> list[float]:
    """The recursion over every slot, whatever the mask says; returns what it gives on the actions."""
    advantage, after, found = 0.0, 0.0, []
    for t in reversed(range(values.shape[1])):
        advantage = float(REWARDS[0, t]) + after - float(values[0, t]) + 0.95 * advantage
        after = float(values[0, t])
        found.insert(0, advantage)
    return [x for x, counted in zip(found, MASK[0].tolist(), strict=False) if counted]


def test_advantages_are_those_of_the_sequence_of_counted_tokens() -> None:
    advantages, returns = gae(REWARDS, VALUES, MASK, gamma=1.0, lam=0.95)
    assert advantages[MASK].tolist() == pytest.approx(OURS)
    assert returns[MASK].tolist() == pytest.approx([0.912839375, 0.9424625, 0.96575, 0.985, 1.0])
    assert advantages[~MASK].tolist() == [0] * 5
    assert returns[~MASK].tolist() == [0] * 5


def test_accumulators_carried_over_the_gaps_give_the_same() -> None:
    compressed, _ = gae(REWARDS[MASK][None], VALUES[MASK][None], bits("11111"), gamma=1.0, lam=0.95)
    assert compressed[0].tolist() == pytest.approx(OURS)


@pytest.mark.parametrize(
    ("values", "theirs"),
    [
        (torch.where(MASK, VALUES, 0), [0.485, 0.458, 0.466, 0.385, 0.300]),  # values zeroed in the gaps
        (VALUES[:, :8], [0.607, 0.586, 0.466, 0.385, 0.300]),  # padding trimmed, the gap counted
        (VALUES, [0.743, 0.730, 0.642, 0.570, 0.495]),  # padding and all
    ],
)
def test_other_conventions_in_use_are_not_ours(values: Tensor, theirs: list[float]) -> None:
    assert dense(values) == pytest.approx(theirs, abs=5e-4)
    assert max(abs(a - b) for a, b in zip(theirs, OURS, strict=True)) > 5e-3


def test_a_cut_answer_goes_on_with_the_value_of_its_last_state() -> None:
    advantages, _ = gae(REWARDS, VALUES, MASK, gamma=1.0, lam=0.95, bootstrap=torch.tensor([0.7]))
    # The last δ is 1 + .7 − .7 = 1; from behind 1, 1.05, 1.0975, 1.192625, 1.18299375.
    assert advantages[MASK].tolist() == pytest.approx([1.18299375, 1.192625, 1.0975, 1.05, 1.0])


def test_gamma_discounts_values_and_advantages() -> None:
    # δ₂ = 4 − 1 = 3, δ₁ = 1 + .5 · 1 − 2 = −.5, A₁ = −.5 + .5 · .8 · 3 = .7
    advantages, returns = gae(row(1, 4), row(2, 1), bits("11"), gamma=0.5, lam=0.8)
    assert_close(advantages, row(0.7, 3))
    assert_close(returns, row(2.7, 4))


def test_a_row_with_nothing_counted_has_no_advantage_even_with_a_bootstrap() -> None:
    advantages, returns = gae(row(1, NAN), row(NAN, 2), bits("00"), gamma=1.0, lam=0.95, bootstrap=torch.tensor([3.0]))
    assert advantages.tolist() == returns.tolist() == [[0, 0]]


@st.composite
def episodes(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(rewards, values, mask, bootstrap) of a few rows, with rubbish outside the mask."""
    rows, width = draw(st.integers(1, 4)), draw(st.integers(1, 7))
    numbers = st.lists(st.floats(-5, 5), min_size=width, max_size=width)
    flags = st.lists(st.booleans(), min_size=width, max_size=width)
    mask = torch.tensor([draw(flags) for _ in range(rows)])
    rewards, values = (torch.tensor([draw(numbers) for _ in range(rows)], dtype=torch.float64) for _ in range(2))
    bootstrap = torch.tensor([draw(st.floats(-5, 5)) for _ in range(rows)], dtype=torch.float64)
    return torch.where(mask, rewards, NAN), torch.where(mask, values, NAN), mask, bootstrap


@given(episodes(), st.floats(0, 1), st.floats(0, 1))
def test_advantages_are_the_discounted_sum_of_errors(
    episode: tuple[Tensor, Tensor, Tensor, Tensor], gamma: float, lam: float
) -> None:
    rewards, values, mask, bootstrap = episode
    advantages, returns = gae(rewards, values, mask, gamma=gamma, lam=lam, bootstrap=bootstrap)
    for i in range(len(mask)):
        r, v = rewards[i][mask[i]].tolist(), [*values[i][mask[i]].tolist(), float(bootstrap[i])]
        delta = [r[t] + gamma * v[t + 1] - v[t] for t in range(len(r))]
        slow = [sum((gamma * lam) ** k * x for k, x in enumerate(delta[t:])) for t in range(len(r))]
        assert advantages[i][mask[i]].tolist() == pytest.approx(slow, abs=1e-9)
        assert returns[i][mask[i]].tolist() == pytest.approx([a + x for a, x in zip(slow, v, strict=False)], abs=1e-9)
    assert not advantages[~mask].any()
    assert not returns[~mask].any()


@given(episodes(), st.floats(0, 1))
def test_lambda_1_is_monte_carlo_and_0_one_step(episode: tuple[Tensor, Tensor, Tensor, Tensor], gamma: float) -> None:
    rewards, values, mask, bootstrap = episode
    _, to_the_end = gae(rewards, values, mask, gamma=gamma, lam=1.0, bootstrap=bootstrap)
    _, one_step = gae(rewards, values, mask, gamma=gamma, lam=0.0, bootstrap=bootstrap)
    for i in range(len(mask)):
        to_come = float(bootstrap[i])
        expected = [to_come := reward + gamma * to_come for reward in reversed(rewards[i][mask[i]].tolist())]
        assert to_the_end[i][mask[i]].tolist() == pytest.approx(expected[::-1], abs=1e-9)
        after = [*values[i][mask[i]].tolist()[1:], float(bootstrap[i])]
        expected = [r + gamma * v for r, v in zip(rewards[i][mask[i]].tolist(), after, strict=False)]
        assert one_step[i][mask[i]].tolist() == pytest.approx(expected, abs=1e-9)


# ---- KL --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        ("k1", math.log(2)),
        ("k2", 0.2402265069591007),  # (ln 2)² / 2
        ("k3", 0.1931471805599453),  # ¼ / ½ − 1 + ln 2
    ],
)
def test_estimates_for_a_token_with_p_one_half_and_q_one_quarter(
    estimator: Literal["k1", "k2", "k3"], expected: float
) -> None:
    assert kl_estimate(row(0.5).log(), row(0.25).log(), estimator=estimator).item() == pytest.approx(expected)


def test_k1_is_the_default() -> None:
    assert kl_estimate(row(-1), row(-3)).item() == 2


def test_an_unknown_estimator_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'k4'; expected 'k1', 'k2' or 'k3'"):
        kl_estimate(row(-1), row(-3), estimator="k4")  # type: ignore[arg-type]


@given(st.floats(-30, 0), st.floats(-30, 0))
def test_k3_is_never_negative_and_k1_changes_sign_with_its_arguments(p: float, q: float) -> None:
    assert kl_estimate(row(p), row(q), estimator="k3").item() >= 0
    assert kl_estimate(row(p), row(q)).item() == -kl_estimate(row(q), row(p)).item()


P, Q = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
KL = 0.2748872195622465  # KL(P ‖ Q) = 0.5 ln 2.5 + 0.2 ln 0.4


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_k1_and_k3_are_unbiased(estimator: Literal["k1", "k3"]) -> None:
    assert float((P * kl_estimate(P.log(), Q.log(), estimator=estimator)).sum()) == pytest.approx(KL)


def test_the_expected_gradient_of_k2_is_that_of_the_kl() -> None:
    logits = P.log().requires_grad_()
    logp = logits.log_softmax(0)
    (exact,) = torch.autograd.grad((logp.exp() * (logp - Q.log())).sum(), logits)
    logp = logits.log_softmax(0)
    (sampled,) = torch.autograd.grad((P * kl_estimate(logp, Q.log(), estimator="k2")).sum(), logits)
    assert_close(sampled, exact)


# ---- Rewards ---------------------------------------------------------------------------------------------------------


def test_the_score_stands_on_the_last_counted_token_and_kl_costs_everywhere() -> None:
    old = torch.tensor([[-1.0, -2.0, NAN, -1.5, NAN], [-1.0, NAN, NAN, NAN, NAN], [NAN] * 5])
    ref = torch.tensor([[-1.5, -1.0, NAN, -1.5, NAN], [-4.0, NAN, NAN, NAN, NAN], [NAN] * 5])
    mask = torch.cat([bits("11010"), bits("10000"), bits("00000")])
    rewards = kl_shaped_rewards(torch.tensor([2.0, -1.0, NAN]), old, ref, mask, coef=0.1)
    # log π − log π_ref is .5, −1, –, 0 in the first row and 3 in the second; the third has no token and gets no score.
    assert_close(rewards, torch.tensor([[-0.05, 0.1, 0, 2.0, 0], [-1.3, 0, 0, 0, 0], [0.0] * 5]))


def test_no_coefficient_no_cost() -> None:
    assert kl_shaped_rewards(torch.tensor([2.0]), row(-1, -2), row(-5, -5), bits("11"), coef=0).tolist() == [[0, 2]]


def test_the_estimator_of_the_cost_can_be_chosen() -> None:
    rewards = kl_shaped_rewards(
        torch.tensor([0.0]), row(0.5).log(), row(0.25).log(), bits("1"), coef=2.0, estimator="k3"
    )
    assert rewards.item() == pytest.approx(-2 * 0.1931471805599453)


def test_what_shaping_takes_in_all_is_the_kl_of_the_sequence() -> None:
    torch.manual_seed(0)
    old, ref = -torch.rand(3, 5), -torch.rand(3, 5)
    mask, scores = torch.rand(3, 5) > 0.3, torch.tensor([1.0, 2.0, 3.0])
    rewards = kl_shaped_rewards(scores, old, ref, mask, coef=0.2)
    assert_close(rewards.sum(1), scores - 0.2 * ((old - ref) * mask).sum(1))


# ---- Coefficients ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (6.0, 0.15),  # on target
        (6.6, 0.150384),  # e = 0.1: 0.15 · (1 + 0.1 · 256 / 10000)
        (5.4, 0.149616),  # e = −0.1
        (7.2, 0.150768),  # e = 0.2, as far as it goes
        (9.0, 0.150768),
        (1e9, 0.150768),
        (4.8, 0.149232),  # e = −0.2
        (0.0, 0.149232),
        (-3.0, 0.149232),  # k1 of a sample may be negative
    ],
)
def test_the_controller_moves_towards_the_target_at_most_a_fifth_of_its_gain(kl: float, expected: float) -> None:
    assert next_kl_coef(0.15, kl, target=6.0, horizon=10_000, batch=256) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("kl", "expected"),
    [(0.0066, 0.5), (0.0067, 1.0), (0.01, 1.0), (0.0149, 1.0), (0.0151, 2.0), (0.0, 0.5), (9.0, 2.0)],
)
def test_the_penalty_doubles_or_halves_outside_a_band_around_its_target(kl: float, expected: float) -> None:
    # target / 1.5 = 0.00667 and 1.5 · target = 0.015
    assert next_penalty_coef(1.0, kl, target=0.01) == expected


@pytest.mark.parametrize(("kl", "expected"), [(1.9, 3.5), (2.0, 7.0), (4.5, 7.0), (4.6, 14.0)])
def test_the_band_includes_its_ends(kl: float, expected: float) -> None:
    assert next_penalty_coef(7.0, kl, target=3.0) == expected  # 3 / 1.5 = 2 and 3 · 1.5 = 4.5, exactly
