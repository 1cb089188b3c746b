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
    """Five pairs ask one thing and five another: of two choices each is of one kind."""
    pairs = np.array([[2.0, 0.0]] * 5 + [[0.0, 2.0]] * 5)
    chosen = informative(pairs, 2, judged=np.zeros((0, 2)), outcomes=[])
    assert sorted(place // 5 for place in chosen) == [0, 1]


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


def test_a_pair_that_is_like_many_tells_more_than_one_that_is_like_none() -> None:
    """Alone on its axis, the longest pair tells about itself; the shorter one tells about nine others."""
    pairs = np.array([[1.0, 0.0]] * 10 + [[0.0, 1.2]])
    assert informative(pairs, 1, judged=np.zeros((0, 2)), outcomes=[])[0] < 10


def test_what_is_chosen_is_what_lowers_the_variance_of_all_pairs_most() -> None:
    """Greedy choices with the rank-one change, against the covariance computed anew for each candidate."""
    pairs, judged = draws(2, 30, 5), draws(3, 12, 5)
    outcomes = (judged[:, 0] > 0).astype(float)
    scale = np.sqrt(np.concatenate([pairs, judged]).var(0).mean() * 5)
    x, seen = pairs / scale, judged / scale
    weights, covariance = posterior(seen, outcomes, 5.0)
    p = 1 / (1 + np.exp(-x @ weights))
    c = p * (1 - p)
    precision, expected = np.linalg.inv(covariance), []

    def variance(added: np.ndarray) -> float:
        return float(c @ np.einsum("nd,de,ne->n", x, np.linalg.inv(precision + added), x))

    for _ in range(8):
        after = [variance(c[i] * np.outer(x[i], x[i])) if i not in expected else np.inf for i in range(len(x))]
        best = int(np.argmin(after))
        expected.append(best)
        precision = precision + c[best] * np.outer(x[best], x[best])
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
