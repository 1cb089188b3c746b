"""Strengths of models from who won against whom."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize
from scipy.special import expit

from proxtune.errors import DataError
from proxtune.feedback.strength import PRIOR, Game, bradley_terry, elo

MODELS = "abcde"
GAMES = st.lists(
    st.tuples(st.sampled_from(MODELS), st.sampled_from(MODELS), st.sampled_from([0.0, 0.5, 1.0])), max_size=60
).map(lambda rows: [Game(*row) for row in rows if row[0] != row[1]])


def series(first: str, second: str, *, won: int, lost: int, tied: int = 0) -> list[Game]:
    return [Game(first, second, score) for score, n in ((1, won), (0, lost), (0.5, tied)) for _ in range(n)]


def values(games: list[Game], **options: Any) -> dict[str, Any]:
    return {row.model: row.strength.value for row in bradley_terry(games, resamples=20, **options)}


def round_robin(models: str = MODELS) -> list[Game]:
    """Every two models tie ten games: with these, all have enough, and are as strong as each other."""
    return [game for a in models for b in models if a < b for game in series(a, b, won=0, lost=0, tied=10)]


@pytest.mark.parametrize(("won", "lost", "tied"), [(30, 10, 0), (20, 0, 20), (8, 2, 0)])
def test_of_two_models_the_difference_is_the_log_odds_of_the_share_of_wins(won: int, lost: int, tied: int) -> None:
    found = values(series("a", "b", won=won, lost=lost, tied=tied), prior=1e-9)
    wins, losses = won + tied / 2, lost + tied / 2
    assert found["a"] - found["b"] == pytest.approx(math.log(wins / losses), abs=1e-6)
    assert found["a"] == pytest.approx(-found["b"])


def test_the_prior_of_two_models_in_a_closed_form() -> None:
    """s and −s: 30 − 40 σ(2s) + 0.1 (1/2 − σ(s)) = 0, the derivative of the likelihood."""
    s = values(series("a", "b", won=30, lost=10))["a"]
    sigma = 1 / (1 + math.exp(-2 * s)), 1 / (1 + math.exp(-s))
    assert 30 - 40 * sigma[0] + PRIOR * (0.5 - sigma[1]) == pytest.approx(0, abs=1e-9)
    assert 0 < math.log(3) - 2 * s < 0.01


@settings(max_examples=40)
@given(GAMES, st.sampled_from([1e-3, 0.1, 1.0]))
def test_it_is_what_a_direct_search_for_the_greatest_likelihood_finds(games: list[Game], prior: float) -> None:
    games = [*round_robin(), *games]
    place = {model: i for i, model in enumerate(MODELS)}
    first, second = (np.asarray([place[game[side]] for game in games]) for side in (0, 1))
    score = np.asarray([game.score for game in games])

    def loss(s: Any) -> Any:
        gap = s[first] - s[second]
        likelihood = score * np.logaddexp(0, -gap) + (1 - score) * np.logaddexp(0, gap)
        return likelihood.sum() + prior / 2 * (np.logaddexp(0, s) + np.logaddexp(0, -s)).sum()

    best = minimize(loss, np.zeros(len(MODELS)), method="BFGS", options={"gtol": 1e-7}).x
    found = values(games, prior=prior)
    assert [found[model] for model in MODELS] == pytest.approx(best - best.mean(), abs=1e-5)


def test_who_wins_every_game_stays_finite_and_comes_first() -> None:
    """20 of 20: 20 (1 − σ(2s)) = 0.1 (σ(s) − 1/2), about 0.05, so 2s is about ln(400) = 6."""
    found = bradley_terry(series("a", "b", won=20, lost=0))
    assert [row.model for row in found] == ["a", "b"]
    assert found[0].strength.value - found[1].strength.value == pytest.approx(math.log(400), abs=0.1)
    assert [row.wins for row in found] == [20, 0]


CHAIN = {"ab": 500, "bc": 500, "cd": 500, "de": 500}
RUNAWAY = {"ab": 308, "ad": 1, "bc": 2, "bd": 691, "ca": 296, "ec": 1, "ed": 209}  # plain Newton steps do not end here


@pytest.mark.parametrize(("wins", "prior"), [(CHAIN, 1e-6), (CHAIN, 1e-3), (RUNAWAY, 1e-3)])
def test_it_converges_where_only_the_prior_bounds_it(wins: dict[str, int], prior: float) -> None:
    """The slope of every s, the wins less those expected, is 0 once the mean is put back.

    For winner w and loser l of n games it is ±n σ(s_l − s_w), and of the prior prior (1/2 − σ(s)); to some roundings
    of 500 games, 1e-13 each.
    """
    games = [game for (winner, loser), n in wins.items() for game in series(winner, loser, won=n, lost=0)]
    found = values(games, prior=prior)
    mean = brentq(lambda x: sum(0.5 - expit(s + x) for s in found.values()), -100, 100, xtol=1e-14)
    slope = {model: prior * (0.5 - expit(s + mean)) for model, s in found.items()}
    for (winner, loser), n in wins.items():
        upsets = n * expit(found[loser] - found[winner])
        slope[winner] += upsets
        slope[loser] -= upsets
    assert slope == pytest.approx(dict.fromkeys(MODELS, 0), abs=1e-12)


def test_models_that_never_met_are_compared_through_the_prior() -> None:
    found = values([*series("a", "b", won=20, lost=10), *series("c", "d", won=10, lost=20)])
    assert found["a"] == pytest.approx(found["d"])
    assert found["a"] > found["b"]


@settings(max_examples=15)
@given(GAMES, st.randoms())
def test_neither_the_order_of_games_nor_who_is_named_first_matters(games: list[Game], random: Any) -> None:
    games = [*round_robin(), *games]
    turned = [game if random.random() < 0.5 else Game(game[1], game[0], 1 - game[2]) for game in games]
    random.shuffle(turned)
    there, back = bradley_terry(games, resamples=20), bradley_terry(turned, resamples=20)
    assert {row.model: row for row in there} == {row.model: row for row in back}


def test_the_interval_is_that_of_the_log_odds() -> None:
    """The log-odds of x of n have the deviation 1/√(n p (1 − p)); here of 2s. To 10% of the width for the bend."""
    found = bradley_terry(series("a", "b", won=300, lost=100), resamples=4000)[0].strength
    half = 1.96 / math.sqrt(400 * 0.75 * 0.25) / 2
    middle = math.log(3) / 2
    assert (found.low, found.high) == pytest.approx((middle - half, middle + half), abs=0.1 * 2 * half)
    assert found.count == 400


def test_games_of_one_item_are_drawn_together() -> None:
    """Four people who always say the same are one: the interval is twice as wide. Others' items are their own."""
    alone = series("a", "b", won=100, lost=50)
    four = [Game(*game[:3], item=i) for i, game in enumerate(alone) for _ in range(4)]
    one, together, apart = (
        bradley_terry(games, resamples=4000)[0].strength
        for games in (alone, four, [game._replace(item=None) for game in four])
    )
    assert one.value == pytest.approx(together.value, abs=1e-3)
    assert together.high - together.low == pytest.approx(one.high - one.low, rel=0.05)
    assert together.high - together.low == pytest.approx(2 * (apart.high - apart.low), rel=0.1)


