"""Rows of the classic tasks: what they become, and what is refused."""

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from proxtune.data.formats import MalformedRowError, detect, parse
from proxtune.data.records import Answered, Labelled, Prompt, Span, Tagged, Text

PARIS = "Paris is the capital of France"
RELATED = {"text": PARIS, "head": [0, 5], "tail": [24, 30], "relation": "capital_of"}
CONTEXT = "Ann met Bob. Bob left."


def read(row: dict[str, Any]) -> Any:
    return parse(row, detect(row), "")


@pytest.mark.parametrize(
    "keys", [("text", "text_pair"), ("sentence1", "sentence2"), ("premise", "hypothesis")], ids="+".join
)
def test_two_texts_with_a_label_are_a_pair(keys: tuple[str, str]) -> None:
    row = {keys[0]: "a", keys[1]: "b", "label": "entailment", "id": 7}
    assert detect(row) == "text/label"
    assert read(row) == Labelled("a", "entailment", columns={"id": 7}, pair="b")


def test_two_texts_without_a_label_are_a_pair_that_is_still_to_be_labelled() -> None:
    assert read({"text": "a", "text_pair": "b", "id": 3}) == Text("a", columns={"id": 3}, pair="b")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"label": ["b", "a", "b"]}, ("a", "b")),
        ({"labels": ["b", "a"]}, ("a", "b")),
        ({"labels": []}, ()),
        ({"label": '["news", "sport"]'}, ("news", "sport")),  # a cell of a table
        ({"labels": "[]"}, ()),
        ({"label": "[sic]"}, "[sic]"),  # no JSON: a name
    ],
    ids=repr,
)
def test_a_list_of_names_is_a_set_of_labels(row: dict[str, Any], expected: object) -> None:
    assert read({"text": "t", **row}) == Labelled("t", expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"label": ["a", 1]}, r"label: got a list.*expected a name or a finite number, or a list of names"),
        ({"label": ["a", " "]}, "label: got a list"),
        ({"label": "[1]"}, "label: got a string"),
        ({"labels": "a"}, r"labels: got a string \('a'\), expected a list of names \(a single one is a label\)"),
        ({"labels": 3}, r"labels: got a number \(3\)"),
    ],
    ids=repr,
)
def test_dl1_what_is_no_set_of_names_is_malformed(row: dict[str, Any], message: str) -> None:
    with pytest.raises(MalformedRowError, match=message):
        read({"text": "t", **row})


def test_a_relation_is_a_text_with_marked_spans() -> None:
    assert detect(RELATED) == "relation"
    columns = {key: RELATED[key] for key in ("text", "head", "tail")}
    assert read(RELATED) == Labelled("@ Paris @ is the capital of # France #", "capital_of", columns=columns)
    turned = RELATED | {"head": [24, 30], "tail": "[0, 5]"}
    assert read(turned).text == "# Paris # is the capital of @ France @"


@given(st.text(min_size=2), st.data())
def test_without_the_markers_a_relation_is_its_text(text: str, data: st.DataObject) -> None:
    ends = sorted(data.draw(st.lists(st.integers(0, len(text)), min_size=4, max_size=4)))
    first, second = ends[:2], ends[2:]
    assume(first[0] < first[1] and second[0] < second[1])
    marked = read({"text": text, "head": first, "tail": second, "relation": "r"}).text
    before, head = text[: first[0]], text[slice(*first)]
    between, tail = text[first[1] : second[0]], text[slice(*second)]
    assert marked == f"{before}@ {head} @{between}# {tail} #{text[second[1] :]}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": [0, 31]}, r"head: got a list \(\[0, 31\]\), expected \[begin, end\) in .* the text, which has 30"),
        ({"head": [-1, 3]}, "head: got"),
        ({"head": [5, 5]}, "head: got"),
        ({"tail": "Paris"}, "tail: got a string"),
        ({"tail": [24]}, "tail: got"),
        ({"tail": [4, 8]}, "head and tail overlap: one ends at 5, the other begins at 4"),
        ({"tail": [0, 5]}, "head and tail overlap"),
        ({"relation": " "}, "relation: got an empty string"),
        ({"relation": 3}, "relation: got a number"),
    ],
    ids=repr,
)
def test_dl1_spans_that_cannot_be_marked_are_malformed(change: dict[str, Any], message: str) -> None:
    with pytest.raises(MalformedRowError, match=message):
        read(RELATED | change)


@pytest.mark.parametrize(
    ("answers", "spans"),
    [
        (["Bob"], (Span("Bob", 8),)),  # where it stands first
        ([{"text": "Bob", "start": 13}, "Ann"], (Span("Bob", 13), Span("Ann", 0))),
        ([{"text": "Bob", "answer_start": 13}], (Span("Bob", 13),)),
        ({"text": ["Bob", "Ann"], "answer_start": [13, 0]}, (Span("Bob", 13), Span("Ann", 0))),  # as SQuAD has it
        ([], ()),
        ({"text": [], "answer_start": []}, ()),
    ],
    ids=repr,
)
def test_answers_are_spans_of_the_context(answers: object, spans: tuple[Span, ...]) -> None:
    row = {"context": CONTEXT, "question": "Who?", "answers": answers, "id": "q1"}
    assert detect(row) == "context/question"
    assert read(row) == Answered(CONTEXT, "Who?", spans, columns={"id": "q1"})
    assert read(row | {"answers": json.dumps(answers)}) == read(row)  # a cell of a table


@given(st.text(min_size=1), st.data())
def test_a_span_is_found_where_its_text_stands(context: str, data: st.DataObject) -> None:
    begin = data.draw(st.integers(0, len(context) - 1))
    end = data.draw(st.integers(begin + 1, len(context)))
    (span,) = read({"context": context, "question": "q", "answers": [context[begin:end]]}).answers
    assert context[span.begin : span.begin + len(span.text)] == span.text == context[begin:end]
    assert span.begin <= begin


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (["Eve"], r"the answer does not stand in the context: answers\[0\] \('Eve'\)"),
        (["Ann", {"text": "Bob", "start": 9}], r"not stand in the context at its start: answers\[1\] \('Bob'\)"),
        ([{"text": "Bob", "start": -14}], "at its start"),
        ([""], r"answers\[0\]: got a string \(''\), expected a text, or"),
        ([3], r"answers\[0\]: got a number \(3\)"),
        ("Bob", r"answers: got a string \('Bob'\), expected a list of texts"),
        ({"text": ["Bob"], "answer_start": []}, "answers: got an object"),
    ],
    ids=repr,
)
def test_dl1_answers_that_stand_nowhere_are_malformed(answers: object, message: str) -> None:
    with pytest.raises(MalformedRowError, match=message):
        read({"context": CONTEXT, "question": "q", "answers": answers})


def test_older_formats_come_first() -> None:
    assert read({"prompt": "p", "text": "t", "label": 1}) == Prompt("p", columns={"text": "t", "label": 1})
    assert isinstance(read({"tokens": ["a"], "tags": ["O"], "text": "a", "label": 1}), Tagged)
    assert detect({"question": "q", "answer": "a", "context": "c", "answers": []}) == "prompt/completion"
