import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from proxtune.data.files import rows
from proxtune.data.formats import MalformedRowError
from proxtune.errors import DataError


def read_rows(path: Path, content: bytes) -> list[tuple[int, Any]]:
    """Every row, a malformed one as its reason."""
    path.write_bytes(content)
    found = rows(path, hashlib.sha256())
    return [(line, str(row) if isinstance(row, MalformedRowError) else row) for line, row in found]


def test_jsonl_rows_have_their_physical_line(tmp_path: Path) -> None:
    content = '{"text": "één"}\r\n\r\n   \n{"text": "二\\n\\u2028"}\n\n{"text": "last"}'.encode()
    assert read_rows(tmp_path / "a.jsonl", content) == [
        (1, {"text": "één"}),
        (4, {"text": "二\n\u2028"}),
        (6, {"text": "last"}),
    ]


def test_only_a_newline_ends_a_line(tmp_path: Path) -> None:
    content = '{"text": "a\u2028b\x85c"}\n{"text": "d"}\n'.encode()
    assert read_rows(tmp_path / "a.jsonl", content) == [(1, {"text": "a\u2028b\x85c"}), (2, {"text": "d"})]


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "a.csv", b"\xef\xbb\xbftext\nhi\n") == [(2, {"text": "hi"})]
    assert read_rows(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"text": "hi"}') == [(1, {"text": "hi"})]
    assert read_rows(tmp_path / "a.json", b'\xef\xbb\xbf[{"text": "hi"}]') == [(1, {"text": "hi"})]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "cut', "not JSON at column 10: Unterminated string"),
        (b'{"text": }', "not JSON at column 10: Expecting value"),
        (b"[1, 2]", "type list, expected an object; a file that is one array is named .json"),
        (b'"text"', "type str, expected an object"),
        (b'{"text": ' + b"9" * 5000 + b"}", "not JSON that can be read: Exceeds the limit"),
        (b"[" * 100_000, "not JSON that can be read: maximum recursion"),
    ],
)
def test_dl1_a_broken_jsonl_line_does_not_hide_the_next(tmp_path: Path, line: bytes, reason: str) -> None:
    (number, found), following = read_rows(tmp_path / "a.jsonl", line + b'\n{"text": "ok"}\n')
    assert number == 1
    assert reason in found
    assert following == (2, {"text": "ok"})


