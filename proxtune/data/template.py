"""Records as token ids, split where sampling splits: what is given, and what the model writes.

A prompt and its response are encoded apart and never joined as text, so that training sees the very ids that sampling
starts from. A response ends with one stop token, unless its end was cut off.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from proxtune.data.records import (
    Answered,
    Completion,
    Labelled,
    Message,
    Preference,
    Prompt,
    PromptLike,
    Rated,
    Record,
    Tagged,
    Text,
    text_of,
)
from proxtune.data.sources import TooLong
from proxtune.data.tokenizer import Tokenizer, render, start_ids, stop_ids
from proxtune.errors import DataError

E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class Example:
    """A response to learn after a prompt of at least one token."""

    prompt_ids: list[int]
    response_ids: list[int]
    where: str
    truncated: bool  # the end of the response was cut off, and its stop token with it


@dataclass(frozen=True, slots=True)
class PreferenceExample:
    """Two responses to one prompt."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    where: str


@dataclass(frozen=True, slots=True)
class RatedExample:
    """A response to a prompt, and the mean R of the scores that people gave it."""

    prompt_ids: list[int]
    response_ids: list[int]
    rating: float
    where: str


@dataclass(frozen=True, slots=True)
class PromptExample:
    """A prompt to answer: its ids, the text they stand for, and the columns for the reward."""

    prompt_ids: list[int]
    text: str
    columns: Mapping[str, Any]
    where: str


@dataclass(frozen=True)
class EncodeReport:
    """What became of the records: `read == kept + dropped`. Lengths are tokens of prompt and response."""

    read: int
    kept: int
    dropped: int
    truncated: int  # of the kept ones
    tokens: int  # of the kept ones
    longest: int
    max_length: int
    windows: int = 0  # that long contexts were split into, with those that are whole; 0: nothing was split

    def __post_init__(self) -> None:
        assert self.read == self.kept + self.dropped

    def __str__(self) -> str:
        windows = f"{self.windows} windows · " if self.windows else ""
        return (
            f"encoded {self.read} = kept {self.kept} + dropped {self.dropped} · truncated {self.truncated} · {windows}"
            f"{self.tokens} tokens, longest {self.longest} of {self.max_length}"
        )


def encode_prompt(tokenizer: Tokenizer, prompt: PromptLike) -> list[int]:
    """The ids that sampling starts from, at least one.

    A conversation is written by the tokenizer's chat template, up to where the assistant begins. A plain string begins
    with what the tokenizer puts before every text. An empty one is the beginning-of-sequence token, or for lack of one
    the stop token of a text before it.
    """
    text = prompt_text(tokenizer, prompt)
    ids = _ids(tokenizer, text)
    if isinstance(prompt, str):
        ids = _started(tokenizer, ids)
    if ids:
        return ids
    return [stop_ids(tokenizer)[0] if tokenizer.bos_token_id is None else int(tokenizer.bos_token_id)]


def prompt_text(tokenizer: Tokenizer, prompt: PromptLike) -> str:
    """The prompt as the model reads it: a conversation as its chat template writes it, a plain string as it is."""
    return prompt if isinstance(prompt, str) else render(tokenizer, prompt, generation_prompt=True)


def encode_completion(
    tokenizer: Tokenizer, prompt: PromptLike, completion: str, *, stops: Sequence[int] = ()
) -> tuple[list[int], list[int]]:
    """(prompt_ids, response_ids); the response ends with a stop token, exactly once.

    `stops` are the tokenizer's stop ids, where the caller has them already.
    Raises DataError: the chat template writes the prompt otherwise once it is answered, or the completion holds a stop
    token before its end.
    """
    stops = stops or stop_ids(tokenizer)
    if not isinstance(prompt, str):
        given = prompt_text(tokenizer, prompt)
        answered = render(tokenizer, (*prompt, Message("assistant", completion)), generation_prompt=False)
        if not answered.startswith(given):
            raise DataError(
                f"the chat template ends the prompt with {given[-60:]!r}, and writes it otherwise once it is answered: "
                "take a template whose generation prompt is how an assistant's turn begins"
            )
        completion = answered[len(given) :]
    ids = _ids(tokenizer, completion)
    return encode_prompt(tokenizer, prompt), _stopped(tokenizer, ids, stops)


