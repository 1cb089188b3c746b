"""Figures of labels are scikit-learn's."""

import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk
from sklearn.preprocessing import MultiLabelBinarizer

from proxtune.errors import DataError
from proxtune.evaluation.labels import (
    calibration,
    class_table,
    classes,
    confusion,
    label_sets,
    numbers,
    reliability,
    set_table,
)
from proxtune.evaluation.metrics import paired

LABELS = ("a", "中文", "🙂", "never")
SAID = st.sampled_from([*LABELS[:3], None, "", "other"])
PAIRS = st.lists(st.tuples(st.sampled_from(LABELS[:3]), SAID), min_size=1, max_size=30)
SOME = st.sets(st.sampled_from(LABELS[:3]))
SETS = st.lists(st.tuples(SOME, SOME), min_size=1, max_size=8)
NUMBERS = st.integers(-5, 5).map(float)
close = {"rel": 0, "abs": 1e-9}


def theirs(function: Any, *args: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **options)


def columns(rows: list[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    return [row[0] for row in rows], [row[1] for row in rows]


@given(PAIRS)
def test_figures_of_classes_are_those_of_scikit_learn(rows: list[tuple[str, str | None]]) -> None:
    gold, said = columns(rows)
    named = [label if label in LABELS else "<invalid>" for label in said]
    f1 = {
        average: theirs(sk.f1_score, gold, named, labels=LABELS, average=average, zero_division=0)
        for average in ("macro", "weighted")
    }
    assert classes(gold, said, LABELS).values() == pytest.approx(
        {
            "accuracy": sk.accuracy_score(gold, named),
            "macro_f1": f1["macro"],
            "weighted_f1": f1["weighted"],
            "mcc": theirs(sk.matthews_corrcoef, gold, named),
            "invalid": sum(name == "<invalid>" for name in named) / len(named),
        },
        **close,
    )


def test_accuracy_f1_and_mcc_in_literal_numbers() -> None:
    """a: 2 right of 3 predicted and 2 gold, F1 4/5; b: 1 of 1 and 2, F1 2/3; mcc of (2, 1; 0, 1) = 2 / √12."""
    found = classes(list("aabb"), list("aaab"), ["a", "b"]).values()
    assert found == pytest.approx(
        {"accuracy": 3 / 4, "macro_f1": 11 / 15, "weighted_f1": 11 / 15, "mcc": 2 / math.sqrt(12), "invalid": 0}
    )


@given(PAIRS)
def test_the_table_of_classes_is_the_report_of_scikit_learn(rows: list[tuple[str, str | None]]) -> None:
    gold, said = columns(rows)
    named = [label if label in LABELS else "<invalid>" for label in said]
    report = theirs(
        sk.classification_report, gold, named, labels=LABELS, target_names=LABELS, output_dict=True, zero_division=0
    )
    found = {row.label: row for row in class_table(gold, said, LABELS)}
    assert list(found) == [*LABELS, "accuracy", "macro avg", "weighted avg"]
    for name in (*LABELS, "macro avg", "weighted avg"):
        expected = [report[name][key] for key in ("precision", "recall", "f1-score", "support")]
        assert found[name][1:] == pytest.approx(expected, **close)
    accuracy = sk.accuracy_score(gold, named)
    assert found["accuracy"][1:] == pytest.approx((accuracy, accuracy, accuracy, len(gold)), **close)


@given(PAIRS)
def test_the_confusion_is_that_of_scikit_learn(rows: list[tuple[str, str | None]]) -> None:
    gold, said = columns(rows)
    named = [label if label in LABELS else "<invalid>" for label in said]
    expected = theirs(sk.confusion_matrix, gold, named, labels=LABELS)
    assert confusion(gold, said, LABELS).tolist() == expected.tolist()


def test_an_interval_of_accuracy_holds_it() -> None:
    rng = np.random.default_rng(0)
    gold = rng.choice(LABELS[:3], 300).tolist()
    said = np.where(rng.random(300) < 0.7, gold, "a").tolist()
    for name, (value, low, high) in classes(gold, said, LABELS).intervals(seed=0).items():
        assert low <= value <= high, name


def test_two_classifiers_of_the_same_rows_are_compared() -> None:
    gold = list("ab" * 50)
    bad, good = classes(gold, ["a"] * 100, ["a", "b"]), classes(gold, gold, ["a", "b"])
    found = paired(bad, good, seed=0)["accuracy"]
    assert found.difference == 0.5
    assert found.low > 0.35
    assert found.p < 0.01


@pytest.mark.parametrize("measure", [classes, class_table, confusion])
def test_a_gold_label_that_is_none_of_the_labels_is_refused(measure: Any) -> None:
    with pytest.raises(DataError, match="row 1: the gold label 'c' is none of 'a', 'b'"):
        measure(["a", "c"], ["a", "a"], ["a", "b"])


def test_rows_without_a_prediction_and_no_rows_are_refused() -> None:
    with pytest.raises(DataError, match="2 rows against 1"):
        classes(["a", "b"], ["a"], ["a", "b"])
    with pytest.raises(DataError, match="0 rows"):
        numbers([], [])


@pytest.mark.slow
@settings(max_examples=40)
@given(SETS)
def test_figures_of_sets_of_labels_are_those_of_scikit_learn(rows: list[tuple[set[str], set[str]]]) -> None:
    gold, said = columns(rows)
    binary = MultiLabelBinarizer(classes=LABELS)
    x, y = binary.fit_transform(gold), binary.fit_transform(said)
    expected = {
        f"{average}_f1": theirs(sk.f1_score, x, y, average=average, zero_division=0)
        for average in ("micro", "macro", "samples")
    }
    found = label_sets(gold, said, LABELS).values()
    assert found == pytest.approx({**expected, "accuracy": sk.accuracy_score(x, y), "invalid": 0}, **close)
    report = theirs(sk.classification_report, x, y, target_names=LABELS, output_dict=True, zero_division=0)
    for row in set_table(gold, said, LABELS):
        values = [report[row.label][key] for key in ("precision", "recall", "f1-score", "support")]
        assert row[1:] == pytest.approx(values, **close)


def test_a_label_that_is_none_is_wrong_and_counted_and_so_is_no_set() -> None:
    """Row 0: 1 right of 2 said and 1 gold, F1 2/3. Row 1: no set, though none is gold. Micro: 2 / (2 + 1)."""
    found = label_sets([["a"], []], [["a", "xyz"], None], ["a"]).values()
    assert found == pytest.approx(
        {"micro_f1": 2 / 3, "macro_f1": 1, "samples_f1": 1 / 3, "accuracy": 0, "invalid": 1}, **close
    )


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=30), st.sampled_from([0.0, 0.1, 1e6]))
def test_figures_of_numbers_are_those_of_scipy_and_scikit_learn(rows: list[tuple[float, float]], shift: float) -> None:
    gold, said = ([x + shift for x in column] for column in columns(rows))
    found = numbers(gold, said).values()
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(gold, said), abs=1e-6)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(gold, said), abs=1e-6)
    varied = len(set(gold)) > 1
    assert found["r2"] == pytest.approx(sk.r2_score(gold, said) if varied else 0, abs=1e-6)
    both = varied and len(set(said)) > 1
    assert found["pearson"] == pytest.approx(stats.pearsonr(gold, said)[0] if both else 0, abs=1e-6)
    assert found["spearman"] == pytest.approx(stats.spearmanr(gold, said)[0] if both else 0, abs=1e-6)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=5))
