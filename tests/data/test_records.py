import pytest

from proxtune.data.records import (
    Answered,
    Completion,
    Labelled,
    Message,
    Preference,
    Prompt,
    Record,
    Span,
    Text,
    content_key,
    emptiness,
    prompt_key,
    text_of,
)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (Text(" \t\n"), "empty text"),
        (Labelled("", 1), "empty text"),
        (Labelled("a", 1, pair=" "), "empty second text"),
        (Labelled("", 1, pair="b"), "empty text"),
        (Answered(" ", "q", ()), "empty context or question"),
        (Answered("c", "", ()), "empty context or question"),
        (Prompt("  "), "empty prompt"),
        (Completion("p", "\n"), "empty completion"),
        (Preference("p", "same", "same"), "chosen == rejected"),
        (Preference("p", "", "b"), "empty chosen or rejected"),
        (Preference("p", "a", " "), "empty chosen or rejected"),
        (Text("t"), None),
        (Labelled("t", ()), None),  # of no class
        (Labelled("a", 1, pair="b"), None),
        (Answered("c", "q", ()), None),
        (Prompt((Message("user", "q"),)), None),
        (Completion("", "c"), None),
        (Preference("", "a", "b"), None),
    ],
)
def test_dl6_a_record_with_nothing_to_learn_says_why(record: Record, reason: str | None) -> None:
    assert emptiness(record) == reason


def test_records_of_one_prompt_share_a_key() -> None:
    assert prompt_key(Completion("p", "a")) == prompt_key(Preference("p", "b", "c")) == prompt_key(Prompt("p"))
    assert prompt_key(Preference("", "a", "b")) != prompt_key(Preference("", "c", "b"))  # no prompt: the chosen text
    assert prompt_key(Prompt((Message("user", "p"),))) != prompt_key(Prompt((Message("system", "p"),)))


def test_pairs_of_one_text_and_questions_on_one_context_stay_together() -> None:
    assert prompt_key(Labelled("a", 1, pair="b")) == prompt_key(Labelled("a", 0, pair="c"))
    assert prompt_key(Labelled("a", 1, pair="b")) != prompt_key(Labelled("c", 1, pair="b"))
    one, other = Answered("c", "q", (Span("c", 0),)), Answered("c", "r", ())
    assert prompt_key(one) == prompt_key(other)
    assert content_key(one) != content_key(other)


def test_all_that_is_read_of_a_record() -> None:
    assert text_of(Labelled("a", 1)) == "a"
    assert text_of(Labelled("a", 1, pair="b")) == "a b"
    assert text_of(Answered("c", "q?", ())) == "q? c"
