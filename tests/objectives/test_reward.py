import math

import pytest
import torch
from torch import Tensor

from proxtune.objectives import bradley_terry_loss, rating_loss


def tensors(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


@pytest.mark.parametrize(
    ("chosen", "rejected", "margin", "loss"),
    [
        (0.7, 0.7, None, math.log(2)),  # no opinion: a coin
        (1.0, 0.0, None, 0.3132616875182228),  # log(1 + 1/e)
        (0.0, 1.0, None, 1.3132616875182228),  # log(1 + e)
        (3.0, 1.0, 2.0, math.log(2)),  # the margin is just met
        (3.0, 1.0, 1.0, 0.3132616875182228),
        (-500.0, 500.0, None, 1000.0),  # far off: the loss is the difference itself, and finite
    ],
)
def test_the_loss_of_one_pair(chosen: float, rejected: float, margin: float | None, loss: float) -> None:
    given = None if margin is None else tensors(margin)
    assert bradley_terry_loss(tensors(chosen), tensors(rejected), margin=given)[0].item() == pytest.approx(loss)


def test_pairs_are_averaged_and_a_tie_is_not_right() -> None:
    loss, stats = bradley_terry_loss(tensors(1, 0, 2), tensors(0, 1, 2), margin=tensors(0, 0, 5))
    # log(1 + 1/e), log(1 + e) and −log σ(−5) = log(1 + e^5) = 5.0067153
    assert loss.item() == pytest.approx((0.3132616875 + 1.3132616875 + 5.0067153485) / 3)
    assert stats["accuracy"].item() == pytest.approx(1 / 3)
    assert stats["margin"].item() == 0  # the mean difference of the scores: (1 − 1 + 0) / 3


def test_the_chosen_score_rises_by_the_probability_of_being_wrong() -> None:
    chosen, rejected = tensors(1.0).requires_grad_(), tensors(0.0).requires_grad_()
    bradley_terry_loss(chosen, rejected)[0].backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert chosen.grad.item() == pytest.approx(-0.2689414213699951)  # −σ(−1)
    assert rejected.grad.item() == pytest.approx(0.2689414213699951)


def test_only_the_difference_counts() -> None:
    a, b = tensors(0.3, -1.2), tensors(0.9, -2.0)
    assert bradley_terry_loss(a + 7, b + 7)[0].item() == pytest.approx(bradley_terry_loss(a, b)[0].item())


def test_a_rating_is_learnt_by_half_its_squared_distance() -> None:
    scores = tensors(1.0, -2.0, 0.5).requires_grad_()
    loss, stats = rating_loss(scores, tensors(0.0, 1.0, 0.5))
    assert loss.item() == pytest.approx((0.5 * 1 + 0.5 * 9) / 3)
    assert stats["error"].item() == pytest.approx((1 + 3) / 3)
    (slope,) = torch.autograd.grad(loss, scores)
    assert slope.tolist() == pytest.approx([1 / 3, -1, 0])  # (s − R) / N
