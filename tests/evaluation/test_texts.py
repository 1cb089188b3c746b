"""Figures of texts are those of sacrebleu and rouge-score, and of SQuAD's rules."""

import importlib.util
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from proxtune.errors import ConfigError, DataError
from proxtune.evaluation.metrics import paired
from proxtune.evaluation.texts import answers, signature, summaries, translations

WORD = st.sampled_from(["the", "cat", "sat", "on", "mat", "Mat.", "don't", "naïve", "3.5", "🙂", "北京", "。", "  "])
TEXT = st.lists(WORD, max_size=9).map(" ".join)
ROWS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6)
exactly = {"rel": 0, "abs": 1e-9}


@settings(max_examples=50)
@given(ROWS, st.sampled_from([("", "13a"), ("de", "13a"), ("zh", "zh"), ("zh-CN", "zh"), ("ja", "char")]))
def test_bleu_and_chrf_are_the_corpus_scores_of_sacrebleu(rows: list[tuple[str, str]], how: tuple[str, str]) -> None:
    references, hypotheses = (list(column) for column in zip(*rows, strict=True))
    language, tokenizer = how
    found = translations(references, hypotheses, language=language).values()
    assert found["bleu"] == pytest.approx(
        BLEU(tokenize=tokenizer).corpus_score(hypotheses, [references]).score, **exactly
    )
    assert found["chrf"] == pytest.approx(CHRF().corpus_score(hypotheses, [references]).score, **exactly)
    assert found["empty"] == sum(not text.split() for text in hypotheses) / len(rows)


def test_a_row_may_have_several_references() -> None:
    references = [["a cat sat on the mat", "the cat is on a mat"], ["it rains"], "so what is this now"]
    hypotheses = ["the cat sat on the mat", "it rains a lot", "so what is this"]
    streams = [["a cat sat on the mat", "it rains", "so what is this now"], ["the cat is on a mat", None, None]]
    found = translations(references, hypotheses).values()
    assert found["bleu"] == pytest.approx(BLEU().corpus_score(hypotheses, streams).score, **exactly)
    assert found["chrf"] == pytest.approx(CHRF().corpus_score(hypotheses, streams).score, **exactly)


def test_a_row_drawn_twice_counts_twice() -> None:
    """What a resample adds up is the statistics of a corpus that has the row twice."""
    references, hypotheses = (
        ["the cat sat on the mat", "it rains today again"],
        ["the cat sat on a mat", "it rains again"],
    )
    measure = translations(references, hypotheses)
    twice = translations([references[0], *references], [hypotheses[0], *hypotheses]).values()
    sums = np.asarray([[2.0, 1.0], [1.0, 1.0]]) @ measure.rows
    found = measure.figures(sums)
    assert {name: float(value[0]) for name, value in found.items()} == pytest.approx(twice)
    assert {name: float(value[1]) for name, value in found.items()} == pytest.approx(measure.values())


def test_signatures_are_those_of_sacrebleu() -> None:
    bleu, chrf = BLEU(tokenize="zh"), CHRF()
    for each in (bleu, chrf):
        each.corpus_score(["a", "b"], [["a", "b"], ["c", "d"]])
    expected = {"bleu": str(bleu.get_signature()), "chrf": str(chrf.get_signature())}
    assert signature(language="zh", references=2) == expected
    assert "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:" in signature()["bleu"]


@settings(max_examples=50)
@given(ROWS)
def test_rouge_of_words_is_that_of_rouge_score(rows: list[tuple[str, str]]) -> None:
    references, hypotheses = ([text.replace("北京", "bei") for text in column] for column in zip(*rows, strict=True))
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    scores = [scorer.score(*pair) for pair in zip(references, hypotheses, strict=True)]
    expected = {name: float(np.mean([score[name].fmeasure for score in scores])) for name in scores[0]}
    found = summaries(references, hypotheses).values()
    assert found.pop("empty") == sum(not text.split() for text in hypotheses) / len(rows)
    assert found == pytest.approx(expected, **exactly)


