"""Which pairs are asked about."""

import numpy as np
import pytest
from scipy.optimize import minimize

from proxtune.feedback.choose import informative, posterior


def draws(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_with_one_feature_the_widest_pair_comes_first() -> None:
    pairs = np.array([[1.0], [-3.0], [2.0]])
    assert informative(pairs, 3, judged=np.zeros((0, 1)), outcomes=[])[0] == 1


def test_what_is_asked_together_is_diverse() -> None:
    """Of ten pairs that ask the same and one that asks something else, the second choice is the other."""
    pairs = np.array([[2.0, 0.0]] * 10 + [[0.0, 1.0]])
    first, second = informative(pairs, 2, judged=np.zeros((0, 2)), outcomes=[])
    assert first < 10
    assert second == 10


def test_what_is_known_is_not_asked_again() -> None:
    """A hundred judgements along one direction: the next question is about the other."""
    judged = np.tile([[1.0, 0.0]], (100, 1))
    pairs = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert informative(pairs, 1, judged=judged, outcomes=[1.0] * 100) == [1]


def test_of_pairs_of_one_length_the_uncertain_one_is_asked() -> None:
    judged = np.concatenate([draws(1, 200, 2)])
    outcomes = (judged @ [3.0, 0.0] > 0).astype(float)
    sure, unsure = [1.0, 0.0], [0.1, 0.995]
    assert informative(np.array([sure, unsure]), 1, judged=judged, outcomes=list(outcomes)) == [1]


def test_the_change_by_one_judgement_is_that_of_the_whole_formula() -> None:
    """Greedy choices with the rank-one change, against the covariance computed anew each time."""
    pairs, judged = draws(2, 30, 5), draws(3, 12, 5)
    outcomes = (judged[:, 0] > 0).astype(float)
    scale = np.sqrt(np.concatenate([pairs, judged]).var(0).mean() * 5)
    x, seen = pairs / scale, judged / scale
    weights, covariance = posterior(seen, outcomes, 5.0)
    p = 1 / (1 + np.exp(-x @ weights))
    precision, expected = np.linalg.inv(covariance), []
    for _ in range(8):
        spread = np.einsum("nd,de,ne->n", x, np.linalg.inv(precision), x)
        gain = np.log1p(p * (1 - p) * spread)
        gain[expected] = -np.inf
        best = int(gain.argmax())
        expected.append(best)
        precision = precision + p[best] * (1 - p[best]) * np.outer(x[best], x[best])
    assert informative(pairs, 8, judged=judged, outcomes=list(outcomes)) == expected


def test_the_posterior_mean_is_the_maximum_of_likelihood_times_prior() -> None:
    judged, outcomes = draws(4, 40, 3), np.random.default_rng(5).random(40)

    def loss(w: np.ndarray) -> float:
        z = judged @ w
        return float((np.logaddexp(0, z) - outcomes * z).sum() + w @ w / (2 * 2.0))

    weights, _ = posterior(judged, outcomes, 2.0)
    assert weights == pytest.approx(minimize(loss, np.zeros(3), tol=1e-12).x, abs=1e-5)


def test_all_are_asked_where_there_are_no_more() -> None:
    pairs = draws(6, 4, 3)
    assert sorted(informative(pairs, 10, judged=np.zeros((0, 3)), outcomes=[])) == [0, 1, 2, 3]
