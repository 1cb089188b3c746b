"""`proxtune tune`: the better value is found, trials that are behind end early, and no kill loses or adds a trial."""

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from proxtune import config as configs
from proxtune.cli import app
from proxtune.errors import ConfigError, ModelError
from proxtune.runs import Run, is_running
from proxtune.training.stop import Stopped
from proxtune.workflows.evaluate import evaluate_run
from proxtune.workflows.schemas import SFTRun
from proxtune.workflows.terminal import terminal
from proxtune.workflows.tune import behind, tune
from proxtune.workflows.tune_page import Ended, best_of, page
from proxtune.workflows.tune_space import SEARCHES, Parameter, SearchConfig, direction_of, metric_of, with_values
from proxtune.workflows.tune_study import Study
from proxtune.workflows.tune_worker import Functions, value_of
from tests.runs_tiny.lives import write_data

pytestmark = pytest.mark.slow  # together they take longer than `make check` has

RATE = "optim.learning_rate"
TWO_RATES: dict[str, Any] = {RATE: {"choices": [1e-6, 1e-2]}}


def written(folder: Path, command: str = "sft", *, space: dict[str, Any] | None = None, **search: Any) -> Path:
    """The file of a search over runs of a second, with its data."""
    write_data(folder)
    batch: dict[str, Any] = {"batch_size": 8}
    own: dict[str, Any] = {
        "sft": {"sft": batch},
        "reward": {"reward_model": batch},
        "ppo": {"ppo": batch | {"minibatch_size": 4}, "rollout": {"max_new_tokens": 4}},
    }
    config = {
        "name": "search",
        "runs": str(folder),
        "model": {
            "name": "scratch:transformer",
            "scratch": {"vocab_size": 300, "layers": 1, "hidden": 16, "heads": 2, "context": 64},
        },
        "tuning": {"kind": "full"},
        "data": {"train": str(folder / f"{command}.jsonl"), "eval_fraction": 0.1},
        "training": {"steps": 8, "save_every": 2, "eval_every": 2},
        "search": {"space": space or TWO_RATES, "sampler": "random", **search},
    }
    path = folder / "search.yaml"
    path.write_text(yaml.safe_dump(config | own[command], sort_keys=False))
    return path


def loaded(path: Path, *overrides: str, command: str = "sft") -> Any:
    return configs.load(SEARCHES[command], [path], overrides)


def searched(config: Any, **options: Any) -> str:
    """What is said in a search."""
    console = terminal(file=io.StringIO(), width=160, record=True)
    tune(config, console=console, **options)
    return console.export_text()


def trials(folder: Path) -> list[Any]:
    """All trials in a search's folder, by Optuna itself."""
    import optuna

    return optuna.load_study(study_name="tune", storage=f"sqlite:///{folder / 'tune.db'}").trials


def states(folder: Path) -> list[str]:
    return [trial.state.name for trial in trials(folder)]