def test_json_array_elements_have_the_line_they_begin_on(tmp_path: Path) -> None:
    content = json.dumps([{"text": "a", "meta": {"deep": [1, {"x": None}]}}, {"text": "b\nc"}, 3], indent=2).encode()
    assert [line for line, _ in read_rows(tmp_path / "a.json", content)] == [2, 13, 16]
    assert read_rows(tmp_path / "a.json", b" [ ] ") == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'[{"text": "a"},\n{"text": "b', "a.json:2: not a JSON array, at column 10: Unterminated string"),
        (b'[{"text": "a"}', r"a.json:1: .*expected ',' or '\]'"),
        (b'[{"text": "a"} {"text": "b"}]', r"expected ',' or '\]'"),
        (b'[{"text": "a"}] x', "text after the array's end"),
        (b'{"text": "a"}\n{"text": "b"}\n', "one object a line is named .jsonl"),
        (b"", "expected '\\['"),
        (b"[" * 100_000, "a.json:1: .*an element that cannot be read: maximum recursion"),
        (b"[1,\n" + b"9" * 5000 + b"]", "a.json:2: .*an element that cannot be read: Exceeds the limit"),
    ],
)
def test_dl1_a_damaged_json_array_names_line_and_column(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        read_rows(tmp_path / "a.json", content)


def test_csv_rows_have_their_physical_line_after_a_quoted_cell_of_three(tmp_path: Path) -> None:
    content = b'text,label\r\n"one\r\ntwo, ""quoted""\r\nthree",1\r\n\r\nplain,0\r\nbad\r\nlast,1'
    first, plain, bad, last = read_rows(tmp_path / "a.csv", content)
    assert first == (2, {"text": 'one\r\ntwo, "quoted"\r\nthree', "label": "1"})
    assert plain == (6, {"text": "plain", "label": "0"})
    assert bad[0] == 7
    assert bad[1].startswith("got 1 cells, expected 2 as in the header")
    assert last == (8, {"text": "last", "label": "1"})


def test_dl1_a_quote_that_is_never_closed_says_how_far_it_reached(tmp_path: Path) -> None:
    found = read_rows(tmp_path / "a.csv", b'text\nok\n"never closed\na\nb\n')
    assert found[0] == (2, {"text": "ok"})
    assert found[1] == (3, "not CSV: unexpected end of data (the row was read up to line 5)")


def test_dl1_a_row_with_a_stray_quote_does_not_hide_the_next(tmp_path: Path) -> None:
    found = read_rows(tmp_path / "a.csv", b'text,label\n"a"b,1\nok,0\n')
    assert [line for line, _ in found] == [2, 3]
    assert found[1][1] == {"text": "ok", "label": "0"}


def test_a_long_cell_is_read_whole(tmp_path: Path) -> None:
    long = "x" * 200_000
    assert read_rows(tmp_path / "a.csv", f"text\n{long}\n".encode()) == [(2, {"text": long})]


def test_tabs_separate_tsv_cells(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "a.tsv", b"text\tlabel\na, b\t1\n") == [(2, {"text": "a, b", "label": "1"})]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"text,label,text\na,1,b\n", "header names 'text' more than once"), (b'"te"xt\n', ":1: not CSV")],
)
def test_a_header_that_names_no_columns_is_an_error(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        read_rows(tmp_path / "a.csv", content)


def test_each_line_of_a_text_file_is_a_text_without_its_end(tmp_path: Path) -> None:
    found = read_rows(tmp_path / "a.txt", " één\t\r\n\nlast".encode())
    assert found == [(1, {"text": " één\t"}), (2, {"text": ""}), (3, {"text": "last"})]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_dl1_a_key_that_stands_twice_is_malformed(tmp_path: Path, name: str) -> None:
    rows = ['{"text": "a", "text": "b"}', '{"text": "ok"}', '{"m": {"x": 1, "x": 2}}']
    content = "\n".join(rows) if name == "a.jsonl" else "[" + ",\n".join(rows) + "]"
    assert read_rows(tmp_path / name, content.encode()) == [
        (1, "the key 'text' stands twice"),
        (2, {"text": "ok"}),
        (3, "the key 'x' stands twice"),
    ]


def test_a_missing_file_is_an_error_that_names_the_near_one(tmp_path: Path) -> None:
    (tmp_path / "reviews.jsonl").touch()
    with pytest.raises(DataError, match=r"No such file or directory; did you mean reviews\.jsonl"):
        list(rows(tmp_path / "review.jsonl", hashlib.sha256()))
    with pytest.raises(DataError, match="No such file"):
        list(rows(tmp_path / "nowhere" / "a.jsonl", hashlib.sha256()))


def test_an_unknown_kind_of_file_is_an_error_that_names_the_known(tmp_path: Path) -> None:
    (tmp_path / "a.doc").touch()
    with pytest.raises(DataError, match=r"unknown kind of data file '.doc'; expected .jsonl, .json, .csv"):
        list(rows(tmp_path / "a.doc", hashlib.sha256()))


def test_every_byte_goes_to_the_hash(tmp_path: Path) -> None:
    for name, content in (("a.txt", b"\xef\xbb\xbfone\r\n\ntwo"), ("a.csv", b"text\n\na\n"), ("a.json", b"[ ]\n")):
        (tmp_path / name).write_bytes(content)
        file_hash = hashlib.sha256()
        list(rows(tmp_path / name, file_hash))
        assert file_hash.digest() == hashlib.sha256(content).digest()