def encode_text(tokenizer: Tokenizer, text: str, *, stops: Sequence[int] = ()) -> tuple[list[int], list[int]]:
    """(prompt_ids, response_ids) of text to learn from its beginning to its end, which is a stop token.

    The prompt is what the tokenizer puts before every text; if that is nothing, the text's own first token, not learnt.
    Raises DataError: the text has no token.
    """
    stops = stops or stop_ids(tokenizer)
    ids = _ids(tokenizer, text)
    if not ids:
        raise DataError(f"the tokenizer makes no token of the text {text[:60]!r}")
    if ids[-1] not in stops:
        ids.append(stops[0])
    ids = _started(tokenizer, ids)
    return ids[:1], ids[1:]


def encode(
    records: Iterable[Record], tokenizer: Tokenizer, *, max_length: int, too_long: TooLong = "error"
) -> tuple[list[Example], EncodeReport]:
    """Completions and texts (of labelled ones the text) as examples of at most `max_length` tokens.

    Too long: "error" raises, "drop" leaves the row out, "truncate" cuts the end of the response, and leaves out a row
    whose prompt has no room for a token of the response.
    Raises DataError, naming the row: it is too long, cannot be encoded, or has nothing to learn; or no row is kept.
    """
    stops = stop_ids(tokenizer)

    def example(record: Record) -> Encoded[Example] | None:
        match record:
            case Completion(prompt, completion) | Rated(prompt, completion):
                prompt_ids, response_ids = encode_completion(tokenizer, prompt, completion, stops=stops)
            case Text(pair=str()):
                raise DataError("got two texts without a label, of which nothing is learnt; expected a label")
            case Text(text) | Labelled(text):
                prompt_ids, response_ids = encode_text(tokenizer, text, stops=stops)
            case _:
                raise DataError(f"got a {_name(record)}, expected a completion or a text to learn")
        room = room_for(len(prompt_ids), len(response_ids), max_length, too_long)
        if not room:
            return None
        truncated = room < len(response_ids)
        encoded = Example(prompt_ids, response_ids[:room], record.where, truncated)
        return Encoded(encoded, len(prompt_ids) + room, truncated)

    return encode_all(records, example, max_length)


def encode_preferences(
    records: Iterable[Record], tokenizer: Tokenizer, *, max_length: int, too_long: TooLong = "error"
) -> tuple[list[PreferenceExample], EncodeReport]:
    """Preferences, by the rules of `encode` for the longer response. A pair cut to equal responses is left out."""
    stops = stop_ids(tokenizer)

    def example(record: Record) -> Encoded[PreferenceExample] | None:
        if not isinstance(record, Preference):
            raise DataError(f"got a {_name(record)}, expected a preference (chosen and rejected)")
        prompt_ids, chosen_ids = encode_completion(tokenizer, record.prompt, record.chosen, stops=stops)
        _, rejected_ids = encode_completion(tokenizer, record.prompt, record.rejected, stops=stops)
        longer = max(len(chosen_ids), len(rejected_ids))
        room = room_for(len(prompt_ids), longer, max_length, too_long)
        if chosen_ids[:room] == rejected_ids[:room]:
            return None
        encoded = PreferenceExample(prompt_ids, chosen_ids[:room], rejected_ids[:room], record.where)
        return Encoded(encoded, len(prompt_ids) + room, room < longer)

    return encode_all(records, example, max_length)


def encode_rated(
    records: Iterable[Record], tokenizer: Tokenizer, *, max_length: int, too_long: TooLong = "error"
) -> tuple[list[RatedExample], EncodeReport]:
    """Rated answers, by the rules of `encode`: "truncate" cuts the end of an answer, whose rating stays as it is."""
    stops = stop_ids(tokenizer)

    def example(record: Record) -> Encoded[RatedExample] | None:
        if not isinstance(record, Rated):
            raise DataError(
                f"got a {_name(record)}, expected a rated answer (scores, with a text or prompt and answer)"
            )
        prompt_ids, response_ids = encode_completion(tokenizer, record.prompt, record.completion, stops=stops)
        room = room_for(len(prompt_ids), len(response_ids), max_length, too_long)
        if not room:
            return None
        encoded = RatedExample(prompt_ids, response_ids[:room], record.rating, record.where)
        return Encoded(encoded, len(prompt_ids) + room, room < len(response_ids))

    return encode_all(records, example, max_length)