def test_resamples_of_few_numbers_have_figures_in_their_range(rows: list[tuple[float, float]]) -> None:
    for name, interval in numbers(*columns(rows)).intervals(seed=0, resamples=50).items():
        assert np.isfinite(interval).all()
        if name in ("pearson", "spearman"):
            assert -1 - 1e-9 <= interval.low <= interval.high <= 1 + 1e-9


def test_copies_of_one_row_have_neither_correlation_nor_r2_for_all_their_rounding() -> None:
    rng = np.random.default_rng(0)
    measure = numbers(rng.normal(size=101).tolist(), rng.normal(size=101).tolist())
    for copies in range(1, 101):
        figures = measure.figures(np.repeat(measure.rows[:, None], copies, axis=1).sum(axis=1))
        assert not any(figures[name].any() for name in ("pearson", "spearman", "r2"))


def test_a_number_that_is_not_finite_is_refused() -> None:
    with pytest.raises(DataError, match=r"row 1: gold 2\.0, predicted nan"):
        numbers([1.0, 2.0], [1.0, math.nan])


def test_calibration_in_literal_numbers() -> None:
    """Two bins: (0, 0.5] has 0.2 and 0.5, of which one is right: |1 − 0.7|; (0.5, 1] has 0.9, wrong: |0 − 0.9|."""
    sure, right = [0.2, 0.5, 0.9], [False, True, False]
    found = calibration(sure, right, bins=2).values()
    assert found == pytest.approx({"ece": (0.3 + 0.9) / 3, "brier": (0.04 + 0.25 + 0.81) / 3}, **close)
    assert reliability(sure, right, bins=2) == [(0.0, 2, pytest.approx(0.35), 0.5), (0.5, 1, 0.9, 0.0)]


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1), st.integers(1, 12))
def test_ece_is_the_gap_of_the_bins_and_brier_the_mean_square(rows: list[tuple[float, bool]], bins: int) -> None:
    sure, right = columns(rows)
    found = calibration(sure, right, bins=bins).values()
    shown = reliability(sure, right, bins=bins)
    assert sum(part.rows for part in shown) == len(rows)
    assert found["ece"] == pytest.approx(
        sum(part.rows * abs(part.accuracy - part.confidence) for part in shown) / len(rows), **close
    )
    assert found["brier"] == pytest.approx(np.mean((np.asarray(sure) - right) ** 2), **close)


def test_borders_belong_to_the_bin_below_and_0_to_the_first() -> None:
    sure = [0.0, *(k / 10 for k in range(1, 11))]
    assert [part.rows for part in reliability(sure, [True] * 11)] == [2, 1, 1, 1, 1, 1, 1, 1, 1, 1]


def test_a_confidence_is_a_probability() -> None:
    with pytest.raises(DataError, match=r"row 1: the confidence is 1\.5"):
        calibration([0.5, 1.5], [True, True])


def test_a_class_that_a_resample_does_not_draw_is_no_wrong_one() -> None:
    """Twenty classes of one row each, all right: every resample is all right too."""
    names = [f"class {i}" for i in range(20)]
    interval = classes(names, names, names).intervals(seed=0)["macro_f1"]
    assert tuple(interval) == (1.0, 1.0, 1.0)
    sets = [[name] for name in names]
    assert tuple(label_sets(sets, sets, names).intervals(seed=0)["macro_f1"]) == (1.0, 1.0, 1.0)
