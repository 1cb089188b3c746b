"""One label of a text, or of a pair of texts: sentiment, topic, intent, relation, whether two sentences match."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from proxtune.data.labels import LabelExample, Reading, check_known, class_of, encode_labelled, encode_texts
from proxtune.data.records import Labelled, Record
from proxtune.data.template import EncodeReport
from proxtune.errors import DataError
from proxtune.evaluation import labels
from proxtune.evaluation.metrics import Measure, joined
from proxtune.evaluation.task import Kind, Prediction, Table, TaskConfig, Watch, in_batches
from proxtune.models.heads import TaskModel
from proxtune.models.score import pooled_states
from proxtune.objectives import balanced_weights, class_loss

MOST_CLASSES = 1000
SCORES = ("label", "precision", "recall", "f1", "support")


@dataclass(frozen=True)
class Classification:
    """`weights` and `label_smoothing` are those of the loss."""

    kind: ClassVar[Kind] = "classification"
    headline: ClassVar[str] = "macro_f1"
    labels: tuple[str, ...]
    weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0

    @classmethod
    def learn(cls, records: Sequence[Record], held_out: Sequence[Record], config: TaskConfig) -> Self:
        counts = Counter(name_of(record) for record in records)
        if not 2 <= len(counts) <= MOST_CLASSES:
            given = f"no label but {next(iter(counts))!r}" if len(counts) == 1 else f"{len(counts)} different labels"
            raise DataError(
                f"the training data has {given}, expected 2 to {MOST_CLASSES} of them; "
                "for numbers on a scale set task.kind=regression"
            )
        names = tuple(sorted(counts.keys() | set(map(name_of, held_out))))
        weights = None
        if config.class_weights == "balanced":
            weights = tuple(balanced_weights(torch.tensor([counts[name] for name in names])).tolist())
        return cls(names, weights, config.label_smoothing)

    @classmethod
    def restore(cls, meta: Mapping[str, Any]) -> Self:
        return cls(tuple(meta["labels"]))

    def meta(self) -> dict[str, Any]:
        return {"kind": self.kind, "labels": list(self.labels)}

    @property
    def outputs(self) -> int:
        return len(self.labels)

    def encode(self, records: Sequence[Record], reading: Reading) -> tuple[list[LabelExample[int]], EncodeReport]:
        classes = {name: i for i, name in enumerate(self.labels)}
        return encode_labelled(records, reading, lambda record: class_of(name_of(record), classes))

    def read(self, records: Sequence[Record], reading: Reading) -> tuple[list[LabelExample[None]], EncodeReport]:
        return encode_texts(records, reading)

    def count(self, examples: Sequence[LabelExample[int]]) -> float:
        return float(len(examples))

    def loss(
        self, model: TaskModel, examples: Sequence[LabelExample[int]], *, count: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits = logits_of(model, examples)
        classes = torch.tensor([example.target for example in examples], device=logits.device)
        weights = None if self.weights is None else torch.tensor(self.weights, device=logits.device)
        return class_loss(logits, classes, weights=weights, label_smoothing=self.label_smoothing, count=count)

    def predict(
        self, model: TaskModel, examples: Sequence[LabelExample[Any]], watch: Watch | None = None
    ) -> list[Prediction]:
        """The likeliest label and its probability."""
        found = list[Prediction]()
        for logits in in_batches(model, examples, lambda part: list(logits_of(model, part)), watch):
            chances = logits.softmax(-1)
            best = int(chances.argmax())
            found.append({"label": self.labels[best], "probability": float(chances[best])})
        return found

    def measure(self, records: Sequence[Record], predictions: Sequence[Prediction]) -> Measure:
        gold, said, sure, right = _compared(records, predictions)
        for record, name in zip(records, gold, strict=True):
            check_known(record, {name}, self.labels)
        return joined(labels.classes(gold, said, self.labels), labels.calibration(sure, right))

    def tables(self, records: Sequence[Record], predictions: Sequence[Prediction]) -> list[Table]:
        gold, said, sure, right = _compared(records, predictions)
        counts = labels.confusion(gold, said, self.labels).tolist()
        confusion = [(name, *row) for name, row in zip(self.labels, counts, strict=True)]
        bins = [part for part in labels.reliability(sure, right) if part.rows]
        return [
            Table("classes", SCORES, labels.class_table(gold, said, self.labels)),
            Table("confusion", ("true \\ said", *self.labels), confusion),
            Table("calibration", ("probability", "rows", "mean probability", "accuracy"), bins),
        ]


def _compared(
    records: Sequence[Record], predictions: Sequence[Prediction]
) -> tuple[list[str], list[str], list[float], list[bool]]:
    """(the true labels, those that are said, how probable they are said to be, whether they are right)."""
    gold, said = list(map(name_of, records)), [row["label"] for row in predictions]
    sure = [row["probability"] for row in predictions]
    return gold, said, sure, [g == s for g, s in zip(gold, said, strict=True)]


def name_of(record: Record) -> str:
    """A record's label as a name. Raises DataError: it has none, or several."""
    if not isinstance(record, Labelled):
        raise DataError(f"{record.where}: got a {type(record).__name__.lower()}, expected a text with a label")
    if isinstance(record.label, tuple):
        raise DataError(f"{record.where}: got a list of labels; set task.kind=label_sets")
    return str(record.label)


def logits_of(model: TaskModel, examples: Sequence[LabelExample[Any]]) -> Tensor:
    """[B, K]"""
    texts, second = zip(*((example.prompt_ids, example.second) for example in examples), strict=True)
    logits: Tensor = model.head(pooled_states(model.lm, texts, second))
    return logits
