import hashlib
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from proxtune.data.files import rows
from proxtune.data.records import Message, Text
from proxtune.data.sources import read
from proxtune.errors import DataError


def written(path: Path, *rows: dict[str, Any]) -> Path:
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path, row_group_size=100)
    return path


def test_parquet_rows_have_their_number(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", *({"text": f"t{i}"} for i in range(600)))
    file_hash = hashlib.sha256()
    assert list(rows(path, file_hash)) == [(i + 1, {"text": f"t{i}"}) for i in range(600)]
    assert file_hash.digest() == hashlib.sha256(path.read_bytes()).digest()


def test_columns_of_any_type_come_through(tmp_path: Path) -> None:
    day = {"text": "t", "day": date(2020, 2, 29), "raw": b"\x00"}
    data = read(written(tmp_path / "a.parquet", day, day))
    assert data.records == [Text("t", f"{tmp_path}/a.parquet:1", {"day": date(2020, 2, 29), "raw": b"\x00"})]
    assert data.report.duplicate == 1


def test_conversations_are_lists_of_structures(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    (record,) = read(written(tmp_path / "a.parquet", {"messages": turns, "system": None})).records
    assert (record.prompt, record.completion) == ((Message("user", "q"),), "a")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet at all", b"PAR1" + b"\0" * 40 + b"PAR1"])
def test_dl1_what_is_no_parquet_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.parquet: not Parquet that can be read, after row 0: "):
        read(tmp_path / "a.parquet")


def test_a_missing_pyarrow_is_an_error_with_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "a.parquet", {"text": "t"})
    monkeypatch.setattr("proxtune.data.parquet.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"needs pyarrow; install it with\n    pip install 'proxtune\[parquet\]'"):
        read(path)
