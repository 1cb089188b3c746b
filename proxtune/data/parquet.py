"""Parquet files as rows, by pyarrow, which is an extra. A row's place is its number, from 1."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

from proxtune.data.lines import Hash
from proxtune.errors import DataError

ROWS_AT_ONCE = 256
PIECE = 2**20


def parquet_rows(path: Path, file: BinaryIO, file_hash: Hash) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a Parquet file, a few at once: memory holds one compressed row group.

    Raises DataError: pyarrow is not installed, or the file is no Parquet file or a damaged one.
    """
    if find_spec("pyarrow") is None:
        raise DataError(f"{path}: reading .parquet needs pyarrow; install it with\n    pip install 'proxtune[parquet]'")
    import pyarrow as arrow  # noqa: PLC0415 (an extra)

    while piece := file.read(PIECE):
        file_hash.update(piece)
    number = 0
    try:
        for number, row in enumerate(_rows(path), start=1):
            yield number, row
    except (arrow.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not Parquet that can be read, after row {number}: {error}") from error


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    from pyarrow import parquet  # noqa: PLC0415 (an extra)

    with parquet.ParquetFile(path, pre_buffer=False) as source:
        for batch in source.iter_batches(batch_size=ROWS_AT_ONCE, use_threads=False):
            yield from batch.to_pylist()
