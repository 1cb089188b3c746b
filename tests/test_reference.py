"""The package and the one-file reference are two writings of one algorithm: on one model and one seed they must agree.

The package pads, masks, caches keys and values, and works in float32; the reference reads one answer at a time and adds
up rewards in Python's float64. What is left between them is rounding, measured at 1e-6. Both draw tokens from the same
uniform numbers, so an error of 1e-7 in a cumulated probability could move a draw across one of 30 boundaries: a chance
below 1 in 500 for the 480 draws of a run, settled by the seed, so that a machine passes always or never.
"""

import functools
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from proxtune.algorithms.ppo import PPO
from proxtune.algorithms.ppo_config import PPOConfig
from proxtune.models.critic import CriticConfig
from proxtune.models.peft import TuningConfig, tune
from proxtune.rewards.base import Answers
from proxtune.rollouts.sampling import SamplingConfig
from proxtune.training.optim import OptimConfig
from reference import ppo as reference
from tests.tiny import tiny_model

SEED, STEPS, END = 3, 5, 1
PROMPTS = ["to be", "a", "or", "not to be", "x", "that", "is", "the q", "u", "est", "ion", "zz"]
SETTINGS = reference.Settings(
    max_new_tokens=8,
    temperature=0.8,
    epochs=2,
    minibatch_size=4,
    clip=0.15,
    value_clip=0.1,
    value_coef=0.5,
    gamma=0.98,
    lam=0.9,
    kl_coef=0.1,
    learning_rate=2e-3,
    critic_learning_rate=1e-2,
    max_grad_norm=0.7,
)
SHARED = ("epochs", "minibatch_size", "clip", "value_clip", "value_coef", "gamma", "lam", "kl_coef")
CONFIG = PPOConfig(batch_size=len(PROMPTS), **{name: getattr(SETTINGS, name) for name in SHARED})

Run = tuple[list[dict[str, float]], list[Tensor]]  # the figures of each step, and the trained weights


