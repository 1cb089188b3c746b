import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from proxtune.data import lines
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


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "txt"])
def test_dl8_a_line_of_other_bytes_hides_no_other(tmp_path: Path, suffix: str) -> None:
    content = b'{"text": "ok"}\n' * 2 + b'{"text": "caf\xe9"}\n' + b'{"text": "last"}\n'
    if suffix != "jsonl":
        content = content.replace(b'"', b"").replace(b",", b"")
    found = read_rows(tmp_path / f"a.{suffix}", content)
    assert dict(found)[3] == (
        f"byte {14 if suffix == 'jsonl' else 11} of the line (0xe9) is not UTF-8; it looks like windows-1252: "
        "set data.encoding=windows-1252, or convert the file: iconv -f windows-1252 -t utf-8"
    )
    assert [line for line, _ in found] == ([2, 3, 4] if suffix in {"csv", "tsv"} else [1, 2, 3, 4])


def test_dl8_an_array_with_other_bytes_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.json:2: byte 2 of the line \(0xe9\) is not UTF-8"):
        read_rows(tmp_path / "a.json", b'["a",\n"\xe9"]')


@pytest.mark.parametrize(
    ("raw", "likely"),
    [
        ("这部电影很好看".encode("gb18030"), "set data.encoding=gb18030"),
        ("“电影”，﨩䶮𠮷".encode("gb18030"), "set data.encoding=gb18030"),
        ("très café né à".encode("latin-1"), "set data.encoding=windows-1252"),
        ("这部电影".encode() + b"\xff", "the rest of the line is UTF-8: mend or delete that byte"),
        ("hi".encode("utf-16"), "set data.encoding=utf-16"),
    ],
)
def test_dl8_the_likely_encoding_is_named(tmp_path: Path, raw: bytes, likely: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(raw)
    (_, row), *_ = rows(path, hashlib.sha256(), "utf-8")
    assert isinstance(row, MalformedRowError)
    assert likely in str(row)


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("mark", [True, False])
def test_dl8_utf16_lines_end_where_the_character_ends(tmp_path: Path, codec: str, mark: bool) -> None:
    if not mark and codec == "utf-16-be":
        return  # without a mark the low byte comes first
    text = "\ufeff" * mark + "ਊa\u0a0a\r\n上\u0a00\n\nਅ\u010a"  # U+0Axx and U+xx0A hold the byte of a newline
    (tmp_path / "a.txt").write_bytes(text.encode(codec))
    found = rows(tmp_path / "a.txt", hashlib.sha256(), "auto" if mark else "utf-16")
    assert list(found) == [
        (1, {"text": "ਊa\u0a0a"}),
        (2, {"text": "上\u0a00"}),
        (3, {"text": ""}),
        (4, {"text": "ਅ\u010a"}),
    ]


def test_dl8_half_a_pair_in_utf16_is_malformed(tmp_path: Path) -> None:
    content = "\ufeffa\n".encode("utf-16-le") + b"\x00\xd8" + "\nb\n".encode("utf-16-le") + b"c"
    found = read_rows(tmp_path / "a.txt", content)
    assert [line for line, _ in found] == [1, 2, 3, 4]
    assert [row for _, row in found[::2]] == [{"text": "a"}, {"text": "b"}]
    assert "0x00) is not UTF-16-LE" in found[1][1]
    assert "0x63) is not UTF-16-LE" in found[3][1]


@pytest.mark.parametrize("suffix", ["jsonl", "txt", "csv"])
def test_dl8_a_nul_byte_is_malformed(tmp_path: Path, suffix: str) -> None:
    found = read_rows(tmp_path / f"a.{suffix}", b'"text"\n"a\0b"\n"ok"\n')
    reason = "a NUL byte at column 3: expected text; if the file is UTF-16, set data.encoding=utf-16"
    assert (2, reason) in found
    assert found[-1][0] == 3


def test_dl8_a_line_without_end_is_malformed_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "MAX_LINE", 10)
    assert len(read_rows(tmp_path / "a.txt", b"123456789\n")) == 1
    content = b"12\n" + b"1234567890" * 5 + b"\nlast\n"
    file_hash = hashlib.sha256()
    (tmp_path / "a.txt").write_bytes(content)
    found = [(line, str(row)) for line, row in rows(tmp_path / "a.txt", file_hash)]
    assert found == [
        (1, "{'text': '12'}"),
        (2, "the line is longer than 10 bytes; expected one row a line"),
        (3, "{'text': 'last'}"),
    ]
    assert file_hash.digest() == hashlib.sha256(content).digest()


def test_dl8_a_line_of_50_megabytes_is_malformed_and_the_next_is_read(tmp_path: Path) -> None:
    found = read_rows(tmp_path / "a.jsonl", b'{"text": "' + b"x" * 50_000_000 + b'"}\n{"text": "ok"}\n')
    assert found == [
        (1, "the line is longer than 16,777,216 bytes; expected one row a line"),
        (2, {"text": "ok"}),
    ]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", b"a\rb\rc\r", "a carriage return at column 2; expected line ends LF or CRLF"),
        ("a.jsonl", b'{"text": "a"}\r{"text": "b"}\r', "Extra data; the line holds carriage returns"),
    ],
)
def test_dl8_line_ends_of_carriage_returns_alone_are_malformed(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    ((line, row),) = read_rows(tmp_path / name, content)
    assert line == 1
    assert reason in row
    with pytest.raises(DataError, match=r"a\.csv:1: a carriage return outside quotes; expected line ends LF or CRLF"):
        read_rows(tmp_path / "a.csv", b"text\ra\rb\r")


def test_dl8_mixed_line_ends_are_line_ends(tmp_path: Path) -> None:
    found = read_rows(tmp_path / "a.txt", b"a\r\nb\nc\r\n")
    assert found == [(1, {"text": "a"}), (2, {"text": "b"}), (3, {"text": "c"})]
    found = read_rows(tmp_path / "a.csv", b"text\r\na\nb\r\n")
    assert found == [(2, {"text": "a"}), (3, {"text": "b"})]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_dl1_a_key_that_stands_twice_is_malformed(tmp_path: Path, name: str) -> None:
    rows = ['{"text": "a", "text": "b"}', '{"text": "ok"}', '{"m": {"x": 1, "x": 2}}']
    content = "\n".join(rows) if name == "a.jsonl" else "[" + ",\n".join(rows) + "]"
    assert read_rows(tmp_path / name, content.encode()) == [
        (1, "the key 'text' stands twice"),
        (2, {"text": "ok"}),
        (3, "the key 'x' stands twice"),
    ]


def test_dl8_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(DataError, match=r"folder\.jsonl: is a folder; expected a data file"):
        list(rows(tmp_path / "folder.jsonl", hashlib.sha256()))
    with pytest.raises(DataError, match=r"pipe\.jsonl: is a pipe or a device"):
        list(rows(tmp_path / "pipe.jsonl", hashlib.sha256()))


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
