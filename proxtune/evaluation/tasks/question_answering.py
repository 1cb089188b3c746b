"""The span of a context that answers a question, or that there is none (Rajpurkar et al. 2018, arXiv 1806.03822)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from proxtune.data.labels import AnswerExample, Reading, answered, answers_to, encode_answered, encode_questions
from proxtune.data.records import Record
from proxtune.data.template import EncodeReport
from proxtune.evaluation import texts
from proxtune.evaluation.metrics import Measure
from proxtune.evaluation.task import Kind, Prediction, Table, TaskConfig, Watch, in_batches
from proxtune.models.heads import TaskModel
from proxtune.models.score import states_at
from proxtune.objectives import class_loss

LONGEST = 30  # tokens of an answer, as in BERT's SQuAD


@dataclass(frozen=True)
class QuestionAnswering:
    """The head says of each token how well an answer begins there, and how well it ends there.

    A context that is too long is read in windows that share `overlap` tokens, and the best span of all windows counts.
    """

    kind: ClassVar[Kind] = "question_answering"
    headline: ClassVar[str] = "f1"
    overlap: int = 0

    @classmethod
    def learn(
        cls,
        records: Sequence[Record],
        held_out: Sequence[Record],  # noqa: ARG003 (they have no names)
        config: TaskConfig,
    ) -> Self:
        for record in records:
            answers_to(record)
        return cls(config.overlap)

    @classmethod
    def restore(cls, meta: Mapping[str, Any]) -> Self:
        return cls(int(meta.get("overlap", 0)))  # models of before there were windows have none

    def meta(self) -> dict[str, Any]:
        return {"kind": self.kind, "overlap": self.overlap}

    @property
    def outputs(self) -> int:
        return 2

    def encode(self, records: Sequence[Record], reading: Reading) -> tuple[list[AnswerExample], EncodeReport]:
        return encode_answered(records, reading, overlap=self.overlap)

    def read(self, records: Sequence[Record], reading: Reading) -> tuple[list[AnswerExample], EncodeReport]:
        return encode_questions(records, reading, overlap=self.overlap)

    def count(self, examples: Sequence[AnswerExample]) -> float:
        return float(len(examples))

    def loss(
        self, model: TaskModel, examples: Sequence[AnswerExample], *, count: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean of the losses of beginning and end, each a choice among the places of a row."""
        logits = pad_sequence(_logits(model, examples), batch_first=True, padding_value=float("-inf"))  # [B, L, 2]
        targets = torch.tensor([example.target for example in examples], device=logits.device)
        both = [class_loss(logits[..., i], targets[:, i], count=count) for i in (0, 1)]
        loss = (both[0][0] + both[1][0]) / 2
        return loss, {name: (x + both[1][1][name]) / 2 for name, x in both[0][1].items()}

    def predict(
        self, model: TaskModel, examples: Sequence[AnswerExample], watch: Watch | None = None
    ) -> list[Prediction]:
        """The best span of at most 30 tokens, or "" where no answer is likelier; `score` is how much better it is."""
        windows = [window for example in examples for window in example.windows]
        outputs = iter(in_batches(model, windows, lambda part: _logits(model, part), watch))
        return [
            max((_best(window, next(outputs)) for window in example.windows), key=itemgetter("score"))
            for example in examples
        ]

    def measure(self, records: Sequence[Record], predictions: Sequence[Prediction]) -> Measure:
        gold = [[answer.text for answer in answers_to(record)] for record in records]
        return texts.answers(gold, [said(record, row) for record, row in zip(records, predictions, strict=True)])

    def tables(self, records: Sequence[Record], predictions: Sequence[Prediction]) -> list[Table]:
        rows = []
        for record, row in list(zip(records, predictions, strict=True))[:20]:
            true = answers_to(record)
            rows.append((record.where, answered(record).question, true[0].text if true else "", said(record, row)))
        return [Table("first rows", ("row", "question", "true", "said"), rows)]


def _best(window: AnswerExample, logits: Tensor) -> Prediction:
    """The best span of a window, by its logits [places, 2]; the score is against that of no answer there."""
    if len(logits) == 1:  # the question alone fills the row
        return {"begin": 0, "end": 0, "score": 0.0}
    begin, end = logits.unbind(-1)
    pairs = begin[1:, None] + end[None, 1:]
    allowed = torch.ones_like(pairs, dtype=torch.bool).triu().tril(LONGEST - 1)
    first, last = divmod(int(pairs.masked_fill(~allowed, float("-inf")).argmax()), len(pairs))
    score = float(pairs[first, last] - begin[0] - end[0])
    span = (window.spans[first + 1][0], window.spans[last + 1][1]) if score > 0 else (0, 0)
    return {"begin": span[0], "end": span[1], "score": score}


def said(record: Record, prediction: Prediction) -> str:
    """The words of the context that a prediction points at."""
    return answered(record).context[prediction["begin"] : prediction["end"]]


def _logits(model: TaskModel, examples: Sequence[AnswerExample]) -> list[Tensor]:
    """[places, 2] of each row."""
    read, places = zip(*((example.prompt_ids, example.at) for example in examples), strict=True)
    second = [at[1] if len(at) > 1 else len(ids) for ids, at in zip(read, places, strict=True)]
    logits: Tensor = model.head(states_at(model.lm, read, places, second))
    return list(logits.split(list(map(len, places))))
