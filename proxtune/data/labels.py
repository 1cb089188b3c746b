"""Records with labels as token ids: all of it is given, nothing is written, and a head is to say the label."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from proxtune.data.records import Answered, Labelled, Record, Tagged, Text
from proxtune.data.sources import TooLong
from proxtune.data.template import Encoded, EncodeReport, encode_all, encode_text, room_for
from proxtune.data.tokenizer import Tokenizer, start_ids, stop_ids
from proxtune.errors import DataError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LabelExample(Generic[T]):
    """A text, or two, and what a head is to say of it."""

    prompt_ids: list[int]
    second: int  # where the second text begins; the number of tokens where there is none
    target: T
    where: str


@dataclass(frozen=True, slots=True)
class TagExample:
    """A sentence, and the class of each of its words that was not cut off."""

    prompt_ids: list[int]
    at: list[int]  # the token that stands for each word
    target: list[int]
    where: str


@dataclass(frozen=True)
class Reading:
    """How a model reads texts.

    An encoder reads a text as its tokenizer frames it ([CLS] … [SEP]). A `causal` model reads it as `encode_text` has
    it: begun as every text, and ended by the stop token, in whose state the whole text is known. Two texts stand apart
    as an encoder's tokenizer has it, or else by a line break.
    """

    tokenizer: Tokenizer
    causal: bool
    max_length: int
    too_long: TooLong = "error"  # "truncate" cuts the end of the text, of two that of the longer one

    def text(self, text: str, pair: str | None = None) -> tuple[list[int], int, bool] | None:
        """(ids, where the second text begins, whether an end was cut off); None: too long, and left out."""
        if self.causal:
            begun, rest = encode_text(self.tokenizer, text if pair is None else f"{text}\n{pair}")
            ids = begun + rest
            cut = self._is_cut(len(ids))
            if cut:
                ids = [*self._shortened(text, pair), ids[-1]]
            return None if cut is None else (ids, len(ids), cut)
        ids, second = self._framed(text, pair)
        cut = self._is_cut(len(ids))
        if cut:
            ids, second = self._framed(text, pair, truncation="longest_first", max_length=self.max_length)
        return None if cut is None else (ids, second, cut)

    def _shortened(self, text: str, pair: str | None) -> list[int]:
        """The tokens of a text, or of two of which the longer one is cut, with room for one token more."""
        begun, rest = encode_text(self.tokenizer, text)
        room = self.max_length - 1
        if pair is None:
            return (begun + rest)[:room]
        first, second = (begun + rest)[:-1], self.tokenizer.encode(f"\n{pair}", add_special_tokens=False)
        kept = min(len(second), max(room // 2, room - len(first)))
        return [*first[: room - kept], *second[:kept]]

    def words(self, sentence: Tagged) -> tuple[list[int], list[int], bool] | None:
        """(ids, the token that stands for each word that is left, whether an end was cut off), as `text`.

        That is a word's first token in an encoder, and its last one where a model reads forwards alone; of a word that
        the tokenizer makes nothing of, the token before it. The words are read with spaces between them, so that they
        are tokenised as in running text.
        """
        read: Any = self.tokenizer(
            sentence.text, add_special_tokens=not self.causal, return_offsets_mapping=True, verbose=False
        )
        ids, offsets = list(read["input_ids"]), list(read["offset_mapping"])
        if self.causal:
            start = start_ids(self.tokenizer)
            ids, offsets = [*start, *ids, stop_ids(self.tokenizer)[0]], [(0, 0)] * len(start) + offsets + [(0, 0)]
        at = [found[-1 if self.causal else 0] for found in _touching(sentence.tokens, offsets)]
        cut = self._is_cut(len(ids))
        if cut:
            ids = [*ids[: self.max_length - 1], ids[-1]]
            at = [place for place in at if place < self.max_length - 1]
        return None if cut is None else (ids, at, cut)

    def question(self, question: str, context: str) -> tuple[list[int], list[int], list[tuple[int, int]], bool] | None:
        """(ids, places, the characters of each place, whether the context was cut), as `text`.

        The places are the first token, for no answer, and the tokens of the context.
        """
        given = (f"{question}\n{context}", None) if self.causal else (question, context)
        read: Any = self.tokenizer(
            *given, add_special_tokens=not self.causal, return_offsets_mapping=True, verbose=False
        )
        ids, offsets, part = list(read["input_ids"]), list(read["offset_mapping"]), list(read.sequence_ids(0))
        skipped = 0
        if self.causal:
            start, skipped = start_ids(self.tokenizer), len(question) + 1
            ids, offsets = [*start, *ids], [(0, 0)] * len(start) + offsets
            part = [1 if end > skipped else None for _, end in offsets]
        cut = self._is_cut(len(ids))
        if cut:
            ids = ids[: self.max_length] if self.causal else [*ids[: self.max_length - 1], ids[-1]]
        inside = [i for i in range(len(ids) - (not self.causal)) if part[i] == 1]
        spans = [(max(0, offsets[i][0] - skipped), offsets[i][1] - skipped) for i in inside]
        return None if cut is None else (ids, [0, *inside], [(0, 0), *spans], cut)

    def _framed(self, text: str, pair: str | None, **limits: Any) -> tuple[list[int], int]:
        read: Any = self.tokenizer(text, pair, verbose=False, **limits)
        ids, segments = list(read["input_ids"]), list(read.get("token_type_ids") or ())
        return ids, segments.index(1) if 1 in segments else len(ids)

    def _is_cut(self, length: int) -> bool | None:
        """Whether a row of `length` tokens is cut; None: it is left out. Raises DataError where it may not be."""
        return length > self.max_length if room_for(0, length, self.max_length, self.too_long) else None


def _touching(words: Iterable[str], offsets: list[tuple[int, int]]) -> Iterable[list[int]]:
    """The tokens of each word of a text that has a space between each two; at least one."""
    begin, place = 0, 0
    for word in words:
        end, found = begin + len(word), list[int]()
        while place < len(offsets) and offsets[place][0] < end:
            if offsets[place][1] > begin:
                found.append(place)
            place += 1
        place = max(place - 1, 0)  # a token may reach into the next word
        yield found or [place]
        begin = end + 1


def encode_labelled(
    records: Iterable[Record], reading: Reading, target: Callable[[Labelled], T]
) -> tuple[list[LabelExample[T]], EncodeReport]:
    """Labelled texts as examples; `target` is what a head is to say of one, and may raise DataError.

    Raises DataError, naming the row: it has no label, or is too long; or no row is kept.
    """

    def example(record: Record) -> Encoded[LabelExample[T]] | None:
        if not isinstance(record, Labelled):
            raise DataError(f"got a {type(record).__name__.lower()}, expected a text with a label")
        read = reading.text(record.text, record.pair)
        if read is None:
            return None
        ids, second, cut = read
        return Encoded(LabelExample(ids, second, target(record), record.where), len(ids), cut)

    return encode_all(records, example, reading.max_length)


def encode_texts(records: Iterable[Record], reading: Reading) -> tuple[list[LabelExample[None]], EncodeReport]:
    """Texts that are still to be labelled."""

    def example(record: Record) -> Encoded[LabelExample[None]] | None:
        if not isinstance(record, Labelled | Text):
            raise DataError(f"got a {type(record).__name__.lower()}, expected a text")
        pair = record.pair if isinstance(record, Labelled) else record.columns.get("text_pair")
        if record.columns.keys() >= {"head", "tail"} and isinstance(record, Text):
            raise DataError("a text with head and tail, and no relation; give `relation` any label")
        read = reading.text(record.text, pair)
        return read and Encoded(LabelExample(read[0], read[1], None, record.where), len(read[0]), read[2])

    return encode_all(records, example, reading.max_length)


def encode_tagged(
    records: Iterable[Record], reading: Reading, classes: dict[str, int] | None
) -> tuple[list[TagExample], EncodeReport]:
    """Sentences of words with tags as examples. "truncate" cuts the words at the end, and their tags.

    Args:
        classes: tag -> class; None: the tags are still to be found.

    Raises DataError, naming the row: a tag is not among `classes`, a sentence is too long; or no row is kept.
    """

    def example(record: Record) -> Encoded[TagExample] | None:
        if not isinstance(record, Tagged):
            raise DataError(f"got a {type(record).__name__.lower()}, expected a sentence of tokens with tags")
        read = reading.words(record)
        if read is None:
            return None
        ids, at, cut = read
        target = [] if classes is None else [class_of(tag, classes) for tag in record.tags[: len(at)]]
        return Encoded(TagExample(ids, at, target, record.where), len(ids), cut)

    return encode_all(records, example, reading.max_length)


def class_of(label: str, classes: dict[str, int]) -> int:
    """Raises DataError for a label that was not in the training data."""
    if label not in classes:
        raise DataError(f"the label {label!r} is not in the training data, which has {', '.join(classes)}")
    return classes[label]


@dataclass(frozen=True, slots=True)
class AnswerExample:
    """A question and its context. A place among `at` is where an answer may begin or end; place 0 is for no answer."""

    prompt_ids: list[int]
    at: list[int]
    spans: list[tuple[int, int]]  # of each place, in characters of the context
    target: tuple[int, int]  # the places where the first answer begins and ends
    where: str


def encode_answered(records: Iterable[Record], reading: Reading) -> tuple[list[AnswerExample], EncodeReport]:
    """Questions as examples. "truncate" cuts the end of the context; a question whose answer goes with it is left out.

    Raises DataError, naming the row: it is no question with a context, or is too long; or no row is kept.
    """

    def example(record: Record) -> Encoded[AnswerExample] | None:
        found = _question(record, reading)
        if found is None:
            return None
        made, cut = found
        if made.target == (0, 0) and answered(record).answers:
            return None
        return Encoded(made, len(made.prompt_ids), cut)

    return encode_all(records, example, reading.max_length)


def encode_questions(records: Iterable[Record], reading: Reading) -> tuple[list[AnswerExample], EncodeReport]:
    """Questions that are still to be answered."""

    def example(record: Record) -> Encoded[AnswerExample] | None:
        found = _question(record, reading)
        return found and Encoded(found[0], len(found[0].prompt_ids), found[1])

    return encode_all(records, example, reading.max_length)


def answered(record: Record) -> Answered:
    """Raises DataError: the record is another one."""
    if not isinstance(record, Answered):
        raise DataError(f"{record.where}: got a {type(record).__name__.lower()}, expected a question with a context")
    return record


def _question(record: Record, reading: Reading) -> tuple[AnswerExample, bool] | None:
    """(the example, whether the context was cut); the target is no answer where the answer is not within reach."""
    asked = answered(record)
    read = reading.question(asked.question, asked.context)
    if read is None:
        return None
    ids, at, spans, cut = read
    target = (0, 0)
    if asked.answers:
        begin = asked.answers[0].begin
        end = begin + len(asked.answers[0].text)
        inside = [i for i, (b, e) in enumerate(spans) if i and b < end and e > begin]
        if inside and (not cut or spans[-1][1] >= end):
            target = (inside[0], inside[-1])
    return AnswerExample(ids, at, spans, target, record.where), cut
