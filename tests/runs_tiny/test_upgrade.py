"""CK-9, level L4: a checkpoint of an earlier release is taken up by this code, and goes on to the same figures.

python -m tests.runs_tiny.test_upgrade    writes the fixtures of this release, once, when it is made
"""

import json
import shutil
from pathlib import Path

import pytest

import proxtune
from proxtune.runs import Run
from tests.runs_tiny.test_resume import STEPS, figures, live

FIXTURES = Path(__file__).parents[1] / "training" / "fixtures"
CASES = ("sft-lora", "reward-lora", "ppo-lora-shared")
KEPT = STEPS - 2  # the checkpoint that is stored; the figures of the two steps after it are stored beside it


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("release", sorted(path.name for path in FIXTURES.glob("*")))
def test_ck9_a_checkpoint_of_an_earlier_release_goes_on_to_the_same_figures(
    release: str, case: str, tmp_path: Path
) -> None:
    """To 1e-3: the fixture was written on another processor, which rounds otherwise."""
    stored = FIXTURES / release / case
    shutil.copytree(stored / "checkpoints", tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "config.yaml").write_text("{}\n")
    live(case, tmp_path / "run")
    expected = [json.loads(line) for line in (stored / "figures.jsonl").read_text().splitlines()]
    found = figures(tmp_path / "run")
    assert [row["step"] for row in found] == [KEPT + 1, STEPS]
    for row, before in zip(found, expected, strict=True):
        assert {name: row[name] for name in before} == pytest.approx(before, rel=1e-3, abs=1e-4)


def test_ck9_this_release_has_its_fixtures() -> None:
    assert (FIXTURES / proxtune.__version__).is_dir(), "run `python -m tests.runs_tiny.test_upgrade`, and commit"


def write(folder: Path) -> None:
    """The checkpoint and the figures of each case."""
    for case in CASES:
        run = folder / case
        live(case, run)
        rows = figures(run)[-2:]
        for path in [run / "config.yaml", *Run.open(run).path.glob("*.jsonl"), run / ".lock"]:
            path.unlink()
        shutil.rmtree(run / "checkpoints" / f"step-{STEPS:06d}")
        (run / "figures.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    write(FIXTURES / proxtune.__version__)
