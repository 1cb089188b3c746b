"""How others' maths went wrong in silence. docs/known-failures.md lists all."""

import math

import pytest
import torch
from torch import Tensor

from proxtune.objectives import (
    clipped_policy_loss,
    clipped_value_loss,
    gae,
    kl_penalty_loss,
    kl_shaped_rewards,
    masked_mean,
    next_kl_coef,
    sft_loss,
    token_entropy,
    whiten,
)

NAN = math.nan


def rows(*numbers: list[float]) -> Tensor:
    """[B, T] float64."""
    return torch.tensor(numbers, dtype=torch.float64)


def bits(*rows: str) -> Tensor:
    """[B, T] bool from "110"."""
    return torch.tensor([[letter == "1" for letter in row] for row in rows])


# Two micro-batches of one step, an answer of one token and one of three. The mean of 8, 0, 0, 0 is 2; the mean of the
# micro-batches' means would be (8 + 0) / 2 = 4.
FIRST, SECOND = (rows([8, NAN, NAN]), bits("100")), (rows([0, 0, 0]), bits("111"))


def test_verl_5625_token_mean_is_over_the_whole_step() -> None:
    zero, losses = torch.zeros(1, 3, dtype=torch.float64), []
    for advantages, mask in (FIRST, SECOND):
        losses.append(clipped_policy_loss(zero, zero, advantages, mask, clip=0.2, count=4)[0].item())
    assert losses == [-2, 0]


def test_verl_7110_the_critics_mean_is_over_the_whole_step_too() -> None:
    zero, losses = torch.zeros(1, 3, dtype=torch.float64), []
    for returns, mask in (FIRST, SECOND):
        losses.append(clipped_value_loss(zero, zero, returns, mask, clip=None, count=4)[0].item())
    assert losses == [8, 0]  # ½ · 8² / 4


def test_verl_5625_so_are_the_means_of_sft_entropy_and_the_kl_penalty() -> None:
    zero = torch.zeros(1, 3, dtype=torch.float64)
    assert [sft_loss(-x, mask, count=4)[0].item() for x, mask in (FIRST, SECOND)] == [2, 0]
    assert [masked_mean(x, mask, count=4).item() for x, mask in (FIRST, SECOND)] == [2, 0]
    assert [kl_penalty_loss(zero, zero, x, mask, coef=1.0, count=4)[0].item() for x, mask in (FIRST, SECOND)] == [-2, 0]


def test_logic_rl_58_the_kl_penalty_pulls_back_and_never_pushes_away() -> None:
    # The token has become likelier (ratio 2) or less likely (½); without advantages only the penalty acts.
    for ratio, slope in ((2.0, 1.0), (0.5, -0.5)):  # d(r − 1 − log r)/d log π = r − 1
        logprobs = rows([math.log(0.25 * ratio)]).requires_grad_()
        loss, _ = kl_penalty_loss(logprobs, rows([math.log(0.25)]), rows([0]), bits("1"), coef=1.0)
        (gradient,) = torch.autograd.grad(loss, logprobs)
        assert loss.item() > 0
        assert gradient.item() == pytest.approx(slope)


def test_ragen_58_straying_from_the_reference_costs_reward() -> None:
    # log π − log π_ref = 2: the policy likes these tokens more than the reference does.
    rewards = kl_shaped_rewards(torch.tensor([0.0]), rows([-1, -1]), rows([-3, -3]), bits("11"), coef=0.5)
    assert rewards.tolist() == [[-1, -1]]


def test_miles_1827_tool_tokens_are_no_actions() -> None:
    # Two actions, three tokens of a tool, one action; γ = 1, λ = 0.5, values 0, the score 8 on the last action.
    advantages, _ = gae(rows([0, 0, 9, 9, 9, 8]), rows([0, 0, 7, 7, 7, 0]), bits("110001"), gamma=1.0, lam=0.5)
    assert advantages.tolist() == [[2, 4, 0, 0, 0, 8]]  # over the tool's tokens it would have decayed to 0.25 and 0.5


