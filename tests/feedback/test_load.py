"""The app under twenty people, killed in their midst: benchmarks/people_load.py, shorter and longer."""

from pathlib import Path

import pytest

from benchmarks.people_load import measure


@pytest.mark.slow
def test_fs1_fs3_whatever_was_acknowledged_is_there_once_after_a_kill(tmp_path: Path) -> None:
    seen, wrong = measure(tmp_path, count=200, people=5, open_seconds=6.0, closed_seconds=1.0, kills=1)
    assert not any(wrong.values()), wrong
    assert len(seen.kills) == 1
    assert len(seen.acknowledged) >= 10
    assert set(seen.statuses) <= {200, 201, 204}


@pytest.mark.nightly
def test_fs2_twenty_people_and_ten_kills(tmp_path: Path) -> None:
    seen, wrong = measure(tmp_path, count=10_000, people=20, open_seconds=300.0, closed_seconds=60.0, kills=10)
    assert not any(wrong.values()), wrong
    assert len(seen.kills) == 10
    assert len(seen.acknowledged) >= 20 * 300 / 2 * 0.8
    assert set(seen.statuses) <= {200, 201}  # none was told that the store is locked
