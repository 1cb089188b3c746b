import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from proxtune.data.tokenizer import train_tokenizer

CORPUS = ["the film was good", "the film was bad", "a good question and its answer"] * 4
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """Pad 0, BOS 1 (before every text), EOS 2, then bytes and merges."""
    return train_tokenizer(CORPUS, 300)


@pytest.fixture
def chat_tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """With ChatML, whose turns end otherwise than texts do."""
    turns = [AddedToken(token, special=True, normalized=False) for token in ("<|im_start|>", "<|im_end|>")]
    tokenizer.add_tokens(turns, special_tokens=True)
    tokenizer.chat_template = CHATML
    return tokenizer
