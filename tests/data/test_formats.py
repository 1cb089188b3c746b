from typing import Any

import pytest

from proxtune.data.formats import MalformedRowError, detect, parse
from proxtune.data.records import Completion, Labelled, Message, Preference, Prompt, Rated, Record, Text

USER, ANSWER, OTHER = Message("user", "q"), {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}
ASKED = {"role": "user", "content": "q"}


@pytest.mark.parametrize(
    ("row", "kind", "record"),
    [
        ({"text": "t"}, "text", Text("t")),
        ({"text": "t", "label": 1, "source": "imdb"}, "text/label", Labelled("t", 1, columns={"source": "imdb"})),
        ({"prompt": "p", "answer": 42}, "prompt", Prompt("p", columns={"answer": 42})),
        ({"prompt": [ASKED]}, "prompt", Prompt((USER,))),
        ({"prompt": "p", "completion": "c"}, "prompt/completion", Completion("p", "c")),
        ({"prompt": "", "completion": "c"}, "prompt/completion", Completion("", "c")),
        (
            {"prompt": "p", "response": "c", "text": "t"},
            "prompt/completion",
            Completion("p", "c", columns={"text": "t"}),
        ),
        ({"question": "p", "answer": "c"}, "prompt/completion", Completion("p", "c")),
        ({"prompt": [ASKED], "completion": [ANSWER]}, "prompt/completion", Completion((USER,), "a")),
        ({"messages": [ASKED, ANSWER], "id": 7}, "messages", Completion((USER,), "a", columns={"id": 7})),
        ({"messages": [ASKED, ANSWER, ASKED]}, "messages/prompt", Prompt((USER, Message("assistant", "a"), USER))),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            "messages",
            Completion((USER,), "a"),
        ),
        ({"chosen": "good", "rejected": "bad"}, "chosen/rejected", Preference("", "good", "bad")),
        ({"prompt": "p", "chosen": "c", "rejected": "r"}, "chosen/rejected", Preference("p", "c", "r")),
        ({"chosen": [ASKED, ANSWER], "rejected": [ASKED, OTHER]}, "chosen/rejected", Preference((USER,), "a", "b")),
        (  # as UltraFeedback has it: the prompt once more, as text
            {"prompt": "q", "chosen": [ASKED, ANSWER], "rejected": [ASKED, OTHER], "score": 3.5},
            "chosen/rejected",
            Preference((USER,), "a", "b", columns={"score": 3.5}),
        ),
        (  # as TRL has it: the answers alone
            {"prompt": [ASKED], "chosen": [ANSWER], "rejected": [OTHER]},
            "chosen/rejected",
            Preference((USER,), "a", "b"),
        ),
        (  # as LLaMA-Factory has it
            {
                "conversations": [{"from": "human", "value": "q"}],
                "chosen": {"from": "gpt", "value": "a"},
                "rejected": {"from": "gpt", "value": "b"},
            },
            "chosen/rejected",
            Preference((USER,), "a", "b"),
        ),
    ],
)
def test_the_keys_decide_the_format_and_the_rest_are_columns(row: dict[str, Any], kind: Any, record: Record) -> None:
    assert detect(row) == kind
    assert parse(row, kind, "") == record


@pytest.mark.parametrize(
    ("row", "record"),
    [
        ({"text": "t", "scores": [3, 4.5]}, Rated("", "t", (3.0, 4.5))),
        ({"text": "t", "rating": 5, "by": "ann"}, Rated("", "t", (5.0,), columns={"by": "ann"})),
        ({"prompt": "p", "response": "c", "ratings": [1, 2, 6]}, Rated("p", "c", (1.0, 2.0, 6.0))),
        ({"question": "p", "answer": "c", "scores": "[3, 4.5]"}, Rated("p", "c", (3.0, 4.5))),  # a cell of a table
        ({"text": "t", "rating": "-0.5"}, Rated("", "t", (-0.5,))),
        ({"messages": [ASKED, ANSWER], "scores": [1]}, Rated((USER,), "a", (1.0,))),
    ],
)
def test_scores_beside_a_text_or_an_answer_make_it_rated(row: dict[str, Any], record: Rated) -> None:
    assert detect(row) == "rated"
    assert parse(row, "rated", "") == record


def test_the_rating_is_the_mean_of_the_scores() -> None:
    assert Rated("p", "c", (1.0, 2.0, 6.0)).rating == 3.0


