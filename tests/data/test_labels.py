"""What a model reads of a labelled text, a sentence of words, or a question; and where each word stands in it."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertTokenizerFast

from proxtune.data.formats import MalformedRowError, detect, parse
from proxtune.data.labels import (
    Reading,
    encode_answered,
    encode_labelled,
    encode_questions,
    encode_tagged,
    encode_texts,
)
from proxtune.data.records import Answered, Labelled, Span, Tagged, Text
from proxtune.data.template import encode
from proxtune.data.tokenizer import train_tokenizer
from proxtune.errors import DataError
from tests.tiny import encoder_tokenizer, letter_tokenizer

A, B, C, D, SPACE = 2, 3, 4, 5, 28
CLS, SEP, EOS = 30, 31, 1
ENCODER, DECODER = encoder_tokenizer(), letter_tokenizer()


def encoder(length: int = 20, too_long: str = "error") -> Reading:
    return Reading(ENCODER, causal=False, max_length=length, too_long=too_long)  # type: ignore[arg-type]


def decoder(length: int = 20, too_long: str = "error") -> Reading:
    return Reading(DECODER, causal=True, max_length=length, too_long=too_long)  # type: ignore[arg-type]


def test_an_encoder_frames_a_text_and_tells_a_second_one_apart() -> None:
    assert encoder().text("ab") == ([CLS, A, B, SEP], 4, False)
    assert encoder().text("ab", "c") == ([CLS, A, B, SEP, C, SEP], 4, False)


def test_a_decoder_reads_a_text_to_its_stop_token() -> None:
    assert decoder().text("ab") == ([A, B, EOS], 3, False)
    ids, second, _ = decoder().text("ab", "c") or ([], 0, False)
    assert (ids[:2], ids[3:], second) == ([A, B], [C, EOS], 5)  # a line break stands between, which has no letter


def test_a_text_that_is_too_long_loses_its_end_and_keeps_its_frame() -> None:
    assert encoder(4, "truncate").text("abcd") == ([CLS, A, B, SEP], 4, True)
    assert decoder(3, "truncate").text("abcd") == ([A, B, EOS], 3, True)
    assert encoder(5, "truncate").text("abcd", "c") == ([CLS, A, SEP, C, SEP], 3, True)
    assert encoder(4, "drop").text("abcd") is None
    with pytest.raises(DataError, match=r"6 tokens .* more than max_length 4"):
        encoder(4).text("abcd")


def test_a_span_begins_after_the_blank_that_a_byte_level_token_begins_with() -> None:
    context = "Ann lives in Paris"
    tokenizer = train_tokenizer([f"{context} "] * 99, 300)
    [window] = encode_questions([Answered(context, "Where?", None)], Reading(tokenizer, causal=True, max_length=99))[0]
    assert "".join(context[begin:end] for begin, end in window.spans) == "AnnlivesinParis"


def test_a_word_stands_at_its_first_token_in_an_encoder_and_at_its_last_in_a_decoder() -> None:
    sentence = Tagged(("ab", "c", "dab"), ("O", "O", "O"))
    assert encoder().words(sentence) == ([CLS, A, B, SPACE, C, SPACE, D, A, B, SEP], [1, 4, 6], False)
    assert decoder().words(sentence) == ([A, B, SPACE, C, SPACE, D, A, B, EOS], [1, 3, 7], False)


def test_words_that_are_cut_off_have_no_place() -> None:
    sentence = Tagged(("ab", "c", "dab"), ("B-X", "O", "B-X"))
    assert encoder(6, "truncate").words(sentence) == ([CLS, A, B, SPACE, C, SEP], [1, 4], True)
    examples, report = encode_tagged([sentence], encoder(6, "truncate"), {"O": 0, "B-X": 1})
    assert examples[0].target == [1, 0]
    assert report.truncated == 1


def test_the_places_of_an_answer_are_those_of_its_tokens_in_the_context() -> None:
    asked = Answered("ab cd", "c", (Span("cd", 3),), "here")
    examples, _ = encode_answered([asked], encoder())
    [example] = examples
    assert example.prompt_ids == [CLS, C, SEP, A, B, SPACE, C, D, SEP]
    assert example.at == [0, 3, 4, 5, 6, 7]
    assert example.spans == [(0, 0), (0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]
    assert example.target == (4, 5)
    [other] = encode_answered([asked], decoder())[0]
    assert [other.spans[i] for i in other.target] == [(3, 4), (4, 5)]


def test_no_answer_is_the_first_place_and_an_answer_that_was_cut_off_leaves_its_question_out() -> None:
    none, one = Answered("ab", "c", (), "here"), Answered("ab cd", "c", (Span("cd", 3),), "there")
    examples, report = encode_answered([none, one], encoder(7, "truncate"))
    assert [example.target for example in examples] == [(0, 0)]
    assert (report.kept, report.dropped) == (1, 1)


def test_a_long_context_stands_in_windows_that_overlap_and_those_without_the_answer_learn_that_there_is_none() -> None:
    asked = Answered("abcdefgh", "c", (Span("ef", 4),), "here")
    examples, report = encode_answered([asked], encoder(8), overlap=2)  # [CLS] c [SEP], four letters, [SEP]
    assert [example.prompt_ids for example in examples] == [
        [CLS, C, SEP, *letters, SEP] for letters in ([2, 3, 4, 5], [4, 5, 6, 7], [6, 7, 8, 9])
    ]
    assert [example.spans[1][0] for example in examples] == [0, 2, 4]
    assert [example.target for example in examples] == [(0, 0), (3, 4), (1, 2)]
    assert (report.read, report.kept, report.truncated, report.windows, report.longest) == (1, 1, 0, 3, 8)
    assert "truncated 0 · 3 windows · 24 tokens, longest 8 of 8" in str(report)
    [whole], _ = encode_questions([asked], encoder(8), overlap=2)
    assert [window.prompt_ids for window in whole.windows] == [example.prompt_ids for example in examples]


def test_an_answer_that_no_window_holds_leaves_its_question_out_and_so_may_a_question_without_room() -> None:
    none, one = Answered("ab", "c", (), "here"), Answered("abcdefgh", "c", (Span("bcdefg", 1),), "there")
    examples, report = encode_answered([none, one], encoder(8), overlap=2)
    assert (len(examples), report.kept, report.dropped, report.windows) == (1, 1, 1, 0)
    asked = Answered("ab", "abcdef", (), "here")
    with pytest.raises(DataError, match=r"here: 11 tokens .* more than max_length 8"):
        encode_questions([asked], encoder(8), overlap=2)
    [cut], _ = encode_questions([asked], encoder(8, "truncate"), overlap=2)
    assert (cut.prompt_ids, cut.at) == ([CLS, A, B, C, D, 6, 7, SEP], [0])


@given(
    count=st.integers(1, 40),
    overlap=st.integers(1, 12),
    length=st.integers(6, 16),
    causal=st.booleans(),
    data=st.data(),
)
def test_windows_cover_the_context_and_hold_every_answer_that_is_no_longer_than_the_overlap(
    count: int, overlap: int, length: int, causal: bool, data: st.DataObject
) -> None:
    context = "".join("abcdefgh"[i % 8] for i in range(count))
    reading = (decoder if causal else encoder)(length)
    room = length - (2 if causal else 4)
    size = data.draw(st.integers(1, min(count, overlap, room // 2)))
    begin = data.draw(st.integers(0, count - size))
    asked = Answered(context, "c", (Span(context[begin : begin + size], begin),), "here")
    windows, _ = encode_answered([asked], reading, overlap=overlap)
    seen = [[b for b, _ in window.spans[1:]] for window in windows]
    assert sorted({b for window in seen for b in window}) == list(range(count))
    shared = min(overlap, room // 2)
    assert all(one[-shared:] == other[:shared] for one, other in pairwise(seen))
    assert all(len(window.prompt_ids) <= length for window in windows)
    held = [window for window in windows if window.target != (0, 0)]
    assert held
    for window in held:
        first, last = window.target
        assert (window.spans[first][0], window.spans[last][1]) == (begin, begin + size)


def test_records_of_another_kind_are_named() -> None:
    with pytest.raises(DataError, match="here: got a tagged, expected a text with a label"):
        encode_labelled([Tagged(("a",), ("O",), "here")], encoder(), lambda _: 0)
    with pytest.raises(DataError, match="here: got a text, expected a sentence of tokens with tags"):
        encode_tagged([Text("a", "here")], encoder(), None)
    with pytest.raises(DataError, match="here: the label 'B-Y' is not in the training data, which has O"):
        encode_tagged([Tagged(("a",), ("B-Y",), "here")], encoder(), {"O": 0})
    with pytest.raises(DataError, match=r"^here: got a text, expected a question"):  # and names it once
        encode_answered([Text("a", "here")], encoder())


def test_texts_to_label_may_have_labels_or_none() -> None:
    examples, _ = encode_texts([Text("ab"), Labelled("ab", "x")], encoder())
    assert [example.prompt_ids for example in examples] == [[CLS, A, B, SEP]] * 2


def test_of_two_texts_a_decoder_loses_the_end_of_the_longer_one() -> None:
    ids, _, cut = decoder(6, "truncate").text("abcd", "d") or ([], 0, False)
    assert (ids[:3], ids[4:], cut) == ([A, B, C], [D, EOS], True)


def test_an_answer_whose_end_has_no_token_is_kept() -> None:
    asked = Answered("ab\u200b", "c", (Span("b\u200b", 1),), "here")  # a space of no width, which BERT leaves out
    tokenizer = BertTokenizerFast(vocab={"[CLS]": 0, "[SEP]": 1, "[UNK]": 2, "a": 3, "##b": 4, "c": 5, "ab": 6})
    [example] = encode_answered([asked], Reading(tokenizer, causal=False, max_length=20))[0]
    assert example.target == (1, 1)


@pytest.mark.parametrize("keys", [("text", "text_pair"), ("sentence1", "sentence2"), ("premise", "hypothesis")])
def test_a_pair_is_read_alike_with_a_label_and_without(keys: tuple[str, str]) -> None:
    row = dict(zip(keys, ("ab", "c"), strict=True))
    records = [parse(given, detect(given), "here") for given in (row, {**row, "label": "x"})]
    assert [example.prompt_ids for example in encode_texts(records, encoder())[0]] == [[CLS, A, B, SEP, C, SEP]] * 2


def test_a_relation_is_read_alike_with_its_name_and_without() -> None:
    row = {"text": "ab cd", "head": [3, 5], "tail": [0, 2]}
    records = [parse(given, detect(given), "here") for given in (row, {**row, "relation": "x"})]
    one, other = encode_texts(records, encoder())[0]
    assert one.prompt_ids == other.prompt_ids
    assert len(one.prompt_ids) == 2 + len("# ab # @ cd @")
    with pytest.raises(DataError, match=r"here: a relation to be named: tail: .* expected \[begin, end\)"):
        encode_texts([Text("ab", "here", {"head": [0, 1], "tail": [1, 9]})], encoder())


def test_a_pair_without_a_label_is_nothing_to_learn_and_has_no_scores() -> None:
    row = {"sentence1": "ab", "sentence2": "c"}
    with pytest.raises(DataError, match="two texts without a label, of which nothing is learnt"):
        encode([parse(row, "text", "here")], DECODER, max_length=9)
    with pytest.raises(MalformedRowError, match="rating: got scores of a pair of texts, whose number is a label"):
        parse({**row, "rating": 3}, "rated", "here")
