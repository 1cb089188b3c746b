"""A tag for each word: named entities, slots."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from proxtune.data.labels import Reading, TagExample, encode_tagged
from proxtune.data.records import Record, Tagged, Text
from proxtune.data.tags import entities
from proxtune.data.template import EncodeReport
from proxtune.errors import DataError
from proxtune.evaluation import spans
from proxtune.evaluation.metrics import Measure
from proxtune.evaluation.task import Kind, Prediction, Table, TaskConfig, Watch, in_batches
from proxtune.models.heads import TaskModel
from proxtune.models.score import states_at
from proxtune.objectives import balanced_weights, class_loss

OUTSIDE = "O"  # of every entity; what a word is said to be that was cut off


@dataclass(frozen=True)
class Tagging:
    """`weights` and `label_smoothing` are those of the loss."""

    kind: ClassVar[Kind] = "tagging"
    headline: ClassVar[str] = "f1"
    labels: tuple[str, ...]
    characters: bool = False  # whether every word is a single one, as of Chinese text
    weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0

    @classmethod
    def learn(cls, records: Sequence[Record], held_out: Sequence[Record], config: TaskConfig) -> Self:
        counts = Counter(tag for record in records for tag in tags_of(record))
        if len(counts) < 2:
            raise DataError(f"the training data has one tag alone ({', '.join(counts)}): there is nothing to learn")
        known = counts.keys() | {tag for record in held_out for tag in tags_of(record)}
        names = tuple(sorted(known, key=lambda tag: (tag != OUTSIDE, tag)))
        weights = None
        if config.class_weights == "balanced":
            weights = tuple(balanced_weights(torch.tensor([counts[name] for name in names])).tolist())
        single = all(len(word) == 1 for record in records if isinstance(record, Tagged) for word in record.tokens)
        return cls(names, single, weights, config.label_smoothing)

    @classmethod
    def restore(cls, meta: Mapping[str, Any]) -> Self:
        return cls(tuple(meta["labels"]), bool(meta["characters"]))

    def meta(self) -> dict[str, Any]:
        return {"kind": self.kind, "labels": list(self.labels), "characters": self.characters}

    @property
    def outputs(self) -> int:
        return len(self.labels)

    def encode(self, records: Sequence[Record], reading: Reading) -> tuple[list[TagExample], EncodeReport]:
        return encode_tagged(records, reading, {tag: i for i, tag in enumerate(self.labels)})

    def read(self, records: Sequence[Record], reading: Reading) -> tuple[list[TagExample], EncodeReport]:
        """Sentences; a plain text is cut at white space, or into characters where those were learnt."""
        return encode_tagged(list(map(self.sentence, records)), reading, None)

    def sentence(self, record: Record) -> Record:
        """A text as words without tags; another record as it is."""
        if not isinstance(record, Text):
            return record
        words = [c for c in record.text if not c.isspace()] if self.characters else record.text.split()
        return Tagged(tuple(words), (), record.where, record.columns)

    def count(self, examples: Sequence[TagExample]) -> float:
        """Words."""
        return float(sum(len(example.target) for example in examples))

    def loss(
        self, model: TaskModel, examples: Sequence[TagExample], *, count: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits = torch.cat(_logits(model, examples))
        classes = torch.tensor([tag for example in examples for tag in example.target], device=logits.device)
        weights = None if self.weights is None else torch.tensor(self.weights, device=logits.device)
        return class_loss(logits, classes, weights=weights, label_smoothing=self.label_smoothing, count=count)

    def predict(self, model: TaskModel, examples: Sequence[TagExample], watch: Watch | None = None) -> list[Prediction]:
        """The likeliest tag of each word, as it is: what is no whole entity is counted, not mended."""
        found = in_batches(model, examples, lambda part: _logits(model, part), watch)
        return [{"tags": [self.labels[i] for i in out.argmax(-1).tolist()]} for out in found]

    def measure(self, records: Sequence[Record], predictions: Sequence[Prediction]) -> Measure:
        return spans.entity_spans(list(map(tags_of, records)), _said(records, predictions))

    def tables(self, records: Sequence[Record], predictions: Sequence[Prediction]) -> list[Table]:
        gold, said = list(map(tags_of, records)), _said(records, predictions)
        header = ("precision", "recall", "f1", "support")
        return [
            Table("entities", ("entity", *header), spans.entity_table(gold, said)),
            Table("tags", ("tag", *header), spans.tag_table(gold, said)),
        ]


def tags_of(record: Record) -> tuple[str, ...]:
    """Raises DataError: the record has none."""
    if not isinstance(record, Tagged) or len(record.tags) != len(record.tokens):
        got = "sentence without tags" if isinstance(record, Tagged) else type(record).__name__.lower()
        raise DataError(f"{record.where}: got a {got}, expected a sentence of tokens with tags")
    return record.tags


def named(record: Tagged, tags: Sequence[str]) -> list[dict[str, Any]]:
    """The entities that tags mark, with their words."""
    return [
        {"type": kind, "text": " ".join(record.tokens[begin:end]), "begin": begin, "end": end}
        for kind, begin, end in entities(tags)
    ]


def _said(records: Sequence[Record], predictions: Sequence[Prediction]) -> list[tuple[str, ...]]:
    """The predicted tags; words that were cut off are outside."""
    return [
        (*row["tags"], *[OUTSIDE] * (len(tags_of(record)) - len(row["tags"])))
        for record, row in zip(records, predictions, strict=True)
    ]


def _logits(model: TaskModel, examples: Sequence[TagExample]) -> list[Tensor]:
    """[words, K] of each sentence."""
    texts, places = zip(*((example.prompt_ids, example.at) for example in examples), strict=True)
    logits: Tensor = model.head(states_at(model.lm, texts, places))
    return list(logits.split(list(map(len, places))))
