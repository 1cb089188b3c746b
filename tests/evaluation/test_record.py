import json
import math
from pathlib import Path
from typing import Any

import pytest

from proxtune.errors import DataError
from proxtune.evaluation.record import write_record

MEASUREMENT: dict[str, Any] = {
    "claim": "held-out judge score, after PPO minus before",
    "value": 0.31,
    "unit": "probability",
    "interval": (0.24, 0.38),
    "goal": ">= 0.2",
    "holds": True,
    "against": None,
    "seeds": [1, 2, 3],
    "command": "make demo",
    "measures": ["proxtune/algorithms/ppo.py"],
    "raw": [0.24, 0.31, 0.38],
}


def written(folder: Path, **changes: object) -> dict[str, Any]:
    path = folder / "results" / "road" / "demo.json"
    write_record(path, **{**MEASUREMENT, **changes})
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def test_a_record_holds_what_was_measured_and_where(tmp_path: Path) -> None:
    record = written(tmp_path)
    assert record["value"] == 0.31
    assert record["interval"] == [0.24, 0.38]
    assert record["raw"] == [0.24, 0.31, 0.38]
    assert record["against"] is None
    assert set(record["machine"]) == {"cpu", "threads", "torch"}
    assert record["machine"]["threads"] >= 1
    assert len(record["date"]) == len("2026-01-31")
    assert "bound" not in record


def test_a_missed_goal_says_what_stands_in_the_way(tmp_path: Path) -> None:
    record = written(tmp_path, value=0.1, interval=None, holds=False, bound="63% of a step is sampling")
    assert record["holds"] is False
    assert record["bound"] == "63% of a step is sampling"
    assert record["interval"] is None


@pytest.mark.parametrize(
    ("value", "interval"),
    [(math.nan, None), (math.inf, None), (0.3, (0.1, math.nan)), (0.3, (0.4, 0.5)), (0.3, (0.4, 0.2))],
)
def test_a_value_that_is_no_number_or_lies_outside_its_interval_is_refused(
    tmp_path: Path, value: float, interval: tuple[float, float] | None
) -> None:
    with pytest.raises(DataError, match=r"demo\.json: value"):
        written(tmp_path, value=value, interval=interval)
    assert not (tmp_path / "results").exists()
