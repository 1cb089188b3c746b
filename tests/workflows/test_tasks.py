"""Every kind of task learns from a file, by an encoder and by a decoder, and its run says the same again."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from proxtune import config as configs
from proxtune.cli import app
from proxtune.data.records import Answered, Completion, Labelled, Text
from proxtune.errors import ConfigError, DataError
from proxtune.evaluation.tasks.classification import Classification
from proxtune.evaluation.tasks.writing import Writing
from proxtune.rollouts.sampling import SamplingConfig
from proxtune.runs import Run
from proxtune.workflows import outcome
from proxtune.workflows.chat import talk
from proxtune.workflows.dry_run import dry_run
from proxtune.workflows.jobs import Job, sft_job
from proxtune.workflows.schemas import SFTRun
from proxtune.workflows.terminal import terminal
from proxtune.workflows.train import execute
from proxtune.workflows.verify import builder
from tests.labelled import DATA, write
from tests.tiny import tiny_encoder, tiny_model

STEPS = 60


LEARNT = {"classification": 0.95, "label_sets": 0.9, "regression": 0.8, "tagging": 0.9, "question_answering": 0.6}
HEADLINE = {
    "classification": "macro_f1",
    "label_sets": "micro_f1",
    "regression": "pearson",
    "tagging": "f1",
    "question_answering": "f1",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of a tiny encoder and a tiny decoder."""
    folder = tmp_path_factory.mktemp("models")
    for name, model in (("encoder", tiny_encoder()), ("decoder", tiny_model())):
        model.save(folder / name)
    return {name: str(folder / name) for name in ("encoder", "decoder")}


def job(kind: str, model: str, folder: Path, *more: str) -> Job:
    data = write(kind, folder / f"{kind}.jsonl")
    return sft_job(
        configs.load(
            SFTRun,
            [],
            [
                f"model.name={model}",
                f"task.kind={kind}",
                "tuning.kind=full",
                f"data={{train: {data}, eval_fraction: 0.2}}",
                "sft.batch_size=32",
                "optim={learning_rate: 1e-2, schedule: constant}",
                f"training={{steps: {STEPS}, eval_every: 20, save_every: 0, patience: null}}",
                f"runs={folder}",
                f"name={kind}",
                *more,
            ],
        )
    )


def quiet() -> Console:
    return Console(quiet=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["encoder", "decoder"])
@pytest.mark.parametrize("kind", DATA)
def test_a_task_is_learnt_and_the_run_alone_says_it_again(
    kind: str, name: str, models: dict[str, str], tmp_path: Path
) -> None:
    run = execute(job(kind, models[name], tmp_path), console=quiet())
    logged = [row[f"eval/{HEADLINE[kind]}"] for row in run.metrics() if f"eval/{HEADLINE[kind]}" in row]
    assert max(logged) >= LEARNT[kind]
    model = outcome.open_model(str(run.path))
    said = outcome.predict(model, outcome.records_of(model, None).records)
    assert said.measured().values()[HEADLINE[kind]] == pytest.approx(max(logged), abs=1e-6)
    assert run.manifest()["best"]["value"] == max(logged)


@pytest.mark.parametrize("kind", DATA)
def test_a_dry_run_shows_what_is_learnt_and_measures_it(kind: str, models: dict[str, str], tmp_path: Path) -> None:
    console = terminal(record=True, width=200, quiet=True)
    told = dry_run(job(kind, models["encoder"], tmp_path), console)
    assert told.probe is not None
    assert told.memory.peak[1] > 0


@pytest.fixture(scope="module")
def trained(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("trained")
    return execute(job("classification", models["encoder"], folder, "training.steps=20"), console=quiet())


@pytest.mark.parametrize(
    ("row", "label", "text"),
    [
        ({"premise": "x ab", "hypothesis": "cd"}, "label", "x ab"),
        ({"text": "x ab cd", "head": [0, 1], "tail": [5, 7]}, "relation", "x ab cd"),
    ],
    ids=["pair", "relation"],
)
def test_an_unlabelled_pair_or_relation_gets_what_a_labelled_one_gets(
    row: dict[str, object], label: str, text: str, trained: Run, tmp_path: Path
) -> None:
    said = []
    for given in (row, {**row, label: "ex"}):
        (tmp_path / "rows.jsonl").write_text(json.dumps(given) + "\n")
        arguments = ["predict", str(trained.path), str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "said.jsonl")]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        said.append(json.loads((tmp_path / "said.jsonl").read_text()))
    without, labelled = said
    assert without["text"] == text
    assert without.get("text_pair") == row.get("hypothesis")
    assert "true" not in without
    assert (without["label"], without["probability"]) == (labelled["label"], labelled["probability"])


