"""Which pairs of answers to ask people about: those from which most is learnt about all pairs.

The preference of a pair is read as a logistic regression on x = φ(a) − φ(b), the difference of what a model makes of
the two answers: p = σ(wᵀx). What is known of w is its posterior under a Gaussian prior, in Laplace's approximation,
with covariance Σ. A judgement of the pair x lowers the variance of every pair's xₙᵀw, and most is learnt from the pair
for which the sum over all of them is greatest (MacKay 1992, "Information-based objective functions for active data
selection", section 4.2, to first order)

    Σₙ cₙ · c (xₙᵀΣx)² / (1 + c xᵀΣx),   c = p(1 − p)

It is large where the outcome is uncertain (p near ½), where weights that agree with all judgements so far disagree, and
for a pair that is like many others. After each choice Σ is what it would be with that pair judged, so that the next
one tells something else: what is asked together is diverse.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def informative(pairs: Array, count: int, *, judged: Array, outcomes: Sequence[float], prior: float = 1.0) -> list[int]:
    """The `count` pairs to ask about, the most telling first; all of them where there are no more.

    Args:
        pairs: [N, D], x of each pair that could be asked about.
        judged: [M, D], x of the pairs that people have judged. M may be 0: the choice is then for diversity alone.
        outcomes: [M] in [0, 1], how often the first answer was preferred.
        prior: variance of a weight before anything is known, on features of unit variance.
    """
    scale = np.sqrt(np.concatenate([pairs, judged]).var(0).mean() * pairs.shape[1]) or 1.0
    pairs, judged = pairs / scale, judged / scale
    weights, covariance = posterior(judged, np.asarray(outcomes, dtype=np.float64), prior * pairs.shape[1])
    p = _sigmoid(pairs @ weights)
    curvature = p * (1 - p)
    shared = pairs @ covariance @ pairs.T  # [N, N], xₙᵀΣx of any two, kept up to date
    chosen: list[int] = []
    for _ in range(min(count, len(pairs))):
        fall = curvature / (1 + curvature * np.diag(shared))
        gain = fall * (curvature @ shared**2)
        gain[chosen] = -np.inf
        best = int(gain.argmax())
        chosen.append(best)
        # one more judgement changes Σ by a matrix of rank one (Sherman and Morrison 1950)
        shared = shared - fall[best] * np.outer(shared[:, best], shared[best])
    return chosen


def posterior(judged: Array, outcomes: Array, variance: float, steps: int = 50) -> tuple[Array, Array]:
    """(mean [D], covariance [D, D]) of the weights of a logistic regression, by Newton's method from 0."""
    size = judged.shape[1]
    weights: NDArray[np.floating] = np.zeros(size)
    precision: NDArray[np.floating] = np.eye(size) / variance
    for _ in range(steps):
        p = _sigmoid(judged @ weights)
        precision = np.eye(size) / variance + (judged * (p * (1 - p))[:, None]).T @ judged
        step = np.linalg.solve(precision, judged.T @ (outcomes - p) - weights / variance)
        weights = weights + step * min(1.0, 5.0 / (np.abs(judged @ step).max(initial=0.0) + 1e-12))
        if np.abs(step).max() < 1e-8:
            break
    return weights.astype(np.float64), np.linalg.inv(precision).astype(np.float64)


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(x / 2))
