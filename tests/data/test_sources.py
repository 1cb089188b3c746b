import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxtune.data.records import Completion, Labelled, Message, Prompt, Record, Text, prompt_key
from proxtune.data.sources import DataConfig, ReadReport, load, read, split
from proxtune.errors import DataError


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_dl1_the_report_says_what_became_of_every_row(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "reviews.jsonl",
        {"text": "good", "label": 1, "source": "imdb"},
        "not json\n",
        {"source": "imdb", "label": 1, "text": "good"},
        {"text": " ", "label": 0},
        {"text": "good", "label": 0},
        {"text": "bad"},
    )
    data = read(path, on_error="skip")
    assert data.records == [
        Labelled("good", 1, f"{path}:1", {"source": "imdb"}),
        Labelled("good", 0, f"{path}:5"),
    ]
    assert str(data.report) == (
        f"{path}: format text/label · read 6 = kept 2 + rejected 2 + filtered 1 + duplicate 1\n"
        "  filtered 1: empty text\n"
        f"  {path}:2: not JSON at column 1: Expecting value\n"
        f"  {path}:6: the row's format is text, expected text/label as in the rows before it"
    )


def test_dl1_a_malformed_row_stops_with_its_place_and_reason(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"prompt": "p", "completion": "c"}, "\n", {"prompt": "p", "completion": 3})
    with pytest.raises(
        DataError,
        match=r"a\.jsonl:3: completion: got a number \(3\), expected a string, .* \(on_error=skip",
    ):
        read(path)


def test_a_format_that_is_given_is_demanded_and_leaves_the_rest_as_columns(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"prompt": "p", "completion": "c"}, {"prompt": "q", "completion": "c"})
    assert isinstance(read(path).records[0], Completion)
    assert read(path, format="prompt").records[0] == Prompt("p", f"{path}:1", {"completion": "c"})
    with pytest.raises(DataError, match=r"a\.jsonl:1: no key 'text'"):
        read(path, format="text")


def test_the_first_row_that_has_a_format_decides(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"body": "t"}, {"text": "t"}, {"prompt": "p"})
    report = read(path, on_error="skip").report
    assert (report.format, report.kept, report.rejected) == ("text", 1, 2)


def test_dl1_the_first_twenty_malformed_rows_are_listed(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"text": "t"}, *["{\n"] * 23)
    report = read(path, on_error="skip").report
    assert report.rejected == 23
    assert len(report.problems) == 21
    assert report.problems[-1] == "and 3 more malformed rows"


@pytest.mark.parametrize("content", ["", "\n\n", '{"text": ""}\n', "{\n"])
def test_a_file_without_a_usable_row_is_an_error(tmp_path: Path, content: str) -> None:
    with pytest.raises(DataError, match=r"a\.jsonl: no usable row among the \d read"):
        read(jsonl(tmp_path / "a.jsonl", content), on_error="skip")


def test_dl6_duplicates_can_be_kept(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"text": "t"}, {"text": "t"})
    assert len(read(path).records) == 1
    assert len(read(path, duplicates="keep").records) == 2


@pytest.mark.parametrize("name", ["text", "other"])
def test_dl8_half_a_surrogate_pair_is_malformed_wherever_it_stands(tmp_path: Path, name: str) -> None:
    row = json.dumps({"text": "t", name: "a\ud800"}) + "\n"
    path = jsonl(tmp_path / "a.jsonl", {"text": "whole \U0001f600"}, row)
    with pytest.raises(DataError, match=r"a\.jsonl:2: half a character \('\\ud800'\)"):
        read(path)


def test_dl8_nul_and_every_other_character_come_through(tmp_path: Path) -> None:
    text = "\x00\x07é\u2028二\U0001f600\r"
    assert read(jsonl(tmp_path / "a.jsonl", {"text": text})).records[0] == Text(text, f"{tmp_path}/a.jsonl:1")


