"""Any number of labels of a text, each for itself."""

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
from proxtune.evaluation.metrics import Measure
from proxtune.evaluation.task import Kind, Prediction, Table, TaskConfig, Watch, in_batches
from proxtune.evaluation.tasks.classification import SCORES, logits_of
from proxtune.models.heads import TaskModel
from proxtune.objectives import class_set_loss


@dataclass(frozen=True)
class LabelSets:
    """A label is said where its probability is above one half."""

    kind: ClassVar[Kind] = "label_sets"
    headline: ClassVar[str] = "micro_f1"
    labels: tuple[str, ...]

    @classmethod
    def learn(
        cls,
        records: Sequence[Record],
        held_out: Sequence[Record],
        config: TaskConfig,  # noqa: ARG003 (nothing to set)
    ) -> Self:
        names = {name for record in (*records, *held_out) for name in names_of(record)}
        if not names:
            raise DataError("no row of the training data has a label")
        return cls(tuple(sorted(names)))

    @classmethod
    def restore(cls, meta: Mapping[str, Any]) -> Self:
        return cls(tuple(meta["labels"]))

    def meta(self) -> dict[str, Any]:
        return {"kind": self.kind, "labels": list(self.labels)}

    @property
    def outputs(self) -> int:
        return len(self.labels)

    def encode(
        self, records: Sequence[Record], reading: Reading
    ) -> tuple[list[LabelExample[tuple[int, ...]]], EncodeReport]:
        classes = {name: i for i, name in enumerate(self.labels)}
        return encode_labelled(
            records, reading, lambda record: tuple(class_of(name, classes) for name in names_of(record))
        )

    def read(self, records: Sequence[Record], reading: Reading) -> tuple[list[LabelExample[None]], EncodeReport]:
        return encode_texts(records, reading)

    def count(self, examples: Sequence[LabelExample[tuple[int, ...]]]) -> float:
        return float(len(examples))

    def loss(
        self, model: TaskModel, examples: Sequence[LabelExample[tuple[int, ...]]], *, count: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits = logits_of(model, examples)
        members = torch.zeros_like(logits, dtype=torch.bool)
        for row, example in zip(members, examples, strict=True):
            row[list(example.target)] = True
        return class_set_loss(logits, members, count=count)

    def predict(
        self, model: TaskModel, examples: Sequence[LabelExample[Any]], watch: Watch | None = None
    ) -> list[Prediction]:
        """The labels that are said, and the probability of every one."""
        found = list[Prediction]()
        for logits in in_batches(model, examples, lambda part: list(logits_of(model, part)), watch):
            chances = dict(zip(self.labels, logits.sigmoid().tolist(), strict=True))
            found.append({"labels": [name for name, p in chances.items() if p > 0.5], "probabilities": chances})
        return found

    def measure(self, records: Sequence[Record], predictions: Sequence[Prediction]) -> Measure:
        for record in records:
            check_known(record, names_of(record), self.labels)
        return labels.label_sets(list(map(names_of, records)), [row["labels"] for row in predictions], self.labels)

    def tables(self, records: Sequence[Record], predictions: Sequence[Prediction]) -> list[Table]:
        gold, said = list(map(names_of, records)), [row["labels"] for row in predictions]
        rows = labels.set_table(gold, said, self.labels)
        return [Table("classes", SCORES, rows)]


def names_of(record: Record) -> tuple[str, ...]:
    """A record's labels; a single one is a set of one."""
    if not isinstance(record, Labelled):
        raise DataError(f"{record.where}: got a {type(record).__name__.lower()}, expected a text with labels")
    return record.label if isinstance(record.label, tuple) else (str(record.label),)
