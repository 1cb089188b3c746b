"""Runs that are made sick on purpose are found out, by the step and the name that the record tells of."""

from pathlib import Path

import pytest

from benchmarks.trust_health import QUIET, sft, sick_run
from proxtune.workflows.train import execute


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("road")
    execute(sft(folder, seed=1), console=QUIET)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "finding", "by"),
    [("constant reward", "equal rewards", 5), ("hackable reward without KL", "reward hacking", 18)],
)
def test_a_sick_run_is_found_out(name: str, finding: str, by: int, road: Path) -> None:
    health = sick_run(road, 1, name)
    assert health.found[finding].level == "sick"
    assert health.found[finding].step <= by
