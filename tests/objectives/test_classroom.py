"""The numbers of a first lesson on PPO, worked by hand: the same ones stand in docs/classroom.md."""

import math

import pytest
import torch

from proxtune.objectives import clipped_policy_loss, gae, kl_shaped_rewards


def clip_term(ratio: float, advantage: float, *, eps: float = 0.2) -> float:
    """min(r·A, clip(r, 1 − ε, 1 + ε)·A) of one token: the loss is its negative."""
    old = torch.tensor([[math.log(0.5)]], dtype=torch.float64)
    loss, _ = clipped_policy_loss(
        old + math.log(ratio), old, torch.tensor([[advantage]]).double(), torch.tensor([[True]]), clip=eps
    )
    return -float(loss)


def test_a_token_that_went_from_0_6_to_0_7_has_the_ratio_1_17() -> None:
    new, old = torch.tensor([[0.7]]).log(), torch.tensor([[0.6]]).log()
    _, stats = clipped_policy_loss(new, old, torch.ones(1, 1), torch.tensor([[True]]), clip=0.2)
    assert float(stats["ratio"]) == pytest.approx(0.7 / 0.6, abs=1e-6)
    assert round(float(stats["ratio"]), 2) == 1.17
    assert float(stats["clip_fraction"]) == 0  # 0.8 <= 1.17 <= 1.2


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        (1.2, 2, 2.4),  # 1.2 · 2: on the edge, not beyond
        (1.3, 2, 2.4),  # 1.3 · 2 = 2.6, clipped to 1.2 · 2: no more to gain from going further
        (0.7, 2, 1.4),  # 0.7 · 2: the smaller of 1.4 and 0.8 · 2, so the way back stays open
        (0.7, -2, -1.6),  # 0.7 · −2 = −1.4, clipped to 0.8 · −2: the smaller counts
        (1.3, -2, -2.6),  # 1.3 · −2, unclipped: what became likelier and is bad is pushed down in full
    ],
)
def test_the_clip_term_is_the_smaller_of_the_plain_and_the_clipped(
    ratio: float, advantage: float, expected: float
) -> None:
    assert clip_term(ratio, advantage) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("ratio", "advantage", "moves"), [(1.1, 2, True), (1.3, 2, False), (0.7, 2, True)])
def test_beyond_the_clip_nothing_pulls_a_good_token_further(ratio: float, advantage: float, moves: bool) -> None:
    old = torch.tensor([[math.log(0.5)]], dtype=torch.float64)
    new = (old + math.log(ratio)).requires_grad_()
    loss, _ = clipped_policy_loss(new, old, torch.tensor([[advantage]]).double(), torch.tensor([[True]]), clip=0.2)
    loss.backward()
    assert new.grad is not None
    assert bool(new.grad.abs().sum() > 0) is moves


REWARDS = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
VALUES = torch.tensor([[2.0, 4.0, 1.0]], dtype=torch.float64)
ALL = torch.ones(1, 3, dtype=torch.bool)


def test_discounted_returns_are_summed_from_the_end() -> None:
    # gamma = 0.5: G_3 = 3, G_2 = 2 + 0.5 · 3 = 3.5, G_1 = 1 + 0.5 · 3.5 = 2.75
    _, returns = gae(REWARDS, VALUES, ALL, gamma=0.5, lam=1.0)
    assert returns.tolist() == [[2.75, 3.5, 3.0]]


def test_with_lambda_1_the_advantage_is_g_minus_v() -> None:
    # G − V = 2.75 − 2, 3.5 − 4, 3 − 1
    advantages, _ = gae(REWARDS, VALUES, ALL, gamma=0.5, lam=1.0)
    assert advantages.tolist() == [[0.75, -0.5, 2.0]]


def test_with_lambda_0_the_advantage_is_one_step_ahead() -> None:
    # δ = r + 0.5 · V' − V: 1 + 2 − 2, 2 + 0.5 − 4, 3 − 1
    advantages, _ = gae(REWARDS, VALUES, ALL, gamma=0.5, lam=0.0)
    assert advantages.tolist() == [[1.0, -1.5, 2.0]]


def test_a_reward_at_the_end_reaches_the_first_token_discounted() -> None:
    # R = −4 for the whole answer of three tokens, no KL: G = 0.99² · −4, 0.99 · −4, −4
    zeros = torch.zeros(1, 3, dtype=torch.float64)
    rewards = kl_shaped_rewards(torch.tensor([-4.0]).double(), zeros, zeros, ALL, coef=0.05)
    assert rewards.tolist() == [[0.0, 0.0, -4.0]]
    _, returns = gae(rewards, zeros, ALL, gamma=0.99, lam=1.0)
    assert returns[0].tolist() == pytest.approx([-3.9204, -3.96, -4.0], abs=1e-9)
