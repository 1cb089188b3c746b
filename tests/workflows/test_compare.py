"""`proxtune runs`: the state of every run, however broken its folder is, and runs side by side."""

import io
import json
import os
import signal
import time
from pathlib import Path

import pytest
from rich.console import Console

from proxtune.errors import ConfigError
from proxtune.runs import Run, is_running
from proxtune.workflows.compare import compare, list_runs, overview
from proxtune.workflows.terminal import terminal
from tests.forked import fork


def make(path: Path, *, rate: float = 0.1, steps: int = 3, finished: bool = True, began: str = "2026-01-02") -> Path:
    """A run of `steps` steps of 3, of which the loss is 1, 1/2, 1/3."""
    with Run.create(path, resume=False) as run:
        run.write_config(f"name: {path.name}\noptim:\n  learning_rate: {rate}\n")
        manifest = {"command": "sft", "began": f"{began}T03:04:05+00:00", "steps": 3, "base": {"name": "tiny"}}
        run.write_manifest(manifest | ({"finished": "x", "seconds": 75.0} if finished else {}))
        for step in range(1, steps + 1):
            run.log(step, {"loss": 1 / step, "time/step": 60.0})
    return path


def shown(folder: Path, width: int = 200) -> str:
    page = io.StringIO()
    list_runs(folder, terminal(file=page, width=width))
    return page.getvalue()


def test_a_finished_run_is_a_row_of_what_it_was_and_how_it_ended(tmp_path: Path) -> None:
    row = overview(make(tmp_path / "a"), "a")
    assert row.cells == ("a", "sft", "finished, 3 steps", "loss 0.3333", "75 s", "tiny", "2026-01-02")


def test_a_stopped_run_says_at_which_step_and_sums_its_steps_time(tmp_path: Path) -> None:
    row = overview(make(tmp_path / "a", steps=2, finished=False), "a")
    assert (row.state, row.figures, row.duration) == ("stopped at step 2 of 3", "loss 0.5", "2 min")


def test_runs_stand_in_the_order_in_which_they_began(tmp_path: Path) -> None:
    make(tmp_path / "a", began="2026-03-01")
    make(tmp_path / "b", began="2026-01-01")
    page = shown(tmp_path)
    assert page.index(" b ") < page.index(" a ")


def test_a_run_whose_lock_is_held_is_running_and_killed_is_not(tmp_path: Path) -> None:
    path = make(tmp_path / "a", steps=1, finished=False)

    def hold() -> None:
        Run.create(path, resume=True)
        time.sleep(60)

    child = fork(hold)
    try:
        deadline = time.monotonic() + 20
        while not is_running(path) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert overview(path, "a").state == "running, step 1 of 3"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert overview(path, "a").state == "stopped at step 1 of 3"


@pytest.mark.parametrize(
    ("file", "content", "why"),
    [
        ("manifest.json", "{", "is not JSON"),
        ("manifest.json", "[]", "expected a JSON object"),
        ("manifest.json", '{"base": 3}', "not as proxtune writes them"),
        ("manifest.json", '{"seconds": "long"}', "not as proxtune writes them"),
        ("metrics.jsonl", "nonsense\n", "metrics.jsonl:1"),
        ("metrics.jsonl", '{"step": 1, "time/step": "x"}\n', "not as proxtune writes them"),
        ("config.yaml", None, "is not a run folder"),
    ],
)
def test_a_broken_folder_is_a_row_that_says_why(file: str, content: str | None, why: str, tmp_path: Path) -> None:
    make(tmp_path / "good")
    bad = make(tmp_path / "bad", finished=False)
    if content is None:
        (bad / "config.yaml").unlink()
        (bad / "manifest.json").unlink()
    else:
        (bad / file).write_text(content)
    row = overview(bad, "bad")
    assert row.state == "unreadable"
    assert why.lower() in row.figures.lower()
    assert "finished, 3 steps" in shown(tmp_path)


def test_an_old_run_without_a_manifest_is_stopped(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.yaml").write_text("name: old\n")
    assert overview(tmp_path / "old", "old").state == "stopped"


def test_runs_in_a_run_are_listed_and_other_folders_are_not(tmp_path: Path) -> None:
    make(tmp_path / "demo" / "sft")
    (tmp_path / "demo" / "config.yaml").write_text("seed: 1\n")
    (tmp_path / "notes").mkdir()
    page = shown(tmp_path)
    assert "demo/sft" in page
    assert "notes" not in page


def test_no_run_and_no_folder_are_said_so(tmp_path: Path) -> None:
    assert "no run in" in shown(tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        shown(tmp_path / "runs")


def test_what_differs_and_how_it_ended_stand_side_by_side(tmp_path: Path) -> None:
    paths = [make(tmp_path / "a"), make(tmp_path / "b", rate=0.2, steps=2)]
    page = io.StringIO()
    out = compare(paths, terminal(file=page, width=100))
    text = page.getvalue()
    assert out == tmp_path / "compare.html"
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    assert ["optim.learning_rate", "0.1", "0.2"] in rows
    assert ["loss", "0.3333", "0.5"] in rows
    assert not any(row[0] in ("name", "command") for row in rows)


def test_the_page_has_one_chart_a_figure_with_a_curve_a_run_and_loads_nothing(tmp_path: Path) -> None:
    paths = [make(tmp_path / "a"), make(tmp_path / "<b>", rate=0.2)]
    html = compare(paths, Console(quiet=True), html=tmp_path / "deep" / "out.html").read_text(encoding="utf-8")
    assert html.count("<svg") == 2  # loss, time/step
    assert html.count('class="line stroke-0" d="M52') + html.count('class="line stroke-1" d="M52') >= 2
    assert "<b>" not in html
    assert "&lt;b&gt;" in html
    assert "<script" not in html
    assert "http" not in html


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    paths = [make(tmp_path / "x" / "a"), make(tmp_path / "y" / "a")]
    html = compare(paths, Console(quiet=True)).read_text(encoding="utf-8")
    assert f"{tmp_path}/x/a" in html


@pytest.mark.parametrize("count", [0, 1])
def test_one_run_has_nothing_to_be_compared_with(count: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two runs or more"):
        compare([make(tmp_path / "a")][:count], Console(quiet=True))


def test_a_misspelt_run_is_named_with_its_neighbour(tmp_path: Path) -> None:
    make(tmp_path / "helpful")
    with pytest.raises(ConfigError, match="did you mean"):
        compare([tmp_path / "helpfull", tmp_path / "helpful"], Console(quiet=True))


def test_figures_that_are_not_numbers_leave_a_gap(tmp_path: Path) -> None:
    path = make(tmp_path / "a")
    with path.joinpath("metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 4, "loss": float("nan")}) + "\n")
    assert overview(path, "a").figures == "loss nan"
    compare([path, make(tmp_path / "b")], Console(quiet=True))
