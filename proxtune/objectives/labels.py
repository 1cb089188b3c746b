"""The likelihood of given labels: one class of a row, or a set of them."""

import torch
import torch.nn.functional as F
from torch import Tensor

Stats = dict[str, Tensor]


def class_loss(
    logits: Tensor,
    classes: Tensor,
    *,
    weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    count: Tensor | float | None = None,
) -> tuple[Tensor, Stats]:
    """Cross-entropy of one class a row, in nats; smoothed as in Szegedy et al. 2016 (arXiv 1512.00567, section 7).

        L = mean of w_y · [−(1 − ε) log p_y − ε/K Σ_k log p_k]

    Args:
        logits: [N, K]; classes: [N] int64, y.
        weights: [K], w; None: all 1. The mean is over rows, not over weights.
        label_smoothing: ε.
        count: the rows of the whole optimiser step.

    Returns:
        (loss, stats) with `accuracy`, the share of rows whose class has the largest logit.
    """
    losses = F.cross_entropy(logits, classes, reduction="none", label_smoothing=label_smoothing)
    if weights is not None:
        losses = losses * weights[classes]
    count = len(logits) if count is None else count
    right = (logits.detach().argmax(-1) == classes).to(losses.dtype)
    return losses.sum() / count, {"accuracy": right.sum() / count}


def class_set_loss(logits: Tensor, members: Tensor, *, count: Tensor | float | None = None) -> tuple[Tensor, Stats]:
    """Binary cross-entropy of each class for itself, in nats a class.

        L = mean over rows and classes of −m log σ(z) − (1 − m) log σ(−z)

    Args:
        logits: [N, K], z; members: [N, K] bool, m.
        count: the rows of the whole optimiser step.

    Returns:
        (loss, stats) with `accuracy`, the share of rows whose set is right in every class.
    """
    losses = F.binary_cross_entropy_with_logits(logits, members.to(logits.dtype), reduction="none").mean(-1)
    count = len(logits) if count is None else count
    right = ((logits.detach() > 0) == members).all(-1).to(losses.dtype)
    return losses.sum() / count, {"accuracy": right.sum() / count}


def balanced_weights(counts: Tensor) -> Tensor:
    """w_k = N / (K n_k): every class weighs the same in all, and the mean weight of a row is 1 (King and Zeng 2001).

    Args:
        counts: [K], n_k, how many rows each class has; a class without rows weighs 1.

    Returns:
        [K] float32
    """
    present = (counts > 0).sum()
    return torch.where(counts > 0, counts.sum() / (present * counts.clamp(min=1)), 1.0).float()
