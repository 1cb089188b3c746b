"""A number for a text, or for a pair of texts: a rating, how alike two sentences are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from proxtune.data.labels import LabelExample, Reading, encode_labelled, encode_texts
from proxtune.data.records import Labelled, Record
from proxtune.data.template import EncodeReport
from proxtune.errors import DataError
from proxtune.evaluation import labels
from proxtune.evaluation.metrics import Measure
from proxtune.evaluation.task import Kind, Prediction, Table, TaskConfig, Watch, in_batches
from proxtune.evaluation.tasks.classification import logits_of
from proxtune.models.heads import TaskModel
from proxtune.objectives import rating_loss


@dataclass(frozen=True)
class Regression:
    """The head learns (y − mean) / deviation, of the training data."""

    kind: ClassVar[Kind] = "regression"
    headline: ClassVar[str] = "pearson"
    mean: float
    deviation: float

    @classmethod
    def learn(
        cls,
        records: Sequence[Record],
        held_out: Sequence[Record],  # noqa: ARG003 (they have no names)
        config: TaskConfig,  # noqa: ARG003 (nothing to set)
    ) -> Self:
        numbers = list(map(number_of, records))
        deviation = pstdev(numbers)
        if deviation == 0:
            raise DataError(f"all {len(numbers)} labels are {numbers[0]:g}: there is nothing to learn from them")
        return cls(fmean(numbers), deviation)

    @classmethod
    def restore(cls, meta: Mapping[str, Any]) -> Self:
        return cls(float(meta["mean"]), float(meta["deviation"]))

    def meta(self) -> dict[str, Any]:
        return {"kind": self.kind, "mean": self.mean, "deviation": self.deviation}

    @property
    def outputs(self) -> int:
        return 1

    def encode(self, records: Sequence[Record], reading: Reading) -> tuple[list[LabelExample[float]], EncodeReport]:
        return encode_labelled(records, reading, lambda record: (number_of(record) - self.mean) / self.deviation)

    def read(self, records: Sequence[Record], reading: Reading) -> tuple[list[LabelExample[None]], EncodeReport]:
        return encode_texts(records, reading)

    def count(self, examples: Sequence[LabelExample[float]]) -> float:
        return float(len(examples))

    def loss(
        self, model: TaskModel, examples: Sequence[LabelExample[float]], *, count: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        numbers = logits_of(model, examples)[:, 0]
        target = torch.tensor([example.target for example in examples], device=numbers.device)
        loss, stats = rating_loss(numbers, target)
        share = len(examples) / count
        return loss * share, {name: x * share for name, x in stats.items()}

    def predict(
        self, model: TaskModel, examples: Sequence[LabelExample[Any]], watch: Watch | None = None
    ) -> list[Prediction]:
        found = in_batches(model, examples, lambda part: list(logits_of(model, part)), watch)
        return [{"value": self.mean + self.deviation * float(out[0])} for out in found]

    def measure(self, records: Sequence[Record], predictions: Sequence[Prediction]) -> Measure:
        return labels.numbers(list(map(number_of, records)), [row["value"] for row in predictions])

    def tables(self, records: Sequence[Record], predictions: Sequence[Prediction]) -> list[Table]:
        gaps = [row["value"] - number_of(record) for record, row in zip(records, predictions, strict=True)]
        far = sorted(range(len(gaps)), key=lambda i: -abs(gaps[i]))[:10]
        rows = [(records[i].where, number_of(records[i]), predictions[i]["value"]) for i in far]
        return [Table("largest errors", ("row", "true", "said"), rows)]


def number_of(record: Record) -> float:
    """A record's label as a number. Raises DataError: it is none."""
    if not isinstance(record, Labelled) or isinstance(record.label, str | tuple):
        raise DataError(f"{record.where}: expected a text with a number as its label")
    return float(record.label)
