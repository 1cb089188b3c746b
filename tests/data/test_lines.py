"""Lines of text in any encoding; what cannot be read is one line, and has its number."""

import hashlib
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


def test_dl8_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(DataError, match=r"folder\.jsonl: is a folder; expected a data file"):
        list(rows(tmp_path / "folder.jsonl", hashlib.sha256()))
    with pytest.raises(DataError, match=r"pipe\.jsonl: is a pipe or a device"):
        list(rows(tmp_path / "pipe.jsonl", hashlib.sha256()))