def test_each_cjk_character_is_a_token_of_rouge() -> None:
    """北 京 2024 年 会 and 北 京 年: 3 common of 5 and 3, F 6/8; of the 4 and 2 pairs 北京, F 2/6; 北京年 in order."""
    found = summaries(["北京2024年会"], ["北京年。🙂"]).values()
    assert found == pytest.approx({"rouge1": 6 / 8, "rouge2": 2 / 6, "rougeL": 6 / 8, "empty": 0})
    assert summaries(["ひらがな", "한국"], ["ひらかな", "한국"]).values()["rouge1"] == pytest.approx((3 / 4 + 1) / 2)


def test_the_best_reference_of_a_summary_counts() -> None:
    assert summaries([["a b", "c d"]], ["c d"]).values()["rouge2"] == 1


@pytest.mark.parametrize(
    ("gold", "said", "exact", "f1"),
    [
        (["The Eiffel Tower"], "eiffel tower!", 1, 1),  # case, punctuation and articles
        (["Eiffel Tower"], "the tower of Eiffel", 0, 4 / 5),  # 2 of 2 and 3 words, in any order
        (["a b c", "b c d e"], "b c d", 0, 6 / 7),  # a is an article: 2 of 2 and 3, 4/5; 3 of 4 and 3, 6/7
        (["x x y"], "x y y", 0, 4 / 6),  # bags: one x and one y in common
        (["don't"], "dont", 1, 1),  # punctuation leaves no space
        (["well-known"], "well known", 0, 0),
        (["paris"], "", 0, 0),
        ([], "", 1, 1),  # unanswerable
        ([], "The.", 1, 1),
        ([], "paris", 0, 0),
        ([""], " ", 1, 1),
        (["the", "paris"], "", 0, 0),  # an answer of which nothing is left is none
        (["paris", "lyon"], "Lyon", 1, 1),
        ("paris", "Paris", 1, 1),  # one answer
        (["北京市"], "北京", 0, 4 / 5),  # 2 of 3 and 2
        (["北京"], "「北 京」。", 1, 1),
        (["2008年"], "2008 年", 1, 1),
        (["🙂"], "🙂", 1, 1),
    ],
)
def test_answers_are_compared_as_squad_does(gold: Any, said: str, exact: float, f1: float) -> None:
    found = answers([gold], [said]).values()
    assert found == pytest.approx({"exact": exact, "f1": f1, "empty": float(not said.strip())})


@given(st.lists(st.tuples(st.lists(TEXT, max_size=3), TEXT), min_size=1, max_size=6))
def test_answers_are_means_over_rows_and_f1_is_never_below_exact(rows: list[tuple[list[str], str]]) -> None:
    gold, said = (list(column) for column in zip(*rows, strict=True))
    found = answers(gold, said).values()
    alone = [answers([g], [s]).values() for g, s in rows]
    for name, value in found.items():
        assert value == pytest.approx(np.mean([one[name] for one in alone]))
    assert 0 <= found["exact"] <= found["f1"] + 1e-12 <= 1 + 2e-12


@pytest.mark.parametrize("measure", [translations, summaries, answers])
def test_intervals_hold_the_figures_and_shrink_and_a_system_equals_itself(measure: Any) -> None:
    draw = random.Random(0)
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
    gold = [" ".join(draw.choices(words, k=8)) for _ in range(200)]
    said = [" ".join(w if draw.random() < 0.9 else "nine" for w in text.split()) for text in gold]
    few, many = measure(gold[:20], said[:20]), measure(gold, said)
    wide, narrow = (each.intervals(seed=0, resamples=200) for each in (few, many))
    for name, (value, low, high) in narrow.items():
        assert low <= value <= high
        assert high - low <= wide[name].high - wide[name].low
    assert set(paired(few, few, seed=0, resamples=50).values()) == {(0.0, 0.0, 0.0, 1.0)}


@pytest.mark.parametrize("measure", [translations, summaries, answers])
def test_one_prediction_a_row(measure: Any) -> None:
    with pytest.raises(DataError, match="1 rows against 2"):
        measure(["a"], ["a", "b"])


@pytest.mark.parametrize(("measure", "package"), [(translations, "sacrebleu"), (summaries, "rouge_score")])
def test_what_is_not_installed_is_named_with_the_line_that_installs_it(
    measure: Any, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxtune.evaluation.texts.find_spec", lambda name: None)
    assert importlib.util.find_spec(package) is not None
    with pytest.raises(ConfigError, match=f'{package}, which is not installed(.|\n)*pip install "proxtune.text."'):
        measure(["a"], ["a"])
