import math

import pytest
import torch

from proxtune.objectives import sft_loss


def test_the_loss_is_nats_a_counted_token() -> None:
    logprobs = torch.tensor([[0.5, 0.25, 0.125], [0.9, 0.9, 0.9]]).log()
    mask = torch.tensor([[True, True, False], [False, False, False]])
    loss, stats = sft_loss(logprobs, mask)
    assert loss.item() == pytest.approx(1.5 * math.log(2))  # (ln 2 + 2 ln 2) / 2
    assert stats["likelihood"].item() == pytest.approx(0.375)  # (0.5 + 0.25) / 2


def test_the_count_of_the_whole_step_divides_loss_and_likelihood() -> None:
    loss, stats = sft_loss(torch.tensor([[0.5]]).log(), torch.tensor([[True]]), count=4)
    assert loss.item() == pytest.approx(math.log(2) / 4)
    assert stats["likelihood"].item() == pytest.approx(0.125)


def test_less_loss_is_more_likelihood() -> None:
    logprobs = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    sft_loss(logprobs, torch.tensor([[True, False]]))[0].backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [[-1.0, 0.0]]
