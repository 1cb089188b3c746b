"""TR-5: a clock that is set forth or back an hour changes no figure and stops nothing."""

import ast
import time
from pathlib import Path

import pytest

import proxtune
from proxtune.runs import Run
from tests.training.test_loop import Sum, train

WALL_CLOCK = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today"}


@pytest.mark.parametrize("hour", [3600.0, -3600.0])
def test_tr5_a_clock_that_jumps_makes_no_negative_time(
    hour: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stands for libfaketime: the wall clock jumps at each call, the monotonic ones do not."""
    calls = []
    monkeypatch.setattr(time, "time", lambda: calls.append(1) or 1.8e9 + hour * len(calls))
    train(tmp_path, Sum(), evaluate=lambda: {"eval/x": time.time()}, eval_every=1)
    rows = Run.open(tmp_path).metrics()
    assert len(calls) == 10
    assert all(0 < row["time/step"] < 60 for row in rows)
    assert all(row["time/tokens_per_second"] > 0 for row in rows)


def test_tr5_the_package_measures_no_interval_by_the_wall_clock() -> None:
    """The wall clock writes dates. It stands in no difference but that to a server's date, as HTTP has it."""
    asked, intervals = set(), set()
    for path in Path(proxtune.__file__).parent.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        if not any(name in source for name in WALL_CLOCK):
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in WALL_CLOCK:
                asked.add(path.name)
            if isinstance(node, ast.BinOp | ast.Compare) and any(
                f"{name}(" in ast.unparse(node) for name in WALL_CLOCK
            ):
                intervals.add(path.name)
    assert intervals <= {"remote.py"}
    assert "runs.py" in asked  # so the search finds what is there
