"""`proxtune eval` of a run of proxtune sft that writes: its own figures, with intervals, on other rows too."""

import json
import re
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from proxtune import config as configs
from proxtune.cli.app import app
from proxtune.errors import ConfigError
from proxtune.evaluation.metrics import Interval
from proxtune.runs import Run
from proxtune.workflows.evaluate import evaluate_run, records_for
from proxtune.workflows.jobs import sft_job
from proxtune.workflows.schemas import SFTRun
from proxtune.workflows.train import execute
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs")
    rows = [{"prompt": f"{i} and {i % 7}", "completion": "ab" * (i % 5 + 1)} for i in range(60)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [
        "model.name=scratch:transformer",
        "model.scratch={vocab_size: 300, layers: 1, hidden: 16, heads: 2, context: 64}",
        "tuning.kind=full",
        "training={steps: 5, save_every: 0}",
        f"data.train={folder / 'rows.jsonl'}",
        "data.eval_fraction=0.3",
        f"runs={folder}",
    ]
    return execute(sft_job(configs.load(SFTRun, [], given)), console=Console(quiet=True))


def test_loss_and_perplexity_are_those_of_training_and_have_intervals(run: Run) -> None:
    found, logged = evaluate_run(run.path), run.metrics()[-1]
    assert found.keys() == {"eval/loss", "eval/perplexity"}
    for name, value in found.items():
        assert isinstance(value, Interval)
        assert value.mean == pytest.approx(logged[name], rel=1e-4)
        assert value.low < value.mean < value.high


def test_they_are_shown(run: Run) -> None:
    result = CliRunner().invoke(app, ["eval", str(run.path)])
    assert result.exit_code == 0, result.output
    assert re.search(r"eval/perplexity +[\d.]+ \[[\d.]+, [\d.]+\]", result.output)
    assert "95% intervals: 1000 resamples of the rows" in result.output


def test_rows_that_are_left_out_are_told(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = [("1 and 1", "ab"), ("2 and 2", ""), ("3 and 3 " * 40, "ab")]
    rows = [{"prompt": prompt, "completion": completion} for prompt, completion in given]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "run"
    shutil.copytree(run.path, path)
    config = path / "config.yaml"
    config.write_text(config.read_text().replace("too_long: error", "too_long: drop"))
    evaluate_run(path, tmp_path / "rows.jsonl")
    assert "read 3 = kept 2 + rejected 0 + filtered 1 + duplicate 0" in caplog.text
    assert "encoded 2 = kept 1 + dropped 1" in caplog.text


def chats(path: Path, count: int) -> Path:
    """Conversations of two turns each, in letters."""
    rows = []
    for i in range(count):
        said = ["abcdefgh"[i % 8], "yes" * (i % 3 + 1), "fedcba"[i % 6], "no" * (i % 4 + 1)]
        turns = zip(("user", "assistant") * 2, said, strict=True)
        rows.append({"messages": [{"role": role, "content": text} for role, text in turns]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_other_data_is_read_turn_by_turn_where_the_run_learnt_every_turn(tmp_path: Path) -> None:
    model = tiny_model()
    model.tokenizer.chat_template = "{% for m in messages %}{{ m.content }}. {% endfor %}"
    model.save(tmp_path / "base")
    held_out = chats(tmp_path / "held_out.jsonl", 9)
    given = [
        f"model.name={tmp_path / 'base'}",
        "tuning.kind=full",
        "training={steps: 2, save_every: 0}",
        f"data.train={chats(tmp_path / 'train.jsonl', 20)}",
        f"data.eval={held_out}",
        "data.turns=all",
        f"runs={tmp_path}",
    ]
    run = execute(sft_job(configs.load(SFTRun, [], given)), console=Console(quiet=True))
    found = evaluate_run(run.path, held_out)
    assert found == evaluate_run(run.path)
    config = configs.load(SFTRun, [run.config_path]).data
    assert len(records_for(config, held_out, seed=1).records) == 18
    assert len(records_for(config.model_copy(update={"turns": "last"}), held_out, seed=1).records) == 9


def test_a_run_that_ended_before_its_manifest_is_refused_as_such(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    with pytest.raises(ConfigError, match="ended before it had a manifest, expected a run of sft, reward, ppo"):
        evaluate_run(tmp_path)
