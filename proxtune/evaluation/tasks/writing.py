"""What is written and measured: translations, summaries, answers, triples. Greedy, so that it can be had again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from proxtune.data.marked import is_triple, triple_lines
from proxtune.data.records import Completion, Record
from proxtune.data.template import encode_prompts
from proxtune.errors import ConfigError, DataError
from proxtune.evaluation import spans, texts
from proxtune.evaluation.metrics import Measure, joined, means
from proxtune.evaluation.task import Prediction, Table, Written
from proxtune.models.language_model import LanguageModel
from proxtune.rollouts.collect import collect
from proxtune.rollouts.engine import sample
from proxtune.rollouts.sampling import SamplingConfig

WRITTEN: tuple[Written, ...] = get_args(Written)
HEADLINES: dict[Written, str] = {
    "translation": "chrf",
    "summarisation": "rougeL",
    "question_answering": "f1",
    "triples": "f1",
}
SHOWN = 20


@dataclass(frozen=True)
class Writing:
    """How answers are written and measured.

    Triples stand one a line, `head | relation | tail`; a line that is none is counted as a wrong one.
    """

    kind: Written
    answer_tokens: int
    language: str = ""  # of translations: zh and ja are cut into words in a way of their own

    def check(self, model: LanguageModel, records: Sequence[Record]) -> None:
        """Find before training what would fail in an evaluation.

        Raises ConfigError or DataError: a missing library, no room for an answer, a record without one.
        """
        for record in records:
            answer_of(record)
        self.room(model)
        self.measure(records[:1], [{"text": answer_of(record)} for record in records[:1]])

    def room(self, model: LanguageModel) -> int:
        """Tokens that a prompt may have. Raises ConfigError: none."""
        left = model.context - self.answer_tokens
        if left < 1:
            raise ConfigError(f"answers of {self.answer_tokens} tokens fill the model's context of {model.context}")
        return left

    def predict(self, model: LanguageModel, records: Sequence[Record]) -> list[Prediction]:
        """The likeliest next token, until the stop token or `answer_tokens`; prompts keep their ends if too long."""
        prompts, _ = encode_prompts(records, model.tokenizer, max_length=self.room(model), too_long="truncate")
        config = SamplingConfig(max_new_tokens=self.answer_tokens, temperature=0.0)
        rollout = collect(model, [p.prompt_ids for p in prompts], config, sampler=sample, seed=0, step=0)
        tokens = rollout.tokens
        rows = zip(tokens.response_ids, tokens.response_lengths.tolist(), strict=True)
        return [{"text": model.text(ids[:length]).strip()} for ids, length in rows]

    def measure(self, records: Sequence[Record], predictions: Sequence[Prediction]) -> Measure:
        """The figures of answers to prompts that have one."""
        gold, said = list(map(answer_of, records)), [str(row["text"]) for row in predictions]
        measures: dict[Written, Callable[[], Measure]] = {
            "translation": lambda: texts.translations(gold, said, language=self.language),
            "summarisation": lambda: texts.summaries(gold, said),
            "question_answering": lambda: texts.answers([[answer] for answer in gold], said),
            "triples": lambda: _sets_of_triples(list(map(triples, gold)), list(map(triples, said))),
        }
        return measures[self.kind]()

    def tables(self, records: Sequence[Record], predictions: Sequence[Prediction]) -> list[Table]:
        """The first rows, and what a published BLEU must be told with."""
        pairs = list(zip(records, predictions, strict=True))[:SHOWN]
        rows = [(record.where, answer_of(record), str(row["text"])) for record, row in pairs]
        shown = [Table("first rows", ("row", "true", "said"), rows)]
        if self.kind == "translation":
            signatures = texts.signature(language=self.language)
            shown.append(Table("signatures", ("figure", "signature"), list(signatures.items())))
        return shown

    def settings(self) -> dict[str, Any]:
        """How the answers were decoded."""
        return {"decoding": "greedy", "answer_tokens": self.answer_tokens}


def answer_of(record: Record) -> str:
    """Raises DataError: the record has no answer."""
    if not isinstance(record, Completion):
        raise DataError(f"{record.where}: got a {type(record).__name__.lower()}, expected a prompt with an answer")
    return record.completion


def triples(text: str) -> set[tuple[str, ...]]:
    """The different lines of an answer, each in its parts."""
    return set(triple_lines(text))


def _sets_of_triples(gold: Sequence[set[tuple[str, ...]]], said: Sequence[set[tuple[str, ...]]]) -> Measure:
    """Precision, recall and F1, and the shares of answers without a line and of those with one that is no triple."""
    lines = {"empty": [not row for row in said], "invalid": [not all(map(is_triple, row)) for row in said]}
    return joined(spans.item_sets(gold, said), means(lines))
