import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from proxtune.data.records import Message
from proxtune.data.tokenizer import pad_id, render, start_ids, stop_ids, train_tokenizer
from proxtune.errors import ConfigError, DataError, ModelError

ASKED = (Message("user", "q"),)


def test_a_trained_tokenizer_has_distinct_special_tokens_and_the_size_asked_for(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert len(tokenizer) <= 300
    assert len(tokenizer.encode("the film was good", add_special_tokens=False)) < 17  # merges were learnt


@pytest.mark.parametrize("text", ["the film", " two  spaces ", "né, 二 \U0001f600\n\t\x00", "a 's", " .", "<|eo"])
def test_a_trained_tokenizer_gives_any_text_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_training_twice_gives_one_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = ["abc abd abe", "xyz xyw"] * 3
    assert train_tokenizer(texts, 270).get_vocab() == train_tokenizer(iter(texts), 270).get_vocab()


def test_a_vocabulary_without_room_for_every_byte_is_refused() -> None:
    assert len(train_tokenizer(["aa"], 259)) == 259
    with pytest.raises(ConfigError, match="vocab_size: got 258, expected at least 259"):
        train_tokenizer(["aa"], 258)


def test_dl4_an_answer_stops_at_the_end_of_text_and_of_the_turn(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    turn_end = chat_tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert stop_ids(chat_tokenizer) == (2, turn_end)
    chat_tokenizer.eos_token = "<|im_end|>"
    assert stop_ids(chat_tokenizer) == (turn_end,)
    chat_tokenizer.eos_token = None
    assert stop_ids(chat_tokenizer) == (turn_end,)


def test_dl4_without_a_template_the_end_of_text_is_the_only_stop(tokenizer: PreTrainedTokenizerFast) -> None:
    assert stop_ids(tokenizer) == (2,)


def test_dl4_a_template_that_ends_a_turn_with_plain_text_adds_no_stop(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    assert stop_ids(tokenizer) == (2,)


def test_dl4_a_tokenizer_that_cannot_stop_is_an_error(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no token that ends an answer: set its eos_token"):
        stop_ids(tokenizer)


def add_special(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False)], special_tokens=True)
    return int(tokenizer.convert_tokens_to_ids(token))


def test_dl4_its_own_pad_token_pads_if_it_does_not_stop(tokenizer: PreTrainedTokenizerFast) -> None:
    assert pad_id(tokenizer, len(tokenizer)) == 0


def test_dl4_a_pad_token_that_stops_gives_way_to_a_spare_one(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    spare = add_special(chat_tokenizer, "<|reserved_7|>")
    chat_tokenizer.pad_token = "<|im_end|>"
    assert pad_id(chat_tokenizer, len(chat_tokenizer)) == 0  # the tokenizer's <|pad|>, which nothing uses any more
    chat_tokenizer.eos_token = "<|pad|>"
    assert pad_id(chat_tokenizer, len(chat_tokenizer)) == spare


def bare(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """As many come: one special token for beginning, end and padding."""
    tokenizer.eos_token = tokenizer.pad_token = tokenizer.bos_token = "<|pad|>"
    return tokenizer


def test_dl4_the_end_of_documents_or_the_unknown_token_pads_where_nothing_is_reserved(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    bare(tokenizer).unk_token = "a"
    assert pad_id(tokenizer, len(tokenizer)) == tokenizer.unk_token_id
    document_end = add_special(tokenizer, "<|endoftext|>")
    assert pad_id(tokenizer, len(tokenizer)) == document_end


def test_dl4_pad_is_eos_where_there_is_no_other_and_never_beyond_the_embedding(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    assert pad_id(bare(tokenizer), len(tokenizer)) == 0 == tokenizer.eos_token_id
    beyond = add_special(tokenizer, "<|reserved_0|>")
    assert pad_id(tokenizer, beyond) == 0
    assert pad_id(tokenizer, beyond + 1) == beyond


def test_the_start_is_what_the_tokenizer_itself_puts_there(tokenizer: PreTrainedTokenizerFast) -> None:
    assert start_ids(tokenizer) == [1]
    tokenizer.bos_token = None
    assert start_ids(tokenizer) == []


def test_dl4_a_conversation_needs_a_chat_template(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(
        DataError, match=r"no chat template: take a chat model, set tokenizer\.chat_template, or give plain"
    ):
        render(tokenizer, ASKED, generation_prompt=True)


def test_what_a_chat_template_refuses_is_named(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DataError, match="refuses a conversation of user: roles must alternate"):
        render(tokenizer, ASKED, generation_prompt=True)
