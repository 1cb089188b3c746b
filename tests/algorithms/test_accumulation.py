"""A batch in micro-batches gives the very gradient of the whole batch, for the loss of every task.

In float64 the two differ by rounding alone (1e-12 of a gradient near 1), so nothing of a wrong denominator can hide.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from proxtune.algorithms.sft import SFTConfig
from proxtune.algorithms.task import TaskTrainer
from proxtune.data.labels import Reading
from proxtune.data.records import Answered, Labelled, Record, Span, Tagged
from proxtune.evaluation.task import TaskConfig
from proxtune.evaluation.tasks import TASKS
from proxtune.models.heads import LinearHead, TaskModel
from proxtune.models.language_model import LanguageModel
from proxtune.models.peft import TuningConfig, tune
from tests.tiny import WIDTH, letter_tokenizer, tiny_model

pytestmark = pytest.mark.slow  # together they take longer than `make check` has

TEXTS = ["abc", "a bad cab", "fed", "a", "deface a bead", "gab"]
CONTEXT = "a cab and a bad fad."
RECORDS: dict[str, list[Record]] = {
    "classification": [Labelled(text, name) for text, name in zip(TEXTS, "ababbc", strict=True)],
    "label_sets": [
        Labelled(text, names) for text, names in zip(TEXTS, [("a",), (), ("a", "b"), ("c",), (), ("b",)], strict=True)
    ],
    "regression": [Labelled(text, float(i * i)) for i, text in enumerate(TEXTS)],
    "tagging": [Tagged(tuple(text.split()), ("B-X", "O", "O")[: len(text.split())]) for text in TEXTS],
    "question_answering": [
        Answered(CONTEXT, text, () if begin is None else (Span(CONTEXT[begin : begin + 3], begin),))
        for text, begin in zip(TEXTS, [2, None, 12, 16, 6, None], strict=True)
    ],
}
OPTIONS: dict[str, list[dict[str, Any]]] = {kind: [{}] for kind in TASKS}
for each in ("classification", "tagging"):
    OPTIONS[each].append({"class_weights": "balanced", "label_smoothing": 0.1})
CASES = [pytest.param(kind, options, id=f"{kind} {options}") for kind in TASKS for options in OPTIONS[kind]]


class ExactHead(LinearHead):
    """In the precision of what it reads."""

    def forward(self, hidden: Tensor) -> Tensor:
        return self.linear(hidden)


def encoder() -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(BertModel(BertConfig(**WIDTH, intermediate_size=64)).eval(), letter_tokenizer())


def gradients(make: Callable[[], LanguageModel], kind: str, options: dict[str, Any], size: int | None) -> Any:
    """The gradient of each weight after a step on all records, and the step's figures."""
    lm = tune(make(), TuningConfig(kind="full"))
    lm.module.double()
    for part in lm.module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    task = TASKS[kind].learn(RECORDS[kind], (), TaskConfig(kind=kind, **options))
    head = ExactHead(lm.hidden_size, task.outputs, generator=torch.Generator().manual_seed(0)).double()
    examples, _ = task.encode(RECORDS[kind], Reading(lm.tokenizer, lm.causal, 64))
    config = SFTConfig(batch_size=len(examples), microbatch_size=size)
    trainer = TaskTrainer(TaskModel(lm, head, 64, task.meta()), task, config)
    found: dict[str, Tensor] = {}

    def keep(figures: dict[str, float]) -> dict[str, float]:
        weights = {**lm.trained(), **{f"head.{name}": p for name, p in head.named_parameters()}}
        found.update({name: p.grad.clone() for name, p in weights.items() if p.grad is not None})
        return figures

    trainer.optimizer.apply = keep  # type: ignore[method-assign,assignment]
    return found, trainer.step(examples)


@pytest.mark.parametrize("make", [tiny_model, encoder], ids=["decoder", "encoder"])
@pytest.mark.parametrize(("kind", "options"), CASES)
def test_micro_batches_give_the_gradient_of_the_whole_batch(
    make: Callable[[], LanguageModel], kind: str, options: dict[str, Any]
) -> None:
    whole, figures = gradients(make, kind, options, None)
    assert {x.dtype for x in whole.values()} == {torch.float64}
    assert {name for name, x in whole.items() if x.abs().max() > 1e-3} >= {"head.linear.weight"}
    for size in (1, 2, 3):
        split, told = gradients(make, kind, options, size)
        torch.testing.assert_close(split, whole, rtol=1e-9, atol=1e-12)
        assert told == pytest.approx(figures, rel=1e-9)
