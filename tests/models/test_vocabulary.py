"""Log-probs a few tokens at a time are those of all logits at once, and so are their gradients."""

import pytest
import torch
from torch import Tensor

from proxtune.models import vocabulary
from proxtune.models.vocabulary import Head, token_logprobs
from proxtune.objectives import token_entropy

HEADS = pytest.mark.parametrize(("cap", "temperature"), [(None, 1.0), (None, 0.7), (2.0, 1.0), (2.0, 0.7)])


@pytest.fixture(autouse=True)
def two_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few enough logits at once that 100 tokens come in two pieces."""
    monkeypatch.setattr(vocabulary, "LOGITS_AT_ONCE", 1)


def inputs(tokens: int = 100) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(tokens, 4), torch.randn(7, 4), torch.randn(7)
    return hidden.double(), weight.double(), bias.double(), torch.randint(7, (tokens,))


def at_once(hidden: Tensor, head: Head, chosen: Tensor) -> tuple[Tensor, Tensor]:
    raw = hidden @ head.weight.T + (0 if head.bias is None else head.bias)
    logits = (raw if head.cap is None else head.cap * torch.tanh(raw / head.cap)) / head.temperature
    return logits.log_softmax(-1)[torch.arange(len(chosen)), chosen], token_entropy(logits)


@HEADS
@pytest.mark.parametrize("trains_head", [False, True])
@pytest.mark.parametrize("entropy", [False, True])
def test_values_and_gradients_are_those_of_all_logits(
    cap: float | None, temperature: float, trains_head: bool, entropy: bool
) -> None:
    hidden, weight, bias, chosen = inputs()
    coefficients = torch.randn(2, len(chosen), dtype=torch.float64)

    def run(ours: bool) -> list[Tensor]:
        leaves = [hidden.clone().requires_grad_(), *(x.clone().requires_grad_(trains_head) for x in (weight, bias))]
        head = Head(leaves[1], leaves[2], cap, temperature)
        found = token_logprobs(leaves[0], chosen, head, entropy=True) if ours else at_once(leaves[0], head, chosen)
        loss = coefficients[0] @ found[0] + (coefficients[1] @ found[1] if entropy else 0)
        loss.backward()
        return [*found, *(x.grad for x in leaves if x.grad is not None)]

    ours, theirs = run(True), run(False)
    assert len(ours) == len(theirs) == (5 if trains_head else 3)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("trains_head", [False, True])
def test_the_gradient_is_that_of_finite_differences(trains_head: bool) -> None:
    hidden, weight, bias, chosen = inputs(5)
    leaves = [hidden.requires_grad_(), weight.requires_grad_(trains_head), bias.requires_grad_(trains_head)]
    assert torch.autograd.gradcheck(
        lambda h, w, b: token_logprobs(h, chosen, Head(w, b, 2.0, 0.7), entropy=True), tuple(leaves)
    )


def test_a_frozen_head_leaves_one_vector_a_token_and_no_logits() -> None:
    hidden, weight, _, chosen = inputs()
    sizes = []

    def note(x: Tensor) -> Tensor:
        sizes.append(tuple(x.shape))
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        token_logprobs(hidden.requires_grad_(), chosen, Head(weight, None))
    assert sizes == [(100, 4)]


def test_a_token_that_cannot_come_adds_nothing_to_the_entropy() -> None:
    hidden = torch.zeros(1, 2, requires_grad=True)
    bias = torch.tensor([0.0, 0.0, -torch.inf])
    logprobs, entropy = token_logprobs(hidden, torch.tensor([0]), Head(torch.ones(3, 2), bias), entropy=True)
    (logprobs + entropy).sum().backward()
    torch.testing.assert_close(entropy.detach(), torch.tensor([2.0]).log())
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()
