import pytest

from proxtune.data.records import Completion, Labelled, Message, Preference, Prompt, Record, Text, emptiness, prompt_key


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (Text(" \t\n"), "empty text"),
        (Labelled("", 1), "empty text"),
        (Prompt("  "), "empty prompt"),
        (Completion("p", "\n"), "empty completion"),
        (Preference("p", "same", "same"), "chosen == rejected"),
        (Preference("p", "", "b"), "empty chosen or rejected"),
        (Preference("p", "a", " "), "empty chosen or rejected"),
        (Text("t"), None),
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
