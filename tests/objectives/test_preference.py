import math

import pytest
import torch
from torch import Tensor

from proxtune.objectives import bradley_terry_loss, dpo_loss

# Log-probs of whole answers. The policy prefers the chosen one by 4 nats, the reference by 2; with β = 0.1 z = 0.1 · 2.
HAND = ((-10.0,), (-14.0,), (-11.0,), (-13.0,))
LOSS = 0.598138869381592  # −log σ(0.2) = log(1 + e^−0.2)


def tensors(*rows: tuple[float, ...]) -> list[Tensor]:
    return [torch.tensor(row, dtype=torch.float64) for row in rows]


def test_hand_numbers() -> None:
    loss, stats = dpo_loss(*tensors(*HAND), beta=0.1)
    assert loss.item() == pytest.approx(LOSS)
    assert stats["margin"].item() == pytest.approx(0.2)
    assert stats["accuracy"].item() == 1


@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
def test_the_first_loss_is_log_2(label_smoothing: float) -> None:
    # The policy is the reference: z = 0, and both −log σ(z) and −log σ(−z) are log 2.
    chosen, rejected = tensors((-10.0, -3.0), (-14.0, -2.0))
    loss, stats = dpo_loss(chosen, rejected, chosen, rejected, beta=0.1, label_smoothing=label_smoothing)
    assert loss.item() == pytest.approx(math.log(2))
    assert stats["margin"].item() == 0
    assert stats["accuracy"].item() == 0  # a tie is not right


def test_label_smoothing_gives_the_other_order_its_share() -> None:
    loss, _ = dpo_loss(*tensors(*HAND), beta=0.1, label_smoothing=0.1)
    assert loss.item() == pytest.approx(0.9 * LOSS + 0.1 * (LOSS + 0.2))  # −log σ(−z) = −log σ(z) + z


def test_pairs_are_averaged() -> None:
    # The second pair is the first the other way round: z = −0.2.
    loss, stats = dpo_loss(*tensors((-10.0, -14.0), (-14.0, -10.0), (-11.0, -13.0), (-13.0, -11.0)), beta=0.1)
    assert loss.item() == pytest.approx((LOSS + LOSS + 0.2) / 2)
    assert stats["margin"].item() == pytest.approx(0)
    assert stats["accuracy"].item() == 0.5


def test_the_gradient_is_beta_times_the_probability_of_being_wrong() -> None:
    given = [x.requires_grad_() for x in tensors(*HAND)]
    dpo_loss(*given, beta=0.1)[0].backward()
    # β σ(−z) = 0.1 · 0.4501660027
    slopes = [x.grad.item() for x in given if x.grad is not None]
    assert slopes == pytest.approx([-0.04501660027, 0.04501660027, 0.04501660027, -0.04501660027])


def test_it_is_bradley_terry_on_implicit_rewards() -> None:
    chosen, rejected, ref_chosen, ref_rejected = tensors((-9.0, -2.0), (-8.0, -7.0), (-9.5, -2.5), (-6.0, -7.5))
    loss, stats = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta=0.5)
    same, same_stats = bradley_terry_loss(0.5 * (chosen - ref_chosen), 0.5 * (rejected - ref_rejected))
    assert loss.item() == pytest.approx(same.item())
    assert {name: x.item() for name, x in stats.items()} == pytest.approx(
        {name: x.item() for name, x in same_stats.items()}
    )


def test_a_hopeless_pair_has_a_finite_loss() -> None:
    assert dpo_loss(*tensors((-1e4,), (0.0,), (0.0,), (0.0,)), beta=1.0)[0].item() == pytest.approx(1e4)
