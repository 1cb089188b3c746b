"""Records with labels as token ids: all of it is given, nothing is written, and a head is to say the label."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, TypeVar

from proxtune.data.cells import MalformedRowError
from proxtune.data.marked import with_markers
from proxtune.data.records import Answered, Labelled, Record, Span, Tagged, Text
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

    def question(self, question: str, context: str, *, overlap: int = 0) -> "Asked | None":
        """A question with its context, which stands in windows where the two are too long together; None: left out.

        Args:
            overlap: tokens of the context that a window shares with the one before it, half a window at most. 0: there
                is one window, and the rest of the context is cut, as `text` is.
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
        inside = [i for i, which in enumerate(part) if which == 1]
        end = inside[-1] + 1 if inside else len(ids) - (not self.causal)
        head, of_context, tail = ids[: end - len(inside)], ids[end - len(inside) : end], ids[end:]
        room, begins = max(0, self.max_length - len(head) - len(tail)), [0]
        cut: bool | None = False
        if overlap and room:
            shared = min(overlap, room // 2)
            begins = list(range(0, max(1, len(inside) - shared), room - shared))
        else:
            cut = self._is_cut(len(ids))
        head = head[: self.max_length - len(tail)]
        rows = [head + of_context[begin : begin + room] + tail for begin in begins]
        spans = [_inked(context, max(0, offsets[i][0] - skipped), offsets[i][1] - skipped) for i in inside]
        return None if cut is None else Asked(rows, begins, len(head), room, spans, cut)

    def _framed(self, text: str, pair: str | None, **limits: Any) -> tuple[list[int], int]:
        read: Any = self.tokenizer(text, pair, verbose=False, **limits)
        ids, segments = list(read["input_ids"]), list(read.get("token_type_ids") or ())
        return ids, segments.index(1) if 1 in segments else len(ids)

    def _is_cut(self, length: int) -> bool | None:
        """Whether a row of `length` tokens is cut; None: it is left out. Raises DataError where it may not be."""
        return length > self.max_length if room_for(0, length, self.max_length, self.too_long) else None


def _inked(text: str, begin: int, end: int) -> tuple[int, int]:
    """A token's place in a text without the blanks before it, which a byte-level BPE counts to the token."""
    return end - len(text[begin:end].lstrip() or text[begin:end]), end


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
    """Texts that are still to be labelled; one with `head` and `tail` among its columns is read as a relation is."""

    def example(record: Record) -> Encoded[LabelExample[None]] | None:
        if not isinstance(record, Labelled | Text):
            raise DataError(f"got a {type(record).__name__.lower()}, expected a text")
        read = reading.text(_to_read(record), record.pair)
        return read and Encoded(LabelExample(read[0], read[1], None, record.where), len(read[0]), read[2])

    return encode_all(records, example, reading.max_length)


def _to_read(record: Labelled | Text) -> str:
    """Raises DataError: a span of a relation is not within the text."""
    if isinstance(record, Labelled) or not record.columns.keys() >= {"head", "tail"}:
        return record.text
    try:
        return with_markers({**record.columns, "text": record.text})
    except MalformedRowError as error:
        raise DataError(f"a relation to be named: {error}") from error


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


class Asked(NamedTuple):
    """A question as it is read, in one window or several."""

    rows: list[list[int]]  # the ids of each window
    begins: list[int]  # the token of the context that each begins with
    first: int  # where that token stands in its row
    room: int  # tokens of the context that a window holds
    spans: list[tuple[int, int]]  # of each token of the context, in its characters
    cut: bool  # whether there is more of it than was read


@dataclass(frozen=True, slots=True)
class AnswerExample:
    """A question and its context. A place among `at` is where an answer may begin or end; place 0 is for no answer."""

    prompt_ids: list[int]
    at: list[int]
    spans: list[tuple[int, int]]  # of each place, in characters of the context
    target: tuple[int, int]  # the places where the first answer begins and ends; of a window without it, no answer
    where: str
    more: tuple["AnswerExample", ...] = ()  # the other windows of the context

    @property
    def windows(self) -> list["AnswerExample"]:
        """All of them."""
        return [self, *self.more]


def encode_answered(
    records: Iterable[Record], reading: Reading, *, overlap: int = 0
) -> tuple[list[AnswerExample], EncodeReport]:
    """Questions as examples, one a window (`Reading.question`). One whose answer stands in none is left out.

    Raises DataError, naming the row: it is no question with a context, or is too long; or no row is kept.
    """

    def example(record: Record) -> Encoded[list[AnswerExample]] | None:
        windows, cut = _question(record, reading, overlap)
        if not windows or (answers_to(record) and all(window.target == (0, 0) for window in windows)):
            return None
        return Encoded(windows, sum(len(window.prompt_ids) for window in windows), cut)

    found, report = encode_all(records, example, reading.max_length)
    examples = [window for windows in found for window in windows]
    return examples, _in_windows(report, examples)


def encode_questions(
    records: Iterable[Record], reading: Reading, *, overlap: int = 0
) -> tuple[list[AnswerExample], EncodeReport]:
    """Questions that are still to be answered, one example each, with all its windows."""

    def example(record: Record) -> Encoded[AnswerExample] | None:
        windows, cut = _question(record, reading, overlap)
        if not windows:
            return None
        return Encoded(replace(windows[0], more=tuple(windows[1:])), sum(len(w.prompt_ids) for w in windows), cut)

    examples, report = encode_all(records, example, reading.max_length)
    return examples, _in_windows(report, [window for example in examples for window in example.windows])


def check_known(record: Record, names: Iterable[str], known: Sequence[str]) -> None:
    """Raises DataError: a label is none of those that a model was trained for."""
    strange = sorted(set(names) - set(known))
    if strange:
        raise DataError(
            f"{record.where}: the label {strange[0]!r} is none that the model was trained for ({', '.join(known)}); "
            "leave such rows out, or train with them"
        )


def answered(record: Record) -> Answered:
    """Raises DataError: the record is another one."""
    if not isinstance(record, Answered):
        raise DataError(f"{record.where}: got a {type(record).__name__.lower()}, expected a question with a context")
    return record


def answers_to(record: Record) -> tuple[Span, ...]:
    """Raises DataError: the record is no question with a context, or its answers are not known."""
    answers = answered(record).answers
    if answers is None:
        raise DataError(
            f"{record.where}: got a question without `answers`, expected a list; [] says that there is none"
        )
    return answers


def _question(record: Record, reading: Reading, overlap: int) -> tuple[list[AnswerExample], bool]:
    """(the windows, none where the row is left out; whether the context was cut)."""
    given = answered(record)
    asked = reading.question(given.question, given.context, overlap=overlap)
    if asked is None:
        return [], False
    touched = list[int]()
    if given.answers:
        begin = given.answers[0].begin
        end = begin + len(given.answers[0].text)
        touched = [i for i, (b, e) in enumerate(asked.spans) if b < end and e > begin]
    windows = []
    for ids, first in zip(asked.rows, asked.begins, strict=True):
        spans = asked.spans[first : first + asked.room]
        holds = bool(touched) and first <= touched[0] and touched[-1] < first + len(spans)
        target = (touched[0] - first + 1, touched[-1] - first + 1) if holds else (0, 0)
        at = [0, *range(asked.first, asked.first + len(spans))]
        windows.append(AnswerExample(ids, at, [(0, 0), *spans], target, record.where))
    return windows, asked.cut


def _in_windows(report: EncodeReport, windows: Sequence[AnswerExample]) -> EncodeReport:
    longest = max(len(window.prompt_ids) for window in windows)
    return replace(report, longest=longest, windows=len(windows) if len(windows) > report.kept else 0)
