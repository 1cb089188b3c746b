"""A file's bytes as numbered lines of text, in whatever encoding. A line that cannot be read hides no other."""

import codecs
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal, Protocol, TypeAlias, get_args

from proxtune.data.formats import MalformedRowError
from proxtune.errors import DataError

MAX_LINE = 2**24  # bytes: what is longer is not a row but a file without line ends

Encoding = Literal["auto", "utf-8", "utf-16", "gb18030", "big5", "windows-1252"]
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)

NumberedLine: TypeAlias = tuple[int, str | MalformedRowError]


class Hash(Protocol):
    """What `hashlib.sha256()` returns, as far as it is needed here."""

    def update(self, data: bytes, /) -> None: ...


def check_is_file(path: Path) -> None:
    """Raises OSError: no such file; DataError: a folder, a pipe or a device, which would be read for ever."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise DataError(f"{path}: is a folder; expected a data file")
    if not stat.S_ISREG(mode):
        raise DataError(f"{path}: is a pipe or a device, which cannot be read twice; expected a file")


def codec_of(file: BinaryIO, encoding: Encoding) -> str:
    """Python's name for the encoding of a file that stands at its beginning, and stays there.

    If none is given: UTF-16 where a byte order mark says so, else UTF-8. UTF-16 without a mark has its low byte first.
    """
    head = file.read(2)
    file.seek(0)
    if encoding not in {"auto", "utf-16"}:
        return encoding
    if head == codecs.BOM_UTF16_BE:
        return "utf-16-be"
    return "utf-16-le" if head == codecs.BOM_UTF16_LE or encoding == "utf-16" else "utf-8"


def numbered_lines(
    file: BinaryIO, file_hash: Hash, encoding: Encoding, *, max_line: int | None = None
) -> Iterator[NumberedLine]:
    """Lines as an editor counts them, from 1 and up to each newline, which stays; the byte order mark is left out.

    A line is malformed if it is longer than `max_line` bytes (by default MAX_LINE), holds bytes of another encoding, or
    a NUL. Every byte goes to `file_hash`.
    """
    limit = max_line or MAX_LINE
    codec = codec_of(file, encoding)
    newline = "\n".encode(codec)
    number = 0
    while raw := _line(file, newline, limit):
        number += 1
        file_hash.update(raw)
        if len(raw) <= limit:
            yield number, _text(raw, codec, number)
            continue
        yield number, MalformedRowError(f"the line is longer than {limit:,} bytes; expected one row a line")
        while not raw.endswith(newline) and (raw := _line(file, newline, limit)):
            file_hash.update(raw)


def _line(file: BinaryIO, newline: bytes, limit: int) -> bytes:
    """Up to the next newline, or a little more than `limit` bytes; empty at the file's end."""
    if len(newline) == 1:  # no encoding but UTF-16 has this byte inside another character
        return file.readline(limit + 1)
    raw = bytearray()
    while len(raw) <= limit and (piece := file.readline(limit + 1 - len(raw))):
        raw += piece
        if len(raw) % 2:
            raw += file.read(1)
        if raw.endswith(newline):
            break
    return bytes(raw)


def _text(raw: bytes, codec: str, number: int) -> str | MalformedRowError:
    try:
        text = raw.decode(codec)
    except UnicodeDecodeError as error:
        place = f"byte {error.start + 1} of the line (0x{raw[error.start]:02x})"
        return MalformedRowError(f"{place} is not {codec.upper()}; {_hint(raw)}")
    if number == 1:
        text = text.removeprefix("\ufeff")
    if "\0" in text:
        place = f"a NUL byte at column {text.index(chr(0)) + 1}"
        return MalformedRowError(f"{place}: expected text; if the file is UTF-16, set data.encoding=utf-16")
    return text


def _hint(raw: bytes) -> str:
    """What a line that is not in the encoding expected may be in."""
    text = raw.decode(errors="replace")
    broken = text.count("\ufffd")
    if sum(character > "\x7f" for character in text) > 2 * broken:
        return "the rest of the line is UTF-8: mend or delete that byte"
    likely = _likely(raw)
    return f"it looks like {likely}: set data.encoding={likely}, or convert the file: iconv -f {likely} -t utf-8"


def _likely(raw: bytes) -> Encoding:
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    runs = re.findall(rb"[\x80-\xff]+", raw)
    if sum(map(len, runs)) < 2 * len(runs):  # single accented letters; a Chinese character has two bytes
        return "windows-1252"
    candidates: tuple[Encoding, ...] = ("gb18030", "big5")
    return next((codec for codec in candidates if _decodes(raw, codec)), "windows-1252")


def _decodes(raw: bytes, codec: str) -> bool:
    try:
        raw.decode(codec)
    except UnicodeDecodeError:
        return False
    return True
