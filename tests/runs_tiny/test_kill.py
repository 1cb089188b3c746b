"""TR-1, CK-1: a run that is killed three times and resumed ends in the same bytes as one that was left alone."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from proxtune import config as configs
from proxtune.errors import ConfigError
from proxtune.rewards.base import FunctionReward
from proxtune.runs import Run
from proxtune.workflows.jobs import Job, PPORun, RewardRun, SFTRun, ppo_job, reward_job, sft_job
from proxtune.workflows.train import execute
from tests.forked import fork

SMALL = [
    "model.name=scratch:transformer",
    "model.scratch={vocab_size: 300, layers: 2, hidden: 32, heads: 2, context: 64, dropout: 0.1}",
    "training={steps: 12, save_every: 3, samples: 2}",
    "optim.learning_rate=3e-3",
]
WORDS = ("the", "film", "was", "a", "slow", "fine", "dull", "warm", "story", "about", "love", "and", "war", "music")


def write_data(folder: Path) -> None:
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=6)) for _ in range(60)]
    rows = {
        "sft": [{"prompt": a, "completion": f" {b}"} for a, b in zip(texts[:30], texts[30:], strict=True)],
        "reward": [
            {"prompt": a, "chosen": f" good {b}", "rejected": f" bad {b}"}
            for a, b in zip(texts[:30], texts[30:], strict=True)
        ],
        "ppo": [{"prompt": text} for text in texts],
    }
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def brevity(prompts: list[str], responses: list[str]) -> list[float]:
    return [-len(response) / 20 for response in responses]


def job(command: str, folder: Path, name: str) -> Job:
    common = [
        *SMALL,
        f"runs={folder}",
        f"name={name}",
        f"data.train={folder / command}.jsonl",
        "data.eval_fraction=0.1",
    ]
    if command == "sft":
        return sft_job(configs.load(SFTRun, [], [*common, "sft.batch_size=8", "sft.microbatch_size=4"]))
    if command == "reward":
        return reward_job(configs.load(RewardRun, [], [*common, "reward_model.batch_size=8"]))
    ppo = [
        "rollout.max_new_tokens=8",
        "ppo={batch_size: 8, minibatch_size: 4, epochs: 2, kl_target: 4.0, reward_scale: running}",
    ]
    return ppo_job(configs.load(PPORun, [], [*common, *ppo]), [(FunctionReward(brevity), 1.0)])


def live(command: str, folder: Path, name: str) -> Callable[[], None]:
    return lambda: void(execute(job(command, folder, name), resume=True, console=Console(quiet=True)))


def void(_: Run) -> None: ...


def logged(folder: Path, name: str) -> int:
    path = folder / name / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("command", ["sft", "reward", "ppo"])
def test_tr1_three_kills_leave_the_final_weights_byte_equal(command: str, tmp_path: Path) -> None:
    write_data(tmp_path)
    live(command, tmp_path, "whole")()
    rng = random.Random(f"kills {command}")
    for target in (2, 5, 10):  # before the first checkpoint, between two, and late
        child = fork(live(command, tmp_path, "killed"))
        while logged(tmp_path, "killed") < target:
            assert os.waitpid(child, os.WNOHANG) == (0, 0), "the run ended before it could be killed"
            time.sleep(0.001)
        time.sleep(rng.random() * 0.02)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    live(command, tmp_path, "killed")()
    whole, killed = (Run.open(tmp_path / name) for name in ("whole", "killed"))
    assert [row["step"] for row in killed.metrics()] == list(range(1, 13))
    for file in sorted(path.name for path in whole.model.glob("*.safetensors")):
        assert (whole.model / file).read_bytes() == (killed.model / file).read_bytes(), file
    timeless = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in whole.metrics()]
    assert timeless == [{k: v for k, v in row.items() if not k.startswith("time/")} for row in killed.metrics()]


def test_a_run_is_not_resumed_with_another_reward(tmp_path: Path) -> None:
    write_data(tmp_path)
    quiet = Console(quiet=True)
    whole = job("ppo", tmp_path, "ppo")
    whole.steps = 1
    execute(whole, console=quiet)
    other = job("ppo", tmp_path, "ppo")
    other.rewards = {"length": 1.0}
    with pytest.raises(ConfigError, match=r"is rewarded by \{'brevity': 1.0\}, not by \{'length': 1.0\}"):
        execute(other, resume=True, console=quiet)
