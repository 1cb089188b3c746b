"""A judge scores the held-out answers at each evaluation, is never trained on, and belongs to the run."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from proxtune import config as configs
from proxtune.errors import ConfigError
from proxtune.rewards.base import FunctionReward
from proxtune.workflows.jobs import Job, ppo_job
from proxtune.workflows.schemas import PPORun
from proxtune.workflows.train import execute

QUIET = Console(quiet=True)


def brevity(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    return [-len(response) / 20 for response in responses]


def wordiness(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    return [len(response) / 20 for response in responses]


def job(folder: Path, *judges: FunctionReward, held_out: float = 0.5) -> Job:
    data = folder / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"number {i}"}) + "\n" for i in range(16)))
    config = configs.load(
        PPORun,
        [],
        [
            "model.name=scratch:transformer",
            "model.scratch={vocab_size: 300, layers: 1, hidden: 16, heads: 2, context: 64}",
            "tuning.kind=full",
            f"runs={folder}",
            f"data.train={data}",
            f"data.eval_fraction={held_out}",
            "rollout.max_new_tokens=4",
            "ppo={batch_size: 4, minibatch_size: 4, epochs: 1}",
            "training={steps: 4, eval_every: 2, save_every: 0}",
        ],
    )
    return ppo_job(config, [(FunctionReward(brevity), 1.0)], judges=judges)


def test_a_judge_scores_the_very_answers_that_the_reward_does(tmp_path: Path) -> None:
    rows = execute(job(tmp_path, FunctionReward(wordiness)), console=QUIET).metrics()
    judged = {row["step"]: row["judge/wordiness"] for row in rows if "judge/wordiness" in row}
    assert list(judged) == [2, 4]
    assert judged == {row["step"]: pytest.approx(-row["eval/score"], rel=1e-6) for row in rows if "eval/score" in row}


def test_a_judge_changes_no_other_figure(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    alone = execute(job(tmp_path / "a"), console=QUIET).metrics()
    judged = execute(job(tmp_path / "b", FunctionReward(wordiness)), console=QUIET).metrics()
    for one, other in zip(alone, judged, strict=True):
        assert {k: x for k, x in one.items() if not k.startswith("time/")} == {
            k: x for k, x in other.items() if not k.startswith(("time/", "judge/"))
        }


def test_what_is_trained_on_cannot_judge(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"brevity is named twice .* not trained on"):
        job(tmp_path, FunctionReward(brevity))


def test_a_judge_needs_held_out_prompts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no prompt is held out; set data.eval_fraction"):
        job(tmp_path, FunctionReward(wordiness), held_out=0)


def test_a_run_is_not_resumed_with_another_judge(tmp_path: Path) -> None:
    run = execute(job(tmp_path, FunctionReward(wordiness)), console=QUIET)
    assert run.manifest()["judges"] == ["wordiness"]
    with pytest.raises(ConfigError, match=r"judged by \['wordiness'\], not by \[\]; pass the same --judge"):
        execute(job(tmp_path), resume=True, console=QUIET)
