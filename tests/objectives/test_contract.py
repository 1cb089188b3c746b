"""What holds for every function of the public maths: masks, counts, types and gradients."""

import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from proxtune import objectives
from proxtune.objectives import (
    bradley_terry_loss,
    clipped_policy_loss,
    clipped_value_loss,
    dpo_loss,
    gae,
    kl_estimate,
    kl_penalty_loss,
    kl_shaped_rewards,
    masked_mean,
    rating_loss,
    sft_loss,
    token_entropy,
    whiten,
)

# Rows with a gap, with one token, with none, with all.
MASK = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
TOKENS, ROWS = 9, 3


def scores(x: Tensor) -> Tensor:
    """One number for each row of `x`."""
    return torch.full((len(x),), 1.5, dtype=x.dtype)


Loss = Callable[..., tuple[Tensor, Mapping[str, Tensor]]]
# Name: (a loss, how many [B, T] tensors it takes, what it divides by).
LOSSES: dict[str, tuple[Loss, int, int]] = {
    "clipped_policy_loss": (partial(clipped_policy_loss, clip=0.2, clip_high=0.3), 3, TOKENS),
    "clipped_policy_loss, by sequence": (partial(clipped_policy_loss, clip=0.2, aggregate="sequence"), 3, ROWS),
    "kl_penalty_loss": (partial(kl_penalty_loss, coef=0.7), 3, TOKENS),
    "clipped_value_loss": (partial(clipped_value_loss, clip=0.2), 3, TOKENS),
    "clipped_value_loss, no clip": (partial(clipped_value_loss, clip=None), 3, TOKENS),
    "sft_loss": (sft_loss, 1, TOKENS),
    "masked_mean": (lambda x, mask, count=None: (masked_mean(x, mask, count=count), {}), 1, TOKENS),
}
# Name: (a loss over [N] tensors, how many it takes).
UNMASKED: dict[str, tuple[Loss, int]] = {
    "bradley_terry_loss": (bradley_terry_loss, 2),
    "rating_loss": (rating_loss, 2),
    "dpo_loss": (partial(dpo_loss, beta=0.1), 4),
}
# Name: (a function from [B, T] tensors and a mask to tensors, how many it takes).
PER_TOKEN: dict[str, tuple[Callable[..., tuple[Tensor, ...]], int]] = {
    "whiten": (lambda x, mask: (whiten(x, mask),), 1),
    "whiten, not centred": (lambda x, mask: (whiten(x, mask, center=False),), 1),
    "gae": (partial(gae, gamma=0.9, lam=0.8), 2),
    "gae, with a bootstrap": (lambda r, v, mask: gae(r, v, mask, gamma=0.9, lam=0.8, bootstrap=scores(r)), 2),
    **{
        f"kl_shaped_rewards, {kind}": (
            lambda old, ref, mask, kind=kind: (
                kl_shaped_rewards(scores(old), old, ref, mask, coef=0.3, estimator=kind),
            ),
            2,
        )
        for kind in ("k1", "k2", "k3")
    },
}


def with_figures(loss: Loss) -> Callable[..., tuple[Tensor, ...]]:
    def function(*given: Tensor) -> tuple[Tensor, ...]:
        total, stats = loss(*given)
        return total, *stats.values()

    return function


MASKED = PER_TOKEN | {name: (with_figures(loss), arity) for name, (loss, arity, _) in LOSSES.items()}

each_loss = pytest.mark.parametrize("name", LOSSES)
each_masked = pytest.mark.parametrize("name", MASKED)


def inputs(arity: int, *, outside: float = 0.5) -> list[Tensor]:
    """Negative numbers near each other, as log-probs are; no kink lies within a finite difference of 1e-6."""
    generator = torch.Generator().manual_seed(7)
    drawn = [-1 - torch.rand(MASK.shape, generator=generator, dtype=torch.float64) for _ in range(arity)]
    return [torch.where(MASK, x, outside).requires_grad_() for x in drawn]


def outputs_and_gradients(name: str, given: list[Tensor], mask: Tensor = MASK) -> tuple[list[Tensor], list[Tensor]]:
    outputs = MASKED[name][0](*given, mask)
    generator = torch.Generator().manual_seed(8)
    total = sum((x * torch.rand(x.shape, generator=generator, dtype=x.dtype)).sum() for x in outputs if x.requires_grad)
    assert isinstance(total, Tensor)
    return list(outputs), list(torch.autograd.grad(total, given, materialize_grads=True))


def test_no_loss_is_left_out() -> None:
    losses = {name for name in objectives.__all__ if name.endswith("_loss")}
    of_labels = {"class_loss", "class_set_loss"}  # [N, K] and classes: test_labels.py
    assert {name.partition(",")[0] for name in [*LOSSES, *UNMASKED]} | of_labels >= losses


def test_no_function_with_a_mask_is_left_out() -> None:
    functions = [getattr(objectives, name) for name in objectives.__all__]
    with_mask = {f.__name__ for f in functions if "mask" in inspect.signature(f).parameters}
    assert {name.partition(",")[0] for name in MASKED} == with_mask


@each_masked
@pytest.mark.parametrize("rubbish", [math.nan, math.inf, -math.inf, 1e300])
def test_rubbish_in_masked_slots_changes_neither_value_nor_gradient(name: str, rubbish: float) -> None:
    arity = MASKED[name][1]
    clean, clean_gradients = outputs_and_gradients(name, inputs(arity))
    spoilt, spoilt_gradients = outputs_and_gradients(name, inputs(arity, outside=rubbish))
    for a, b in zip(clean + clean_gradients, spoilt + spoilt_gradients, strict=True):
        assert a.isfinite().all()
        assert torch.equal(a, b)
    assert spoilt_gradients[0][MASK].any()
    for gradient in spoilt_gradients:
        assert not gradient[~MASK].any()


