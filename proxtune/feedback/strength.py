"""How strong each model is, by who won against whom."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from proxtune.errors import DataError
from proxtune.feedback.figures import MINIMUM, RESAMPLES, Array, Counts, Figure, interval

PRIOR = 0.1
NEWTON_STEPS = 200


class Game(NamedTuple):
    """One comparison of two models: the score of the first is 1 (it won), 0 (it lost) or 1/2 (a tie).

    Games of one item (several people compared the same two answers) are resampled together; None: this one alone.
    """

    first: str
    second: str
    score: float
    item: Hashable = None


class Strength(NamedTuple):
    """A model, its strength (its count: games), and how many games it won, a tie as half a win."""

    model: str
    strength: Figure
    wins: float


def bradley_terry(
    games: Sequence[Game], *, prior: float = PRIOR, seed: int = 0, resamples: int = RESAMPLES
) -> list[Strength]:
    """The strengths s of models, P(i beats j) = 1 / (1 + e^(s_j − s_i)), the best first (Bradley & Terry 1952).

    In nats of odds, with mean 0; times 400 / ln 10 they are Elo points. They maximise the likelihood of the wins, ties
    as half wins, in which each model also ties `prior` games with one of strength 0: who wins every game stays finite,
    and models that never met can be compared. The interval is a bootstrap over items. A model with fewer than
    `MINIMUM` games has no value and comes last. Raises DataError: a score outside [0, 1], or a model against itself.
    """
    _check(games)
    models = sorted({model for game in games for model in game[:2]})
    if not models:
        return []
    place = {model: i for i, model in enumerate(models)}
    kinds, counts = _won(games, place)

    def strengths(weights: NDArray[Any]) -> Array:
        return _maximum((weights @ kinds).reshape(-1, len(models), len(models)), prior)

    values = strengths(counts[None])[0]
    lows, highs = interval(strengths, counts, seed=seed, resamples=resamples)
    won = (counts @ kinds).reshape(len(models), -1)
    played = np.rint((won + won.T).sum(axis=1)).astype(int)
    found = []
    for i, model in enumerate(models):
        known = Figure(float(values[i]), float(lows[i]), float(highs[i]), int(played[i]))
        unknown = Figure(None, None, None, int(played[i]))
        found.append(Strength(model, known if played[i] >= MINIMUM else unknown, float(won[i].sum())))
    return sorted(found, key=lambda s: np.inf if s.strength.value is None else -s.strength.value)


def elo(games: Iterable[Game], *, k: float = 32.0, start: float = 1000.0) -> dict[str, float]:
    """Elo's ratings after the games, one after the other (Elo 1978), the best first.

    After each, r_first += k (score − 1 / (1 + 10^((r_second − r_first) / 400))), and r_second loses as much. The order
    of the games changes the ratings, and late games count more: it follows a model that changes. For a table of fixed
    models `bradley_terry` is the better one. Raises DataError as it does.
    """
    ratings: dict[str, float] = {}
    games = list(games)
    _check(games)
    for first, second, score, _ in games:
        a, b = ratings.get(first, start), ratings.get(second, start)
        gain = k * (score - 1 / (1 + 10 ** ((b - a) / 400)))
        ratings[first], ratings[second] = a + gain, b - gain
    return dict(sorted(ratings.items(), key=lambda row: -row[1]))


def _check(games: Iterable[Game]) -> None:
    for first, second, score, _ in games:
        if first == second:
            raise DataError(f"model {first!r} plays against itself; a game has two models")
        if not 0 <= score <= 1:
            raise DataError(f"{first!r} against {second!r}: the score is {score}; give 1, 0, or 0.5 for a tie")


def _won(games: Sequence[Game], place: Mapping[str, int]) -> tuple[Array, Counts]:
    """The wins [U, K·K] of i against j in each kind of item, and how many items there are of each kind, [U]."""
    models, items = len(place), dict[Hashable, Array]()
    for i, (first, second, score, item) in enumerate(games):
        key = ("game", i) if item is None else ("item", item)
        won = items.setdefault(key, np.zeros((models, models)))
        won[place[first], place[second]] += score
        won[place[second], place[first]] += 1 - score
    kinds, counts = np.unique([won.ravel() for won in items.values()], axis=0, return_counts=True)
    return kinds, counts.astype(np.int64)


def _maximum(won: Array, prior: float) -> Array:
    """The s with the greatest Σ won_ij log σ(s_i − s_j) + prior/2 Σ (log σ(s_i) + log σ(−s_i)): [R, K, K] -> [R, K].

    Less its mean. Newton's method, each step n of it times ln(1 + d) / d with d = √2 ‖n‖: thus it converges from
    anywhere, as the function is generalised self-concordant (Sun & Tran-Dinh 2019).
    """
    played, s = won + won.swapaxes(1, 2), np.zeros((len(won), won.shape[1]))
    own = np.arange(s.shape[1])
    for _ in range(NEWTON_STEPS):
        p = 1 / (1 + np.exp(s[:, None, :] - s[:, :, None]))
        alone = 1 / (1 + np.exp(-s))
        slope = (won - played * p).sum(axis=2) + prior * (0.5 - alone)
        bend = -played * p * (1 - p)
        bend[:, own, own] = prior * alone * (1 - alone) - bend.sum(axis=2)
        step = np.linalg.solve(bend, slope[..., None])[..., 0]
        d = np.sqrt(2) * np.linalg.norm(step, axis=1, keepdims=True)
        s += step * np.log1p(d) / np.maximum(d, 1e-300)
        if d.max() < 1e-10:
            break
    return np.asarray(s - s.mean(axis=1, keepdims=True))