NO_SCORES = [[], None, "good", "nan", "", True, [True], float("nan"), float("inf"), 10**400, [1, "2"], [[1]], {}]


@pytest.mark.parametrize("scores", [*NO_SCORES, "[" * 9999], ids=lambda scores: repr(scores)[:10])
def test_dl1_scores_that_are_no_finite_numbers_are_malformed(scores: object) -> None:
    with pytest.raises(MalformedRowError, match=r"scores: got .*expected a finite number, or a list of one or more"):
        parse({"text": "t", "scores": scores}, "rated", "")


def test_a_rating_of_what_nobody_wrote_is_a_column_or_malformed() -> None:
    assert parse({"prompt": "p", "rating": 3}, detect({"prompt": "p", "rating": 3}), "") == Prompt(
        "p", columns={"rating": 3}
    )
    with pytest.raises(MalformedRowError, match="scores for a row of format prompt, expected one of messages"):
        parse({"prompt": "p", "rating": 3}, "rated", "")
    with pytest.raises(MalformedRowError, match="no key 'scores'"):
        parse({"text": "t"}, "rated", "")


def share(*turns: str) -> list[dict[str, str]]:
    return [dict(zip(("from", "value"), turn.split(": "), strict=True)) for turn in turns]


@pytest.mark.parametrize("name", ["gpt", "chatgpt", "bing", "bard", "assistant"])
def test_sharegpt_names_the_assistant_in_many_ways(name: str) -> None:
    row = {"conversations": share("system: s", "human: q", f"{name}: a")}
    assert parse(row, detect(row), "") == Completion((Message("system", "s"), USER), "a")


def test_sharegpt_keeps_the_system_turn_apart_and_calls_what_a_tool_says_an_observation() -> None:
    row = {"conversations": share("human: q", "gpt: look", "observation: 3", "gpt: a"), "system": "s", "id": 7}
    turns = (Message("system", "s"), USER, Message("assistant", "look"), Message("tool", "3"))
    assert parse(row, detect(row), "") == Completion(turns, "a", columns={"id": 7})
    for nothing in ("", None):
        assert parse({"messages": [ASKED, ANSWER], "system": nothing}, "messages", "") == Completion((USER,), "a")


def test_sharegpt_pairs_have_a_system_turn_too() -> None:
    row = {
        "conversations": share("human: q", "gpt: b", "human: again"),
        "chosen": share("gpt: good")[0],
        "rejected": share("gpt: bad"),
        "system": "s",
    }
    turns = (Message("system", "s"), USER, Message("assistant", "b"), Message("user", "again"))
    assert parse(row, detect(row), "") == Preference(turns, "good", "bad")


