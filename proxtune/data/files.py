"""A file's bytes as rows: each with the number of the physical line it begins on.

.jsonl is one object a line, .json an array of objects, .csv and .tsv a header and rows, .txt one text a line, .parquet
a table whose rows count as lines. Blank lines are not rows, except in .txt, where they are empty texts. .conll and .bio
are one token a line, its tag in the last column, and a blank line after each sentence.
"""

import csv
import difflib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from proxtune.data.formats import MalformedRowError, Row
from proxtune.data.lines import MAX_LINE, Encoding, Hash, NumberedLine, check_is_file, numbered_lines
from proxtune.data.parquet import parquet_rows
from proxtune.errors import DataError

JSON_SPACE = frozenset(" \t\r\n")

NumberedRow: TypeAlias = tuple[
    int, Row | MalformedRowError
]  # a malformed row is a value: the caller decides what to do


@dataclass(frozen=True)
class _Source:
    """An open file, as a reader of its kind needs it."""

    path: Path
    file: BinaryIO
    file_hash: Hash
    encoding: Encoding

    def lines(self, max_line: int | None = None) -> Iterator[NumberedLine]:
        return numbered_lines(self.file, self.file_hash, self.encoding, max_line=max_line)


def rows(path: Path, file_hash: Hash, encoding: Encoding = "auto") -> Iterator[NumberedRow]:
    """The rows of a file in order, read as they are asked for; its bytes go to `file_hash`.

    Raises DataError: the file is missing, no file, of an unknown kind, or damaged so that no further row can be told.
    """
    try:
        check_is_file(path)
        reader = READERS.get(path.suffix.lower())
        if reader is None:
            raise DataError(f"{path}: unknown kind of data file {path.suffix!r}; expected {', '.join(READERS)}")
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}{_near(path)}") from error
    with file:
        yield from reader(_Source(path, file, file_hash, encoding))


def _near(path: Path) -> str:
    names = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    close = [name for name in difflib.get_close_matches(path.name, names) if name != path.name]
    if path.parts[:1] == ("data",) and not path.parent.is_dir():
        return "; what the recipes read in data/ is fetched by `make data`, in a checkout"
    return f"; did you mean {', '.join(close)}?" if close else ""


def _jsonl(source: _Source) -> Iterator[NumberedRow]:
    for number, line in source.lines():
        if isinstance(line, MalformedRowError):
            yield number, line
        elif not line.isspace():
            yield number, _json_row(line.rstrip())


def _json_row(line: str) -> Row | MalformedRowError:
    try:
        return _object(UNIQUE_KEYS.decode(line))
    except MalformedRowError as error:
        return error
    except json.JSONDecodeError as error:
        hint = "; the line holds carriage returns: expected line ends LF or CRLF" if "\r" in line else ""
        return MalformedRowError(f"not JSON at column {error.colno}: {error.msg}{hint}")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        return MalformedRowError(f"not JSON that can be read: {error}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's keys and values; of a key that stands twice JSON readers take the last value without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise MalformedRowError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice")
    return found


UNIQUE_KEYS = json.JSONDecoder(object_pairs_hook=_unique)


def _object(value: object) -> Row | MalformedRowError:
    if isinstance(value, dict):
        return value
    hint = "; a file that is one array is named .json" if isinstance(value, list) else ""
    return MalformedRowError(f"got a JSON value of type {type(value).__name__}, expected an object{hint}")


def _json(source: _Source) -> Iterator[NumberedRow]:
    text = "".join(_readable(source))
    line, counted = 1, 0
    try:
        for start, value in _elements(text):
            line += text.count("\n", counted, start)
            counted = start
            yield line, value if isinstance(value, MalformedRowError) else _object(value)
    except json.JSONDecodeError as error:
        place = f"{source.path}:{error.lineno}"
        raise DataError(f"{place}: not a JSON array, at column {error.colno}: {error.msg}") from error