def test_roll_447_the_critics_values_at_padding_reach_no_advantage() -> None:
    # Reward 1 at the only token, value 0.05: 0.95, whatever the critic says of the padding behind it.
    advantages, _ = gae(rows([1, 0, 0]), rows([0.05, 5, 5]), bits("100"), gamma=1.0, lam=0.95)
    assert advantages[0].tolist() == pytest.approx([0.95, 0, 0])


def test_trl_3750_the_score_stands_on_the_eos_and_not_on_the_pad_after_it() -> None:
    zero = torch.zeros(2, 4)
    rewards = kl_shaped_rewards(torch.tensor([3.0, 5.0]), zero, zero, bits("1100", "1111"), coef=0.1)
    assert rewards.tolist() == [[0, 3, 0, 0], [0, 0, 0, 5]]


def test_nemo_rl_2958_the_penalty_has_its_gradient_where_a_clamp_would_have_none() -> None:
    # log r = −25: a log-ratio clamped to ± 20 is a constant there; the penalty's slope is r − 1 = −1.
    logprobs = rows([-26]).requires_grad_()
    loss, _ = kl_penalty_loss(logprobs, rows([-1]), rows([0]), bits("1"), coef=1.0)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    assert loss.item() == pytest.approx(24)  # e^−25 − 1 + 25
    assert gradient.item() == pytest.approx(-1)


@pytest.mark.parametrize("rubbish", [NAN, math.inf, -math.inf])
def test_skyrl_1635_a_masked_slot_gives_no_nan(rubbish: float) -> None:
    old, ref = rows([-1, rubbish]), rows([-3, -1])
    assert kl_shaped_rewards(torch.tensor([1.0]), old, ref, bits("10"), coef=0.5).tolist() == [[0, 0]]
    logprobs = rows([-1, rubbish]).requires_grad_()
    loss, stats = kl_penalty_loss(logprobs, rows([-1, -1]), rows([2, rubbish]), bits("10"), coef=0.5)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    assert (loss.item(), stats["approx_kl"].item(), gradient.tolist()) == (-2, 0, [[-2, 0]])


def test_skyrl_1635_nor_does_a_token_of_probability_zero() -> None:
    logits = torch.tensor([0.0, 0.0, -math.inf], requires_grad=True)
    entropy = token_entropy(logits)
    (gradient,) = torch.autograd.grad(entropy, logits)
    assert entropy.item() == pytest.approx(math.log(2))
    assert gradient.isfinite().all()


def test_openrlhf_1250_there_is_one_mean_over_the_whole_mask() -> None:
    # Counted 1, 5 and 3: mean 3, variance 8/3. A mean for each row, or for each column, would give other numbers.
    white = whiten(rows([1, 5], [3, 99]), bits("11", "10"))
    assert white.flatten().tolist() == pytest.approx([-(1.5**0.5), 1.5**0.5, 0, 0])


def test_roll_475_a_single_token_is_not_divided_by_a_deviation_of_0() -> None:
    assert whiten(rows([7, NAN]), bits("10")).tolist() == [[7, 0]]


def test_nemo_rl_4158_advantages_that_hardly_differ_are_not_blown_up() -> None:
    # Equal but for rounding, 1e-7: divided by their deviation they would be ± 1; with 1e-8 in the root they stay small.
    white = whiten(rows([0.3, 0.3 + 1e-7, 0.3, 0.3 + 1e-7]), bits("1111"))
    assert white.abs().max() < 1e-3


def test_trlx_441_the_controllers_target_is_of_whole_sequences() -> None:
    # 6 nats over 60 tokens: on target. Their mean, 0.1, would look far below it, and the coefficient would fall.
    assert next_kl_coef(0.2, 6.0, target=6.0, horizon=100, batch=10) == 0.2
    assert next_kl_coef(0.2, 0.1, target=6.0, horizon=100, batch=10) == pytest.approx(0.196)  # 1 − 0.2 · 10 / 100