def encode_prompts(
    records: Iterable[Record], tokenizer: Tokenizer, *, max_length: int, too_long: TooLong = "error"
) -> tuple[list[PromptExample], EncodeReport]:
    """The prompts of records that have one; "truncate" keeps a prompt's last `max_length` tokens.

    A reward finds the completion (and its scores), or chosen and rejected, among the columns.
    """

    def example(record: Record) -> Encoded[PromptExample] | None:
        match record:
            case Prompt(prompt):
                columns = record.columns
            case Completion(prompt, completion):
                columns = {**record.columns, "completion": completion}
            case Rated(prompt, completion, scores):
                columns = {**record.columns, "completion": completion, "scores": scores}
            case Preference(prompt, chosen, rejected):
                columns = {**record.columns, "chosen": chosen, "rejected": rejected}
            case _:
                raise DataError(f"got a {_name(record)}, expected a prompt")
        ids = encode_prompt(tokenizer, prompt)
        room = room_for(0, len(ids), max_length, too_long)
        if not room:
            return None
        encoded = PromptExample(ids[-room:], prompt_text(tokenizer, prompt), columns, record.where)
        return Encoded(encoded, room, room < len(ids))

    return encode_all(records, example, max_length)


def token_counts(tokenizer: Tokenizer, record: Record, *, stops: Sequence[int] = ()) -> tuple[int, int]:
    """Tokens of a record's prompt, and of what is learnt after it: 0 for a prompt alone, the longer answer of a pair.

    Raises DataError: the record cannot be encoded.
    """
    match record:
        case Prompt(prompt):
            return len(encode_prompt(tokenizer, prompt)), 0
        case Preference(prompt, chosen, rejected):
            prompt_ids, chosen_ids = encode_completion(tokenizer, prompt, chosen, stops=stops)
            rejected_ids = encode_completion(tokenizer, prompt, rejected, stops=stops)[1]
            return len(prompt_ids), max(len(chosen_ids), len(rejected_ids))
        case Completion(prompt, completion) | Rated(prompt, completion):
            prompt_ids, response_ids = encode_completion(tokenizer, prompt, completion, stops=stops)
        case Text() | Labelled() | Tagged() | Answered():
            prompt_ids, response_ids = encode_text(tokenizer, text_of(record), stops=stops)
    return len(prompt_ids), len(response_ids)


class Encoded(NamedTuple, Generic[E]):
    """An example, its tokens in all, and whether an end was cut off."""

    example: E
    length: int
    truncated: bool


def encode_all(
    records: Iterable[Record], encode_one: Callable[[Record], Encoded[E] | None], max_length: int
) -> tuple[list[E], EncodeReport]:
    """Records as examples; one that `encode_one` returns None for is left out.

    Raises DataError, naming the row, where it does; or no row is kept.
    """
    kept: list[E] = []
    read = truncated = tokens = longest = 0
    for record in records:
        read += 1
        try:
            encoded = encode_one(record)
        except DataError as error:
            if not record.where or str(error).startswith(record.where):
                raise
            raise DataError(f"{record.where}: {error}") from error
        if encoded is not None:
            kept.append(encoded.example)
            truncated += encoded.truncated
            tokens += encoded.length
            longest = max(longest, encoded.length)
    report = EncodeReport(read, len(kept), read - len(kept), truncated, tokens, longest, max_length)
    if not kept:
        raise DataError(f"no row is left ({report}): raise max_length, or shorten the rows")
    return kept, report


def room_for(prompt: int, response: int, max_length: int, too_long: TooLong) -> int:
    """How many tokens of the response stay; 0: the row is left out."""
    if prompt + response <= max_length:
        return response
    if too_long == "error":
        raise DataError(
            f"{prompt + response} tokens (prompt {prompt}, response {response}), more than max_length {max_length}: "
            "raise it, shorten the row, or set too_long to drop or truncate"
        )
    return max(0, max_length - prompt) if too_long == "truncate" else 0


def _name(record: Record) -> str:
    return type(record).__name__.lower()


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids, where equal ones are one object: a long text then takes 8 bytes a token, and not 40."""
    return [_ONE_OF_EACH.setdefault(token, token) for token in tokenizer.encode(text, add_special_tokens=False)]


_ONE_OF_EACH: dict[int, int] = {}


def _started(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    start = start_ids(tokenizer)
    return ids if ids[: len(start)] == start else start + ids


def _stopped(tokenizer: Tokenizer, ids: list[int], stops: Sequence[int]) -> list[int]:
    """`ids` up to the first stop token, which is added if there is none; nothing but white space may follow it."""
    end = next((index for index, token in enumerate(ids) if token in stops), None)
    if end is None:
        return [*ids, stops[0]]
    rest = str(tokenizer.decode([token for token in ids[end + 1 :] if token not in stops])).strip()
    if rest:
        raise DataError(
            f"the stop token {tokenizer.convert_ids_to_tokens(ids[end])!r} stands inside the completion, "
            f"before {rest[:40]!r}: take it out"
        )
    return ids[: end + 1]
