"""A file's bytes as rows: each with the number of the physical line it begins on.

.jsonl is one object a line, .json an array of objects, .csv and .tsv a header and rows, .txt one text a line. All are
UTF-8, with or without a byte order mark. Blank lines are not rows, except in .txt, where they are empty texts.
"""

import codecs
import csv
import difflib
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias

from proxtune.data.formats import MalformedRowError, Row
from proxtune.errors import DataError

MAX_LINE = 2**24  # bytes: what is longer is not a row but a file without line ends

JSON_SPACE = frozenset(" \t\r\n")

NumberedRow: TypeAlias = tuple[
    int, Row | MalformedRowError
]  # a malformed row is a value: the caller decides what to do


class Hash(Protocol):
    """What `hashlib.sha256()` returns, as far as it is needed here."""

    def update(self, data: bytes, /) -> None: ...


def rows(path: Path, file_hash: Hash) -> Iterator[NumberedRow]:
    """The rows of a file in order, read as they are asked for; its bytes go to `file_hash`.

    Raises DataError: the file is missing, of an unknown kind, not UTF-8, or damaged so that no further row can be told.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: unknown kind of data file {path.suffix!r}; expected {', '.join(READERS)}")
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}{_near(path)}") from error
    with file:
        yield from reader(path, file, file_hash)


def _near(path: Path) -> str:
    names = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    close = [name for name in difflib.get_close_matches(path.name, names) if name != path.name]
    return f"; did you mean {', '.join(close)}?" if close else ""


def _lines(path: Path, file: BinaryIO, file_hash: Hash) -> Iterator[tuple[int, str]]:
    """Lines as an editor counts them, from 1 and up to each newline, which stays. The byte order mark is left out."""
    number, offset = 0, 0
    while raw := file.readline(MAX_LINE + 1):
        number += 1
        if len(raw) > MAX_LINE:
            raise DataError(f"{path}:{number}: the line is longer than {MAX_LINE} bytes; expected one row a line")
        file_hash.update(raw)
        yield number, _decoded(path, raw, offset)
        offset += len(raw)


def _decoded(path: Path, raw: bytes, offset: int) -> str:
    try:
        return raw.decode("utf-8-sig" if offset == 0 else "utf-8")
    except UnicodeDecodeError as error:
        at = offset + error.start
        found = "UTF-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "GB18030 or WINDOWS-1252"
        raise DataError(
            f"{path}: byte {at} (0x{raw[error.start]:02x}) is not UTF-8; "
            f"convert the file, for example from {found}: iconv -f ENCODING -t UTF-8 {path}"
        ) from error


def _jsonl(path: Path, file: BinaryIO, file_hash: Hash) -> Iterator[NumberedRow]:
    for number, line in _lines(path, file, file_hash):
        if not line.isspace():
            yield number, _json_row(line)


def _json_row(line: str) -> Row | MalformedRowError:
    try:
        return _object(json.loads(line.rstrip()))
    except json.JSONDecodeError as error:
        return MalformedRowError(f"not JSON at column {error.colno}: {error.msg}")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        return MalformedRowError(f"not JSON that can be read: {error}")


def _object(value: object) -> Row | MalformedRowError:
    if isinstance(value, dict):
        return value
    hint = "; a file that is one array is named .json" if isinstance(value, list) else ""
    return MalformedRowError(f"got a JSON value of type {type(value).__name__}, expected an object{hint}")


def _json(path: Path, file: BinaryIO, file_hash: Hash) -> Iterator[NumberedRow]:
    raw = file.read()
    file_hash.update(raw)
    text = _decoded(path, raw, 0)
    del raw  # a large file is not held twice
    line, counted = 1, 0
    try:
        for start, value in _elements(text):
            line += text.count("\n", counted, start)
            counted = start
            yield line, _object(value)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not a JSON array, at column {error.colno}: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON that can be read, in the element after line {line}: {error}") from error


def _elements(text: str) -> Iterator[tuple[int, object]]:
    """The elements of a JSON array, each with the index it starts at. Raises JSONDecodeError."""
    decode = json.JSONDecoder().raw_decode
    place = _skip_space(text, 0)
    if not text.startswith("[", place):
        raise json.JSONDecodeError("expected '[' (a file with one object a line is named .jsonl)", text, place)
    place = _skip_space(text, place + 1)
    while not text.startswith("]", place):
        value, end = decode(text, place)
        yield place, value
        place = _skip_space(text, end)
        if text.startswith(",", place):
            place = _skip_space(text, place + 1)
        elif not text.startswith("]", place):
            raise json.JSONDecodeError("expected ',' or ']'", text, place)
    if _skip_space(text, place + 1) != len(text):
        raise json.JSONDecodeError("text after the array's end", text, place + 1)


def _skip_space(text: str, place: int) -> int:
    while text[place : place + 1] in JSON_SPACE:
        place += 1
    return place


def _table(path: Path, file: BinaryIO, file_hash: Hash, *, delimiter: str) -> Iterator[NumberedRow]:
    csv.field_size_limit(MAX_LINE)  # of the whole process; the default, 131072, is less than a long document
    lines = (line for _, line in _lines(path, file, file_hash))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            malformed = MalformedRowError(f"not CSV: {error} (the row was read up to line {reader.line_num})")
            if not header:
                raise DataError(f"{path}:{start}: {malformed}") from error
            yield start, malformed
            continue
        if cells and header:
            yield start, _table_row(header, cells)
        elif cells:
            header = _checked_header(cells, f"{path}:{start}")


def _checked_header(cells: list[str], where: str) -> list[str]:
    twice = sorted({name for name in cells if cells.count(name) > 1})
    if twice:
        raise DataError(f"{where}: the header names {', '.join(map(repr, twice))} more than once")
    return cells


def _table_row(header: list[str], cells: list[str]) -> Row | MalformedRowError:
    if len(cells) == len(header):
        return dict(zip(header, cells, strict=True))
    return MalformedRowError(
        f"got {len(cells)} cells, expected {len(header)} as in the header; "
        "a cell that holds the delimiter or a line end needs quotes"
    )


def _text(path: Path, file: BinaryIO, file_hash: Hash) -> Iterator[NumberedRow]:
    for number, line in _lines(path, file, file_hash):
        yield number, {"text": line.rstrip("\r\n")}


READERS: dict[str, Callable[[Path, BinaryIO, Hash], Iterator[NumberedRow]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": partial(_table, delimiter=","),
    ".tsv": partial(_table, delimiter="\t"),
    ".txt": _text,
}
