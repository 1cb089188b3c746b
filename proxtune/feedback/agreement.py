"""How much people agree: figures of a table of who said what of which item.

A table is item -> person -> answer. Whoever has not judged an item is not in its row; items with fewer than two
people say nothing about agreement and are not counted. An answer is a name or a number. Each figure comes with a
bootstrap interval over items (`figures.figure`), and its `count` is the number of items that it rests on. Neither
the order of the items nor that of the people matters.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np

from proxtune.errors import DataError
from proxtune.feedback.figures import RESAMPLES, Array, Counts, Figure, figure

Answer = str | float
Table = Mapping[Any, Mapping[Any, Answer]]
Rankings = Mapping[Any, Mapping[Any, Sequence[float]]]
Weights = Literal["linear", "quadratic"]
Level = Literal["nominal", "ordinal", "interval"]


class PairMatrix(NamedTuple):
    """The kappa of every two people, [n][n] in the order of `people`, and in each figure how many items both judged."""

    people: list[Hashable]
    kappa: list[list[Figure]]


class RankAgreement(NamedTuple):
    """Kendall's W and the mean of Kendall's tau-b, each the mean over items."""

    kendall_w: Figure
    mean_tau: Figure


class _Kinds(NamedTuple):
    """Items of one kind got the same answers, whoever gave them.

    counts [U]: how many items there are of the kind; people [U]: how many judged each of them; kind, code [E]: of
    each answer in a kind, its kind and its category.
    """

    counts: Counts
    people: Counts
    kind: Counts
    code: Counts

    def same(self) -> Array:
        """Of the people² ordered pairs of answers of each kind, [U], how many are equal."""
        width = self.code.max(initial=0) + 1
        key, said = np.unique(self.kind * width + self.code, return_counts=True)
        return np.asarray(np.bincount(key // width, said**2), dtype=np.float64)


def percent_agreement(table: Table, *, seed: int = 0, resamples: int = RESAMPLES) -> Figure:
    """Of all pairs of people on the same item, the share who say the same. Chance is not taken off: see the others."""
    kinds = _kinds(table, _categories(table, None, ordered=False))
    equal, pairs = kinds.same() - kinds.people, kinds.people * (kinds.people - 1)
    return figure(lambda w: (w @ equal) / (w @ pairs), kinds.counts, seed=seed, resamples=resamples)


def krippendorff_alpha(
    table: Table,
    *,
    level: Level = "nominal",
    categories: Sequence[Answer] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Figure:
    """Krippendorff's α = 1 − D_o / D_e, for any number of people and missing answers (Krippendorff 2011).

    D_o is the mean δ² of two answers to one item, in which an item of m answers weighs m; D_e that of two answers to
    any items. δ² of two answers is 1 where they differ (nominal), the square of their difference (interval), or of
    that of their mean ranks among all answers (ordinal). 1 is agreement, 0 is chance; undefined where all answers are
    equal. categories: the order of ordinal answers; numbers have one of their own. Raises DataError: an answer that is
    none of the categories, or has no order; an interval of names; a number that is not finite.
    """
    index = _categories(table, categories, ordered=level != "nominal")
    if level == "interval" and any(isinstance(answer, str) for answer in index):
        raise DataError("the level interval needs numbers as answers; names have the level nominal or ordinal")
    kinds = _kinds(table, index)
    values = np.asarray(list(index), dtype=np.float64) if level == "interval" else np.zeros(len(index))
    alpha = _alpha_of(kinds, level, values - values[:1])  # from a far origin, squares would cost digits
    return figure(lambda w: np.asarray([alpha(row) for row in w]), kinds.counts, seed=seed, resamples=resamples)


def cohen_kappa(
    table: Table,
    a: Hashable,
    b: Hashable,
    *,
    weights: Weights | None = None,
    categories: Sequence[Answer] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Figure:
    """Cohen's κ = 1 − Σ w o / Σ w e on the items that both judged (Cohen 1960; weighted 1968).

    o_ij counts the items that a put into category i and b into j, e_ij = o_i. o_.j / n; w_ij is 1 where i ≠ j, or
    |i − j| (linear), or (i − j)² (quadratic) of places in `categories` (numbers: in their order). 1 is agreement, 0 is
    chance; undefined where both always give the same one answer. Raises DataError as `krippendorff_alpha`.
    """
    index = _categories(table, categories, ordered=weights is not None)
    both = (answers for answers in table.values() if a in answers and b in answers)
    cells = Counter((index[answers[a]], index[answers[b]]) for answers in both)
    return _kappa(cells, weights, seed=seed, resamples=resamples)


def pairwise_matrix(
    table: Table,
    *,
    weights: Weights | None = None,
    categories: Sequence[Answer] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> PairMatrix:
    """`cohen_kappa` of every two people, in the order in which they come. The diagonal is a person against itself."""
    index = _categories(table, categories, ordered=weights is not None)
    people = list(dict.fromkeys(person for answers in table.values() for person in answers))
    place = {person: i for i, person in enumerate(people)}
    cells: dict[tuple[int, int], Counter[tuple[int, int]]] = defaultdict(Counter)
    for answers in table.values():
        said = sorted((place[person], index[answer]) for person, answer in answers.items())
        for (i, x), (j, y) in [*combinations(said, 2), *zip(said, said, strict=True)]:
            cells[i, j][x, y] += 1
    n = range(len(people))
    half = {(i, j): _kappa(cells[i, j], weights, seed=seed, resamples=resamples) for i in n for j in n if i <= j}
    return PairMatrix(people, [[half[min(i, j), max(i, j)] for j in n] for i in n])


def with_majority(table: Table, *, seed: int = 0, resamples: int = RESAMPLES) -> dict[Hashable, Figure]:
    """Of each person the share of items where it says what most of the others say.

    An item where no one answer of the others comes first, or where there are no others, is not counted.
    """
    agreed: dict[Hashable, Counter[bool]] = defaultdict(Counter)
    for answers in table.values():
        said = Counter(answers.values())
        for person, answer in answers.items():
            others = (said - Counter([answer])).most_common(2)
            decided = len(others) == 1 or (len(others) == 2 and others[0][1] > others[1][1])
            agreed[person].update([answer == others[0][0]] if decided else [])
    return {person: _share(counts, seed=seed, resamples=resamples) for person, counts in agreed.items()}


def self_agreement(pairs: Iterable[tuple[Answer, Answer]], *, seed: int = 0, resamples: int = RESAMPLES) -> Figure:
    """The share of repeated items, (first answer, second answer) each, that got the same answer again."""
    return _share(Counter(first == second for first, second in pairs), seed=seed, resamples=resamples)


def rank_agreement(table: Rankings, *, seed: int = 0, resamples: int = RESAMPLES) -> RankAgreement:
    """How alike people rank the k things of an item: item -> person -> the rank of each thing, ties allowed.

    With r the mid-ranks of a person less their mean (k + 1)/2, Kendall's W of an item is ‖Σ r‖² / (m Σ ‖r‖²) over its m
    people (Kendall & Smith 1939, with Kendall's correction for ties): 1 is agreement, 1/m is chance. With s_ij the sign
    of the difference of ranks i and j, tau-b of two people is s·s' / (‖s‖ ‖s'‖) (Kendall 1945): 1 is agreement, 0 is
    chance, −1 the reverse. Whoever ranks all things alike has no order and is not counted. Raises DataError: two people
    rank different numbers of things of one item, or a rank is not finite.
    """
    each = [pair for item, ranks in table.items() if (pair := _ranked(item, ranks)) is not None]
    found = []
    for column in np.reshape(each, (-1, 2)).T:
        # rounded, so that items which differ in the order of people are of one kind
        values, counts = np.unique(np.round(column, 12), return_counts=True)
        found.append(figure(_mean_of(values), counts, seed=seed, resamples=resamples))
    return RankAgreement(*found)


def _categories(table: Table, given: Sequence[Answer] | None, *, ordered: bool) -> dict[Answer, int]:
    """The place of each answer: in the given categories, or else among the answers, numbers first."""
    found = {answer for answers in table.values() for answer in answers.values()}
    odd = [answer for answer in found if not isinstance(answer, str) and not math.isfinite(answer)]
    if odd:
        raise DataError(f"the answer {odd[0]} is not finite; leave a missing answer out of the table")
    if given is not None:
        strange = sorted(map(repr, found - set(given)))
        if strange:
            raise DataError(f"the answer {strange[0]} is none of {', '.join(map(repr, given))}")
        return {answer: place for place, answer in enumerate(given)}
    if ordered and any(isinstance(answer, str) for answer in found):
        raise DataError("answers that are names have no order of their own; give `categories` from low to high")
    return {answer: i for i, answer in enumerate(sorted(found, key=lambda x: (isinstance(x, str), x)))}


def _kinds(table: Table, index: Mapping[Answer, int]) -> _Kinds:
    judged = (answers.values() for answers in table.values() if len(answers) > 1)
    kinds = sorted(Counter(tuple(sorted(index[x] for x in answers)) for answers in judged).items())
    people = np.asarray([len(codes) for codes, _ in kinds], dtype=np.int64)
    return _Kinds(
        np.asarray([count for _, count in kinds], dtype=np.int64),
        people,
        np.repeat(np.arange(len(kinds)), people),
        np.asarray([code for codes, _ in kinds for code in codes], dtype=np.int64),
    )


def _alpha_of(kinds: _Kinds, level: Level, values: Array) -> Callable[[Array], float]:
    """Krippendorff's α of how often each kind of item is there, [U]; nan where all answers are equal.

    Uses Σ (x − x')² over the ordered pairs of m numbers = 2 (m Σ x² − (Σ x)²), in items and over all.
    """
    m = kinds.people
    unequal = (m**2 - kinds.same()) / (m - 1)

    def alpha(weights: Array) -> float:
        said = np.bincount(kinds.code, weights[kinds.kind], minlength=len(values))
        n = said.sum()
        if np.count_nonzero(said) < 2:
            return np.nan
        if level == "nominal":
            return float(1 - (n - 1) * (weights @ unequal) / (n**2 - said @ said))
        x = values if level == "interval" else np.cumsum(said) - said / 2
        sums, squares = (np.bincount(kinds.kind, y[kinds.code]) for y in (x, x * x))
        within = weights @ ((m * squares - sums**2) / (m - 1))
        return float(1 - (n - 1) * within / (n * (said @ (x * x)) - (said @ x) ** 2))

    return alpha


def _kappa(cells: Mapping[tuple[int, int], int], weights: Weights | None, *, seed: int, resamples: int) -> Figure:
    """Cohen's kappa of how often each pair of categories was said."""
    ordered = sorted(cells)
    codes, places = np.unique(np.asarray(ordered, dtype=np.int64), return_inverse=True)
    x, y = places.reshape(-1, 2).T
    gap = np.abs(codes[:, None] - codes).astype(np.float64)
    cost = {None: np.sign(gap), "linear": gap, "quadratic": gap**2}[weights]
    first, second, observed = np.eye(len(codes))[x], np.eye(len(codes))[y], cost[x, y]

    def kappa(counts: Array) -> Array:
        expected = ((counts @ first @ cost) * (counts @ second)).sum(axis=1)
        undefined = np.full(len(counts), np.nan)
        chance = np.divide(counts.sum(axis=1) * (counts @ observed), expected, out=undefined, where=expected > 0)
        return np.asarray(1 - chance)

    return figure(kappa, [cells[pair] for pair in ordered], seed=seed, resamples=resamples)


def _share(counts: Counter[bool], *, seed: int, resamples: int) -> Figure:
    """The share of True."""
    return figure(_mean_of(np.asarray([0.0, 1.0])), [counts[False], counts[True]], seed=seed, resamples=resamples)


def _mean_of(values: Array) -> Callable[[Array], Array]:
    """The mean of values [U] under weights [R, U]."""
    return lambda weights: np.asarray((weights @ values) / weights.sum(axis=1))


def _ranked(item: Hashable, ranks: Mapping[Any, Sequence[float]]) -> tuple[float, float] | None:
    """W and mean tau-b of one item; None with fewer than two people who see an order."""
    lengths = {len(each) for each in ranks.values()}
    if len(lengths) > 1:
        raise DataError(f"item {item!r}: people ranked different numbers of things: {sorted(lengths)}")
    given = np.asarray(list(ranks.values()), dtype=np.float64)
    if not np.isfinite(given).all():
        raise DataError(f"item {item!r}: a rank is not finite; give each thing a rank, equal ranks for a tie")
    if len(given) < 2:
        return None
    signs = np.sign(given[:, :, None] - given[:, None, :])
    signs = signs[signs.any(axis=(1, 2))]
    m = len(signs)
    if m < 2:
        return None
    ranked = signs.sum(axis=2) / 2
    w = (ranked.sum(axis=0) ** 2).sum() / (m * (ranked**2).sum())
    unit = signs / np.sqrt((signs**2).sum(axis=(1, 2), keepdims=True))
    return float(w), float(((unit.sum(axis=0) ** 2).sum() - m) / (m * (m - 1)))
