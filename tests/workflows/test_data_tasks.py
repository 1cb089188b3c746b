"""Files of the classic tasks: checked, shown, split, and read under their own keys."""

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from transformers import BertTokenizerFast
from typer.testing import CliRunner

from proxtune.cli.app import app
from proxtune.data.records import Answered, Labelled, Record, Span, Tagged
from proxtune.errors import ConfigError
from proxtune.workflows.data import check_file
from proxtune.workflows.data_check import check
from proxtune.workflows.preview import as_trained, pieces_of
from proxtune.workflows.terminal import terminal
from tests.tiny import letter_tokenizer


def file_of(rows: list[dict[str, Any]], folder: Path) -> Path:
    file = folder / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def told(file: Path, **options: Any) -> tuple[bool, str]:
    console = terminal(file=io.StringIO(), width=100)
    sound = check_file(file, console, **options)
    return sound, console.file.getvalue()  # type: ignore[attr-defined]


def labelled(**counts: int) -> list[dict[str, Any]]:
    return [{"text": f"{label} {i}", "label": label} for label, count in counts.items() for i in range(count)]


def test_more_than_ten_times_the_rows_are_an_imbalance(tmp_path: Path) -> None:
    _, text = told(file_of(labelled(good=11, fine=3, bad=1), tmp_path))
    assert "classes are imbalanced: 'good' has 11 rows, 'bad' has 1; task.class_weights=balanced makes" in text
    assert check(file_of(labelled(good=10, bad=1), tmp_path)).imbalance is None
    assert check(file_of(labelled(good=10), tmp_path)).imbalance is None


def test_scores_and_sets_are_no_classes(tmp_path: Path) -> None:
    scores = [{"text": f"t{i}", "label": 0.5 if i else 1} for i in range(20)]
    assert check(file_of(scores, tmp_path)).imbalance is None
    sets = [{"text": f"t{i}", "labels": ["a", "b"] if i < 2 else ["a"] if i < 19 else []} for i in range(20)]
    checked = check(file_of(sets, tmp_path))
    assert checked.labels == {"a": 19, "b": 2}
    assert checked.imbalance is None


def test_pairs_are_counted_and_measured(tmp_path: Path) -> None:
    rows = [{"premise": f"a{i}", "hypothesis": "b", "label": "yes"} for i in range(3)]
    checked = check(file_of(rows, tmp_path))
    assert checked.characters == {"first text": {2: 3}, "second text": {1: 3}}
    assert "pairs of texts: 3\n" in told(file_of(rows, tmp_path))[1]


def test_types_of_relations_are_counted(tmp_path: Path) -> None:
    rows = [{"text": f"a b {i}", "head": [0, 1], "tail": [2, 3], "relation": f"r{i % 2}"} for i in range(4)]
    sound, text = told(file_of(rows, tmp_path))
    assert sound
    assert "types of relations: 2\n" in text
    assert "Relations" in text
    overlapping = file_of([*rows, rows[0] | {"tail": [0, 3]}], tmp_path)
    assert "a.jsonl:5: head and tail overlap: one ends at 1, the other begins at 0\n" in told(overlapping)[1]


def test_triples_are_counted_and_a_line_that_is_none_is_shown(tmp_path: Path) -> None:
    answers = ["Ann | lives in | Paris\nAnn | likes | Bob", "Bob | likes | Ann", "Bob likes Ann", "Bob | likes | \n"]
    rows = [{"prompt": f"t{i}", "completion": answer} for i, answer in enumerate(answers)]
    _, text = told(file_of(rows, tmp_path))
    assert "answers that are triples: 2, types of relations: 2\n" in text
    assert "lines that are no `head | relation | tail`: 2\n" in text
    assert "a.jsonl:3: 'Bob likes Ann'\n" in text
    assert check(file_of(rows, tmp_path)).relations == {"likes": 2, "lives in": 1}
    assert "answers that are" not in told(file_of(rows[2:], tmp_path))[1]