@pytest.mark.parametrize("name", PER_TOKEN)
def test_what_is_per_token_is_zero_outside_the_mask(name: str) -> None:
    function, arity = PER_TOKEN[name]
    for x in function(*inputs(arity, outside=math.nan), MASK):
        assert x.shape == MASK.shape
        assert not x[~MASK].any()


@each_masked
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_type_that_goes_in_comes_out(name: str, dtype: torch.dtype) -> None:
    function, arity = MASKED[name]
    assert {x.dtype for x in function(*(x.detach().to(dtype) for x in inputs(arity)), MASK)} == {dtype}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_type_that_goes_in_comes_out_where_there_is_no_mask(dtype: torch.dtype) -> None:
    a, b, c, d = torch.zeros(4, 3, dtype=dtype)
    losses = bradley_terry_loss(a, b, margin=c), dpo_loss(a, b, c, d, beta=0.1), rating_loss(a, b)
    found = [
        kl_estimate(a, b, estimator="k3"),
        token_entropy(a),
        *(x for loss, stats in losses for x in (loss, *stats.values())),
    ]
    assert {x.dtype for x in found} == {dtype}


@each_loss
def test_in_float64_no_digit_is_lost_on_the_way(name: str) -> None:
    # In float32 an entry of 2^-40 beside 1 would vanish; all losses are differentiable, so a tiny step must show.
    loss, arity, _ = LOSSES[name]
    given = [x.detach() for x in inputs(arity)]
    moved = [given[0] + 2.0**-40, *given[1:]]
    assert loss(*given, MASK)[0].item() != loss(*moved, MASK)[0].item()


@each_masked
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    function, arity = MASKED[name]
    differentiable = lambda *given: tuple(x for x in function(*given, MASK) if x.requires_grad)  # noqa: E731
    assert torch.autograd.gradcheck(differentiable, inputs(arity))


def test_gradients_are_those_of_finite_differences_where_there_is_no_mask() -> None:
    torch.manual_seed(0)
    given = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    check = torch.autograd.gradcheck
    assert check(token_entropy, given)
    assert check(lambda x: bradley_terry_loss(x[0], x[1], margin=x[2])[0], given)
    assert check(lambda x: rating_loss(x[0], x[1])[0], given)
    assert check(lambda x: dpo_loss(*x, beta=0.3, label_smoothing=0.2)[0], given)
    for kind in ("k1", "k2", "k3"):
        assert check(lambda x, kind=kind: kl_estimate(x[0], x[1], estimator=kind), given)


@each_loss
@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_micro_batches_add_up(name: str, size: int, as_tensor: bool) -> None:
    loss, arity, count = LOSSES[name]
    whole, whole_stats = loss(*(given := inputs(arity)), MASK)
    whole.backward()
    parts = inputs(arity)
    added, added_stats = torch.zeros(()), dict.fromkeys(whole_stats, torch.zeros(()))
    for rows in torch.arange(len(MASK)).split(size):
        part, stats = loss(*(x[rows] for x in parts), MASK[rows], count=torch.tensor(count) if as_tensor else count)
        part.backward()
        added = added + part
        added_stats = {k: added_stats[k] + stats[k] for k in stats}
    assert_close(added, whole)
    for a, b in zip(parts, given, strict=True):
        assert_close(a.grad, b.grad)
    # A variance is not a sum: each batch explains its own.
    for k in whole_stats.keys() - {"explained_variance"}:
        assert_close(added_stats[k], whole_stats[k])


@each_loss
def test_the_mean_is_not_the_mean_of_means(name: str) -> None:
    # The mistake that `count` prevents: each micro-batch divided by its own count, then averaged.
    loss, arity, _ = LOSSES[name]
    given = [x.detach() for x in inputs(arity)]
    means = [loss(*(x[i : i + 2] for x in given), MASK[i : i + 2])[0] for i in (0, 2)]
    assert abs(sum(means) / 2 - loss(*given, MASK)[0]) > 1e-3


@each_masked
def test_a_row_without_a_token_changes_nothing(name: str) -> None:
    function, arity = MASKED[name]
    given, kept = [x.detach() for x in inputs(arity)], MASK.any(1)
    assert not kept.all()
    for x, y in zip(function(*given, MASK), function(*(x[kept] for x in given), MASK[kept]), strict=True):
        assert_close(x[kept] if x.shape == MASK.shape else x, y)


@each_masked
def test_a_batch_without_a_token_is_zero_with_a_gradient_of_zero(name: str) -> None:
    outputs, gradients = outputs_and_gradients(name, inputs(MASKED[name][1], outside=math.nan), torch.zeros_like(MASK))
    for x in outputs + gradients:
        assert not x.any()


@pytest.mark.parametrize("name", [*LOSSES, *UNMASKED])
def test_figures_are_scalars_that_hold_no_graph(name: str) -> None:
    if name in LOSSES:
        loss, arity, _ = LOSSES[name]
        total, stats = loss(*inputs(arity), MASK)
    else:
        loss, arity = UNMASKED[name]
        total, stats = loss(*torch.zeros(arity, 3, requires_grad=True))
    assert total.shape == ()
    assert total.requires_grad
    for x in stats.values():
        assert x.shape == ()
        assert not x.requires_grad
