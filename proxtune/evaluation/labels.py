"""Figures of labels: one of a set, several of a set, a number, and how sure a classifier is of them.

The figures are those of scikit-learn with `labels=labels, zero_division=0`: every label counts in a macro average, also
one that no row has. An invalid prediction is none of the labels: it is wrong, and its share is the figure `invalid`.
"""

from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from proxtune.errors import DataError
from proxtune.evaluation.metrics import Array, Measure, check_rows, precision_recall_f1, ratio


class Row(NamedTuple):
    """One line of a table of labels; `support` is how many gold ones there are."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


class Bin(NamedTuple):
    """The rows with a confidence above `above`, up to the next bin: number, mean confidence, share right."""

    above: float
    rows: int
    confidence: float
    accuracy: float


def classes(gold: Sequence[str], predicted: Sequence[str | None], labels: Sequence[str]) -> Measure:
    """Of one label a row: accuracy, macro_f1, weighted_f1 (by gold counts), mcc and invalid.

    mcc = (n c − Σ p_k t_k) / √((n² − Σ p_k²)(n² − Σ t_k²)), c rows right, p_k predicted and t_k gold ones of class k
    (Gorodkin 2004); the invalid predictions (None, or a text that is no label) are a class of their own in p.
    Raises DataError: a gold label that is not among `labels`; not as many predictions as gold labels, or none.
    """
    at, said = _places(gold, predicted, labels)
    one_hot = np.eye(len(labels) + 1)[:, :-1]
    rows = np.hstack([one_hot[at] * one_hot[said], one_hot[said], one_hot[at]])
    return Measure(rows, partial(_figures_of_classes, _absent(one_hot[at], one_hot[said])))


def _absent(gold: Array, predicted: Array) -> int:
    """Of how many labels no row has one or is said to."""
    return int(((gold + predicted).sum(axis=0) == 0).sum())


def _macro(f1: Array, gold: Array, predicted: Array, absent: int) -> Array:
    """The mean F1 of all labels; one that a resample does not draw is not counted there, as if it were a wrong one."""
    return ratio(f1.sum(-1), ((gold + predicted) > 0).sum(-1) + absent)


def _figures_of_classes(absent: int, sums: Array) -> dict[str, Array]:
    correct, predicted, gold = np.split(sums, 3, axis=-1)
    n, right = gold.sum(-1), correct.sum(-1)
    invalid = n - predicted.sum(-1)
    _, _, f1 = precision_recall_f1(correct, predicted, gold)
    spread = (n**2 - (predicted**2).sum(-1) - invalid**2) * (n**2 - (gold**2).sum(-1))
    return {
        "accuracy": ratio(right, n),
        "macro_f1": _macro(f1, gold, predicted, absent),
        "weighted_f1": ratio((f1 * gold).sum(-1), n),
        "mcc": ratio(n * right - (predicted * gold).sum(-1), np.sqrt(spread)),
        "invalid": ratio(invalid, n),
    }


def class_table(gold: Sequence[str], predicted: Sequence[str | None], labels: Sequence[str]) -> list[Row]:
    """A row for each label, then `accuracy`, `macro avg` and `weighted avg`: scikit-learn's classification_report.

    Raises DataError: as `classes` does.
    """
    counts = classes(gold, predicted, labels).rows.sum(axis=0).reshape(3, -1)
    accuracy = counts[0].sum() / len(gold)
    return table(labels, counts, row("accuracy", [accuracy] * 3, len(gold)))


def table(labels: Sequence[str], counts: Array, overall: Row) -> list[Row]:
    """A row for each label, then `overall`, then the averages, plain and weighted by gold counts.

    counts [3, K]: how many of each label are right, predicted and gold.
    """
    gold = counts[2]
    scores, total = np.stack(precision_recall_f1(*counts)), float(gold.sum())
    return [
        *(row(label, scores[:, k], gold[k]) for k, label in enumerate(labels)),
        overall,
        row("macro avg", scores.sum(-1) / max(1, len(labels)), total),
        row("weighted avg", scores @ gold / max(1.0, total), total),
    ]


def micro_row(counts: Array) -> Row:
    """The scores of all labels of `table` together."""
    total = counts.sum(axis=-1)
    return row("micro avg", np.stack(precision_recall_f1(*total)), total[2])


def row(label: str, scores: Iterable[float], support: float) -> Row:
    """A line of the table; `scores` are precision, recall and f1."""
    precision, recall, f1 = map(float, scores)
    return Row(label, precision, recall, f1, int(support))


def confusion(gold: Sequence[str], predicted: Sequence[str | None], labels: Sequence[str]) -> NDArray[np.int64]:
    """How often labels[i] was taken for labels[j], [K, K]; invalid predictions are left out.

    Raises DataError: as `classes` does.
    """
    counts = np.zeros((len(labels), len(labels) + 1), dtype=np.int64)
    np.add.at(counts, _places(gold, predicted, labels), 1)
    return counts[:, :-1]


def label_sets(
    gold: Sequence[Collection[str]], predicted: Sequence[Collection[str] | None], labels: Sequence[str]
) -> Measure:
    """Of sets of labels: micro_f1, macro_f1, samples_f1 (the mean of the rows' F1), accuracy (sets all right), invalid.

    A row of no labels that is rightly predicted so has the F1 0, as in scikit-learn. None is no set: it is read as the
    empty one and never right. A predicted text that is no label is a false positive of the micro and the samples' F1;
    both are counted in `invalid`, a share of rows.
    Raises DataError: a gold label that is not among `labels`; not as many predictions as gold sets, or none.
    """
    check_rows(gold, predicted)
    place = {label: k for k, label in enumerate(labels)}
    truth, said = np.zeros((2, len(gold), len(labels)))
    others = []
    for i, (right, guess) in enumerate(zip(gold, predicted, strict=True)):
        truth[i, [_place(label, place, i) for label in right]] = 1
        known = [place[label] for label in guess or () if label in place]
        said[i, known] = 1
        others.append((len(set(guess or ())) - len(set(known)), guess is None))
    extra, missing = np.asarray(others, dtype=np.float64).T
    size = said.sum(-1) + extra
    _, _, f1 = precision_recall_f1((truth * said).sum(-1), size, truth.sum(-1))
    invalid = (extra > 0) | (missing > 0)
    exact = (truth == said).all(-1) & ~invalid
    rows = np.hstack([truth * said, said, truth, np.stack([size, f1, exact, invalid, np.ones(len(gold))], axis=1)])
    return Measure(rows, partial(_figures_of_sets, _absent(truth, said)))


def _figures_of_sets(absent: int, sums: Array) -> dict[str, Array]:
    correct, predicted, gold = np.split(sums[..., :-5], 3, axis=-1)
    size, f1, exact, invalid, n = np.moveaxis(sums[..., -5:], -1, 0)
    return {
        "micro_f1": precision_recall_f1(correct.sum(-1), size, gold.sum(-1))[2],
        "macro_f1": _macro(precision_recall_f1(correct, predicted, gold)[2], gold, predicted, absent),
        "samples_f1": ratio(f1, n),
        "accuracy": ratio(exact, n),
        "invalid": ratio(invalid, n),
    }


def set_table(
    gold: Sequence[Collection[str]], predicted: Sequence[Collection[str] | None], labels: Sequence[str]
) -> list[Row]:
    """A row for each label, then `micro avg`, `macro avg` and `weighted avg`: scikit-learn's classification_report.

    A predicted text that is no label is left out. Raises DataError: as `label_sets` does.
    """
    counts = label_sets(gold, predicted, labels).rows[:, :-5].sum(axis=0).reshape(3, -1)
    return table(labels, counts, micro_row(counts))


def numbers(gold: Sequence[float], predicted: Sequence[float]) -> Measure:
    """Of one number a row: pearson, spearman, rmse, mae and r2 = 1 − Σ(gold − predicted)² / Σ(gold − mean gold)².

    The ranks of spearman are those among all rows, ties at their mean rank; a resample keeps them, it ranks not anew.
    Where all gold numbers (or, for the correlations, all predictions) are the same, these figures are 0.
    Raises DataError: a number that is not finite; not as many predictions as gold numbers, or none.
    """
    check_rows(gold, predicted)
    x, y = np.asarray(gold, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if bad := np.flatnonzero(~np.isfinite(x) | ~np.isfinite(y)).tolist():
        raise DataError(f"row {bad[0]}: gold {x[bad[0]]}, predicted {y[bad[0]]}: both must be finite numbers")
    error = x - y
    moments = [*_moments(x, y), *_moments(_ranks(x), _ranks(y))]
    return Measure(np.stack([*moments, error**2, np.abs(error), np.ones_like(x)], axis=1), _figures_of_numbers)


def _figures_of_numbers(sums: Array) -> dict[str, Array]:
    *_, squared, absolute, n = np.moveaxis(sums, -1, 0)
    spread = _spread(sums[..., 0], sums[..., 2], n) / n
    return {
        "pearson": _correlation(sums[..., 0:5], n),
        "spearman": _correlation(sums[..., 5:10], n),
        "rmse": np.sqrt(squared / n),
        "mae": absolute / n,
        "r2": np.where(spread > 0, 1 - ratio(squared, spread), 0),
    }


def _moments(x: Array, y: Array) -> list[Array]:
    """What a correlation adds up. Less the median, which a constant becomes exact zeros by, and sums lose little by."""
    x, y = x - np.median(x), y - np.median(y)
    return [x, y, x * x, y * y, x * y]


def _correlation(moments: Array, n: Array) -> Array:
    x, y, xx, yy, xy = np.moveaxis(moments, -1, 0)
    return ratio(n * xy - x * y, np.sqrt(_spread(x, xx, n) * _spread(y, yy, n)))


def _spread(x: Array, xx: Array, n: Array) -> Array:
    """The sum n Σx² − (Σx)²; 0 where it is no more than the rounding of its terms, as on n copies of one row."""
    spread = n * xx - x * x
    return np.where(spread > 1e-12 * n * xx, spread, 0)


def _ranks(x: Array) -> Array:
    _, place, count = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


def calibration(confidence: Sequence[float], correct: Sequence[bool], bins: int = 10) -> Measure:
    """How far confidence is from being right: ece = Σ_bins |Σ_rows (correct − confidence)| / n; brier, the mean square.

    The bins are (k/bins, (k+1)/bins], with 0 in the first (Guo et al. 2017). A resample adds noise to every bin, so
    that the interval of a small ece lies above it. Raises DataError: a confidence outside [0, 1]; not as many of one as
    of the other, or none.
    """
    sure, right, place = _binned(confidence, correct, bins)
    gap = right - sure
    rows = np.hstack([np.eye(bins)[place] * gap[:, None], gap[:, None] ** 2, np.ones((len(gap), 1))])
    return Measure(
        rows,
        lambda sums: {
            "ece": ratio(np.abs(sums[..., :-2]).sum(-1), sums[..., -1]),
            "brier": ratio(sums[..., -2], sums[..., -1]),
        },
    )


def reliability(confidence: Sequence[float], correct: Sequence[bool], bins: int = 10) -> list[Bin]:
    """The bins of `calibration` for a plot; a bin that is empty has zeros. Raises DataError: as `calibration` does."""
    sure, right, place = _binned(confidence, correct, bins)
    rows, *sums = np.stack([np.ones_like(sure), sure, right]) @ np.eye(bins)[place]
    confidence, accuracy = (ratio(x, rows).tolist() for x in sums)
    return [Bin(k / bins, int(rows[k]), confidence[k], accuracy[k]) for k in range(bins)]


def _binned(confidence: Sequence[float], correct: Sequence[bool], bins: int) -> tuple[Array, Array, NDArray[np.intp]]:
    check_rows(correct, confidence)
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if bad := np.flatnonzero(~((sure >= 0) & (sure <= 1))).tolist():
        raise DataError(f"row {bad[0]}: the confidence is {sure[bad[0]]}; it must be a probability, from 0 to 1")
    return sure, right, np.searchsorted(np.arange(1, bins) / bins, sure)


def _places(
    gold: Sequence[str], predicted: Sequence[str | None], labels: Sequence[str]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The places of the labels of each row among `labels`; of an invalid prediction, the place after the last."""
    check_rows(gold, predicted)
    place = {label: k for k, label in enumerate(labels)}
    at = [_place(label, place, i) for i, label in enumerate(gold)]
    said = [len(labels) if label is None else place.get(label, len(labels)) for label in predicted]
    return np.asarray(at), np.asarray(said)


def _place(label: str, place: dict[str, int], row: int) -> int:
    if label not in place:
        raise DataError(f"row {row}: the gold label {label!r} is none of {', '.join(map(repr, place))}; add it to them")
    return place[label]