# -- the space


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"optim.learning_rte": {"low": 1, "high": 2}}, "unknown key optim.learning_rte; did you mean optim.learning_"),
        ({"sft.batch_size": {"low": 0, "high": 8}}, "sft.batch_size=0: must be > 0"),
        ({"sft.batch_size": {"low": 1.5, "high": 8}}, "sft.batch_size=1.5: expected an integer"),
        ({"sft.batch_size": {"low": 2, "high": 8, "step": 0.5}}, "sft.batch_size=2.5: expected an integer"),
        ({"sft.batch_size": {"low": 8, "high": 2}}, "low=8 is not below high=2; exchange them"),
        ({"tuning.kind": {"choices": ["full", "lorra"]}}, 'tuning.kind="lorra": expected'),
        ({"tuning": {"choices": [1]}}, "expected a section of keys"),
        ({"name": {"choices": ["a"]}}, "is set by the search"),
        ({RATE: {"low": 0, "high": 1, "log": True}}, "low=0 has no logarithm"),
        ({RATE: {"low": 1e-5, "high": 1, "log": True, "step": 1e-5}}, "leave out step, or log"),
        ({RATE: {"low": 1e-5, "high": 1e-3, "step": 1}}, "leaves one value to try"),
        ({RATE: {"low": 1e-5}}, "expected low and high, or choices"),
        ({RATE: {"low": 1e-5, "choices": [1e-5]}}, "choices stand alone"),
        ({RATE: {"lowest": 1e-5}}, "did you mean search.space.optim.learning_rate.low?"),
    ],
)
def test_a_bad_space_is_refused_with_its_key_and_its_line(space: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        loaded(written(tmp_path, space=space))
    assert message in str(refused.value)
    assert re.search(r"search\.yaml:\d+: ", str(refused.value))


def test_a_value_that_fits_the_other_values_of_the_space_is_not_refused(tmp_path: Path) -> None:
    space = {"ppo.batch_size": {"choices": [32, 64]}, "ppo.minibatch_size": {"choices": [16, 32]}}
    loaded(written(tmp_path, "ppo", space=space), command="ppo")  # 16 and 32 are more than the config's own batch of 8


def test_what_is_measured_on_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing is held out; set data"):
        loaded(written(tmp_path), "data.eval_fraction=0")


@pytest.mark.parametrize(
    ("command", "overrides", "metric", "direction"),
    [
        ("sft", [], "eval/loss", "minimize"),
        ("sft", ["task.kind=tagging"], "eval/f1", "maximize"),
        ("sft", ["task.answers=translation"], "eval/chrf", "maximize"),
        ("sft", ["training.best_by=eval/accuracy"], "eval/accuracy", "maximize"),
        ("sft", ["training.best_by=eval/accuracy", "search.metric=eval/rmse"], "eval/rmse", "minimize"),
        ("sft", ["search.direction=maximize"], "eval/loss", "maximize"),
        ("reward", [], "eval/loss", "minimize"),
        ("ppo", [], "eval/score", "maximize"),
    ],
)
def test_metric_and_direction_are_those_of_the_run_unless_they_are_given(
    command: str, overrides: list[str], metric: str, direction: str, tmp_path: Path
) -> None:
    config = loaded(written(tmp_path, command), *overrides, command=command)
    assert (metric_of(config), direction_of(config)) == (metric, direction)


def test_the_base_is_the_config_without_its_search_and_takes_values_by_dotted_key(tmp_path: Path) -> None:
    base = loaded(written(tmp_path)).base
    assert type(base) is SFTRun
    values = {
        "sft.batch_size": 4,
        "training.best_by": None,
        "data.columns": {"a": "b.c"},
        "data.train": "\U0001f600.csv",
    }
    changed = with_values(base, values)
    assert (changed.sft.batch_size, changed.training.best_by) == (4, None)
    assert with_values(changed, {}).data.train == Path("\U0001f600.csv")
    assert with_values(base, {}) == base


# -- what is tried


def study(path: Path, **search: Any) -> Study:
    space = {
        "rate": Parameter(low=1e-5, high=1e-1, log=True),
        "size": Parameter(low=8, high=32, step=8),
        "kind": Parameter(choices=["a", None, True, 3]),
    }
    return Study(path / "tune.db", SearchConfig(space=space, **search), "minimize", ["size"])


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_values_lie_in_the_space_and_do_not_depend_on_interruptions(sampler: str, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = study(tmp_path / "whole", sampler=sampler)
    for number in range(14):
        for one in (whole, study(tmp_path / "parts", sampler=sampler)):  # which is opened anew each time
            values = one.begin().values
            assert 1e-5 <= values["rate"] <= 1e-1
            assert values["size"] in (8, 16, 24, 32)
            assert type(values["size"]) is int
            assert values["kind"] in ("a", None, True, 3)
            one.finish(number, values["rate"])
    assert whole.trials() == study(tmp_path / "parts", sampler=sampler).trials()
    assert len({trial.values["rate"] for trial in whole.trials()}) == 14  # no draw comes twice


@pytest.mark.slow
def test_another_seed_tries_other_values(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    assert study(tmp_path / "1", seed=1).begin().values != study(tmp_path / "2", seed=2).begin().values


# -- who is behind


def test_behind_is_whose_best_is_worse_than_the_median_of_four_at_the_same_step() -> None:
    others = [{20: 0.5, 40: value} for value in (0.70, 0.76, 0.80, 0.90)]  # the median at 40: (0.76 + 0.80) / 2
    why = "0.71 at step 40, the median of 4 trials there was 0.78"
    assert behind({20: 0.6, 40: 0.71}, others, "maximize") == why
    assert behind({20: 0.6, 40: 0.71}, others, "minimize") is None
    assert behind({20: 0.79, 40: 0.71}, others, "maximize") is None  # its best was better
    assert behind({20: 0.6, 40: 0.78}, others, "maximize") is None  # equal is not worse
    assert behind({20: 0.6, 40: 0.71}, others[:3], "maximize") is None  # too few
    assert behind({20: 0.6, 30: 0.1}, others, "maximize") is None  # nobody was measured there


FIGURES = st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=9)


@given(FIGURES, st.floats(-1e6, 1e6))
def test_maximising_is_minimising_of_the_negative(values: list[float], own: float) -> None:
    up = behind({1: own}, [{1: value} for value in values], "maximize")
    down = behind({1: -own}, [{1: -value} for value in values], "minimize")
    assert (up is None) == (down is None)


@given(FIGURES)
def test_never_more_than_half_of_equals_are_behind(values: list[float]) -> None:
    others = [{1: value} for value in values]
    assert 2 * sum(behind(own, others, "minimize") is not None for own in others) <= len(values)


# -- the value of a run


def run_of(path: Path, values: dict[int, float], **manifest: Any) -> Run:
    with Run.create(path, resume=False) as run:
        run.write_config("{}\n")
        run.write_manifest(manifest)
        for step, value in values.items():
            run.log(step, {"loss": 1.0, "eval/f1": value})
    return run


def test_the_value_is_that_of_the_model_that_was_kept(tmp_path: Path) -> None:
    values = {2: 0.4, 4: 0.9, 6: 0.7}
    assert value_of(run_of(tmp_path / "last", values), "eval/f1") == (0.7, "")
    best = {"figure": "eval/f1", "step": 4, "value": 0.9, "since": 1}
    assert value_of(run_of(tmp_path / "best", values, best=best), "eval/f1") == (0.9, "")


def test_no_value_says_why(tmp_path: Path) -> None:
    assert value_of(run_of(tmp_path / "a", {2: float("nan")}), "eval/f1") == (None, "eval/f1 is nan at step 2")
    missing, why = value_of(run_of(tmp_path / "b", {2: 0.5}), "eval/acuracy")
    assert missing is None
    assert why == "the run logged no eval/acuracy; set search.metric to one of eval/f1"


# -- the page


def ended(number: int, value: float | None, state: str = "finished", why: str = "", **values: Any) -> Ended:
    return Ended(number, {RATE: 10.0**-number, "tuning.kind": "<b>", **values}, value, state, why, 60.0)


def test_the_page_tells_all_and_loads_nothing() -> None:
    rows = [ended(1, 0.5), ended(2, 0.25), ended(3, None, "pruned", "0.71 at <step> 40"), ended(4, 0.25)]
    html = page("<s>", "eval/loss", "minimize", rows, {RATE: 0.75, "tuning.kind": 0.25})
    assert "trial 2 is the best with 0.25. 4 trials, 3 finished, 1 pruned, 0 failed." in html
    assert html.count("<svg") == 3  # values over trials, importance, parallel coordinates
    assert "0.71 at &lt;step&gt; 40" in html
    assert "<b>" not in html
    assert "<s>" not in html
    assert "<script" not in html
    assert not re.search(r"https?:|url\(|@import|src=|href=", html)


def test_importance_that_is_not_known_is_left_out_with_a_sentence() -> None:
    html = page("s", "eval/loss", "minimize", [ended(1, 0.5)], {})
    assert "Importance is left out: it needs four finished trials" in html
    assert html.count("<svg") == 2


def test_a_page_without_any_value_is_a_page() -> None:
    assert "no trial has a value" in page("s", "eval/loss", "minimize", [ended(1, None, "failed", "killed")], {})


def test_of_equal_values_the_first_is_the_best() -> None:
    rows = [ended(0, 0.5), ended(1, 0.25), ended(2, 0.25), ended(3, None)]
    best, worst = best_of(rows, "minimize"), best_of(rows, "maximize")
    assert best is rows[1]
    assert worst is rows[0]
    assert best_of(rows[3:], "minimize") is None


# -- searches


@pytest.mark.slow
def test_the_better_of_two_rates_is_found_and_best_yaml_is_its_config(tmp_path: Path) -> None:
    """Seed 1 draws both rates in four trials."""
    said = searched(loaded(written(tmp_path, trials=4, pruner="none")))
    folder = tmp_path / "search"
    assert states(folder) == ["COMPLETE"] * 4
    assert {trial.params[RATE] for trial in trials(folder)} == {1e-6, 1e-2}
    for trial in trials(folder):
        run = Run.open(folder / f"trial-{trial.number:04}")
        assert trial.value == run.manifest()["best"]["value"]
        assert trial.intermediate_values == {
            row["step"]: row["eval/loss"] for row in run.metrics() if row["step"] % 2 == 0
        }
    best = configs.load(SFTRun, [folder / "best.yaml"])
    assert (best.optim.learning_rate, best.name, best.runs) == (1e-2, "search-best", tmp_path)
    assert with_values(best, {RATE: 1e-6, "name": "search"}) == with_values(
        loaded(tmp_path / "search.yaml").base, {RATE: 1e-6}
    )
    assert "left" in said
    assert re.search(r"│?\s*0\s+.*finished", said)
    html = (folder / "tune.html").read_text(encoding="utf-8")
    assert html.count("<svg") == 3
    assert not re.search(r"https?:|url\(|@import|src=|href=", html)


@pytest.mark.slow
def test_a_trial_that_is_behind_is_pruned_with_its_reason(tmp_path: Path) -> None:
    """Four trials are in the storage with the loss 1 at step 4; a new model's is about log 300 = 5.7."""
    config = loaded(written(tmp_path, trials=5), "training.steps=2000", "training.save_every=0")
    folder = tmp_path / "search"
    folder.mkdir()
    (folder / "config.yaml").write_text(configs.dump(config))
    before = Study(folder / "tune.db", config.search, "minimize", [])
    for number in range(4):
        before.begin()
        before.report(number, 4, 1.0)
        before.finish(number, 1.0)
    said = searched(config, resume=True)
    assert states(folder) == ["COMPLETE"] * 4 + ["PRUNED"]
    why = trials(folder)[4].user_attrs["pruned"]
    assert re.fullmatch(r"5\.\d+ at step 4, the median of 4 trials there was 1", why)
    assert f"trial 4 pruned: {why}" in said
    assert why in (folder / "tune.html").read_text(encoding="utf-8")
    run = Run.open(folder / "trial-0004")
    assert run.metrics()[-1]["step"] < 2000
    assert [path.name for path in run.checkpoints.iterdir()]  # it could go on


@pytest.mark.slow
def test_two_workers_end_with_exactly_the_trials(tmp_path: Path) -> None:
    searched(loaded(written(tmp_path, trials=5, workers=2, pruner="none")))
    assert states(tmp_path / "search") == ["COMPLETE"] * 5
    spans = [(trial.datetime_start, trial.datetime_complete) for trial in trials(tmp_path / "search")]
    assert spans[1][0] < spans[0][1]  # the second began before the first ended


@pytest.mark.slow
def test_trials_that_fail_are_told_and_the_search_goes_on(tmp_path: Path) -> None:
    """4 does not divide 9, nor 3 8, which no process is begun for; a length of 65 is more than the model's 64."""
    space = {
        "sft.batch_size": {"choices": [8, 9]},
        "sft.microbatch_size": {"choices": [4, 3]},
        "data.max_length": {"choices": [64, 65]},
    }
    said = searched(loaded(written(tmp_path, space=space, trials=10)))
    folder = tmp_path / "search"
    for trial in trials(folder):
        batch, micro, length = (trial.params[key] for key in space)
        why = trial.user_attrs.get("failed", "")
        divides, fits = batch % micro == 0, length == 64
        assert trial.state.name == ("COMPLETE" if divides and fits else "FAIL")
        assert ("set a divisor" in why) == (not divides)
        assert ("ConfigError: data.max_length is 65" in why) == (divides and not fits)
        assert (folder / f"trial-{trial.number:04}.log").exists() == divides
    assert {"COMPLETE", "FAIL"} == set(states(folder))
    assert said.count(" failed: ") == states(folder).count("FAIL")


@pytest.mark.slow
def test_a_search_without_any_value_says_why_and_leaves_its_page(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none of 1 trials .* logged no eval/f2; set search.metric to one of eval/"):
        searched(loaded(written(tmp_path, trials=1, metric="eval/f2")))
    assert (tmp_path / "search" / "tune.html").exists()


def worker_of(folder: Path) -> int:
    """Waits for the process that holds a run's folder, in which a step is logged."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        held = re.search(r"pid (\d+)", (folder / ".lock").read_text()) if is_running(folder) else None
        if held and Run(folder).metrics():
            return int(held[1])
        time.sleep(0.01)
    raise AssertionError(f"{folder.name} did not begin")


def killed(folder: Path, trial: int, kill: Callable[[int], None]) -> None:
    """Go on with the search in a process, and `kill` that one while the trial trains."""
    command = [sys.executable, "-m", "proxtune", "tune", str(folder / "search.yaml"), "--resume"]
    search = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        worker_of(folder / "search" / f"trial-{trial:04}")
        kill(search.pid)
    finally:
        search.kill()
        search.wait()


@contextmanager
def meanwhile(body: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=body)
    thread.start()
    yield
    thread.join()


@pytest.mark.slow
def test_a_search_killed_in_four_ways_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
        space = {RATE: {"low": 1e-5, "high": 1e-2, "log": True}}
        path = written(tmp_path / name, trials=5, pruner="none", space=space)
        path.write_text(path.read_text().replace("steps: 8", "steps: 60"))
    searched(loaded(tmp_path / "whole" / "search.yaml"))
    config, folder = loaded(path), tmp_path / "parts" / "search"

    killed(tmp_path / "parts", 1, lambda search: os.killpg(search, signal.SIGKILL))  # everything, at once
    assert states(folder) == ["COMPLETE", "RUNNING"]
    first = trials(folder)[0]

    killed(tmp_path / "parts", 1, lambda search: os.kill(search, signal.SIGKILL))  # the parent alone
    deadline = time.monotonic() + 60
    while is_running(folder / "trial-0001"):
        assert time.monotonic() < deadline, "the worker outlived its parent"
        time.sleep(0.01)

    def stop() -> None:
        worker_of(folder / "trial-0002")
        os.kill(os.getpid(), signal.SIGTERM)

    with meanwhile(stop), pytest.raises(Stopped) as stopped:
        searched(config, resume=True)
    assert stopped.value.__notes__ == ["stopped after 2 of 5 trials; those that ran are saved"]
    assert not is_running(folder / "trial-0002")

    with meanwhile(lambda: os.kill(worker_of(folder / "trial-0003"), signal.SIGKILL)):  # one trial, which failed then
        searched(config, resume=True)
    assert states(folder) == ["COMPLETE", "COMPLETE", "COMPLETE", "FAIL", "COMPLETE"]
    assert trials(folder)[0] == first
    assert trials(folder)[3].user_attrs["failed"].startswith("killed by SIGKILL")
    for one, other in zip(trials(folder)[:3], trials(tmp_path / "whole" / "search"), strict=False):
        assert (one.params, one.value) == (other.params, other.value)
        assert one.intermediate_values == other.intermediate_values


@pytest.mark.slow
def test_a_finished_search_is_left_alone_and_may_be_given_more_trials(tmp_path: Path) -> None:
    path = written(tmp_path, trials=1)
    searched(loaded(path))
    with pytest.raises(ConfigError, match="is of proxtune tune, expected a run of sft, reward, ppo"):
        evaluate_run(tmp_path / "search")
    with pytest.raises(ConfigError, match="add `--resume`"):
        searched(loaded(path))
    with pytest.raises(ConfigError, match=r"another config:\n  search:    learning_rate"):
        searched(loaded(path, "optim.learning_rate=0.5"), resume=True)
    first = trials(tmp_path / "search")
    searched(loaded(path), resume=True)
    assert trials(tmp_path / "search") == first
    searched(loaded(path, "search.trials=2"), resume=True)
    assert trials(tmp_path / "search")[0] == first[0]
    assert len(states(tmp_path / "search")) == 2


@pytest.mark.slow
def test_ppo_is_searched_with_the_reward_and_the_judge_of_the_command_line(tmp_path: Path) -> None:
    body = "(prompts, responses):\n    return [-len(response) for response in responses]\n"
    (tmp_path / "mine.py").write_text(f"def brevity{body}def verdict{body}")
    functions = Functions([f"{tmp_path / 'mine.py'}:brevity"], [f"{tmp_path / 'mine.py'}:verdict"])
    config = loaded(written(tmp_path, "ppo", trials=1, metric="judge/verdict"), command="ppo")
    searched(config, functions=functions)
    assert states(tmp_path / "search") == ["COMPLETE"]


# -- the command


@pytest.mark.slow
def test_the_command_needs_optuna_and_says_how_to_get_it() -> None:
    code = "import sys; sys.modules['optuna'] = None; import proxtune.workflows.tune"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ConfigError: a search needs optuna, which is not installed" in done.stderr
    assert 'pip install "proxtune[tune]"' in done.stderr


def test_help_has_an_example() -> None:
    done = CliRunner().invoke(app, ["tune", "--help"])
    assert done.exit_code == 0
    assert "optim.learning_rate: {low: 1e-5, high: 1e-3, log: true}" in done.output


def test_rewards_are_refused_where_none_is(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["tune", str(written(tmp_path)), "--reward", "a.py:b"])
    assert isinstance(done.exception, ConfigError)
    assert "are of ppo, and this is sft" in str(done.exception)
