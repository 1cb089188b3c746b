"""Figures of tagged sentences are seqeval's, in both of its modes."""

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import classification_report as seqeval_report
from seqeval.scheme import IOB2
from sklearn.metrics import classification_report

from proxtune.errors import DataError
from proxtune.evaluation.labels import Row
from proxtune.evaluation.metrics import paired
from proxtune.evaluation.spans import entity_spans, entity_table, item_sets, tag_table

KEYS = ("precision", "recall", "f1-score", "support")
TAG = st.sampled_from(["O", "O", "B-PER", "I-PER", "B-地点", "I-地点"])
SENTENCE = st.lists(st.tuples(TAG, TAG), max_size=8)
SENTENCES = st.lists(SENTENCE, min_size=1, max_size=8)
Tags = list[list[str]]


def split(sentences: list[list[tuple[str, str]]]) -> tuple[Tags, Tags]:
    """Gold and predicted tags, any of them malformed."""
    return [[a for a, _ in words] for words in sentences], [[b for _, b in words] for words in sentences]


def theirs(function: Any, *args: Any, **options: Any) -> dict[str, dict[str, float]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report: dict[str, dict[str, float]] = function(*args, output_dict=True, zero_division=0, **options)
    return report


def as_report(rows: list[Row]) -> dict[str, Any]:
    return {row.label: pytest.approx(dict(zip(KEYS, row[1:], strict=True)), rel=0, abs=1e-9) for row in rows}


@settings(max_examples=50)
@given(SENTENCES, st.booleans())
def test_the_table_and_the_figures_of_entities_are_those_of_seqeval(
    sentences: list[list[tuple[str, str]]], strict: bool
) -> None:
    gold, said = split(sentences)
    found = entity_table(gold, said, strict=strict)
    figures = entity_spans(gold, said, strict=strict).values()
    if len(found) == 3:  # neither has an entity, where seqeval takes the mean of nothing
        assert {row[1:] for row in found} == {(0, 0, 0, 0)}
        assert all(figures[name] == 0 for name in ("precision", "recall", "f1", "macro_f1"))
        return
    report = theirs(seqeval_report, gold, said, **({"mode": "strict", "scheme": IOB2} if strict else {}))
    assert report == as_report(found)
    micro = report["micro avg"]
    assert [figures[name] for name in ("precision", "recall", "f1")] == pytest.approx([micro[k] for k in KEYS[:3]])
    assert figures["macro_f1"] == pytest.approx(report["macro avg"]["f1-score"])


@settings(max_examples=50)
@given(SENTENCES.filter(any))
def test_the_table_of_tags_is_the_report_of_scikit_learn(sentences: list[list[tuple[str, str]]]) -> None:
    gold, said = split(sentences)
    flat = [[tag for tags in side for tag in tags] for side in (gold, said)]
    report = theirs(classification_report, *flat)
    rows = tag_table(gold, said)
    accuracy = next(row for row in rows if row.label == "accuracy")
    assert report.pop("accuracy") == pytest.approx(accuracy.f1)
    assert report == as_report([row for row in rows if row is not accuracy])


def test_figures_of_entities_in_literal_numbers() -> None:
    """Gold: PER 0-2, LOC 3-4 | PER 0-1. Said: PER 0-2, ORG 3-4 | PER 0-2: one of three right, of three.

    F1 of PER: 2 · 1 / (2 + 2); of LOC and ORG 0. Tags: 3 of 4 and 1 of 2 right.
    """
    gold = [["B-PER", "I-PER", "O", "B-LOC"], ["B-PER", "O"]]
    said = [["B-PER", "I-PER", "O", "B-ORG"], ["B-PER", "I-PER"]]
    assert entity_spans(gold, said).values() == pytest.approx(
        {"precision": 1 / 3, "recall": 1 / 3, "f1": 1 / 3, "macro_f1": 1 / 6, "accuracy": 4 / 6, "invalid": 0}
    )


def test_malformed_predictions_are_counted_and_count_for_entities_unless_strict() -> None:
    gold = [["O", "B-PER"], ["B-PER", "I-PER"], ["O"], ["O"]]
    said = [["O", "I-PER"], ["B-PER", "I-PER"], ["per"], ["O"]]
    lenient, strict = (entity_spans(gold, said, strict=strict).values() for strict in (False, True))
    assert (lenient["invalid"], strict["invalid"]) == (0.5, 0.5)
    assert (lenient["precision"], lenient["recall"]) == (1, 1)
    assert (strict["precision"], strict["recall"]) == (1, 0.5)


def test_a_sentence_without_words_and_one_all_outside_change_no_figure_of_entities() -> None:
    gold, said = [["B-A", "O"]], [["B-A", "B-A"]]
    few, more = entity_spans(gold, said).values(), entity_spans([*gold, [], ["O"]], [*said, [], ["O"]]).values()
    assert [few[k] for k in ("precision", "recall", "f1", "macro_f1")] == [0.5, 1, 2 / 3, 2 / 3]
    assert [more[k] for k in ("precision", "recall", "f1", "macro_f1")] == [0.5, 1, 2 / 3, 2 / 3]


def test_macro_f1_of_a_resample_is_over_its_own_types() -> None:
    """Where all is right it is 1 in every resample, also in those that lack the rare type."""
    gold = [["B-A"]] * 9 + [["B-B"]]
    assert entity_spans(gold, gold).intervals(seed=0)["macro_f1"] == (1, 1, 1)


def test_intervals_hold_the_figures_and_two_taggers_are_compared() -> None:
    rng = np.random.default_rng(0)
    gold = rng.choice(["O", "B-A", "B-B"], (200, 5)).tolist()
    said = np.where(rng.random((200, 5)) < 0.8, gold, "O").tolist()
    tagger = entity_spans(gold, said)
    for name, (value, low, high) in tagger.intervals(seed=0).items():
        assert low <= value <= high, name
    found = paired(tagger, entity_spans(gold, gold), seed=0)["f1"]
    assert found.difference == pytest.approx(1 - tagger.values()["f1"])
    assert found.p < 0.01


@pytest.mark.parametrize("measure", [entity_spans, entity_table, tag_table])
def test_each_token_needs_a_tag(measure: Any) -> None:
    with pytest.raises(DataError, match="row 1: 1 tags predicted for 2 tokens"):
        measure([["O"], ["O", "O"]], [["O"], ["O"]])
    with pytest.raises(DataError, match="2 rows against 1"):
        measure([["O"], ["O"]], [["O"]])


def test_sets_of_triples() -> None:
    """Right 1, said 3 and gold 2 in all: the same item in another row is wrong, twice in one row it counts once."""
    gold = [[("a", "r", "b")], [("c", "r", "d")], []]
    said = [[("a", "r", "b"), ("a", "r", "b")], [("a", "r", "b"), ("d", "r", "c")], []]
    measure = item_sets(gold, said)
    assert measure.values() == pytest.approx({"precision": 1 / 3, "recall": 1 / 2, "f1": 2 / 5})
    assert item_sets([[]], [[]]).values() == {"precision": 0, "recall": 0, "f1": 0}


@given(SENTENCES)
def test_entities_are_sets_of_items(sentences: list[list[tuple[str, str]]]) -> None:
    """Two formulations: the tags of each token as items (place, tag), against those that are right in a sentence."""
    gold, said = split(sentences)
    items = item_sets(*([list(enumerate(tags)) for tags in side] for side in (gold, said))).values()
    assert items["f1"] == pytest.approx(entity_spans(gold, said).values()["accuracy"])
