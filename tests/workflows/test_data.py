import io
import json
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from proxtune.cli.app import app
from proxtune.errors import ConfigError, DataError
from proxtune.workflows.data import check_file, histogram, quantile
from proxtune.workflows.data_check import check, rejects_path
from proxtune.workflows.terminal import terminal

HELD_OUT = [{"prompt": "q3", "completion": "held out"}, {"prompt": "q9", "completion": "c"}]
ROWS = [  # line, row
    '{"prompt": "q1", "completion": "good"}',
    '{"prompt": "q1", "completion": "better"}',  # the same prompt, another answer
    '{"prompt": "q2", "completion": 3}',
    "",
    '{"prompt": "q1", "completion": "good"}',  # line 5: a duplicate of line 1
    '{"prompt": "q2", "completion": " "}',
    '{"prompt": "q3", "completion": "seen"}',  # leaked
    '{"prompt": "q4", "completion": "cut',
    '{"prompt": "q4", "completion": "a long answer of letters"}',
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "a.jsonl").write_text("\n".join(ROWS), encoding="utf-8")
    (tmp_path / "e.jsonl").write_text("\n".join(map(json.dumps, HELD_OUT)), encoding="utf-8")
    return tmp_path / "a.jsonl"


def told(file: Path, **options: object) -> tuple[bool, str]:
    """Whether the file is sound, and the report as a terminal of 100 columns shows it."""
    console = terminal(file=io.StringIO(), width=100)
    sound = check_file(file, console, **options)  # type: ignore[arg-type]
    return sound, console.file.getvalue()  # type: ignore[attr-defined]


def test_dl1_every_row_is_counted_once(file: Path) -> None:
    checked = check(file, eval_path=file.with_name("e.jsonl"))
    assert checked.fates == {"kept": 4, "rejected": 2, "filtered": 1, "duplicate": 1}
    assert checked.read == 8  # the blank line is none
    assert {key: places.first for key, places in checked.left_out.items()} == {
        ("rejected", "completion: got a number …, expected a string, or a list of one message or more"): [f"{file}:3"],
        ("duplicate", "equal to an earlier row in every key"): [f"{file}:5"],
        ("filtered", "empty completion"): [f"{file}:6"],
        ("rejected", "not JSON at column …: Unterminated string starting at"): [f"{file}:8"],
    }
    assert checked.leaked.first == [f"{file}:7"]
    assert (checked.again.first, checked.prompts) == ([f"{file}:2"], 3)
    assert checked.characters["answer"] == {4: 2, 6: 1, 24: 1}
    assert (checked.format, checked.codec, checked.sound) == ("prompt/completion", "utf-8", False)


def test_the_report_names_file_and_line_of_what_is_wrong(file: Path) -> None:
    sound, text = told(file, eval_path=file.with_name("e.jsonl"))
    assert not sound
    assert "read 8 = kept 4 + rejected 2 + filtered 1 + duplicate 1\n" in text
    assert f"\n  {file}:3: completion: got a number (3), expected a string, or a list of one message or more\n" in text
    assert "prompt of an earlier row, with another answer: 1 (lines 2)\n" in text
    assert f"in {file.with_name('e.jsonl')} too, the row or its prompt: 1\n  {file}:7\n" in text


