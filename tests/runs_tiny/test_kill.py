"""TR-1, CK-1, DL-2, RO-1: a run that is killed and resumed ends in the same bytes as one that was left alone."""

from pathlib import Path

import pytest

from benchmarks import trust
from proxtune.runs import Run
from tests.runs_tiny.lives import BATCH, PHASES, ROWS, kill_and_resume


@pytest.mark.slow
@pytest.mark.parametrize("command", list(PHASES))
def test_tr1_three_kills_leave_every_figure_and_the_final_weights_equal(command: str, tmp_path: Path) -> None:
    assert len(kill_and_resume(command, tmp_path, kills=3)) == 3


@pytest.mark.nightly
def test_tr1_sixty_kills_in_every_phase_change_nothing() -> None:
    phases = trust.kills(each=20)  # which writes the record
    assert len(phases) == 60
    assert {"update", "eval", "save", "rollout", "scoring"} <= set(phases)


@pytest.mark.slow
def test_ro1_every_prompt_is_answered_exactly_once_over_five_kills(tmp_path: Path) -> None:
    kill_and_resume("ppo", tmp_path, kills=5, phases=("rollout", "scoring", "update"))
    asked = [row["prompt"] for row in Run.open(tmp_path / "killed").samples()]
    epoch = ROWS - ROWS // 10  # a tenth is held out
    assert len(asked) == 18 * BATCH == 2 * epoch
    assert all(len(set(asked[start : start + epoch])) == epoch for start in (0, epoch))
