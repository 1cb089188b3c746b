"""Statistics over the counted entries of a padded tensor.

A slot outside the mask may hold anything, NaN and infinity included: it changes neither a value nor a gradient. That is
why every function selects with `where` and never multiplies by the mask (0 * NaN is NaN).
"""

import torch
from torch import Tensor


def masked_mean(x: Tensor, mask: Tensor, *, count: Tensor | float | None = None) -> Tensor:
    """Sum of the counted entries over `count`.

    Args:
        x: any shape.
        mask: bool, the shape of `x`.
        count: the denominator; None is the number of counted entries. A loss over several micro-batches passes the
            count of the whole optimiser step, so that the micro-batches' losses add up to the step's loss.

    Returns:
        A scalar; 0 where nothing is counted.
    """
    total = torch.where(mask, x, 0).sum()
    return total / (mask.sum().clamp(min=1) if count is None else count)


def whiten(x: Tensor, mask: Tensor, *, center: bool = True) -> Tensor:
    """(x − mean) / √(var + 1e-8) over the counted entries, zero elsewhere.

    The variance is the population's (divided by n). `center=False` adds the mean back, so that only the scale changes.
    With fewer than two counted entries there is no scale to speak of, and the counted entry is returned unchanged.

    Args:
        x: any shape; mask: bool, the same shape.
    """
    counted = torch.where(mask, x, 0)
    if mask.sum() < 2:
        return counted
    mean = masked_mean(counted, mask)
    variance = masked_mean((counted - mean) ** 2, mask)
    white = (counted - mean) * torch.rsqrt(variance + 1e-8)
    return torch.where(mask, white if center else white + mean, 0)


def token_entropy(logits: Tensor) -> Tensor:
    """Entropy of each next-token distribution, −Σ p log p, in nats.

    Args:
        logits: [..., V]. A logit of −inf is a token of probability 0 and adds nothing.

    Returns:
        [...]
    """
    logprobs = torch.log_softmax(logits, dim=-1)
    # exp(−inf) * −inf is NaN, its limit 0. The factor is replaced and not the product, whose gradient would be NaN too.
    return -(logprobs.exp() * torch.where(logprobs.isneginf(), 0, logprobs)).sum(dim=-1)
