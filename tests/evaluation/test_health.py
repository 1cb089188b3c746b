"""What is wrong with a run is said, with its number; what is right, short or merely noisy is passed over in silence."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from proxtune.config import key_table
from proxtune.evaluation.health import CHECKS, Health, diagnose, fill_in
from proxtune.evaluation.report import METRICS
from proxtune.runs import Row, Run
from proxtune.workflows.schemas import PPORun, RewardRun, SFTRun

ROOT = Path(__file__).parents[2]
CURVES = ROOT / "results" / "road" / "curves"


def rows(columns: Mapping[str, Sequence[float]]) -> list[Row]:
    """One row a step; a figure of NaN is left out of its row, as one that is not logged at every step."""
    steps = max(map(len, columns.values()))
    return [
        {"step": place + 1} | {name: x[place] for name, x in columns.items() if not math.isnan(x[place])}
        for place in range(steps)
    ]


def line(start: float, end: float, steps: int) -> list[float]:
    return [start + (end - start) * place / (steps - 1) for place in range(steps)]


def sparse(values: Iterable[float], every: int) -> list[float]:
    """An evaluation every so many steps."""
    return [x for value in values for x in [*[math.nan] * (every - 1), value]]


def levels(found: Sequence[Row], options: Mapping[str, Any] | None = None) -> dict[str, str]:
    return {finding.name: finding.level for finding in diagnose(found, options or {})}


def kl_run(kl: float, gain: float, *, length: float = 24.0, steps: int = 20) -> list[Row]:
    return rows(
        {
            "kl/sequence": line(0, kl, steps)[:-5] + [kl] * 5,
            "kl/coef": [0.05] * steps,
            "score/mean": line(0, gain, steps)[:-5] + [gain] * 5,
            "length/mean": [length] * steps,
        }
    )


def critic_run(explained: float, loss: float, steps: int, std: float = 1.0) -> list[Row]:
    return rows(
        {
            "value/explained_variance": [explained] * steps,
            "value/loss": [1.0] * 3 + [loss] * (steps - 3),
            "score/std": [std] * steps,
            "score/mean": [0.5] * steps,
        }
    )


def hacked(scores: Sequence[float], verdicts: Sequence[float]) -> list[Row]:
    return rows({"eval/score": sparse(scores, 2), "judge/taste": sparse(verdicts, 2), "entropy": [1.0] * 12})


def lengths_run(length: float, cut: float, score: float) -> list[Row]:
    start = [8.0] * 3
    return rows(
        {
            "length/mean": start + line(8, length, 12) + [length] * 5,
            "length/truncated": [0.0] * 3 + line(0, cut, 12) + [cut] * 5,
            "score/mean": [1.0] * 3 + line(1, score, 12) + [score] * 5,
            "score/std": [1.0] * 20,
        }
    )


def still(clipped: float = 0.0, moved: float = 1e-9, rate: float = 1e-12) -> list[Row]:
    return rows(
        {
            "policy/clip_fraction": [clipped] * 20,
            "policy/approx_kl": [moved] * 20,
            "optim/learning_rate": [1e-12] * 10 + [rate] * 10,
        }
    )


NOISE = [0.2, -0.1, 0.0, 0.1, -0.2, 0.15, -0.05, 0.05, -0.15, 0.0] * 20  # its variance is 0.0155
SAWTOOTH = [4 + x for x in NOISE]
FALLING = [4 - 0.005 * step + x for step, x in enumerate(NOISE)]
LITERAL: list[tuple[str, list[Row], dict[str, Any], str | None]] = [
    ("KL runaway", kl_run(12.0, 0.5), {}, "sick"),  # 12 nats cost 0.6
    ("KL runaway", kl_run(12.0, 0.7), {}, None),
    ("KL runaway", kl_run(12.0, 0.5), {"ppo": {"reward_scale": "running"}}, None),  # other scores than those logged
    ("KL runaway", kl_run(30.0, 5.0), {}, "watch"),  # 1.25 nats a token
    ("KL runaway", kl_run(80.0, 5.0), {}, "sick"),  # 3.3
    ("KL runaway", kl_run(7.0, 5.0, length=2.0), {}, None),  # 3.5, of 7 in all
    ("entropy collapse", rows({"entropy": line(2.0, 0.0, 40)}), {}, "sick"),
    ("entropy collapse", rows({"entropy": [2.0] * 10 + [0.4] * 5}), {}, "watch"),
    ("entropy collapse", rows({"entropy": [2.0] * 10 + [0.6] * 5}), {}, None),
    ("entropy collapse", rows({"entropy": [2.0] * 18 + [0.1] * 2}), {}, None),  # two odd steps
    ("critic does not learn", critic_run(0.0, 1.0, 60), {}, "sick"),
    ("critic does not learn", critic_run(0.0, 1.0, 30), {}, "watch"),
    ("critic does not learn", critic_run(0.1, 1.0, 60), {}, None),
    ("critic does not learn", critic_run(-0.4, 0.5, 60), {}, None),  # its loss fell
    ("critic does not learn", critic_run(0.0, 1.0, 60, std=0.0), {}, None),  # nothing to learn: another finding
    ("reward hacking", hacked([1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1]), {}, "sick"),
    ("reward hacking", hacked([1, 2, 3, 4, 5, 6], [6, 4, 5, 3, 2, 1]), {}, "sick"),  # 14 of 15 pairs fall
    ("reward hacking", hacked([1, 2, 3, 4, 5, 6], [5, 6, 4, 3, 1, 2]), {}, "watch"),  # 13
    ("reward hacking", hacked([1, 2, 3, 4, 5, 6], [4, 6, 5, 3, 1, 2]), {}, None),  # 12
    ("reward hacking", hacked([3, 2, 3, 3, 2, 3], [6, 5, 4, 3, 2, 1]), {}, None),  # the score does not rise
    ("reward hacking", hacked([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]), {}, None),
    ("length exploitation", lengths_run(24, 1.0, 4.0), {}, "sick"),
    ("length exploitation", lengths_run(1, 0.0, 4.0), {}, "sick"),
    ("length exploitation", lengths_run(16, 0.3, 4.0), {}, "watch"),
    ("length exploitation", lengths_run(10, 0.0, 4.0), {}, None),
    ("length exploitation", lengths_run(24, 1.0, 1.2), {}, None),  # the score hardly rose
    ("equal rewards", rows({"score/std": [0.0] * 5, "score/mean": [1.0] * 5}), {}, "sick"),
    ("equal rewards", rows({"score/std": [1e-7] * 5, "score/mean": [1.0] * 5}), {}, "sick"),
    ("equal rewards", rows({"score/std": [1e-6] * 5, "score/mean": [1e-6] * 5}), {}, None),  # small, not equal
    ("equal rewards", rows({"score/std": [0.5] * 5 + [0.0] * 5, "score/mean": [1.0] * 10}), {}, "watch"),
    ("clipping too much", rows({"policy/clip_fraction": [0.6] * 10}), {}, "sick"),
    ("clipping too much", rows({"policy/clip_fraction": [0.4] * 10}), {}, "watch"),
    ("clipping too much", rows({"policy/clip_fraction": [0.2] * 8 + [0.9] * 2}), {}, None),
    ("policy does not move", still(), {}, "sick"),
    ("policy does not move", still(clipped=0.001), {}, None),
    ("policy does not move", still(moved=1e-4), {}, None),  # small steps are steps
    ("policy does not move", still(rate=0.0), {}, None),  # the end of a schedule
    ("policy does not move", still(), {"critic": {"warmup_steps": 15}}, None),  # the critic's steps alone
    ("answers never end", rows({"length/truncated": [1.0] * 10}), {}, "watch"),
    ("answers never end", rows({"length/truncated": [1.0] * 10}), {"ppo": {"truncation": "penalty"}}, "sick"),
    ("answers never end", rows({"length/truncated": [0.1] * 10 + [1.0] * 5}), {}, "sick"),
    ("answers never end", rows({"length/truncated": [0.9] * 10}), {}, None),
    ("failed rewards", rows({"score/failed": [0.0] * 5 + [0.125]}), {}, "watch"),
    ("failed rewards", rows({"score/failed": [0.5] * 3}), {}, "sick"),
    ("failed rewards", rows({"score/failed": [0.5] + [0.0] * 5}), {}, None),
    ("skipped updates", rows({"gradient/skipped": [0.0] * 9 + [0.25]}), {}, "watch"),
    ("skipped updates", rows({"gradient/skipped": [1.0, 1.0]}), {}, "sick"),
    ("skipped updates", rows({"gradient/skipped": [1.0] + [0.0] * 10}), {}, None),
    ("loss not finite", [{"step": 1, "loss": math.nan}], {}, "sick"),
    ("loss not finite", [{"step": 1, "policy/loss": 0.1, "value/loss": math.inf}], {}, "sick"),
    ("loss not finite", [{"step": 1, "loss": math.nan}, {"step": 2, "loss": 1.0}], {}, None),
    ("loss does not fall", rows({"loss": SAWTOOTH[:45]}), {}, "watch"),
    ("loss does not fall", rows({"loss": SAWTOOTH[:150]}), {}, "sick"),
    ("loss does not fall", rows({"loss": [0.7] * 45}), {}, "watch"),
    ("loss does not fall", rows({"loss": FALLING[:45]}), {}, None),  # by 0.15, of a noise of 0.13
    ("loss does not fall", rows({"loss": [4 + 0.01 * step + x for step, x in enumerate(NOISE[:45])]}), {}, "sick"),
    ("overfitting", rows({"loss": line(3, 1, 40), "eval/loss": sparse([2, 1.5, 1.7, 1.9], 10)}), {}, "sick"),
    ("overfitting", rows({"loss": line(3, 1, 40), "eval/loss": sparse([2, 1.5, 1.6, 1.6], 10)}), {}, "watch"),
    ("overfitting", rows({"loss": line(3, 1, 40), "eval/loss": sparse([2, 1.5, 1.5, 1.9], 10)}), {}, None),  # once
    ("overfitting", rows({"loss": [1.0] * 40, "eval/loss": sparse([2, 1.5, 1.7, 1.9], 10)}), {}, None),
    ("accuracy at chance", rows({"accuracy": [0.4, 0.6] * 30}), {}, "sick"),
    ("accuracy at chance", rows({"accuracy": [0.5] * 20 + [0.6] * 40}), {}, None),
    ("learnt by heart", rows({"accuracy": [1.0] * 20, "eval/accuracy": sparse([0.5, 0.5], 10)}), {}, "sick"),
    ("learnt by heart", rows({"accuracy": [1.0] * 20, "eval/accuracy": sparse([0.5, 0.75], 10)}), {}, None),
]


@pytest.mark.parametrize(
    ("name", "series", "options", "level"), LITERAL, ids=[f"{name}-{i}" for i, (name, *_) in enumerate(LITERAL)]
)
def test_a_finding_comes_at_its_threshold_and_not_before(
    name: str, series: list[Row], options: dict[str, Any], level: str | None
) -> None:
    assert levels(series, options).get(name) == level


def test_every_finding_is_proved_both_ways() -> None:
    fired = {name for name, *_, level in LITERAL if level}
    silent = {name for name, *_, level in LITERAL if level is None}
    assert fired == silent == {check.name for check in CHECKS}


@pytest.mark.parametrize("check", [check for check in CHECKS if check.steps > 1], ids=lambda check: check.name)
def test_nothing_is_said_of_a_short_run(check: Any) -> None:
    series = next(series for name, series, _, level in LITERAL if name == check.name and level)
    assert check.name not in levels(series[: check.steps - 1])


def test_a_run_without_figures_and_one_of_nan_are_no_errors() -> None:
    names = {name for _, series, _, _ in LITERAL for row in series for name in row if name != "step"}
    nothing: list[Row] = [{"step": step} for step in range(1, 200)]
    nonsense: list[Row] = [{"step": step, **dict.fromkeys(names, math.nan)} for step in range(1, 200)]
    assert levels(nothing) == {}
    assert levels(nonsense) == {"loss not finite": "sick"}


def curves(name: str) -> dict[str, list[list[float]]]:
    lines = (CURVES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["curve"]: row["points"] for row in map(json.loads, lines)}


def test_nothing_is_found_in_the_measured_healthy_runs() -> None:
    """Those of `make demo`, three seeds each; looked at after every step, as a person would."""
    stages: list[list[Row]] = []
    for stage, figure in (("sft", "loss"), ("reward", "accuracy")):
        stages += [[{"step": int(step), figure: x} for step, x in points] for points in curves(stage).values()]
    for seed, points in curves("ppo").items():
        pairs = zip(points, curves("ppo_kl")[seed], strict=True)
        stages.append(
            [
                {"step": int(step), "score/mean": score, "kl/sequence": kl, "kl/coef": 0.05, "length/mean": 24.0}
                for (step, score), (_, kl) in pairs
            ]
        )
    assert len(stages) == 9
    assert [list(followed(stage).found) for stage in stages] == [[]] * 9


def followed(series: Sequence[Row], options: Mapping[str, Any] | None = None) -> Health:
    health = Health(options or {})
    for row in series:
        health.add(row)
    return health


def test_a_finding_is_told_when_it_comes_and_again_when_it_grows_worse() -> None:
    health = Health({})
    told = {
        row["step"]: [(finding.name, finding.level) for finding in health.add(row)]
        for row in rows({"entropy": [2.0] * 10 + [0.4] * 5 + [0.1] * 5})
    }
    assert {step: new for step, new in told.items() if new} == {
        13: [("entropy collapse", "watch")],
        18: [("entropy collapse", "sick")],
    }
    [finding] = health.findings
    assert (finding.level, finding.step) == ("sick", 18)
    assert finding.what == "the entropy fell from 2 to 0.1 nats a token"
    assert str(health) == "entropy collapse (sick, step 18)"


def test_a_finding_that_is_over_stays_and_is_marked() -> None:
    health = followed(rows({"policy/clip_fraction": [0.4] * 10 + [0.1] * 10}))
    [finding] = health.findings
    assert finding.step == 10
    assert health.passed(finding)


def test_what_an_evaluation_found_is_not_over_because_the_next_step_evaluates_nothing() -> None:
    health = followed([*hacked([1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1]), {"step": 13, "entropy": 1.0}])
    [finding] = health.findings
    assert (finding.name, finding.step) == ("reward hacking", 12)
    assert not health.passed(finding)


def test_the_worst_stands_first_and_silence_is_told_from_too_few_steps() -> None:
    series = rows({"policy/clip_fraction": [0.4] * 15, "entropy": [2.0] * 10 + [0.0] * 5})
    assert [f.name for f in followed(series).findings] == ["entropy collapse", "clipping too much"]
    assert str(followed(rows({"entropy": [2.0] * 100}))) == "nothing found in 100 steps"
    assert str(followed(rows({"entropy": [2.0] * 4}))) == "4 steps are too few to tell"


def test_advice_has_the_values_of_the_run() -> None:
    options = {"ppo": {"kl_coef": 0.05, "entropy_coef": 0}, "critic": {"learning_rate": None}}
    assert fill_in("raise ppo.kl_coef (× 2)", options) == "raise ppo.kl_coef (now 0.05) to 0.1"
    assert fill_in("raise ppo.entropy_coef (× 2)", options) == "raise ppo.entropy_coef (now 0)"
    assert fill_in("raise critic.learning_rate (× 5)", options) == "raise critic.learning_rate (× 5)"
    assert fill_in("raise ppo.kl_coef (× 2)", {}) == "raise ppo.kl_coef (× 2)"


def test_the_health_of_a_run_is_read_from_its_folder(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run", resume=False) as run:
        run.write_config("ppo:\n  truncation: penalty\n")
        for step in range(1, 11):
            run.log(step, {"length/truncated": 1.0})
    health = Health.of(Run.open(tmp_path / "run"))
    assert str(health) == "answers never end (sick, step 10)"
    assert health.findings[0].what.endswith("ppo.truncation is penalty")


def test_advice_names_options_that_exist_and_a_check_a_figure_that_is_defined() -> None:
    options = {key.name for schema in (SFTRun, RewardRun, PPORun) for key in key_table(schema)}
    sections = {name.partition(".")[0] for name in options}
    for check in CHECKS:
        named = re.findall(r"\b([a-z]+\.[a-z_]+)", f"{check.try_} {check.threshold}".replace("samples.jsonl", ""))
        assert {name for name in named if name.partition(".")[0] in sections} <= options
        assert check.metric in METRICS


def table(page: Path) -> list[list[str]]:
    """The rows of the page's table of findings."""
    lines = re.findall(r"^\| \*\*(.*) \|$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [[cell.strip(" *") for cell in line.split(" | ")] for line in lines]


def test_the_page_has_every_finding_in_the_words_of_the_code() -> None:
    expected = [[c.name, str(c.steps), c.threshold, c.usually_means, c.try_] for c in CHECKS]
    shown = table(ROOT / "docs" / "health.md")
    assert [[cell.replace("`", "") for cell in row] for row in shown] == [
        [cell.replace("`", "") for cell in row] for row in expected
    ]


def test_the_chinese_page_has_the_same_findings_numbers_and_options() -> None:
    shown = table(ROOT / "docs" / "zh" / "health.md")
    assert len(shown) == len(CHECKS)
    for row, check in zip(shown, CHECKS, strict=True):
        assert check.name in row[0]
        assert row[1] == str(check.steps)
        for place, words in ((2, check.threshold), (4, check.try_)):
            exact = re.findall(r"[a-z]+[./][a-z_]+(?:=[\w.]+)?", words.replace("samples.jsonl", ""))
            assert [name for name in exact if name not in row[place]] == []
        assert set(re.findall(r"\d+(?:\.\d+)?%?", row[2])) == set(re.findall(r"\d+(?:\.\d+)?%?", check.threshold))
