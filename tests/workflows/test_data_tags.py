"""Files of tagged tokens: read, checked, split."""

import io
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from proxtune.cli.app import app
from proxtune.data.files import rows
from proxtune.data.records import Tagged
from proxtune.data.sources import read
from proxtune.errors import DataError
from proxtune.workflows.data import check_file
from proxtune.workflows.terminal import terminal

CONLL = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
German JJ B-NP B-MISC
call NN I-NP O

-DOCSTART- -X- -X- O
Peter NNP B-NP B-PER
Blackburn NNP I-NP I-PER

"""


def file_of(text: str, folder: Path, name: str = "train.conll") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def told(file: Path) -> tuple[bool, str]:
    console = terminal(file=io.StringIO(), width=100)
    return check_file(file, console), console.file.getvalue()  # type: ignore[attr-defined]


def test_sentences_are_read_with_the_last_column_as_tags(tmp_path: Path) -> None:
    data = read(file_of(CONLL, tmp_path))
    assert data.format == "tokens/tags"
    assert [(r.tokens, r.tags, r.where.rpartition(":")[2]) for r in data.records if isinstance(r, Tagged)] == [
        (("EU", "rejects", "German", "call"), ("B-ORG", "O", "B-MISC", "O"), "3"),
        (("Peter", "Blackburn"), ("B-PER", "I-PER"), "9"),
    ]


def test_tabs_keep_spaces_within_tokens_and_the_file_needs_no_last_line_end(tmp_path: Path) -> None:
    (record,) = read(file_of("New York\tB-LOC\nis\tO", tmp_path, "a.bio")).records
    assert isinstance(record, Tagged)
    assert (record.tokens, record.tags) == (("New York", "is"), ("B-LOC", "O"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, r"tags: got 1 for 2 tokens, expected one each"),
        ({"tokens": ["a"], "tags": [3]}, r"tags: got a number \(3\), expected a list of strings"),
        ({"tokens": "a b", "tags": ["O", "O"]}, r"tokens: got a string \('a b'\), expected a list of strings"),
        ({"tokens": ["a"], "tags": ["PER"]}, r"tags: got 'PER' at token 1 \('a'\), expected O, or B- or I-.*as B-PER"),
    ],
)
def test_a_row_that_is_no_tagged_sentence_is_refused(row: dict[str, object], message: str, tmp_path: Path) -> None:
    good = {"tokens": ["x"], "tags": ["O"]}
    file = file_of(f"{json.dumps(good)}\n{json.dumps(row)}\n", tmp_path, "a.jsonl")
    with pytest.raises(DataError, match=rf"a\.jsonl:2: {message}"):
        read(file)


def test_a_line_with_other_columns_names_its_own_number(tmp_path: Path) -> None:
    file = file_of("a x O\nb O\n\nc x O\n", tmp_path)
    with pytest.raises(DataError, match=r"train\.conll:1: line 2 has 2 columns, expected 3"):
        read(file)
    assert len(read(file, on_error="skip").records) == 1


def test_a_long_file_is_not_read_whole(tmp_path: Path) -> None:
    class Counted:
        size = 0

        def update(self, data: bytes, /) -> None:
            self.size += len(data)

    counted, file = Counted(), file_of("word O\n\n" * 200_000, tmp_path)
    assert next(rows(file, counted)) == (1, {"tokens": ["word"], "tags": ["O"]})
    assert counted.size < file.stat().st_size / 2


def test_check_counts_entities_and_names_tags_that_break_bio(tmp_path: Path) -> None:
    sound, text = told(file_of(CONLL + "Bonn O\nand I-LOC\n", tmp_path))
    assert not sound
    assert "train.conll:12: I-LOC of token 2 ('and') follows no entity of its type" in text
    assert re.search(r"│ PER +│ +1 +│ 25\.0% │", text)


def test_iob1_is_no_mistake(tmp_path: Path) -> None:
    sound, text = told(file_of("EU I-ORG\nand O\nIBM I-ORG\nSAP B-ORG\n", tmp_path))
    assert sound
    assert "tags are IOB1" in text


def test_a_split_spreads_the_types_of_entities(tmp_path: Path) -> None:
    kinds = ["LOC", "PER"] * 50
    sentences = "".join(f"name{i} B-{kind}\nis O\n\n" for i, kind in enumerate(kinds))
    arguments = ["data", "split", str(file_of(sentences, tmp_path)), str(tmp_path / "parts")]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    rows = [json.loads(line) for line in (tmp_path / "parts" / "dev.jsonl").read_text().splitlines()]
    assert sorted(row["tags"][0] for row in rows) == ["B-LOC"] * 5 + ["B-PER"] * 5
