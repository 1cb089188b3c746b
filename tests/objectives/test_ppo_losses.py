"""What PPO's losses and their figures must be, in literal numbers."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from proxtune.objectives import clipped_policy_loss, clipped_value_loss, kl_penalty_loss


def row(*numbers: float) -> Tensor:
    """[1, T] float64."""
    return torch.tensor([numbers], dtype=torch.float64)


def all_of(x: Tensor) -> Tensor:
    return torch.ones_like(x, dtype=torch.bool)


def surrogate(ratio: float, advantage: float, *, clip_high: float | None = None) -> tuple[float, float, float]:
    """(loss, d loss / d log-prob, clip_fraction) of one token whose old probability was 0.5."""
    logprobs = (row(0.5).log() + math.log(ratio)).requires_grad_()
    advantages = row(advantage)
    loss, stats = clipped_policy_loss(
        logprobs, row(0.5).log(), advantages, all_of(advantages), clip=0.2, clip_high=clip_high
    )
    (slope,) = torch.autograd.grad(loss, logprobs)
    return loss.item(), slope.item(), stats["clip_fraction"].item()


# ---- Clipped surrogate -----------------------------------------------------------------------------------------------


def test_the_ratio_is_of_probabilities() -> None:
    # A token of probability 0.6 that now has 0.7: 0.7 / 0.6 = 1.1667.
    loss, stats = clipped_policy_loss(row(0.7).log(), row(0.6).log(), row(1.0), all_of(row(1)), clip=0.2)
    assert stats["ratio"].item() == pytest.approx(7 / 6)
    assert loss.item() == pytest.approx(-7 / 6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope", "clipped"),
    [
        (1.0, 2.0, -2.0, -2.0, 0),
        (1.1, 2.0, -2.2, -2.2, 0),
        (1.3, 2.0, -2.4, 0.0, 1),  # a good token is pushed no further than 1.2 · 2
        (0.5, 2.0, -1.0, -1.0, 0),  # but one that got worse is brought back
        (1.3, -2.0, 2.6, 2.6, 0),  # a bad token that got likelier is pushed down with all its weight
        (0.5, -2.0, 1.6, 0.0, 1),  # but no further than 0.8 · 2
    ],
)
def test_one_token_with_clip_02(ratio: float, advantage: float, loss: float, slope: float, clipped: int) -> None:
    assert surrogate(ratio, advantage) == pytest.approx((loss, slope, clipped))


def test_at_the_bound_the_clipped_term_equals_the_other() -> None:
    assert surrogate(1.2, 2.0)[0] == pytest.approx(-2.4)


def test_the_upper_bound_can_be_wider() -> None:
    assert surrogate(1.3, 2.0, clip_high=0.28) == pytest.approx((-2.56, 0.0, 1))
    assert surrogate(1.25, 2.0, clip_high=0.28) == pytest.approx((-2.5, -2.5, 0))
    assert surrogate(0.5, -2.0, clip_high=0.28) == pytest.approx((1.6, 0.0, 1))  # the lower one stays


def test_the_figures_are_means_over_tokens() -> None:
    ratio, advantages = row(1.3, 0.5, 1.0, 1.2), row(1.0, 1.0, 1.0, 0.0)
    _, stats = clipped_policy_loss(ratio.log(), row(0, 0, 0, 0), advantages, all_of(ratio), clip=0.2)
    # Clipped: the first alone; with an advantage of 0 neither term is the larger.
    assert stats["clip_fraction"].item() == 0.25
    assert stats["ratio"].item() == pytest.approx(1.0)
    # KL(old ‖ new) from tokens of the old policy, r − 1 − log r: 0.0376357, 0.1931472, 0 and 0.0176784.
    assert stats["approx_kl"].item() == pytest.approx((0.0376357355 + 0.1931471806 + 0.0176784432) / 4)


def test_one_token_far_off_does_not_hide_the_others_in_approx_kl() -> None:
    # log r is clamped to ± 20 in this figure alone: e^20 − 1 − 20, and e^−20 − 1 + 20.
    far = row(40.0, -40.0)
    loss, stats = clipped_policy_loss(far, row(0, 0), row(-1.0, -1.0), all_of(far), clip=0.2)
    assert stats["approx_kl"].item() == pytest.approx((math.expm1(20) - 20 + math.expm1(-20) + 20) / 2)
    assert loss.item() == pytest.approx((math.exp(40) + 0.8) / 2)
    _, stats = clipped_policy_loss(row(-40), row(0), row(1), all_of(row(0)), clip=0.2)
    assert stats["approx_kl"].item() == pytest.approx(19)  # e^−20 − 1 + 20


MASK = torch.tensor([[True, False, False], [True, True, True], [False, False, False]])
ADVANTAGES = torch.tensor([[3.0, 9.0, 9.0], [1.0, 1.0, 1.0], [9.0, 9.0, 9.0]])


def test_the_mean_over_tokens_weighs_long_answers_more_than_the_mean_over_sequences() -> None:
    zeros = torch.zeros(3, 3)
    by_token, stats = clipped_policy_loss(zeros, zeros, ADVANTAGES, MASK, clip=0.2)
    by_row, row_stats = clipped_policy_loss(zeros, zeros, ADVANTAGES, MASK, clip=0.2, aggregate="sequence")
    assert by_token.item() == -1.5  # (3 + 1 + 1 + 1) / 4
    assert by_row.item() == -2.0  # (3 + 1) / 2; the third row has no token
    assert stats["ratio"].item() == row_stats["ratio"].item() == 1


def test_the_count_of_the_whole_step_divides_what_is_aggregated() -> None:
    zeros = torch.zeros(3, 3)
    assert clipped_policy_loss(zeros, zeros, ADVANTAGES, MASK, clip=0.2, count=12)[0].item() == -0.5
    by_row, stats = clipped_policy_loss(zeros, zeros, ADVANTAGES, MASK, clip=0.2, aggregate="sequence", count=8)
    assert by_row.item() == -0.5
    assert stats["ratio"].item() == 0.25  # this batch's part of the step's mean


def test_an_unknown_aggregate_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'mean'; expected 'token' or 'sequence'"):
        clipped_policy_loss(row(0), row(0), row(0), all_of(row(0)), clip=0.2, aggregate="mean")  # type: ignore[arg-type]


# ---- KL penalty ------------------------------------------------------------------------------------------------------


def test_the_penalty_form_is_the_plain_surrogate_and_a_cost_for_moving() -> None:
    loss, stats = kl_penalty_loss(row(1.2).log(), row(0), row(2), all_of(row(0)), coef=0.5)
    # −2 · 1.2 + 0.5 · (1.2 − 1 − ln 1.2) = −2.4 + 0.5 · 0.0176784432
    assert loss.item() == pytest.approx(-2.3911607784)
    assert stats["approx_kl"].item() == pytest.approx(0.0176784432)
    assert stats["ratio"].item() == pytest.approx(1.2)


def test_nothing_is_clipped_in_the_penalty_form() -> None:
    assert kl_penalty_loss(row(3).log(), row(0), row(2), all_of(row(0)), coef=0.0)[0].item() == pytest.approx(-6)
    assert kl_penalty_loss(row(0.1).log(), row(0), row(-2), all_of(row(0)), coef=0.0)[0].item() == pytest.approx(0.2)


def test_its_penalty_is_in_the_mean_the_kl_of_old_against_new() -> None:
    old = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)
    logits = torch.tensor([[0.1, -0.4, 0.3]], dtype=torch.float64, requires_grad=True)
    logprobs, nothing = logits.log_softmax(1), torch.zeros_like(old)
    # The mean over three tokens, each weighted by 3 · its probability under the old policy.
    terms = [
        3
        * float(p)
        * kl_penalty_loss(
            logprobs[:, i : i + 1], old.log()[:, i : i + 1], nothing[:, :1], all_of(nothing[:, :1]), coef=1.0
        )[0]
        for i, p in enumerate(old[0])
    ]
    penalty, exact = sum(terms) / 3, (old * (old.log() - logprobs)).sum()
    assert isinstance(penalty, Tensor)
    assert penalty.item() == pytest.approx(exact.item())
    (slope,), (exact_slope,) = (torch.autograd.grad(x, logits, retain_graph=True) for x in (penalty, exact))
    assert_close(slope, exact_slope)


def test_before_anything_has_moved_both_forms_have_one_gradient() -> None:
    torch.manual_seed(0)
    old, advantages, mask = -torch.rand(3, 5), torch.randn(3, 5), torch.rand(3, 5) > 0.3
    logprobs = old.clone().requires_grad_()
    (clipped,) = torch.autograd.grad(clipped_policy_loss(logprobs, old, advantages, mask, clip=0.2)[0], logprobs)
    (penalised,) = torch.autograd.grad(kl_penalty_loss(logprobs, old, advantages, mask, coef=3.0)[0], logprobs)
    assert_close(clipped, penalised)
    assert_close(clipped, torch.where(mask, -advantages, 0) / mask.sum())  # the policy gradient itself


# ---- Value loss ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "goal", "clip", "loss", "slope", "clipped"),
    [
        (0.6, 1.0, 0.2, 0.08, -0.4, 0),  # within reach of the old value 0.5: ½ · 0.4²
        (0.9, 1.0, 0.2, 0.045, 0.0, 1),  # held at 0.7, which is worse: ½ · 0.3², and no gradient
        (0.1, 0.0, 0.2, 0.045, 0.0, 1),  # held at 0.3
        (1.0, 0.6, 0.2, 0.08, 0.4, 0),  # held at 0.7 it would be better, so the true error counts: ½ · 0.4²
        (0.9, 1.0, None, 0.005, -0.1, 0),  # ½ · 0.1²
        (0.9, 1.0, 0.3, 0.02, 0.0, 1),  # held at 0.8
    ],
)
def test_one_value_that_was_one_half(
    value: float, goal: float, clip: float | None, loss: float, slope: float, clipped: int
) -> None:
    values = row(value).requires_grad_()
    got, stats = clipped_value_loss(values, row(0.5), row(goal), all_of(values), clip=clip)
    (gradient,) = torch.autograd.grad(got, values)
    assert (got.item(), gradient.item(), stats["clip_fraction"].item()) == pytest.approx((loss, slope, clipped))


def test_values_are_averaged_over_tokens_or_divided_by_the_steps_count() -> None:
    values, mask = row(1, 2, 9), torch.tensor([[True, True, False]])
    plain, _ = clipped_value_loss(values, values, row(0, 0, 0), mask, clip=None)
    of_ten, stats = clipped_value_loss(values, values + 1, row(0, 0, 0), mask, clip=0.5, count=10)
    assert plain.item() == 1.25  # ½ (1 + 4) / 2
    assert of_ten.item() == pytest.approx(0.5 * (1.5**2 + 2.5**2) / 10)  # held at 1.5 and 2.5
    assert stats["clip_fraction"].item() == pytest.approx(0.2)


def test_a_value_within_reach_is_not_counted_as_clipped_for_its_rounding() -> None:
    # old + (value − old) is not the value in float32: so written, 3 % of these looked clipped.
    old, values = torch.linspace(-0.01, 0.01, 1001)[None], torch.linspace(0.15, -0.15, 1001)[None]
    assert clipped_value_loss(values, old, 0 * old, all_of(old), clip=0.2)[1]["clip_fraction"].item() == 0


def test_returns_that_differ_by_rounding_alone_have_nothing_to_explain() -> None:
    # The variance of the returns is 2.5e-15, that of the error 0.25: it was reported as −1e14.
    stats = clipped_value_loss(row(0, 1), row(0, 1), row(1, 1 + 1e-7), all_of(row(0, 0)), clip=0.2)[1]
    assert stats["explained_variance"].item() == 0


@pytest.mark.parametrize(("spread", "explained"), [(0.9e-4, 0.0), (1e-4, 0.0), (1.2e-4, 0.75)])
def test_there_is_something_to_explain_above_a_variance_of_1e_8(spread: float, explained: float) -> None:
    # Returns ± spread have a variance of spread²; values of half of them leave a quarter of it.
    returns = row(-spread, spread)
    stats = clipped_value_loss(returns / 2, row(0, 0), returns, all_of(returns), clip=0.2)[1]
    assert stats["explained_variance"].item() == pytest.approx(explained)


@pytest.mark.parametrize(
    ("values", "returns", "explained"),
    [
        ((1, 2, 3), (1, 2, 3), 1.0),
        ((7, 8, 9), (1, 2, 3), 1.0),  # a constant error is no variance
        ((5, 5, 5), (1, 2, 3), 0.0),
        ((1.5, 2, 2.5), (1, 2, 3), 0.75),  # the error −.5, 0, .5 has a quarter of the variance
        ((3, 2, 1), (1, 2, 3), -3.0),  # worse than no critic: 1 − (8/3) / (2/3)
        ((1, 2, 3), (4, 4, 4), 0.0),  # nothing to explain
    ],
)
def test_explained_variance(values: tuple[float, ...], returns: tuple[float, ...], explained: float) -> None:
    given = (row(*values, 50), row(*values, 50), row(*returns, -50))
    mask = torch.tensor([[True, True, True, False]])
    assert clipped_value_loss(*given, mask, clip=0.2)[1]["explained_variance"].item() == pytest.approx(explained)
    # Three of the step's twelve tokens stand here.
    share = clipped_value_loss(*given, mask, clip=0.2, count=12)[1]["explained_variance"].item()
    assert share == pytest.approx(explained / 4)