def test_a_file_without_a_usable_row_is_not_sound(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    sound, text = told(tmp_path / "a.jsonl")
    assert not sound
    assert "format unknown\nread 0 = kept 0 + rejected 0 + filtered 0 + duplicate 0\n" in text


def test_fix_writes_what_can_be_used_and_what_cannot_with_the_reason(file: Path) -> None:
    clean = file.with_name("clean.jsonl")
    sound, text = told(file, eval_path=file.with_name("e.jsonl"), fix=clean)
    assert not sound
    assert f"wrote {clean}, and the 5 others with their reasons: {rejects_path(clean)}\n" in text
    assert clean.read_text(encoding="utf-8").splitlines() == [ROWS[0], ROWS[1], ROWS[8]]
    rejects = [json.loads(line) for line in (file.parent / "clean-rejects.jsonl").read_text().splitlines()]
    assert [(row["where"], row["fate"]) for row in rejects] == [
        (f"{file}:3", "rejected"),
        (f"{file}:5", "duplicate"),
        (f"{file}:6", "filtered"),
        (f"{file}:7", "leaked"),
        (f"{file}:8", "rejected"),
    ]
    assert rejects[0]["row"] == {"prompt": "q2", "completion": 3}
    assert rejects[4]["row"] is None
    assert told(clean, eval_path=file.with_name("e.jsonl"))[0]


def test_fix_never_writes_over_a_file_and_leaves_none_behind(file: Path) -> None:
    before = sorted(file.parent.iterdir())
    with pytest.raises(DataError, match=r"a\.jsonl: is there already; expected a new name"):
        check(file, fix=file)
    with pytest.raises(DataError, match=r"clean\.csv: the cleaned copy is JSONL; expected a name that ends in \.jsonl"):
        check(file, fix=file.with_name("clean.csv"))
    with pytest.raises(DataError, match="cannot be written: No such file"):
        check(file, fix=file.parent / "nowhere" / "clean.jsonl")
    (file.parent / "bad.json").write_text('[{"text": "a"},')
    with pytest.raises(DataError, match=r"bad\.json:1"):
        check(file.parent / "bad.json", fix=file.with_name("clean.jsonl"))
    assert sorted(file.parent.iterdir()) == sorted([*before, file.parent / "bad.json"])


def test_dl5_rows_longer_than_the_limit_are_named(file: Path) -> None:
    def letters(record: object) -> tuple[int, int]:
        return len(record.prompt), len(record.completion)  # type: ignore[attr-defined]

    checked = check(file, count_tokens=letters, max_length=7)
    assert checked.tokens == {6: 2, 8: 1, 26: 1}
    assert checked.too_long.first == [
        f"{file}:2: 8 tokens (prompt 2, answer 6)",
        f"{file}:9: 26 tokens (prompt 2, answer 24)",
    ]
    assert checked.no_room == 0
    assert check(file, count_tokens=letters, max_length=2).no_room == 4


def test_a_row_that_cannot_be_encoded_is_named(file: Path) -> None:
    def refuse(record: object) -> tuple[int, int]:
        raise DataError("a stop token stands inside")

    checked = check(file, count_tokens=refuse, max_length=7)
    assert checked.unencoded.count == 4
    assert checked.unencoded.first[0] == f"{file}:1: a stop token stands inside"


def test_labels_and_ratings_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,1\nb,1\nc,0\nd,good\n", encoding="utf-8")
    assert check(path).labels == {"1": 2, "0": 1, "good": 1}
    path.write_text('text,scores\na,"[1, 2]"\nb,1.5\nc,3\n', encoding="utf-8")
    assert check(path).labels == {"1.5": 2, "3": 1}
    assert "Ratings" in told(path)[1]


def test_quantiles_are_lengths_of_rows() -> None:
    counts = Counter({1: 5, 10: 4, 100: 1})
    assert [quantile(counts, share) for share in (0.0, 0.5, 0.51, 0.9, 0.91, 1.0)] == [1, 1, 10, 10, 100, 100]


def test_a_histogram_has_a_block_for_each_bin() -> None:
    assert histogram(Counter({7: 3})) == "█" + " " * 15
    assert histogram(Counter({0: 8, 1: 1})) == "█" + " " * 14 + "▁"  # one row shows, however many others there are


@pytest.mark.parametrize(("rows", "code"), [(['{"text": "t"}'], 0), (['{"text": "t"}', "{"], 1), ([], 1)])
def test_the_exit_code_says_whether_the_file_is_sound(tmp_path: Path, rows: list[str], code: int) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(rows), encoding="utf-8")
    result = CliRunner().invoke(app, ["data", "check", str(tmp_path / "a.jsonl")])
    assert result.exit_code == code


def test_options_that_are_not_known_are_named_with_the_known_ones(file: Path) -> None:
    for arguments, reason in (
        (["--format", "csv"], "--format csv: expected one of auto, chosen/rejected"),
        (["--encoding", "latin"], "--encoding latin: expected one of auto, utf-8"),
        (["--max-length", "9"], "name the model with --model"),
    ):
        result = CliRunner().invoke(app, ["data", "check", str(file), *arguments])
        assert isinstance(result.exception, ConfigError)
        assert reason in str(result.exception)


@pytest.mark.slow
def test_a_model_counts_its_own_tokens(file: Path) -> None:
    sound, text = told(file, model="bundled:smollm2", max_length=4)
    assert not sound
    assert "longer than 4 tokens: 1; data.too_long=drop leaves them out, truncate cuts" in text


def test_rows_of_one_mistake_are_one_line_of_the_report(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("ok\n好\n很好\n".encode("gb18030"))
    checked = check(path)
    assert {reason: places.count for (_, reason), places in checked.left_out.items()} == {
        "byte … of the line … is not UTF-8": 2
    }
    assert check(path, encoding="gb18030").codec == "gb18030"