def test_questions_are_counted_by_what_answers_them(tmp_path: Path) -> None:
    rows = [{"context": "Ann met Bob", "question": f"q{i}", "answers": ["Bob"] if i < 3 else []} for i in range(5)]
    lost = [{"context": "Ann met Bob", "question": f"q{i}", "answers": ["Eve"]} for i in (5, 6)]
    sound, text = told(file_of(rows + lost, tmp_path))
    assert not sound
    assert "with an answer: 3, without: 2, with one that does not stand in the context: 2\n" in text
    assert "prompt of an earlier row" not in text  # questions on one context are the rule


@pytest.mark.parametrize(
    ("record", "text", "note"),
    [
        (Labelled("ab", "x", pair="c"), "ab.c", "4 tokens, given; to learn: label 'x'"),
        (Tagged(("a", "b"), ("O", "B-X")), "ab", "to learn: tags O B-X"),
        (Answered("ab", "c", (Span("b", 1),)), "c.ab", "4 tokens, given; to learn: answer 'b' at character 1"),
        (Answered("ab", "c", ()), "c.ab", "to learn: answer none"),
    ],
)
def test_what_a_model_reads_whole_is_shown_as_given(record: Record, text: str, note: str) -> None:
    (row,) = as_trained(record, letter_tokenizer(), 2)  # which reads a line break as a dot
    assert "".join(piece.text for piece in row.pieces).replace(" ", "") == text
    assert [piece.kind for piece in row.pieces][:3] == ["given", "given", "cut"]
    assert row.note.endswith(note)


def test_a_split_keeps_contexts_whole_and_spreads_sets(tmp_path: Path) -> None:
    rows = [{"context": f"c{i // 5}", "question": f"q{i}", "answers": []} for i in range(50)]
    parts = split(file_of(rows, tmp_path), tmp_path / "questions")
    assert not {row["context"] for row in parts["train"]} & {row["context"] for row in parts["test"]}
    sets = [{"text": f"t{i}", "labels": ["a", "b"] if i < 50 else []} for i in range(100)]
    parts = split(file_of(sets, tmp_path), tmp_path / "sets")
    assert Counter(len(row["labels"]) for row in parts["test"]) == {2: 10, 0: 10}


def split(file: Path, out: Path, *arguments: str) -> dict[str, list[dict[str, Any]]]:
    command = ["data", "split", str(file), str(out), "--parts", "train=0.8,test=0.2", *arguments]
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    names = ("train", "test")
    return {name: [json.loads(line) for line in (out / f"{name}.jsonl").read_text().splitlines()] for name in names}


def test_a_column_of_another_name_is_read_and_split_as_it_stands(tmp_path: Path) -> None:
    file = file_of([{"review": f"r{i}", "stars": i % 2} for i in range(10)], tmp_path)
    columns = ("--column", "text=review", "--column", "label=stars")
    assert check(file, columns={"text": "review", "label": "stars"}).labels == {"0": 5, "1": 5}
    shown = CliRunner().invoke(app, ["data", "check", str(file), *columns], catch_exceptions=False)
    assert shown.exit_code == 0
    assert "format text/label" in shown.output
    parts = split(file, tmp_path / "parts", *columns)
    assert Counter(row["stars"] for row in parts["test"]) == {0: 1, 1: 1}


@pytest.mark.parametrize("given", ["text", "=review", "text="])
def test_a_column_without_both_names_is_refused(given: str) -> None:
    command = ["data", "check", "a.jsonl", "--column", given]
    with pytest.raises(ConfigError, match=rf"--column {given}: expected our key and the file's, as text=review"):
        CliRunner().invoke(app, command, catch_exceptions=False, standalone_mode=False)


def test_the_words_of_an_encoder_stand_apart_and_their_pieces_together() -> None:
    tokenizer = BertTokenizerFast(vocab={"[CLS]": 0, "[SEP]": 1, "[UNK]": 2, "film": 3, "##s": 4})
    shown = [piece.text for piece in pieces_of(tokenizer, [0, 3, 4, 3, 1], "given")]
    assert shown == [" [CLS]", " film", "s", " film", " [SEP]"]
