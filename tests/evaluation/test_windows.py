"""Of a context that is read in windows, the best span of all windows is the answer."""

from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

from proxtune import config as configs
from proxtune.data.labels import AnswerExample, Reading
from proxtune.data.records import Answered
from proxtune.errors import ConfigError
from proxtune.evaluation.task import TaskConfig
from proxtune.evaluation.tasks import question_answering, restore
from proxtune.evaluation.tasks.question_answering import QuestionAnswering, said
from proxtune.models.heads import LinearHead, TaskModel
from proxtune.workflows import outcome
from proxtune.workflows.jobs import sft_job
from proxtune.workflows.schemas import SFTRun
from proxtune.workflows.train import execute
from tests.labelled import write
from tests.tiny import encoder_tokenizer, tiny_encoder

CONTEXT = "abcdefgh"


def answer(monkeypatch: pytest.MonkeyPatch, best: dict[str, float], nothing: float = 1.0) -> tuple[str, float]:
    """(answer, score) where a letter has that logit to begin and to end; all others have 0, no answer `nothing`."""

    def logits(_: TaskModel, windows: list[AnswerExample]) -> list[Tensor]:
        found = []
        for window in windows:
            letters = [best.get(CONTEXT[b:e], 0.0) for b, e in window.spans[1:]]
            found.append(torch.tensor([nothing, *letters])[:, None].expand(-1, 2))
        return found

    monkeypatch.setattr(question_answering, "_logits", logits)
    task, record = QuestionAnswering(overlap=2), Answered(CONTEXT, "c", (), "here")
    reading = Reading(encoder_tokenizer(), causal=False, max_length=8)
    examples, _ = task.read([record], reading)
    assert [len(example.windows) for example in examples] == [3]
    lm = tiny_encoder()
    [prediction] = task.predict(TaskModel(lm, LinearHead(lm.hidden_size, 2), 8, {}), examples)
    return said(record, prediction), prediction["score"]


def test_the_best_span_of_all_windows_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    assert answer(monkeypatch, {"b": 2.0, "h": 3.0}) == ("h", 4.0)  # 2 · 3 − 2 · 1
    assert answer(monkeypatch, {"b": 3.0, "h": 2.0}) == ("b", 4.0)


def test_there_is_no_answer_where_no_window_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert answer(monkeypatch, {"h": 0.5}) == ("", -1.0)


def test_the_overlap_is_kept_with_the_model_and_an_older_model_cuts() -> None:
    task = QuestionAnswering.learn([Answered("a", "b", ())], (), TaskConfig(kind="question_answering", overlap=7))
    assert restore(task.meta()) == QuestionAnswering(7)
    assert restore({"kind": "question_answering"}) == QuestionAnswering(0)


def test_another_task_has_no_windows() -> None:
    with pytest.raises(ConfigError, match=r"task\.overlap=3: task\.kind=tagging reads no context in windows"):
        configs.load(SFTRun, [], ["data.train=rows.jsonl", "task.kind=tagging", "task.overlap=3"])


@pytest.mark.slow
def test_answers_beyond_the_first_window_are_learnt_and_found(tmp_path: Path) -> None:
    """Contexts of up to 11 letters in rows with room for 5: where they are cut, about half of the answers are lost."""
    tiny_encoder().save(tmp_path / "encoder")
    data = write("question_answering", tmp_path / "rows.jsonl", rows=320)
    scores = {}
    for overlap in (0, 2):
        given = [
            f"model.name={tmp_path / 'encoder'}",
            f"task={{kind: question_answering, overlap: {overlap}}}",
            "tuning.kind=full",
            f"data={{train: {data}, eval_fraction: 0.2, max_length: 9, too_long: truncate}}",
            "sft.batch_size=32",
            "optim={learning_rate: 1e-2, schedule: constant}",
            "training={steps: 120, eval_every: 20, save_every: 0, patience: null}",
            f"runs={tmp_path}",
            f"name=overlap-{overlap}",
        ]
        run = execute(sft_job(configs.load(SFTRun, [], given)), console=Console(quiet=True))
        model = outcome.open_model(str(run.path))
        found = outcome.predict(model, outcome.records_of(model, None).records)
        scores[overlap] = found.measured().values()["f1"]
        assert scores[overlap] == pytest.approx(run.manifest()["best"]["value"], abs=1e-6)
    assert scores[2] > 0.85 > scores[0] + 0.1
