"""Memory that a file's size does not fill: `data check` holds digests and counts, reading holds the rows once."""

from pathlib import Path

import pytest

from benchmarks.trust_data import GIGABYTE, MIB, peaks, write_rows

CHECK, READ = ("workflows.data_check", "check"), ("data.sources", "read")


@pytest.mark.slow
def test_dl7_checking_a_longer_file_takes_digests_alone(tmp_path: Path) -> None:
    path, peak, rows = tmp_path / "rows.jsonl", [0, 0], [0, 0]
    for i, size in enumerate((8 * MIB, 32 * MIB)):
        rows[i] = write_rows(path, size, words=60)
        peak[i] = peaks(*CHECK, path)[1]
    # two digests, each in a string of its own while there are fewer rows than strings (65,536); the text has 560 bytes
    assert (peak[1] - peak[0]) / (rows[1] - rows[0]) < 350


@pytest.mark.slow
def test_dl7_reading_holds_the_text_once_and_some_hundred_bytes_a_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = write_rows(path, 16 * MIB, words=12)
    before, peak = peaks(*READ, path)
    assert peak - before < path.stat().st_size + 600 * rows


@pytest.mark.nightly
def test_dl7_a_gigabyte_is_checked_in_600_mib(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, GIGABYTE, words=60)
    assert peaks(*CHECK, path)[1] <= 600 * MIB
