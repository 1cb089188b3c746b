"""What a tokenizer lacks, decided in one place: where an answer stops, what pads, how a conversation is written out."""

import re
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, cast

import jinja2
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from proxtune.data.records import Message
from proxtune.errors import ConfigError, DataError, ModelError

Tokenizer: TypeAlias = PreTrainedTokenizerBase

PAD, BOS, EOS = "<|pad|>", "<|bos|>", "<|eos|>"
BYTES = 256
RENDER_SECONDS = 1.0  # of the processor; a template is a program of whoever made the model
RENDER_SPARE = 2**18  # characters it may add to a conversation


def render(tokenizer: Tokenizer, messages: Sequence[Message], *, generation_prompt: bool) -> str:
    """Write a conversation as the tokenizer's chat template does; `generation_prompt` opens the assistant's next turn.

    Raises DataError: there is no chat template, or it refuses the conversation.
    """
    if not tokenizer.chat_template:
        raise DataError(
            "the row is a conversation, and the tokenizer has no chat template: take a chat model, "
            "set tokenizer.chat_template, or give plain strings (prompt and completion)"
        )
    turns = [{"role": message.role, "content": message.content} for message in messages]
    try:
        with _at_most(RENDER_SECONDS):
            text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generation_prompt))
    except (jinja2.TemplateError, TypeError, ValueError, MemoryError, RecursionError, TimeoutError) as error:
        roles = ", ".join(message.role for message in messages)
        reason = str(error) or type(error).__name__
        raise DataError(f"the tokenizer's chat template refuses a conversation of {roles}: {reason}") from error
    given = sum(len(message.content) for message in messages)
    if len(text) > 8 * given + RENDER_SPARE:
        raise DataError(f"the tokenizer's chat template makes {len(text):,} characters of {given:,}; mend it")
    return text


def stop_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens that end an answer: end of sequence first, then the one that ends an assistant's turn, if another.

    Raises ModelError: the tokenizer has neither.
    """
    found = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    turn_end = _turn_end(tokenizer) if tokenizer.chat_template else None
    if turn_end is not None and turn_end not in found:
        found.append(turn_end)
    if not found:
        raise ModelError(
            "the tokenizer has no token that ends an answer: set its eos_token to one of its special tokens"
        )
    return tuple(found)


def pad_id(tokenizer: Tokenizer, vocab_size: int) -> int:
    """A token to fill up rows with, below `vocab_size` so that no embedding is resized.

    Its own pad token if that does not also end an answer; else one that text never holds (reserved, unused, end of a
    document, unknown); else the end-of-sequence token, which does no harm: masks are made from lengths, never from ids.
    """
    stops = stop_ids(tokenizer)
    special = {token.content: int(index) for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    spare = [special[name] for name in sorted(special) if re.search(r"reserved|unused|pad", name)]
    wanted = (tokenizer.pad_token_id, *spare, special.get("<|endoftext|>"), tokenizer.unk_token_id)
    for candidate in wanted:
        if candidate is not None and candidate < vocab_size and candidate not in (*stops, tokenizer.bos_token_id):
            return int(candidate)
    return stops[0]


def start_ids(tokenizer: Tokenizer) -> list[int]:
    """What the tokenizer itself puts before every text: its beginning-of-sequence token, or nothing."""
    first = tokenizer.encode("")[:1]
    return first if first and first[0] == tokenizer.bos_token_id else []


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer for a model made from scratch: any text comes back as it was.

    It has distinct tokens for padding, beginning and end, and puts the beginning before every text.
    """
    smallest = BYTES + len((PAD, BOS, EOS))
    if vocab_size < smallest:
        raise ConfigError(
            f"vocab_size: got {vocab_size}, expected at least {smallest} (every byte, and 3 special tokens)"
        )
    tokenizer: Any = FastTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    bos_id = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, bos_id)]
    )
    fast: Any = PreTrainedTokenizerFast
    return cast(PreTrainedTokenizerFast, fast(tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS))


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the main thread once the block has used so much of the processor; elsewhere do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(*_: object) -> None:
        raise TimeoutError(f"it takes more than {seconds:g} s")

    before = signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _turn_end(tokenizer: Tokenizer) -> int | None:
    """The first special token that the chat template writes after the assistant's words."""
    answer = "answer"
    written = render(tokenizer, (Message("user", "question"), Message("assistant", answer)), generation_prompt=False)
    tail = tokenizer.encode(written.rpartition(answer)[2], add_special_tokens=False)
    added = tokenizer.added_tokens_decoder
    return next((token for token in tail if token in added and added[token].special), None)
