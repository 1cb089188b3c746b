"""What there is to learn from, one record a row of a data file; formats.py says which row becomes which record."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


PromptLike: TypeAlias = str | tuple[Message, ...]


def prompt_row(prompt: PromptLike) -> str | list[dict[str, str]]:
    """A prompt as data files have it: a text, or the turns of a conversation."""
    return prompt if isinstance(prompt, str) else [{"role": turn.role, "content": turn.content} for turn in prompt]


@dataclass(frozen=True, slots=True)
class Text:
    """Text to learn as it stands, or to be labelled, as a pair of texts always is."""

    text: str
    where: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)
    pair: str | None = None  # the second text


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt to answer; `columns` reach the reward."""

    prompt: PromptLike
    where: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Completion:
    """A prompt with the answer to learn. The prompt may be empty."""

    prompt: PromptLike
    completion: str
    where: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Preference:
    """Two answers to one prompt, the better one first. The prompt may be empty."""

    prompt: PromptLike
    chosen: str
    rejected: str
    where: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text, or a pair of texts, with its class, its score, or the set of its classes (sorted; it may be empty).

    A label that reads as a finite number is that number, in every file format.
    """

    text: str
    label: str | int | float | tuple[str, ...]
    where: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)
    pair: str | None = None  # the second text


@dataclass(frozen=True, slots=True)
class Rated:
    """An answer that people scored, each with one finite number. The prompt may be empty: a text rated on its own."""

    prompt: PromptLike
    completion: str
    scores: tuple[float, ...]
    where: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rating(self) -> float:
        """R = Σ rᵢ / n, the mean of the scores."""
        return fmean(self.scores)


@dataclass(frozen=True, slots=True)
class Tagged:
    """A sentence as tokens, each with its tag; tags.py says what tags are."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]
    where: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The tokens, a space between each two."""
        return " ".join(self.tokens)


@dataclass(frozen=True, slots=True)
class Span:
    """Text of a context, and the character it begins at there."""

    text: str
    begin: int


@dataclass(frozen=True, slots=True)
class Answered:
    """A question about a text, and the spans of the text that answer it, any one of them.

    An empty tuple: it has no answer. None: nobody has said.
    """

    context: str
    question: str
    answers: tuple[Span, ...] | None
    where: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)


Record: TypeAlias = Text | Prompt | Completion | Preference | Labelled | Rated | Tagged | Answered


def every_turn(record: Record) -> list[Record]:
    """A conversation once for each turn of the assistant, with the turns before it; another record as it is."""
    match record:
        case Completion(prompt=tuple(turns)):
            ends = [i for i, turn in enumerate(turns) if turn.role == "assistant" and i > 0 and turn.content.strip()]
            return [*(replace(record, prompt=turns[:i], completion=turns[i].content) for i in ends), record]
    return [record]


def emptiness(record: Record) -> str | None:
    """Why nothing can be learnt from a record that is well formed; None if something can."""
    match record:
        case Labelled(text, pair=str(pair)) | Text(text, pair=str(pair)) if text.strip() and not pair.strip():
            return "empty second text"
        case Text(text) | Labelled(text):
            return None if text.strip() else "empty text"
        case Answered(context, question):
            return None if context.strip() and question.strip() else "empty context or question"
        case Prompt(prompt):
            return None if not isinstance(prompt, str) or prompt.strip() else "empty prompt"
        case Completion(_, completion) | Rated(_, completion):
            return None if completion.strip() else "empty completion"
        case Tagged(tokens):
            return None if tokens else "no token"
        case Preference(_, chosen, rejected):
            if chosen == rejected:
                return "chosen == rejected"
            return None if chosen.strip() and rejected.strip() else "empty chosen or rejected"


def prompt_key(record: Record) -> str:
    """Equal for records that must stand on one side of a held-out split: the prompt, or the text if there is none.

    Of questions it is the context: a model that has read it has seen where the answers to others stand.
    """
    match record:
        case Text() | Labelled() | Tagged():
            return repr(record.text)
        case Answered(context):
            return repr(context)
        case Prompt(prompt):
            return repr(prompt)
        case Completion(prompt, text) | Preference(prompt, text) | Rated(prompt, text):
            return repr(prompt or text)


def text_of(record: Text | Labelled | Tagged | Answered) -> str:
    """All that is read of a record without a prompt, a space between two texts."""
    match record:
        case Labelled(text, pair=str(pair)) | Text(text, pair=str(pair)):
            return f"{text} {pair}"
        case Answered(context, question):
            return f"{question} {context}"
        case Text() | Labelled() | Tagged():
            return record.text


def content_key(record: Record) -> str:
    """Equal for records that say the same, in whatever file and with whatever columns."""
    return repr(replace(record, where="", columns={}))