@pytest.mark.parametrize("encoding", ["gb18030", "big5", "utf-16", "utf-16-le"])
def test_dl8_an_encoding_that_is_given_is_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"text": "電影很好"}\n{"text": "不錯"}\n'.encode(encoding))
    data = read(path, encoding="utf-16" if encoding == "utf-16-le" else encoding)
    assert [record.text for record in data.records] == ["電影很好", "不錯"]


def test_dl8_a_file_in_another_encoding_stops_with_the_likely_one(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"text": "ok"}\n{"text": "电影很好"}\n'.encode("gb18030"))
    with pytest.raises(
        DataError, match=r"a\.jsonl:2: byte 11 .* is not UTF-8; it looks like gb18030: set data.encoding="
    ):
        read(path)
    assert (read(path, on_error="skip").report.kept, read(path, encoding="gb18030").report.kept) == (1, 2)


def test_dl3_the_fingerprint_changes_with_a_byte_and_with_the_format(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"prompt": "p", "text": "t"})
    first = read(path).fingerprint
    assert read(path).fingerprint == first == read(path, format="prompt").fingerprint
    assert read(path, format="text").fingerprint != first
    jsonl(path, {"prompt": "p", "text": "T"})
    assert read(path).fingerprint != first
    assert len(first) == 64


def test_a_report_that_does_not_add_up_cannot_be_made() -> None:
    with pytest.raises(AssertionError):
        ReadReport(Path("a"), "text", read=3, kept=1, rejected=1, filtered=0, duplicate=0)


LINES = st.one_of(
    st.builds(lambda text: json.dumps({"text": text}), st.sampled_from(["a", "b", "", " ", "é\ud800"])),
    st.text(st.characters(exclude_characters="\n\ufeff", exclude_categories=["Cs"]), max_size=12),
    st.recursive(
        st.none() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    ).map(json.dumps),
    st.builds(lambda row, end: json.dumps(row)[:end], st.just({"text": "cut"}), st.integers(0, 15)),
)


few_examples = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def counted(path: Path) -> int:
    """Rows read, once the report has been held against the records."""
    data = read(path, on_error="skip")
    report = data.report
    assert report.read == report.kept + report.rejected + report.filtered + report.duplicate
    assert report.kept == len(data.records)
    assert all(isinstance(record, Text) and record.text.strip() for record in data.records)
    return report.read


@pytest.mark.slow
@few_examples
@given(lines=st.lists(LINES, max_size=12), end=st.sampled_from(["", "\n", "\r\n"]))
def test_dl1_whatever_the_lines_hold_every_one_is_counted(tmp_path: Path, lines: list[str], end: str) -> None:
    text, jsonl_file = tmp_path / "a.txt", tmp_path / "a.jsonl"
    text.write_bytes(("\n".join([*lines, "text"]) + end).encode())
    assert counted(text) == len(lines) + 1
    jsonl_file.write_bytes(("\n".join(['{"text": "first"}', *lines]) + end).encode())
    assert counted(jsonl_file) == 1 + sum(bool(line.strip()) for line in lines)


@pytest.mark.slow
@few_examples
@given(lines=st.lists(LINES, max_size=12))
def test_dl1_whatever_a_table_holds_its_rows_add_up(tmp_path: Path, lines: list[str]) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("\n".join(["text", "first", *lines]).encode())
    assert 1 <= counted(path) <= 1 + len(lines)


RECORDS: list[Record] = [Completion(f"p{i % 40}", f"c{i}") for i in range(100)]


def test_a_split_never_puts_one_prompt_on_both_sides() -> None:
    kept, held_out = split(RECORDS, 0.25, seed=1)
    assert {prompt_key(record) for record in kept}.isdisjoint(map(prompt_key, held_out))
    assert len({prompt_key(record) for record in held_out}) == 10  # a quarter of 40 prompts
    assert sorted([*kept, *held_out], key=RECORDS.index) == RECORDS
    assert kept == [record for record in RECORDS if record in kept]  # the order stays


