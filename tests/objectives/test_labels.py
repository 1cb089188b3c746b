"""The losses of labels: literal numbers, shares of a step that add up, and gradients."""

import math

import pytest
import torch
from torch.testing import assert_close

from proxtune.objectives import balanced_weights, class_loss, class_set_loss

# softmax of (0, ln 3) is (1/4, 3/4)
LOGITS = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]], dtype=torch.float64)
CLASSES = torch.tensor([1, 0])


def test_class_loss_is_the_mean_surprise_at_the_given_classes() -> None:
    """−(ln 3/4 + ln 1/4) / 2; the likelier class is right in one row of two."""
    loss, stats = class_loss(LOGITS, CLASSES)
    assert float(loss) == pytest.approx(-(math.log(3 / 4) + math.log(1 / 4)) / 2)
    assert float(stats["accuracy"]) == 0.5


def test_smoothing_spreads_a_share_of_the_target_over_all_classes() -> None:
    """Of ε = 0.2 each of 2 classes gets 0.1: the target is (0.1, 0.9) and (0.9, 0.1)."""
    loss, _ = class_loss(LOGITS, CLASSES, label_smoothing=0.2)
    right, wrong = -math.log(3 / 4), -math.log(1 / 4)
    assert float(loss) == pytest.approx((0.9 * right + 0.1 * wrong + 0.9 * wrong + 0.1 * right) / 2)


def test_weights_multiply_a_row_and_leave_the_count_alone() -> None:
    loss, _ = class_loss(LOGITS, CLASSES, weights=torch.tensor([3.0, 0.5], dtype=torch.float64))
    assert float(loss) == pytest.approx((0.5 * -math.log(3 / 4) + 3.0 * -math.log(1 / 4)) / 2)


def test_balanced_weights_give_each_class_the_same_sum_and_a_row_the_mean_1() -> None:
    """6 rows of class 0, 2 of class 1, none of class 2: 8 / (2 · 6), 8 / (2 · 2), and 1."""
    weights = balanced_weights(torch.tensor([6, 2, 0]))
    assert_close(weights, torch.tensor([8 / 12, 2.0, 1.0]))
    assert float(6 * weights[0]) == pytest.approx(float(2 * weights[1])) == 4.0


def test_class_set_loss_is_the_mean_over_rows_and_classes() -> None:
    """σ(0) = 1/2, σ(ln 3) = 3/4: a row in which both are members costs (ln 2 − ln 3/4) / 2."""
    members = torch.tensor([[True, True], [False, True]])
    loss, stats = class_set_loss(LOGITS, members)
    row = (math.log(2) - math.log(3 / 4)) / 2
    assert float(loss) == pytest.approx(row)
    assert float(stats["accuracy"]) == 0.5  # a logit of 0 is not above one half: the second row alone is right


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_losses_of_micro_batches_add_up_to_that_of_the_step(smoothing: float) -> None:
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    classes, members = torch.tensor([0, 1, 2, 2, 1, 0, 0]), logits > 0.3
    for loss_of, target in (
        (lambda z, y, n: class_loss(z, y, count=n, label_smoothing=smoothing), classes),
        (lambda z, y, n: class_set_loss(z, y, count=n), members),
    ):
        whole, stats = loss_of(logits, target, None)
        parts = [loss_of(logits[i : i + 3], target[i : i + 3], 7) for i in (0, 3, 6)]
        assert_close(sum(loss for loss, _ in parts), whole)
        assert_close(sum(found["accuracy"] for _, found in parts), stats["accuracy"])


def test_a_class_of_no_probability_that_is_not_the_given_one_costs_nothing() -> None:
    """Rows of fewer places than others are filled with −inf."""
    filled = torch.cat([LOGITS, torch.full((2, 1), -math.inf, dtype=torch.float64)], dim=1).requires_grad_()
    loss, _ = class_loss(filled, CLASSES)
    assert_close(loss, class_loss(LOGITS, CLASSES)[0])
    (gradient,) = torch.autograd.grad(loss, filled)
    assert gradient.isfinite().all()


def test_gradients_are_those_of_finite_differences() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    classes = torch.tensor([0, 1, 2, 2])
    assert torch.autograd.gradcheck(
        lambda z: class_loss(z, classes, weights=weights, label_smoothing=0.1)[0], (logits,)
    )
    assert torch.autograd.gradcheck(lambda z: class_set_loss(z, classes[:, None] == torch.arange(3))[0], (logits,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_type_that_goes_in_comes_out(dtype: torch.dtype) -> None:
    loss, stats = class_loss(LOGITS.to(dtype), CLASSES)
    other, _ = class_set_loss(LOGITS.to(dtype), LOGITS > 0)
    assert loss.dtype == stats["accuracy"].dtype == other.dtype == dtype
