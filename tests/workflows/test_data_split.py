"""`proxtune data split`, as typed."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from proxtune.cli.app import app
from proxtune.errors import ConfigError, DataError

LABELS = ["good"] * 70 + ["bad"] * 30


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    """100 reviews by 20 authors."""
    rows = [{"text": f"review {i}", "label": label, "author": i % 20} for i, label in enumerate(LABELS)]
    file = tmp_path / "reviews.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def split(*arguments: str | Path) -> str:
    done = CliRunner().invoke(app, ["data", "split", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_every_row_is_in_one_part_and_labels_keep_their_shares(reviews: Path, tmp_path: Path) -> None:
    told = split(reviews, tmp_path / "parts")
    parts = {part: rows_of(tmp_path / "parts" / f"{part}.jsonl") for part in ("train", "dev", "test")}
    assert sorted(row["text"] for part in parts.values() for row in part) == sorted(
        row["text"] for row in rows_of(reviews)
    )
    assert {part: Counter(row["label"] for row in rows) for part, rows in parts.items()} == {
        "train": {"good": 56, "bad": 24},
        "dev": {"good": 7, "bad": 3},
        "test": {"good": 7, "bad": 3},
    }
    assert "70.0%" in told


def test_authors_stay_together(reviews: Path, tmp_path: Path) -> None:
    split(reviews, tmp_path / "parts", "--group", "author", "--parts", "learn=0.7,look=0.3")
    authors = [{row["author"] for row in rows_of(tmp_path / "parts" / f"{part}.jsonl")} for part in ("learn", "look")]
    assert [len(part) for part in authors] == [14, 6]
    assert not authors[0] & authors[1]


def test_answers_to_one_prompt_stay_together(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("prompt,completion\n" + "".join(f"q{i % 5},answer {i}\n" for i in range(50)), encoding="utf-8")
    split(file, tmp_path / "parts", "--parts", "a=0.6,b=0.4")
    prompts = [{row["prompt"] for row in rows_of(tmp_path / "parts" / f"{part}.jsonl")} for part in "ab"]
    assert [len(part) for part in prompts] == [3, 2]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--group", "writer"], DataError, r"reviews\.jsonl:1: no key 'writer' to group by; found 'text', 'label'"),
        (["--parts", "train=0.8,test=0.1"], ConfigError, r"the shares add up to 0\.9, expected 1"),
        (["--parts", "train"], ConfigError, r"'train' is no part; expected two or more different names"),
        (["--group", "label"], DataError, r"the part 'dev' would have no row: 2 groups of rows"),
    ],
)
def test_what_cannot_be_split_is_refused(
    reviews: Path, tmp_path: Path, arguments: list[str], error: type[Exception], message: str
) -> None:
    command = ["data", "split", str(reviews), str(tmp_path / "parts"), *arguments]
    with pytest.raises(error, match=message):
        CliRunner().invoke(app, command, catch_exceptions=False, standalone_mode=False)


def test_parts_are_not_overwritten(reviews: Path, tmp_path: Path) -> None:
    split(reviews, tmp_path / "parts")
    with pytest.raises(DataError, match=r"train\.jsonl: is there already"):
        CliRunner().invoke(app, ["data", "split", str(reviews), str(tmp_path / "parts")], catch_exceptions=False)


def test_a_malformed_row_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "a", "label": "x"}\n{"text": 3, "label": "x"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.jsonl:2: text: got a number \(3\).*--fix clean\.jsonl"):
        CliRunner().invoke(app, ["data", "split", str(file), str(tmp_path / "parts")], catch_exceptions=False)