def test_a_split_depends_on_the_seed_and_not_on_the_order() -> None:
    held_out = split(RECORDS, 0.25, seed=1)[1]
    assert {prompt_key(record) for record in split(RECORDS[::-1], 0.25, seed=1)[1]} == set(map(prompt_key, held_out))
    assert split(RECORDS, 0.25, seed=2)[1] != held_out


@pytest.mark.parametrize(("fraction", "held_out"), [(0.001, 1), (0.5, 1), (0.999, 1)])
def test_each_side_of_a_split_has_a_prompt(fraction: float, held_out: int) -> None:
    sides = split([Text("a"), Text("b")], fraction, seed=0)
    assert [len(side) for side in sides] == [2 - held_out, held_out]


def test_one_prompt_cannot_be_split() -> None:
    with pytest.raises(DataError, match="all rows have one prompt; give an eval file or set eval_fraction=0"):
        split([Completion("p", "a"), Completion("p", "b")], 0.5, seed=0)


def test_a_part_of_train_is_held_out_when_no_eval_file_is_given(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", *({"text": f"t{i}"} for i in range(20)))
    train, held_out = load(DataConfig(train=path, eval_fraction=0.1), seed=0)
    assert held_out is not None
    assert (len(train.records), len(held_out.records)) == (18, 2)
    assert load(DataConfig(train=path, eval_fraction=0), seed=0)[1] is None


def test_dl6_what_an_eval_file_shares_with_train_is_reported(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"prompt": "p"}, {"prompt": "q"})
    other = jsonl(tmp_path / "b.jsonl", {"prompt": "q", "id": 1}, {"prompt": "r"})
    train, held_out = load(DataConfig(train=path, eval=other), seed=0)
    assert held_out is not None
    assert len(train.records) == len(held_out.records) == 2
    assert held_out.report.problems == (f"leak: of 2 kept rows 1 stand in {path} too, or their prompt does",)


def test_dl6_with_one_instruction_for_all_a_leak_is_a_whole_row(tmp_path: Path) -> None:
    rows = [{"prompt": "Review:", "completion": text} for text in ("good", "bad", "fine")]
    path, other = (
        jsonl(tmp_path / "a.jsonl", *rows),
        jsonl(tmp_path / "b.jsonl", {**rows[1], "id": 1}, {**rows[0], "completion": "new"}),
    )
    _, held_out = load(DataConfig(train=path, eval=other), seed=0)
    assert held_out is not None
    assert held_out.report.problems == (f"leak: of 2 kept rows 1 stand in {path} too, or their prompt does",)


def test_every_turn_of_the_assistant_is_learnt_after_all_that_came_before(tmp_path: Path) -> None:
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    messages = [{"role": role, "content": text} for role, text in turns]
    path = jsonl(tmp_path / "chats.jsonl", {"messages": messages}, {"messages": messages[:1] + messages[3:]})
    said = [Message(*turn) for turn in turns]
    last, _ = load(DataConfig(train=path, eval_fraction=0), seed=0)
    every, _ = load(DataConfig(train=path, eval_fraction=0, turns="all"), seed=0)
    whole = Completion(tuple(said[:3]), "d", f"{path}:1")
    other = Completion((said[0],), "d", f"{path}:2")
    assert last.records == [whole, other]
    assert every.records == [Completion((said[0],), "b", f"{path}:1"), whole, other]


def test_the_turns_of_one_conversation_stand_on_one_side(tmp_path: Path) -> None:
    chat = [{"role": role, "content": text} for role in ("user", "assistant") for text in "x"]
    rows = [{"messages": [{"role": "user", "content": str(i)}, chat[1], chat[0], chat[1]]} for i in range(20)]
    path = jsonl(tmp_path / "chats.jsonl", *rows)
    train, held_out = load(DataConfig(train=path, eval_fraction=0.2, turns="all"), seed=0)
    assert held_out is not None
    assert (len(train.records), len(held_out.records)) == (32, 8)
    assert not {record.where for record in train.records} & {record.where for record in held_out.records}
