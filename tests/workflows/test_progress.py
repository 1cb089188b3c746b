"""What a person sees while a run trains: the bar, the figures, and each finding once, with its step."""

import io
from pathlib import Path

from proxtune.runs import Run
from proxtune.training.metrics import Metrics
from proxtune.workflows.progress import Progress
from proxtune.workflows.terminal import terminal

OPTIONS = {"ppo": {"truncation": "penalty", "kl_coef": 0.05}}
COLLAPSE: list[Metrics] = [{"score/mean": 0.5, "entropy": 2.0}] * 10 + [{"score/mean": 0.5, "entropy": 0.1}] * 10


def seen(path: Path, figures: list[Metrics], *, interactive: bool = False, before: int = 0) -> str:
    """What is shown of a run; a first process has logged `before` steps of it."""
    console = terminal(file=io.StringIO(), width=100, force_terminal=interactive, record=True)
    with Run.create(path, resume=True) as run:
        run.write_config("{}\n")
        with Progress("ppo", len(figures), console, run, OPTIONS) as progress:
            for step, metrics in enumerate(figures, start=1):
                run.log(step, metrics)
                if step > before:
                    progress(step, metrics)
        if interactive:
            console.print(progress.show())
    return console.export_text()


def test_without_a_terminal_a_finding_is_one_line_with_its_step_and_another_with_advice(tmp_path: Path) -> None:
    shown = seen(tmp_path, COLLAPSE).splitlines()
    assert shown[0] == "sick   step 13  entropy collapse: the entropy fell from 2 to 0.1 nats a token"
    assert shown[1].strip().startswith("try: raise ppo.kl_coef (now 0.05) to 0.1, set ppo.entropy_coef=0.01")
    assert shown[2].startswith("ppo 20/20  ")
    assert shown[3:] == ["health  entropy collapse (sick, step 13)"]


def test_a_healthy_run_ends_with_one_line_that_says_so(tmp_path: Path) -> None:
    *_, last = seen(tmp_path, COLLAPSE[:10]).splitlines()
    assert last == "health  nothing found in 10 steps"


def test_on_a_terminal_the_panel_stands_below_the_bar(tmp_path: Path) -> None:
    last_frame = seen(tmp_path, COLLAPSE, interactive=True).rpartition("ppo ━")[2]
    assert "20/20" in last_frame
    assert "score 0.5  entropy 0.1" in last_frame
    assert "─ health ─" in last_frame
    assert "sick  step 13  entropy collapse: the entropy fell from 2 to 0.1 nats a token" in last_frame


def test_a_resumed_run_is_judged_by_all_its_steps(tmp_path: Path) -> None:
    assert "entropy collapse (sick, step 13)" in seen(tmp_path, COLLAPSE, before=12)


def test_what_was_found_is_told_where_the_run_breaks(tmp_path: Path) -> None:
    console = terminal(file=io.StringIO(), width=100, record=True)
    with Run.create(tmp_path, resume=False) as run:
        try:
            with Progress("ppo", 5, console, run, {}) as progress:
                run.log(1, {"loss": float("nan")})
                progress(1, {"loss": float("nan")})
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass
    assert "health  loss not finite (sick, step 1)" in console.export_text()
