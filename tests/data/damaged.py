"""Data files with one defect each, over all kinds, formats and encodings; some name the line that must be told."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
from hypothesis import strategies as st
from pyarrow import parquet

from proxtune.data.lines import ENCODINGS, Encoding
from proxtune.data.sources import read
from proxtune.errors import DataError
from proxtune.workflows.data_check import check

WORDS = {
    "utf-8": "电影 é 𠮷 good",
    "utf-8-sig": "电影 é 𠮷 good",
    "utf-16": "电影 é 𠮷 good",
    "gb18030": "电影 é 𠮷 good",
    "big5": "電影不錯 good",
    "windows-1252": "café né good",
}
SAID: dict[str, Encoding] = {"gb18030": "gb18030", "big5": "big5", "windows-1252": "windows-1252"}  # else auto
DEEP, DIGITS = "[" * 20_000, "9" * 5_000


@dataclass(frozen=True)
class Damaged:
    """A file, what is wrong with it, and the line that a message must name, where one can be said."""

    name: str
    content: bytes
    encoding: Encoding
    defect: str
    rows: int | None = None  # how many there are, where that can be said
    line: int | None = None


def row_of(kind: str, i: int, words: str) -> dict[str, Any]:
    """The i-th row of a format; no two are equal."""
    text = f"{words} {i}"
    turns = [{"from": "human", "value": text}, {"from": "gpt", "value": words}]
    return {
        "text": {"text": text},
        "text/label": {"text": text, "label": i % 2},
        "prompt/completion": {"prompt": text, "completion": words},
        "chosen/rejected": {"prompt": text, "chosen": words, "rejected": f"not {words}"},
        "rated": {"text": text, "scores": [i, 3]},
        "alpaca": {"instruction": text, "input": "", "output": words},
        "messages": {"conversations": turns},
    }[kind]


TABULAR = ("text", "text/label", "prompt/completion", "chosen/rejected")
KINDS = (*TABULAR, "rated", "alpaca", "messages")
IN_OBJECT = ("wrong type", "no such key", "swapped brackets", "key twice", "deep", "digits", "half a character", "cut")
IN_TABLE = ("cell missing", "cell more", "stray quote", "header twice", "carriage returns alone")
IN_BYTES = ("bytes flipped", "cut anywhere", "piece twice", "bytes put in", "another encoding")


def broken_object(defect: str, row: dict[str, Any]) -> str:
    """A row as JSON with one defect."""
    key = next(iter(row))
    text = json.dumps(row, ensure_ascii=False)
    match defect:
        case "wrong type":
            return json.dumps({**row, key: 3})
        case "no such key":
            return json.dumps({"Key": "x"})
        case "swapped brackets":
            return text.replace("{", "[").replace("}", "]")
        case "key twice":
            return text[:-1] + f', "{key}": "x"}}'
        case "deep":
            return f'{{"{key}": {DEEP}'
        case "digits":
            return f'{{"{key}": "x", "n": {DIGITS}}}'
        case "half a character":
            return text[:-1] + ', "x": "a\\ud800"}'
    return text[: len(text) // 2]


@st.composite
def damaged_objects(draw: st.DrawFn) -> Damaged:
    """JSON lines or an array; the defect is in one row, whose line must be named."""
    suffix, codec = draw(st.sampled_from(["jsonl", "json"])), draw(st.sampled_from(sorted(WORDS)))
    kind, count = draw(st.sampled_from(KINDS)), draw(st.integers(2, 8))
    at, defect = draw(st.integers(1, count - 1)), draw(st.sampled_from(IN_OBJECT))
    rows = [row_of(kind, i, WORDS[codec]) for i in range(count)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    lines[at] = broken_object(defect, rows[at])
    end = draw(st.sampled_from(["\n", "\r\n"]))
    text = end.join(lines) if suffix == "jsonl" else "[" + f",{end}".join(lines) + "]"
    # An array's brackets after a cut row may still make sense of it, a line later.
    known = suffix == "jsonl" or defect not in {"cut", "swapped brackets"}
    counted = count if suffix == "jsonl" else None
    return Damaged(
        f"a.{suffix}", text.encode(codec), SAID.get(codec, "auto"), defect, counted, at + 1 if known else None
    )


@st.composite
def damaged_tables(draw: st.DrawFn) -> Damaged:
    """CSV or TSV; the defect is in one row or in the header."""
    suffix, comma = draw(st.sampled_from([("csv", ","), ("tsv", "\t")]))
    codec = draw(st.sampled_from(sorted(WORDS)))
    kind, count = draw(st.sampled_from(TABULAR[1:])), draw(st.integers(2, 8))
    at, defect = draw(st.integers(2, count)), draw(st.sampled_from(IN_TABLE))
    rows = [row_of(kind, i, WORDS[codec]) for i in range(count)]
    lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    line, end = at + 1, draw(st.sampled_from(["\n", "\r\n"]))
    match defect:
        case "cell missing":
            lines[at].pop()
        case "cell more":
            lines[at].append("x")
        case "stray quote":
            lines[at][0] = '"a"b'
        case "header twice":
            line, lines[0][1] = 1, lines[0][0]
        case _:
            line, end = 1, "\r"
    text = end.join(comma.join(cells) for cells in lines) + end
    counted = count if line > 1 else None
    return Damaged(f"a.{suffix}", text.encode(codec), SAID.get(codec, "auto"), defect, counted, line)


@st.composite
def damaged_lines(draw: st.DrawFn) -> Damaged:
    """Any kind that has lines, in UTF-8, with a byte that no text has in one row."""
    suffix, count = draw(st.sampled_from(["jsonl", "csv", "tsv", "txt"])), draw(st.integers(2, 8))
    at, defect = draw(st.integers(1, count)), draw(st.sampled_from([b"\xff", b"\0", b"\xc3(", b"\xed\xa0\x80"]))
    rows = [json.dumps(row_of("text", i, "电影")) if suffix == "jsonl" else f"电影 {i}" for i in range(count)]
    lines = [row.encode() for row in rows]
    line = lines[at - 1]
    place = draw(st.integers(1, 8)) if suffix == "jsonl" else len("电影".encode())
    lines[at - 1] = line[:place] + defect + line[place:]
    header = [b"text"] if suffix in {"csv", "tsv"} else []
    content = b"\n".join([*header, *lines]) + b"\n"
    return Damaged(f"a.{suffix}", content, "auto", repr(defect), count, at + len(header))


@st.composite
def other_encodings(draw: st.DrawFn) -> Damaged:
    """A whole file in an encoding that nobody named; the first line that shows it must be named."""
    codec = draw(st.sampled_from(["gb18030", "big5", "windows-1252"]))
    ascii_rows, count = draw(st.integers(0, 4)), draw(st.integers(1, 4))
    words = ["good"] * ascii_rows + [WORDS[codec]] * count
    lines = [json.dumps(row_of("text", i, word), ensure_ascii=False) for i, word in enumerate(words)]
    content = "\n".join(lines).encode(codec)
    return Damaged("a.jsonl", content, "auto", f"{codec} unsaid", len(lines), ascii_rows + 1)


@st.composite
def damaged_bytes(draw: st.DrawFn) -> Damaged:
    """Any file at all, Parquet too, whose bytes were damaged anywhere: it may even be whole still."""
    suffix = draw(st.sampled_from(["jsonl", "json", "csv", "tsv", "txt", "parquet"]))
    codec = draw(st.sampled_from(sorted(WORDS)))
    content = bytearray(whole(suffix, codec, draw(st.sampled_from(TABULAR)), draw(st.integers(1, 6))))
    defect = draw(st.sampled_from(IN_BYTES))
    where = st.integers(0, len(content) - 1)
    place, other = sorted(draw(st.tuples(where, where)))
    match defect:
        case "bytes flipped":
            for at, bits in draw(st.lists(st.tuples(where, st.integers(1, 255)), min_size=1, max_size=8)):
                content[at] ^= bits
        case "cut anywhere":
            del content[place:]
        case "piece twice":
            content[other:other] = content[place:other]
        case "bytes put in":
            marks = st.sampled_from([b"\xef\xbb\xbf", b"\xff\xfe", b"\0" * 9])
            content[place:place] = draw(st.binary(min_size=1, max_size=12) | marks)
    said = draw(st.sampled_from(ENCODINGS)) if defect == "another encoding" else SAID.get(codec, "auto")
    return Damaged(f"a.{suffix}", bytes(content), said, defect)


def whole(suffix: str, codec: str, kind: str, count: int) -> bytes:
    """An undamaged file."""
    rows = [row_of(kind, i, WORDS[codec]) for i in range(count)]
    if suffix == "parquet":
        stream = io.BytesIO()
        parquet.write_table(pyarrow.Table.from_pylist(rows), stream)
        return stream.getvalue()
    if suffix in {"jsonl", "json"}:
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        return ("\n".join(lines) if suffix == "jsonl" else "[" + ",\n".join(lines) + "]").encode(codec)
    comma = "\t" if suffix == "tsv" else ","
    table = [list(rows[0]), *(row.values() for row in rows)]
    return "\n".join(comma.join(map(str, cells)) for cells in table).encode(codec)


damaged_files = st.one_of(damaged_objects(), damaged_tables(), damaged_lines(), other_encodings(), damaged_bytes())


def named_rightly(damaged: Damaged, folder: Path) -> bool:
    """Read the file in every way: only a DataError is raised and the rows add up; whether file and line are named."""
    path = folder / damaged.name
    path.write_bytes(damaged.content)
    message = ""
    try:
        read(path, encoding=damaged.encoding)
    except DataError as error:
        message = str(error)
    try:
        report = read(path, encoding=damaged.encoding, on_error="skip").report  # its counts add up, or it asserts
        checked = check(path, encoding=damaged.encoding)
    except DataError:
        assert message, "what a strict reading takes, a lenient one takes"
        return message.startswith(f"{path}:{damaged.line}: ")
    assert checked.read == checked.fates["kept"] + sum(places.count for places in checked.left_out.values())
    fates = [checked.fates[fate] for fate in ("kept", "rejected", "filtered", "duplicate")]
    assert fates == [report.kept, report.rejected, report.filtered, report.duplicate]
    assert damaged.rows is None or report.read == damaged.rows
    return message.startswith(f"{path}:{damaged.line}: ")