def _readable(source: _Source) -> Iterator[str]:
    for number, line in source.lines(max_line=sys.maxsize // 2):  # an array may stand in one line
        if isinstance(line, MalformedRowError):
            raise DataError(f"{source.path}:{number}: {line}") from line
        yield line


def _elements(text: str) -> Iterator[tuple[int, object]]:
    """The elements of a JSON array, each with the index it starts at. Raises JSONDecodeError."""
    place = _skip_space(text, 0)
    if not text.startswith("[", place):
        raise json.JSONDecodeError("expected '[' (a file with one object a line is named .jsonl)", text, place)
    place = _skip_space(text, place + 1)
    while not text.startswith("]", place):
        value, end = _element(text, place)
        yield place, value
        place = _skip_space(text, end)
        if text.startswith(",", place):
            place = _skip_space(text, place + 1)
        elif not text.startswith("]", place):
            raise json.JSONDecodeError("expected ',' or ']'", text, place)
    if _skip_space(text, place + 1) != len(text):
        raise json.JSONDecodeError("text after the array's end", text, place + 1)


def _element(text: str, place: int) -> tuple[object, int]:
    """The element that starts at `place`, and where it ends. One that holds a key twice is its error."""
    try:
        try:
            return UNIQUE_KEYS.raw_decode(text, place)
        except MalformedRowError as error:
            return error, json.JSONDecoder().raw_decode(text, place)[1]
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise json.JSONDecodeError(f"an element that cannot be read: {error}", text, place) from error


def _skip_space(text: str, place: int) -> int:
    while text[place : place + 1] in JSON_SPACE:
        place += 1
    return place


class _TableLines:
    """Lines for `csv.reader`, which goes on with the next one after a malformed line was raised."""

    def __init__(self, lines: Iterator[NumberedLine]) -> None:
        self.lines = lines
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.number, line = next(self.lines)
        if isinstance(line, MalformedRowError):
            raise line
        return line


def _table(source: _Source, *, delimiter: str) -> Iterator[NumberedRow]:
    csv.field_size_limit(MAX_LINE)  # of the whole process; the default, 131072, is less than a long document
    lines = _TableLines(source.lines())
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        start = lines.number + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (csv.Error, MalformedRowError) as error:
            malformed = _unreadable(error, lines.number)
            if not header:
                raise DataError(f"{source.path}:{start}: {malformed}") from error
            yield start, malformed
            continue
        if cells and header:
            yield start, _table_row(header, cells)
        elif cells:
            header = _checked_header(cells, f"{source.path}:{start}")


def _unreadable(error: csv.Error | MalformedRowError, line: int) -> MalformedRowError:
    if isinstance(error, MalformedRowError):
        return error
    if str(error).startswith("new-line character"):
        return MalformedRowError("a carriage return outside quotes; expected line ends LF or CRLF")
    return MalformedRowError(f"not CSV: {error} (the row was read up to line {line})")


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


def _text(source: _Source) -> Iterator[NumberedRow]:
    for number, line in source.lines():
        yield number, line if isinstance(line, MalformedRowError) else _text_row(line.rstrip("\r\n"))


def _text_row(text: str) -> Row | MalformedRowError:
    if "\r" not in text:
        return {"text": text}
    return MalformedRowError(f"a carriage return at column {text.index(chr(13)) + 1}; expected line ends LF or CRLF")


def _columns(source: _Source) -> Iterator[NumberedRow]:
    """Sentences of token lines: the first column is the token, the last its tag, those between are not read.

    Columns are parted by tabs where the line has one, else by spaces. Lines of -DOCSTART- only part sentences.
    """
    begin, cells, wrong = 0, list[list[str]](), None
    for number, line in chain(source.lines(), [(0, "")]):  # the end of the file ends a sentence
        if isinstance(line, MalformedRowError):
            begin, wrong = begin or number, wrong or line
            continue
        if line.strip() and not line.startswith("-DOCSTART-"):
            begin = begin or number
            cells.append(line.rstrip("\r\n").split("\t") if "\t" in line else line.split())
            if len(cells[-1]) < 2 or len(cells[-1]) != len(cells[0]):
                wrong = wrong or MalformedRowError(
                    f"line {number} has {len(cells[-1])} columns, expected "
                    f"{len(cells[0]) if len(cells[0]) > 1 else 'two or more'}: a token, and last its tag"
                )
        elif begin:
            row = {"tokens": [cell[0] for cell in cells], "tags": [cell[-1] for cell in cells]}
            yield begin, wrong or row
            begin, cells, wrong = 0, [], None


def _parquet(source: _Source) -> Iterator[NumberedRow]:
    return parquet_rows(source.path, source.file, source.file_hash)


READERS: dict[str, Callable[[_Source], Iterator[NumberedRow]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": partial(_table, delimiter=","),
    ".tsv": partial(_table, delimiter="\t"),
    ".txt": _text,
    ".parquet": _parquet,
    ".conll": _columns,
    ".bio": _columns,
}
