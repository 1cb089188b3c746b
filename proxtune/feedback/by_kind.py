"""How much people agree on each kind of question, each by the figure that suits its answers.

| kind               | figures                                                                            |
|--------------------|------------------------------------------------------------------------------------|
| pair               | percent and κ of first, tie, second, both bad; α of the preferences, ordinal       |
| thumb, label, flags| percent, κ and α of the answer, nominal; a set of labels or flags is one answer     |
| rating             | percent, κ (quadratic weights) and α (ordinal) of each criterion                   |
| ranking            | Kendall's W and mean τ-b                                                           |
| spans              | F1 of the spans of two people, over all items                                      |

κ is Cohen's, and there only where two people judged all. Texts that people wrote are not compared.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeAlias, TypedDict

import numpy as np

from proxtune.feedback.agreement import (
    Answer,
    Level,
    PairMatrix,
    Weights,
    cohen_kappa,
    krippendorff_alpha,
    pairwise_matrix,
    percent_agreement,
    rank_agreement,
)
from proxtune.feedback.figures import Array, Figure, figure
from proxtune.feedback.opinions import Opinions, choice
from proxtune.feedback.records import Body, Kind, PairBody, RankingBody, RatingBody, SpansBody

Table: TypeAlias = dict[int, dict[int, Answer]]


class _Drawn(TypedDict):
    """How the intervals are drawn."""

    seed: int
    resamples: int


@dataclass(frozen=True, slots=True)
class Agreement:
    """How much people agree on one kind of question, or on one criterion of ratings."""

    name: str
    items: int  # judged by two people or more
    figures: dict[str, Figure]  # percent, kappa, alpha; or kendall_w, mean_tau; or f1
    matrix: PairMatrix | None = None  # the kappa of every two people


def agreement_of(found: Sequence[Opinions], *, seed: int, resamples: int) -> list[Agreement]:
    """The agreement on each kind among the items, in the order of their first items."""
    kinds: dict[Kind, list[Opinions]] = {}
    for one in found:
        kinds.setdefault(one.item.kind, []).append(one)
    drawn: _Drawn = {"seed": seed, "resamples": resamples}
    return [result for kind, asked in kinds.items() for result in _of_kind(kind, asked, drawn)]


def choices(found: Sequence[Opinions]) -> Table:
    """Item -> person -> the answer in one word, of those that have one."""
    return _table(found, choice)


def _of_kind(kind: Kind, asked: Sequence[Opinions], drawn: _Drawn) -> list[Agreement]:
    items = sum(len(one.answers) > 1 for one in asked)
    match kind:
        case "pair":
            preferences = _table(asked, lambda body: body.preference if isinstance(body, PairBody) else None)
            alpha = krippendorff_alpha(preferences, level="ordinal", **drawn)
            return [_of_answers(kind, items, choices(asked), drawn, alpha=alpha)]
        case "thumb" | "label" | "flags":
            return [_of_answers(kind, items, choices(asked), drawn)]
        case "rating":
            criteria = dict.fromkeys(name for one in asked for name in one.item.options.criteria)
            return [_of_criterion(asked, name, drawn) for name in criteria]
        case "ranking":
            ranks = {
                one.id: {person: body.ranks for person, body in one.bodies().items() if isinstance(body, RankingBody)}
                for one in asked
            }
            return [Agreement(kind, items, rank_agreement(ranks, **drawn)._asdict())]
        case "spans":
            return [Agreement(kind, items, {"f1": span_f1(asked, **drawn)})]
    return []


def _of_criterion(asked: Sequence[Opinions], criterion: str, drawn: _Drawn) -> Agreement:
    table = _table(asked, lambda body: body.scores.get(criterion) if isinstance(body, RatingBody) else None)
    items = sum(len(answers) > 1 for answers in table.values())
    return _of_answers(f"rating: {criterion}", items, table, drawn, level="ordinal", weights="quadratic")


def _of_answers(
    name: str,
    items: int,
    table: Table,
    drawn: _Drawn,
    *,
    alpha: Figure | None = None,
    level: Level = "nominal",
    weights: Weights | None = None,
) -> Agreement:
    matrix = pairwise_matrix(table, weights=weights, **drawn)
    figures = {"percent": percent_agreement(table, **drawn)}
    if len(matrix.people) == 2:
        figures["kappa"] = cohen_kappa(table, *matrix.people, weights=weights, **drawn)
    figures["alpha"] = alpha or krippendorff_alpha(table, level=level, **drawn)
    return Agreement(name, items, figures, matrix)


def _table(found: Sequence[Opinions], answer: Callable[[Body], Answer | None]) -> Table:
    table: Table = {}
    for one in found:
        answers = {person: answer(body) for person, body in one.bodies().items()}
        table[one.id] = {person: said for person, said in answers.items() if said is not None}
    return table


def span_f1(asked: Sequence[Opinions], *, seed: int, resamples: int) -> Figure:
    """F1 = Σ 2 |A ∩ B| / Σ (|A| + |B|) over every two people of every item: spans that are equal, label and all.

    Undefined where nobody marked anything.
    """
    shared, marked = list[int](), list[int]()
    for one in asked:
        sets = [set(body.spans) for body in one.bodies().values() if isinstance(body, SpansBody)]
        pairs = list(combinations(sets, 2))
        if pairs:
            shared.append(sum(2 * len(a & b) for a, b in pairs))
            marked.append(sum(len(a) + len(b) for a, b in pairs))

    def f1(weights: Array) -> Array:
        both, total = (weights @ np.asarray(counts, dtype=np.float64) for counts in (shared, marked))
        return np.asarray(np.divide(both, total, out=np.full(len(weights), np.nan), where=total > 0))

    return figure(f1, [1] * len(shared), seed=seed, resamples=resamples)
