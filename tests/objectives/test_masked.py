import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from proxtune.objectives import masked_mean, token_entropy, whiten

NAN = math.nan


def test_the_mean_is_of_counted_entries() -> None:
    x, mask = torch.tensor([[1.0, NAN], [100.0, 3.0]]), torch.tensor([[True, False], [False, True]])
    assert masked_mean(x, mask).item() == 2.0  # (1 + 3) / 2


@pytest.mark.parametrize("count", [8, 8.0, torch.tensor(8)])
def test_a_given_count_is_the_denominator(count: float | Tensor) -> None:
    assert (
        masked_mean(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([True, True, False]), count=count).item() == 0.5
    )  # 4 / 8


def test_the_mean_of_nothing_is_zero() -> None:
    assert masked_mean(torch.tensor([NAN, 5.0]), torch.tensor([False, False])).item() == 0.0


def test_whitening_uses_the_population_variance_under_the_mask() -> None:
    x, mask = (
        torch.tensor([[1.0, 2.0, 100.0], [3.0, NAN, NAN]]),
        torch.tensor([[True, True, False], [True, False, False]]),
    )
    # Counted 1, 2, 3: mean 2, variance (1 + 0 + 1) / 3 = 2/3, 1 / √(2/3) = 1.2247449. Divided by n − 1 it would be 1.
    assert_close(whiten(x, mask), torch.tensor([[-1.2247449, 0.0, 0.0], [1.2247449, 0.0, 0.0]]))
    assert_close(whiten(x, mask, center=False), torch.tensor([[0.7752551, 2.0, 0.0], [3.2247449, 0.0, 0.0]]))


def test_epsilon_stands_inside_the_root() -> None:
    # Mean 1e-4, variance 1e-8: 1e-4 / √(1e-8 + 1e-8) = 1/√2. Outside the root it would be 0.9999.
    white = whiten(torch.tensor([0.0, 2e-4], dtype=torch.float64), torch.tensor([True, True]))
    assert_close(white, torch.tensor([-0.5, 0.5], dtype=torch.float64) * math.sqrt(2))


def test_equal_entries_whiten_to_zero() -> None:
    assert whiten(torch.full((2, 2), 0.1), torch.ones(2, 2, dtype=torch.bool)).abs().max() < 1e-3


@pytest.mark.parametrize("center", [True, False])
def test_fewer_than_two_entries_have_no_scale(center: bool) -> None:
    x = torch.tensor([[7.0, NAN, 9.0]])
    assert whiten(x, torch.tensor([[True, False, False]]), center=center).tolist() == [[7.0, 0.0, 0.0]]
    assert whiten(x, torch.tensor([[False, False, False]]), center=center).tolist() == [[0.0, 0.0, 0.0]]


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20), st.floats(0.1, 10), st.floats(-10, 10))
def test_whitening_forgets_shift_and_scale(numbers: list[float], scale: float, shift: float) -> None:
    x, mask = torch.tensor(numbers, dtype=torch.float64), torch.ones(len(numbers), dtype=torch.bool)
    if x.var(correction=0) < 1:  # below this, epsilon is seen at the tolerance of the test
        return
    white = whiten(x, mask)
    assert_close(white.mean(), torch.zeros((), dtype=torch.float64), atol=1e-9, rtol=0)
    assert_close(white.var(correction=0), torch.ones((), dtype=torch.float64), atol=1e-6, rtol=0)
    assert_close(whiten(scale * x + shift, mask), white, atol=1e-5, rtol=0)


def test_entropy_in_nats() -> None:
    logits = torch.tensor([[1.0, 1.0, 1.0, 1.0], [math.log(0.5), math.log(0.25), math.log(0.125), math.log(0.125)]])
    # ln 4, and 0.5 ln 2 + 0.25 ln 4 + 2 · 0.125 ln 8 = 1.75 ln 2.
    assert_close(token_entropy(logits), torch.tensor([4, 2**1.75]).log())
    assert_close(token_entropy(logits + 100.0), token_entropy(logits))


def test_a_token_of_probability_zero_adds_nothing_to_entropy_or_gradient() -> None:
    with_it = torch.tensor([0.3, -0.7, -math.inf], requires_grad=True)
    without = torch.tensor([0.3, -0.7], requires_grad=True)
    token_entropy(with_it).backward()
    token_entropy(without).backward()
    assert_close(token_entropy(with_it), token_entropy(without))
    assert with_it.grad is not None
    assert without.grad is not None
    assert_close(with_it.grad, torch.cat([without.grad, torch.zeros(1)]))
