"""A classic task: how its rows are read, its loss, what a head says of them, and how that is measured.

Each kind is one class in one file of `tasks/`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, Self, TypeAlias

from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from proxtune.config import Section
from proxtune.data.labels import Reading
from proxtune.data.records import Record
from proxtune.data.template import EncodeReport
from proxtune.evaluation.metrics import Measure
from proxtune.models.heads import TaskModel
from proxtune.models.language_model import frozen

TOKENS_AT_ONCE = 4096  # of a pass without a gradient; it bounds memory and changes no result

Kind = Literal["language", "classification", "label_sets", "regression", "tagging", "question_answering"]
Written = Literal["translation", "summarisation", "question_answering", "triples"]  # as what answers are measured
Prediction: TypeAlias = dict[str, Any]  # what stands in a row of `proxtune predict`
Watch: TypeAlias = Callable[[float], None]  # told the share of the tokens that is done


class TaskConfig(Section):
    """`task`: what is learnt of the rows."""

    kind: Kind = Field(
        "language",
        description="language: to write the answers, or the text; classification: one label of a text or a pair; "
        "label_sets: any number of labels; regression: a number; tagging: a tag for each word; question_answering: the "
        "span of the context that answers",
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: rare classes weigh more, each the same in all (classification and tagging)"
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of the target that is spread over all classes (classification and tagging)"
    )
    head_dropout: float = Field(0.1, ge=0, lt=1, description="dropout before the head, in training")
    overlap: NonNegativeInt = Field(
        64,
        description="question_answering alone: a context that is too long is read in windows, each of which shares so "
        "many tokens with the one before; 0: it is cut, as data.too_long says",
    )
    answers: Written | None = Field(
        None, description="language alone: write an answer to each held-out prompt, greedily, and measure it as such"
    )
    answer_tokens: PositiveInt = Field(64, description="length limit of such an answer, in tokens")
    answer_language: str = Field("", description="of translations, where it is zh or ja: how words are told apart")

    def problems(self) -> list[tuple[str, str]]:
        found = []
        classes = self.kind in ("classification", "tagging")
        if self.class_weights != "none" and not classes:
            found.append(("class_weights", f"task.kind={self.kind} has no classes to weigh; leave it out"))
        if self.answers and self.kind != "language":
            found.append(("answers", f"task.kind={self.kind} writes none; set null, or task.kind=language"))
        if self.overlap != type(self).model_fields["overlap"].default and self.kind != "question_answering":
            found.append(("overlap", f"task.kind={self.kind} reads no context in windows; leave it out"))
        if self.label_smoothing and not classes:
            found.append(("label_smoothing", f"task.kind={self.kind} has no classes to smooth over; set 0"))
        return found


class Table(NamedTuple):
    """A part of a report."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | int | float]]


class Task(Protocol):
    """Everything that differs from task to task."""

    kind: ClassVar[Kind]
    headline: ClassVar[str]  # the figure that tells models apart

    @classmethod
    def learn(cls, records: Sequence[Record], held_out: Sequence[Record], config: TaskConfig) -> Self:
        """The task that training data sets: which labels there are. Labels that held-out rows alone have count as such.

        Raises DataError: it is data of another task.
        """

    @classmethod
    def restore(cls, meta: Mapping[str, Any]) -> Self:
        """The task that `meta` describes."""

    def meta(self) -> dict[str, Any]:
        """What is kept beside a trained head; JSON."""

    @property
    def outputs(self) -> int:
        """Numbers that the head gives a row, or a word."""

    def encode(self, records: Sequence[Record], reading: Reading) -> tuple[list[Any], EncodeReport]:
        """Examples to learn from."""

    def read(self, records: Sequence[Record], reading: Reading) -> tuple[list[Any], EncodeReport]:
        """Examples to predict, one a record, whatever labels the records have."""

    def count(self, examples: Sequence[Any]) -> float:
        """What the loss of these examples is averaged over."""

    def loss(self, model: TaskModel, examples: Sequence[Any], *, count: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss summed over `examples` and divided by `count`, and its stats likewise."""

    def predict(self, model: TaskModel, examples: Sequence[Any], watch: Watch | None = None) -> list[Prediction]:
        """One prediction an example; without a gradient or dropout."""

    def measure(self, records: Sequence[Record], predictions: Sequence[Prediction]) -> Measure:
        """The figures of predictions for records that have labels."""

    def tables(self, records: Sequence[Record], predictions: Sequence[Prediction]) -> list[Table]:
        """What a report shows beside the figures."""


def reading_of(model: TaskModel) -> Reading:
    """How a trained model reads: as it did in training, but that too long rows are cut and not refused."""
    return Reading(model.lm.tokenizer, model.lm.causal, model.max_length, "truncate")


def in_batches(
    model: TaskModel,
    examples: Sequence[Any],
    outputs: Callable[[Sequence[Any]], Sequence[Tensor]],
    watch: Watch | None = None,
) -> list[Tensor]:
    """`outputs` of each example, on the CPU, from passes over examples of like lengths."""
    found: list[Any] = [None] * len(examples)
    tokens, done = sum(len(example.prompt_ids) for example in examples), 0
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].prompt_ids))
    with frozen(model.lm.module, model.head):
        while order:
            longest = len(examples[order[-1]].prompt_ids)
            count = max(1, TOKENS_AT_ONCE // longest)
            part, order = order[-count:], order[:-count]
            for i, out in zip(part, outputs([examples[i] for i in part]), strict=True):
                found[i] = out.cpu()
            done += sum(len(examples[i].prompt_ids) for i in part)
            if watch is not None:
                watch(done / tokens)
    return found


def evaluation(
    task: Task, model: TaskModel, records: Sequence[Record], examples: Sequence[Any], read: Sequence[Any]
) -> dict[str, float]:
    """`eval/loss` of held-out examples, and the task's own figures of all held-out records.

    Args:
        examples: as `task.encode` has them; read: one for each record, as `task.read` has them, too long ones cut.
    """
    total, size = 0.0, 32
    with frozen(model.lm.module, model.head):
        for start in range(0, len(examples), size):
            total += float(task.loss(model, examples[start : start + size], count=1.0)[0])
    figures = task.measure(records, task.predict(model, read)).values()
    return {"eval/loss": total / task.count(examples)} | {f"eval/{name}": x for name, x in figures.items()}
