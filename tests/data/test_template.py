from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from proxtune.data.records import Completion, Labelled, Message, Preference, Prompt, Rated, Record, Text
from proxtune.data.template import (
    encode,
    encode_completion,
    encode_preferences,
    encode_prompt,
    encode_prompts,
    encode_rated,
    encode_text,
)
from proxtune.data.tokenizer import stop_ids
from proxtune.errors import DataError

BOS, EOS = 1, 2
ASKED = (Message("system", "be brief"), Message("user", "why?"))
# z, q and j are in no merge: one token a letter


def ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def test_a_plain_prompt_begins_as_every_text(tokenizer: PreTrainedTokenizerFast) -> None:
    assert encode_prompt(tokenizer, "the film") == [BOS, *ids(tokenizer, "the film")]
    assert encode_prompt(tokenizer, "<|bos|>the film") == [BOS, *ids(tokenizer, "the film")]


def test_an_empty_prompt_still_has_a_token_to_start_from(tokenizer: PreTrainedTokenizerFast) -> None:
    assert encode_prompt(tokenizer, "") == [BOS]
    tokenizer.bos_token = None
    assert encode_prompt(tokenizer, "") == [EOS]
    assert encode_prompt(tokenizer, "z") == ids(tokenizer, "z")


def test_prompt_and_response_split_where_sampling_splits_even_inside_a_merge(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    prompt_ids, response_ids = encode_completion(tokenizer, "the fi", "lm was")
    assert prompt_ids == encode_prompt(tokenizer, "the fi")
    assert response_ids == [*ids(tokenizer, "lm was"), EOS]
    assert prompt_ids[1:] + response_ids[:-1] != ids(tokenizer, "the film was")


@pytest.mark.parametrize("completion", ["good", "good<|eos|>", "good<|eos|><|eos|>", "good<|eos|>\n"])
def test_dl4_a_response_ends_with_the_stop_token_exactly_once(
    tokenizer: PreTrainedTokenizerFast, completion: str
) -> None:
    assert encode_completion(tokenizer, "p", completion)[1] == [*ids(tokenizer, "good"), EOS]


def test_dl4_a_stop_token_inside_a_completion_is_an_error(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(
        DataError, match=r"stop token '<\|eos\|>' stands inside the completion, before 'more': take it out"
    ):
        encode_completion(tokenizer, "p", "good<|eos|> more")


def test_dl4_a_chat_answer_is_what_the_template_writes_up_to_the_end_of_the_turn(
    chat_tokenizer: PreTrainedTokenizerFast,
) -> None:
    prompt_ids, response_ids = encode_completion(chat_tokenizer, ASKED, "because")
    assert chat_tokenizer.decode(prompt_ids) == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nwhy?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert chat_tokenizer.decode(response_ids) == "because<|im_end|>"
    assert prompt_ids == encode_prompt(chat_tokenizer, ASKED)


def test_dl4_plain_text_ends_with_the_end_of_text_though_turns_end_otherwise(
    chat_tokenizer: PreTrainedTokenizerFast,
) -> None:
    assert encode_completion(chat_tokenizer, "q", "z")[1] == [*ids(chat_tokenizer, "z"), EOS]
    assert encode_text(chat_tokenizer, "z") == ([BOS], [*ids(chat_tokenizer, "z"), EOS])


def test_dl4_a_template_without_an_end_of_turn_gets_the_end_of_text(tokenizer: PreTrainedTokenizerFast) -> None:
    turns = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    tokenizer.chat_template = turns + "{% if add_generation_prompt %}assistant: {% endif %}"
    prompt_ids, response_ids = encode_completion(tokenizer, ASKED, "so")
    assert tokenizer.decode(prompt_ids) == "system: be brief\nuser: why?\nassistant: "
    assert tokenizer.decode(response_ids) == "so\n<|eos|>"


def test_dl4_a_template_that_asks_otherwise_than_it_answers_is_an_error(
    chat_tokenizer: PreTrainedTokenizerFast,
) -> None:
    chat_tokenizer.chat_template = str(chat_tokenizer.chat_template).replace("assistant\n", "assistant\n<think>")
    with pytest.raises(DataError, match="writes it otherwise once it is answered"):
        encode_completion(chat_tokenizer, ASKED, "because")


@pytest.mark.parametrize("own_pad", [True, False], ids=["pad", "pad is eos"])
@pytest.mark.parametrize("own_bos", [True, False], ids=["bos", "no bos"])
@pytest.mark.parametrize("template", [True, False], ids=["template", "no template"])
def test_dl4_every_answer_of_every_tokenizer_ends_with_one_stop_token(
    chat_tokenizer: PreTrainedTokenizerFast, own_pad: bool, own_bos: bool, template: bool
) -> None:
    if not own_pad:
        chat_tokenizer.pad_token = chat_tokenizer.eos_token
    if not own_bos:
        chat_tokenizer.bos_token = None
    if not template:
        chat_tokenizer.chat_template = None
    stops = stop_ids(chat_tokenizer)
    records: list[Record] = [Completion("p", "good"), Completion("", "good"), Text("good"), Labelled("z", 1)]
    records += [Completion(ASKED, "good")] * template
    examples, report = encode(records, chat_tokenizer, max_length=100)
    assert report.kept == len(examples) == len(records)
    for example in examples:
        assert len(example.prompt_ids) >= 1
        assert [token in stops for token in example.response_ids].index(True) == len(example.response_ids) - 1


def test_a_text_is_learnt_after_the_beginning_of_sequence(tokenizer: PreTrainedTokenizerFast) -> None:
    assert encode_text(tokenizer, "zqj") == ([BOS], [*ids(tokenizer, "zqj"), EOS])
    assert encode_text(tokenizer, "zqj<|eos|>") == ([BOS], [*ids(tokenizer, "zqj"), EOS])


def test_without_a_beginning_of_sequence_a_texts_first_token_is_given(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.bos_token = None
    z, q, j = ids(tokenizer, "zqj")
    assert encode_text(tokenizer, "zqj") == ([z], [q, j, EOS])
    assert encode_text(tokenizer, "z") == ([z], [EOS])
    with pytest.raises(DataError, match="makes no token of the text ''"):
        encode_text(tokenizer, "")


@pytest.mark.parametrize(
    ("max_length", "response", "truncated"), [(6, 4, False), (7, 4, False), (5, 3, True), (4, 2, True), (3, 1, True)]
)
def test_dl5_truncation_cuts_the_end_of_the_response_and_its_stop_token(
    tokenizer: PreTrainedTokenizerFast, max_length: int, response: int, truncated: bool
) -> None:
    record = Completion("q", "zqj")  # prompt BOS q, response z q j EOS
    (example,), report = encode([record], tokenizer, max_length=max_length, too_long="truncate")
    assert example.response_ids == [*ids(tokenizer, "zqj"), EOS][:response]
    assert example.truncated is truncated
    assert (report.truncated, report.dropped) == (truncated, 0)
    assert (EOS in example.response_ids) is not truncated


def test_dl5_a_row_that_is_too_long_stops_with_its_place_and_lengths(tokenizer: PreTrainedTokenizerFast) -> None:
    records = [Completion("q", "z", "a.jsonl:1"), Completion("q", "zqj", "a.jsonl:2")]
    with pytest.raises(
        DataError, match=r"^a\.jsonl:2: 6 tokens \(prompt 2, response 4\), more than max_length 5: raise it"
    ):
        encode(records, tokenizer, max_length=5)


@pytest.mark.parametrize("too_long", ["drop", "truncate"])
def test_tr4_a_prompt_without_room_for_an_answer_is_left_out_and_counted(
    tokenizer: PreTrainedTokenizerFast, too_long: Any
) -> None:
    records = [Completion("q", "z"), Completion("qqqq", "z")]
    examples, report = encode(records, tokenizer, max_length=5, too_long=too_long)
    assert len(examples) == 1
    assert str(report) == "encoded 2 = kept 1 + dropped 1 · truncated 0 · 4 tokens, longest 4 of 5"
    with pytest.raises(DataError, match=r"no row is left \(encoded 1 = kept 0 \+ dropped 1"):
        encode(records[1:], tokenizer, max_length=5, too_long=too_long)


def test_preferences_share_their_prompt(tokenizer: PreTrainedTokenizerFast) -> None:
    (pair,), report = encode_preferences([Preference("q", "z", "jj", "a.jsonl:1")], tokenizer, max_length=5)
    assert pair.prompt_ids == [BOS, *ids(tokenizer, "q")]
    assert (pair.chosen_ids, pair.rejected_ids) == ([*ids(tokenizer, "z"), EOS], [*ids(tokenizer, "jj"), EOS])
    assert report.tokens == 5  # of the prompt and the longer response


def test_dl6_a_pair_that_is_cut_to_equal_responses_is_left_out(tokenizer: PreTrainedTokenizerFast) -> None:
    records = [Preference("q", "zzzz", "zzzj"), Preference("q", "zzzz", "jzzz")]
    pairs, report = encode_preferences(records, tokenizer, max_length=5, too_long="truncate")
    assert [pair.rejected_ids for pair in pairs] == [ids(tokenizer, "jzz")]
    assert (report.dropped, report.truncated) == (1, 1)


def test_rated_answers_carry_the_mean_of_their_scores(tokenizer: PreTrainedTokenizerFast) -> None:
    records = [Rated("q", "zqj", (1.0, 4.0), "a:1"), Rated("", "z", (2.0,), "a:2")]
    (first, second), report = encode_rated(records, tokenizer, max_length=5, too_long="truncate")
    assert (first.prompt_ids, first.response_ids) == ([BOS, *ids(tokenizer, "q")], ids(tokenizer, "zqj"))
    assert (second.prompt_ids, second.response_ids) == ([BOS], [*ids(tokenizer, "z"), EOS])
    assert [first.rating, second.rating] == [2.5, 2.0]
    assert (report.kept, report.truncated, report.tokens) == (2, 1, 8)
    with pytest.raises(DataError, match="a:3: got a text, expected a rated answer"):
        encode_rated([Text("t", "a:3")], tokenizer, max_length=5)


def test_rated_answers_are_learnt_as_answers_and_prompt_as_prompts(tokenizer: PreTrainedTokenizerFast) -> None:
    record = Rated("q", "z", (1.0,), columns={"by": "ann"})
    (example,), _ = encode([record], tokenizer, max_length=5)
    assert example.response_ids == [*ids(tokenizer, "z"), EOS]
    (prompt,), _ = encode_prompts([record], tokenizer, max_length=5)
    assert prompt.columns == {"by": "ann", "completion": "z", "scores": (1.0,)}


def test_prompts_carry_their_text_and_what_the_reward_may_ask_for(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    records = [
        Prompt("q", "a:1", {"answer": 4}),
        Completion(ASKED[1:], "because", "a:2", {"id": 1}),
        Preference("", "c", "r", "a:3"),
    ]
    prompts, report = encode_prompts(records, chat_tokenizer, max_length=50)
    assert prompts[0].prompt_ids == encode_prompt(chat_tokenizer, "q")
    assert [prompt.text for prompt in prompts] == [
        "q",
        "<|im_start|>user\nwhy?<|im_end|>\n<|im_start|>assistant\n",
        "",
    ]
    assert [dict(prompt.columns) for prompt in prompts] == [
        {"answer": 4},
        {"id": 1, "completion": "because"},
        {"chosen": "c", "rejected": "r"},
    ]
    assert [prompt.where for prompt in prompts] == ["a:1", "a:2", "a:3"]
    assert report.kept == 3


def test_dl5_a_long_prompt_stops_or_keeps_its_end(tokenizer: PreTrainedTokenizerFast) -> None:
    records = [Prompt("q"), Prompt("zqj", "a:2")]
    with pytest.raises(DataError, match="a:2: 4 tokens"):
        encode_prompts(records, tokenizer, max_length=3)
    assert len(encode_prompts(records, tokenizer, max_length=3, too_long="drop")[0]) == 1
    prompts, report = encode_prompts(records, tokenizer, max_length=3, too_long="truncate")
    assert prompts[1].prompt_ids == ids(tokenizer, "zqj")
    assert report.truncated == 1


def test_a_record_of_another_kind_is_refused_by_name(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match="a:1: got a prompt, expected a completion or a text to learn"):
        encode([Prompt("p", "a:1")], tokenizer, max_length=9)
    with pytest.raises(DataError, match="a:1: got a text, expected a preference"):
        encode_preferences([Text("p", "a:1")], tokenizer, max_length=9)
    with pytest.raises(DataError, match="a:1: got a labelled, expected a prompt"):
        encode_prompts([Labelled("p", 1, "a:1")], tokenizer, max_length=9)


def test_dl7_equal_tokens_of_different_rows_are_one_number(tokenizer: PreTrainedTokenizerFast) -> None:
    (first, second), _ = encode(
        [Completion("q", "film", "a:1"), Completion("j", "film", "a:2")], tokenizer, max_length=9
    )
    assert max(first.response_ids) > 256  # smaller numbers are shared by Python itself
    assert all(a is b for a, b in zip(first.response_ids, second.response_ids, strict=True))