class OneRow(nn.Module):
    """A transformers model as the reference takes it: ids [S] -> (logits [S, V], hidden states [S, H])."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.module.base_model(input_ids=ids[None]).last_hidden_state[0]
        return self.module.get_output_embeddings()(hidden), hidden


def points(_: list[int], tokens: list[int]) -> float:
    """One for each third letter of the alphabet, and one for coming to an end."""
    return sum(token % 3 == 0 for token in tokens) + float(tokens[-1] == END)


class Points:
    """`points` as the package takes a reward."""

    name = "points"

    def __call__(self, answers: Answers) -> Tensor:
        ids, lengths = answers.tokens.response_ids.tolist(), answers.tokens.response_lengths.tolist()
        return torch.tensor([points([], row[:length]) for row, length in zip(ids, lengths, strict=True)])


def package(
    config: PPOConfig = CONFIG,
    tuning: str = "full",
    spoil: Callable[[PPO], None] = lambda ppo: None,
    steps: int = STEPS,
    **model: Any,
) -> Run:
    policy = tune(tiny_model(**model), TuningConfig(kind=tuning, rank=4))
    ppo = PPO(
        policy,
        Points(),
        config,
        rollout=SamplingConfig(max_new_tokens=SETTINGS.max_new_tokens, temperature=SETTINGS.temperature),
        optim=OptimConfig(learning_rate=SETTINGS.learning_rate, max_grad_norm=SETTINGS.max_grad_norm),
        critic_config=CriticConfig(learning_rate=SETTINGS.critic_learning_rate),
        seed=SEED,
    )
    spoil(ppo)
    figures = [ppo.step(PROMPTS) for _ in range(steps)]
    return figures, [*policy.trained().values(), *ppo.critic.head.parameters()]


@functools.cache
def oracle(settings: reference.Settings = SETTINGS, tuning: str = "full", steps: int = STEPS, **model: Any) -> Run:
    lm = tune(tiny_model(**model), TuningConfig(kind=tuning, rank=4))
    policy, critic = OneRow(lm.module), nn.Linear(lm.hidden_size, 1)
    nn.init.zeros_(critic.weight)
    nn.init.zeros_(critic.bias)
    prompts = [lm.tokenizer.encode(prompt) for prompt in PROMPTS]
    figures = list(reference.train(policy, critic, points, [prompts] * steps, end=END, settings=settings, seed=SEED))
    return figures, [*(p for p in policy.parameters() if p.requires_grad), *critic.parameters()]


def gap(ours: Run, theirs: Run) -> float:
    """The largest difference of any figure that both report, over the steps of `ours`."""
    assert theirs[0][0].keys() <= ours[0][0].keys()
    return max(abs(a[name] - b[name]) for a, b in zip(ours[0], theirs[0], strict=False) for name in b)


def assert_same(ours: Run, theirs: Run) -> None:
    assert len(ours[0]) == len(theirs[0]) == STEPS
    assert gap(ours, theirs) <= 1e-5
    for a, b in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_package_and_reference_report_the_same_figures_and_end_with_the_same_weights() -> None:
    ours = package()
    assert_same(ours, oracle())
    # The run is worth comparing: lengths differ, the policy moves, and both clips are at work.
    for figures in ours[0]:
        assert 0.2 < figures["length/truncated"] < 0.9
        assert figures["policy/clip_fraction"] > 0.05
        assert figures["value/clip_fraction"] > 0.05
    assert ours[0][0]["kl/sequence"] == pytest.approx(0, abs=1e-5)
    assert ours[0][-1]["kl/sequence"] > 0.5


@pytest.mark.parametrize("microbatch", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_microbatches_change_nothing(microbatch: int) -> None:
    assert_same(package(CONFIG.model_copy(update={"microbatch_size": microbatch})), oracle())


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        pytest.param({"tuning": "lora"}, id="adapters, with the model without them as the reference"),
        pytest.param({"family": "own"}, id="our own transformer"),
        pytest.param({"pad_is_eos": True}, id="the pad token is the EOS token"),
    ],
)
def test_other_models_agree_as_well(case: dict[str, Any]) -> None:
    assert_same(package(**case), oracle(**case))


def flip_the_sign_of_kl(ppo: PPO) -> None:
    ppo.kl_coef = -ppo.kl_coef


@pytest.mark.slow
def test_the_comparison_sees_a_flipped_kl() -> None:
    # Two steps: at the first one the KL is 0, and its sign cannot be seen.
    assert gap(package(spoil=flip_the_sign_of_kl, steps=2), oracle()) > 1e-3
    assert gap(package(steps=2), oracle(replace(SETTINGS, kl_coef=-SETTINGS.kl_coef), steps=2)) > 1e-3


@pytest.mark.parametrize(
    "change",
    [
        {"whiten": False},
        {"lam": 1.0},
        {"gamma": 1.0},
        {"clip": 0.2},
        {"clip_high": 0.3},
        {"value_clip": None},
        {"value_coef": 0.1},
        {"aggregate": "sequence"},
        {"kl_estimator": "k3"},
        {"truncation": "mask"},
        {"epochs": 1},
        {"minibatch_size": 6},
    ],
    ids=str,
)
def test_the_comparison_sees_what_is_done_otherwise(change: dict[str, Any]) -> None:
    assert gap(package(CONFIG.model_copy(update=change), steps=2), oracle()) > 1e-3


def run_main(monkeypatch: pytest.MonkeyPatch, out: Path, *, seed: int, steps: int) -> list[dict[str, float]]:
    monkeypatch.setattr(sys, "argv", ["ppo.py", "--seed", str(seed), "--steps", str(steps), "--out", str(out)])
    reference.main()
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.slow
def test_its_own_little_task_prints_and_writes_a_line_a_step(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = run_main(monkeypatch, tmp_path / "a.jsonl", seed=1, steps=2)
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[0]["kl/sequence"] == 0
    assert rows[1]["kl/sequence"] > 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [["step", "1"], ["step", "2"]]
    assert run_main(monkeypatch, tmp_path / "b.jsonl", seed=1, steps=2) == rows
    assert run_main(monkeypatch, tmp_path / "c.jsonl", seed=2, steps=1) != rows[:1]


@pytest.mark.slow
def test_its_own_little_task_is_learnt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Scores at the last step with seeds 1, 2, 3: 0.96, 0.93, 0.90. A random policy has 1/27.
    rows = run_main(monkeypatch, tmp_path / "metrics.jsonl", seed=1, steps=25)
    assert rows[0]["score/mean"] < 0.1
    assert rows[-1]["score/mean"] > 0.8