CALL = [{"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}]


@pytest.mark.parametrize(
    "turn",
    [
        {"from": "function_call", "value": '{"name": "add"}'},
        {"role": "assistant", "content": None, "tool_calls": CALL},
        {"role": "assistant", "content": "", "function_call": {"name": "add"}},
    ],
)
def test_a_call_of_a_tool_is_refused_and_not_learnt_without_the_call(turn: dict[str, Any]) -> None:
    row = {"messages": [ASKED, turn, {"role": "tool", "content": "3"}, ANSWER]}
    with pytest.raises(MalformedRowError, match=r"messages\[1\]: a call of a tool, .* give it as the text"):
        detect(row)


def test_a_prompt_given_apart_keeps_its_system_turn() -> None:
    system = {"role": "system", "content": "s"}
    row = {"prompt": [system, ASKED], "chosen": [ASKED, ANSWER], "rejected": [ASKED, OTHER]}
    assert parse(row, "chosen/rejected", "").prompt == (Message("system", "s"), USER)


def test_the_alpaca_prompt_holds_instruction_and_input_in_stanfords_words() -> None:
    row = {"instruction": "Add.", "input": "2 and 3", "output": "5"}
    assert detect(row) == "alpaca"
    assert parse(row, "alpaca", "a.json:3") == Completion(
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd.\n\n### Input:\n2 and 3\n\n### Response:\n",
        "5",
        "a.json:3",
    )
    bare = parse({"instruction": "Sing {loud}.", "input": "", "output": "la"}, "alpaca", "")
    assert bare.prompt == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nSing {loud}.\n\n### Response:\n"
    )


def test_chat_makes_a_plain_prompt_the_users_turn() -> None:
    assert parse({"prompt": "q"}, "prompt", "", chat=True) == Prompt((USER,))
    assert parse({"prompt": "", "completion": "c"}, "prompt/completion", "", chat=True) == Completion("", "c")
    alpaca = parse({"instruction": "Add.", "input": "2 and 3", "output": "5"}, "alpaca", "", chat=True)
    assert alpaca == Completion((Message("user", "Add.\n\n2 and 3"),), "5")


@pytest.mark.parametrize(
    ("label", "expected"),
    [(1, 1), ("1", 1), ("-2", -2), ("0.5", 0.5), (0.5, 0.5), (True, 1), ("positive", "positive")],
    ids=repr,
)
def test_a_label_that_reads_as_a_number_is_one(label: object, expected: object) -> None:
    record = parse({"text": "t", "label": label}, "text/label", "")
    assert record == Labelled("t", expected)
    assert type(record.label) is type(expected)


@pytest.mark.parametrize(
    "label",
    [float("nan"), float("inf"), "nan", "NaN", "-inf", "", "  ", None, [1], 10**400],
    ids=lambda x: repr(x)[:20],
)
def test_dl1_a_label_that_is_no_class_is_malformed(label: object) -> None:
    with pytest.raises(MalformedRowError, match=r"label: got .*expected a name or a finite number"):
        parse({"text": "t", "label": label}, "text/label", "")


@pytest.mark.parametrize(
    ("row", "kind", "reason"),
    [
        ({"prompt": "p"}, "prompt/completion", "no key 'completion'; found 'prompt'"),
        ({"text": 3}, "text", r"text: got a number \(3\), expected a string"),
        ({"text": True}, "text", r"text: got a boolean \(True\)"),
        ({"prompt": "p", "completion": None}, "prompt/completion", "completion: got null"),
        ({"prompt": {"a": 1}}, "prompt", r"no key 'role'"),
        ({"prompt": []}, "prompt", "one message or more"),
        ({"messages": "hello"}, "messages", "one message or more"),
        ({"messages": [ASKED, "a"]}, "messages", r"messages\[1\]: got a string \('a'\), expected a message"),
        ({"messages": [{"role": "user", "content": ["a"]}, ANSWER]}, "messages", "content: got a list"),
        (
            {"messages": [{"role": "robot", "content": "a"}]},
            "messages",
            r"messages\[0\]: role 'robot', expected one of",
        ),
        ({"messages": [ASKED]}, "messages", "the last turn is of 'user', expected the assistant's"),
        ({"messages": [ASKED, ANSWER]}, "messages/prompt", "the last turn is of 'assistant', expected the user's"),
        ({"messages": [ANSWER]}, "messages", "expected a turn before it"),
        ({"messages": [ASKED, ANSWER], "system": 3}, "messages", "system: got a number"),
        ({"messages": [{"role": "system", "content": "s"}, ANSWER], "system": "s"}, "messages", "one of the two"),
        ({"prompt": "p", "completion": [ASKED]}, "prompt/completion", "one turn of the assistant"),
        ({"instruction": "i", "input": 3, "output": "o"}, "alpaca", "input: got a number"),
        ({"chosen": "a", "rejected": None}, "chosen/rejected", "rejected: got null"),
        ({"chosen": [ASKED, ANSWER], "rejected": [OTHER]}, "chosen/rejected", "differ before their last turn"),
        ({"chosen": [ASKED], "rejected": [ASKED]}, "chosen/rejected", "the last turn of each to be the assistant's"),
        (
            {"prompt": "another", "chosen": [ASKED, ANSWER], "rejected": [ASKED, OTHER]},
            "chosen/rejected",
            "not among the turns",
        ),
    ],
)
def test_dl1_a_malformed_row_says_what_was_found_and_expected(row: dict[str, Any], kind: Any, reason: str) -> None:
    with pytest.raises(MalformedRowError, match=reason):
        parse(row, kind, "")


@pytest.mark.parametrize("row", [{}, {"Text": "t"}, {"chosen": "a"}, {"instruction": "i"}, {"completion": "c"}])
def test_keys_of_no_format_are_named_with_the_formats(row: dict[str, Any]) -> None:
    with pytest.raises(MalformedRowError, match=r"no known format has the keys found .*chosen/rejected, rated"):
        detect(row)