def test_a_model_with_few_games_has_no_value_and_comes_last() -> None:
    games = [*series("a", "b", won=3, lost=20), *series("c", "a", won=9, lost=0)]
    found = bradley_terry(games)
    assert [row.model for row in found] == ["b", "a", "c"]
    assert (found[2].strength.value, found[2].strength.count, found[2].wins) == (None, 9, 9)
    assert bradley_terry([]) == []


def test_elo_in_literal_numbers() -> None:
    """Of two equals the winner gains 32/2; then 1032 less is expected to score 1/(1 + 10^(−32/400)) = 0.5460."""
    one = elo([Game("a", "b", 1)])
    assert one == {"a": 1016, "b": 984}
    two = elo([Game("a", "b", 1), Game("a", "b", 0)])
    assert two["a"] == pytest.approx(1016 - 32 / (1 + 10 ** (-32 / 400)))
    assert two["a"] + two["b"] == pytest.approx(2000)
    assert list(two) == ["b", "a"]
    assert elo([Game("a", "b", 0.5)], k=10, start=1500) == {"a": 1500, "b": 1500}


def test_elo_depends_on_the_order_of_games() -> None:
    games = series("a", "b", won=5, lost=5)
    assert elo(games)["a"] < 1000 < elo(games[::-1])["a"]


@pytest.mark.parametrize("rate", [bradley_terry, elo])
def test_games_that_are_none_are_refused(rate: Any) -> None:
    with pytest.raises(DataError, match="model 'a' plays against itself"):
        rate([Game("a", "a", 1)])
    with pytest.raises(DataError, match=r"'a' against 'b': the score is 2; give 1, 0, or 0\.5 for a tie"):
        rate([Game("a", "b", 2)])
    with pytest.raises(DataError, match="the score is nan"):
        rate([Game("a", "b", math.nan)])