def test_a_question_without_answers_is_answered_and_neither_learnt_nor_measured(
    models: dict[str, str], tmp_path: Path
) -> None:
    run = execute(job("question_answering", models["encoder"], tmp_path, "training.steps=2"), console=quiet())
    model, asked = outcome.open_model(str(run.path)), tmp_path / "asked.jsonl"
    asked.write_text(json.dumps({"context": "ab cd", "question": "x?"}) + "\n")
    result = outcome.predict(model, outcome.records_of(model, asked).records)
    (row,) = outcome.rows_of(result)
    assert row["answer"] in "ab cd"
    assert "true" not in row
    with pytest.raises(DataError, match=r"asked\.jsonl:1: got a question without `answers`"):
        result.measured()
    with pytest.raises(DataError, match="without `answers`"):
        job("question_answering", models["encoder"], tmp_path, f"data.train={asked}", "data.eval_fraction=0")


def test_columns_and_format_of_a_run_need_no_label_where_labels_are_predicted(
    models: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stars = tmp_path / "stars.jsonl"
    rows = [{"prompt": "p", "review": f"{name[0]} {i:04}", "stars": name} for i in range(8) for name in ("ex", "why")]
    stars.write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = [
        f"data.train={stars}",
        "data.columns={text: review, label: stars}",
        "data.format=text/label",
        "training.steps=2",
    ]
    run = execute(job("classification", models["encoder"], tmp_path, *more), console=quiet())
    model = outcome.open_model(str(run.path))
    assert len(outcome.predict(model, outcome.records_of(model, stars).records).predictions) == 16
    new = tmp_path / "new.jsonl"
    new.write_text('{"review": "x ab"}\n{"review": " "}\n{"review": "y cd"}\n')
    said = CliRunner().invoke(app, ["predict", str(run.path), str(new)])
    assert said.exit_code == 0, said.output
    assert "read 3 = kept 2 + rejected 0 + filtered 1" in caplog.text
    assert "2 rows" in said.output


def test_a_label_that_training_did_not_have_is_named_with_its_row(trained: Run, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "x ab", "label": "ex"}\n{"text": "y", "label": "neutral"}\n')
    said = CliRunner().invoke(app, ["eval", str(trained.path), "--data", str(tmp_path / "rows.jsonl")])
    assert isinstance(said.exception, DataError)
    assert re.search(r"rows\.jsonl:2: the label 'neutral' is none that the model was trained for", str(said.exception))


def test_equal_predictions_have_equal_figures_whatever_else_a_model_might_have_said(
    trained: Run, tmp_path: Path
) -> None:
    """A label that one model alone knows would count as a wrong one in its macro average."""
    model = outcome.open_model(str(trained.path))
    one = outcome.predict(model, outcome.records_of(model, None).records)
    assert isinstance(one.task, Classification)
    other = replace(one, task=replace(one.task, labels=(*one.task.labels, "zed")))
    assert one.measured().values()["macro_f1"] > other.measured().values()["macro_f1"]
    console = terminal(record=True, width=120, file=io.StringIO())
    outcome.compare(one, other, console, tmp_path / "page.html")
    (line,) = re.findall(r"macro_f1.*", console.export_text())
    assert line.split()[3] == "+0.0000"


def test_held_out_rows_are_said_to_have_chosen_only_where_they_did(
    trained: Run, models: dict[str, str], tmp_path: Path
) -> None:
    more = ["training.steps=2", "training.best_by=null", "name=a[b]"]
    plain = execute(job("classification", models["encoder"], tmp_path, *more), console=quiet())
    for run, said in ((trained, True), (plain, False)):
        result = CliRunner().invoke(app, ["eval", str(run.path)])
        assert ("its best step was chosen by them" in result.output) is said
    assert str(plain.path / "eval.html") in result.output  # brackets and all


def test_what_eval_would_not_use_is_refused(trained: Run) -> None:
    said = CliRunner().invoke(app, ["eval", str(trained.path), "--reward", "x.py:f"])
    assert isinstance(said.exception, ConfigError)


def test_a_file_that_cannot_be_written_is_an_error_that_says_so(trained: Run, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "x ab"}\n')
    said = CliRunner().invoke(app, ["predict", str(trained.path), str(tmp_path / "rows.jsonl"), "--out", str(tmp_path)])
    assert isinstance(said.exception, DataError)
    assert "cannot be written" in str(said.exception)


def test_predictions_are_a_row_for_each_row_with_labels_or_without(trained: Run, tmp_path: Path) -> None:
    texts = tmp_path / "texts.csv"
    texts.write_text("review\nx ab\ny cd\n")
    out = tmp_path / "said.jsonl"
    result = CliRunner().invoke(
        app, ["predict", str(trained.path), str(texts), "--column", "text=review", "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["label"] for row in rows] == ["ex", "why"]
    assert [row["text"] for row in rows] == ["x ab", "y cd"]
    assert all("true" not in row and 0.5 <= row["probability"] <= 1 for row in rows)


def test_an_evaluation_is_printed_and_a_page_that_loads_nothing(trained: Run, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["eval", str(trained.path), "--html", str(page), "--lang", "zh"])
    assert result.exit_code == 0, result.output
    assert "macro_f1" in result.output
    html = page.read_text()
    assert "混淆矩阵" in html
    assert "http" not in html.replace("http-equiv", "")


def test_a_model_compared_with_itself_is_no_better(trained: Run, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["eval", "--compare", str(trained.path), str(trained.path), "--html", str(page)])
    assert result.exit_code == 0, result.output
    assert "1.000" in result.output
    assert page.exists()


def test_a_task_is_evaluated_ten_times_unless_told_otherwise(models: dict[str, str], tmp_path: Path) -> None:
    made = job("classification", models["encoder"], tmp_path, "training={eval_every: null, patience: 3}")
    assert made.config.training.eval_every == STEPS // 10
    said = f"evaluated every {STEPS // 10} steps; 3 in a row without a better one end the run"
    assert any(said in note for note in made.notes)
    once = job("classification", models["encoder"], tmp_path, "training.eval_every=0")
    assert once.config.training.eval_every == 0


def test_a_label_that_training_never_saw_is_named(models: dict[str, str], tmp_path: Path) -> None:
    held = tmp_path / "held.jsonl"
    held.write_text('{"text": "x", "label": "ex"}\n{"text": "z", "label": "zed"}\n')
    made = job("classification", models["encoder"], tmp_path, f"data.eval={held}")
    assert made.algorithm.task.labels == ("ex", "why", "zed")  # type: ignore[attr-defined]
    data = tmp_path / "one.jsonl"
    data.write_text('{"text": "x", "label": "ex"}\n{"text": "z", "label": "ex"}\n')
    with pytest.raises(DataError, match=r"has no label but .*, expected 2"):
        job("classification", models["encoder"], tmp_path, f"data={{train: {data}, eval_fraction: 0}}")


def test_an_encoder_is_refused_where_text_is_to_be_written(models: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is an encoder, which reads text and writes none"):
        job("classification", models["encoder"], tmp_path, "task.kind=language")


def test_data_of_another_task_is_refused(models: dict[str, str], tmp_path: Path) -> None:
    data = write("tagging", tmp_path / "data.jsonl")
    with pytest.raises(DataError, match="got a tagged, expected a text with a label"):
        job("classification", models["encoder"], tmp_path, f"data.train={data}")


def test_what_cannot_be_done_with_a_labeller_says_what_to_do_instead(trained: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="labels text and writes none; say `proxtune predict"):
        talk(str(trained.path), SamplingConfig(), plain=True, seed=0)
    with pytest.raises(ConfigError, match="--verify examines language models, reward models and PPO"):
        builder(configs.load(SFTRun, [trained.config_path]), (), tmp_path)
    with pytest.raises(ConfigError, match="was trained for classification, not for tagging; leave --task out"):
        outcome.predict(outcome.open_model(str(trained.path)), [], task="tagging")


def test_a_prediction_says_what_share_of_it_is_done(trained: Run) -> None:
    model, shares = outcome.open_model(str(trained.path)), list[float]()
    outcome.predict(model, outcome.records_of(model, None).records, watch=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_answers_without_a_triple_and_with_a_line_that_is_none_are_counted() -> None:
    said = ["a | r | b", "a | r | b\na likes b", "", "a | | b"]
    gold = [Completion("p", "a | r | b")] * 4
    figures = Writing("triples", answer_tokens=8).measure(gold, [{"text": text} for text in said]).values()
    assert figures == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "empty": 0.25, "invalid": 0.5}


def test_a_model_that_writes_answers_each_line_of_plain_text(tmp_path: Path) -> None:
    tiny_model().save(tmp_path / "model")
    model = outcome.open_model(str(tmp_path / "model"))
    result = outcome.predict(model, [Text("ab", "a.txt:1")], task="translation", answer_tokens=4)
    assert [row["prompt"] for row in outcome.rows_of(result)] == ["ab"]


def test_an_answer_in_a_chat_is_as_long_as_the_context_leaves_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_model().save(tmp_path / "model")
    lines = iter(["ab", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    talk(str(tmp_path / "model"), SamplingConfig(max_new_tokens=100_000), plain=True, seed=0)
    assert capsys.readouterr().out.strip()


def test_models_of_different_rows_are_not_compared(trained: Run) -> None:
    model = outcome.open_model(str(trained.path))
    records = outcome.records_of(model, None).records
    one, other = (outcome.predict(model, part) for part in (records, records[1:]))
    with pytest.raises(ConfigError, match="expected one task and the same rows"):
        outcome.compare(one, other, quiet(), trained.path / "page.html")


@pytest.mark.slow
@pytest.mark.parametrize(("answers", "figure"), [("translation", "chrf"), ("question_answering", "f1")])
def test_what_is_written_is_measured_while_it_is_learnt_and_after(answers: str, figure: str, tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"{a}{b}:", "completion": f" {b}{a}."} for a in "abcdefg" for b in "hijklmn"]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = [
        "model.name=scratch:encoder-decoder",
        "model.scratch={vocab_size: 300, layers: 1, hidden: 32, heads: 2, context: 64}",
        "tuning.kind=full",
        f"task={{answers: {answers}, answer_tokens: 8}}",
        f"data={{train: {data}, eval_fraction: 0.2, max_length: 62}}",  # more than a prompt has beside an answer
        "optim={learning_rate: 1e-2, schedule: constant}",
        "training={steps: 30, eval_every: 15, save_every: 0}",
        f"runs={tmp_path}",
    ]
    run = execute(sft_job(configs.load(SFTRun, [], options)), console=quiet())
    logged = [row[f"eval/{figure}"] for row in run.metrics() if f"eval/{figure}" in row]
    assert len(logged) == 2
    model = outcome.open_model(str(run.path))
    said = outcome.predict(model, outcome.records_of(model, None).records)
    assert said.measured().values()[figure] == pytest.approx(max(logged), abs=1e-6)
    assert [row["true"] for row in outcome.rows_of(said)] == [record.completion for record in said.records]  # type: ignore[union-attr]


def test_answers_that_fill_the_context_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="answers of 64 tokens fill the model's context of 64"):
        Writing("translation", 64).predict(tiny_model(), [Completion("ab", "c")])


@pytest.mark.slow
def test_rows_of_one_line_are_measured_against_their_own_labels(models: dict[str, str], tmp_path: Path) -> None:
    """A .json array on one line gives every row the same place."""
    rows = [json.loads(line) for line in write("classification", tmp_path / "rows.jsonl").read_text().splitlines()]
    data = tmp_path / "rows.json"
    data.write_text(json.dumps(rows))
    run = execute(job("classification", models["encoder"], tmp_path, f"data.train={data}"), console=quiet())
    assert run.manifest()["best"]["value"] > 0.95


@pytest.mark.parametrize("kind", ["classification", "question_answering"])
def test_rows_that_are_cut_to_nothing_are_still_said_something_of(
    kind: str, models: dict[str, str], tmp_path: Path
) -> None:
    made = job(kind, models["encoder"], tmp_path, "data.max_length=8", "data.too_long=truncate")
    task, model = made.algorithm.task, made.algorithm.model  # type: ignore[attr-defined]
    row = {"classification": Labelled("a" * 50, "ex"), "question_answering": Answered("a", "b" * 50, ())}[kind]
    examples, report = task.read([row], outcome.reading_of(model))
    assert (len(task.predict(model, examples)), report.truncated) == (1, 1)


def test_virtual_tokens_take_their_places_before_rows_are_measured(models: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set at most 48"):
        job("classification", models["encoder"], tmp_path, "data.max_length=64", "tuning.kind=prompt")
