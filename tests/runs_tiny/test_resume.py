"""TR-1: a run that is interrupted and taken up by a new process ends in the same bytes as one that was left alone."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from proxtune.algorithms.ppo import PPO
from proxtune.algorithms.ppo_config import PPOConfig
from proxtune.algorithms.reward_model import RewardModelConfig, RewardTrainer
from proxtune.algorithms.sft import SFT, SFTConfig
from proxtune.data.loader import Loader
from proxtune.data.template import Example, PreferenceExample
from proxtune.models.critic import CriticConfig, build_critic
from proxtune.models.heads import RewardModel, ScalarHead
from proxtune.models.language_model import LanguageModel, weight_hash
from proxtune.models.peft import TuningConfig, tune
from proxtune.rollouts.sampling import SamplingConfig
from proxtune.runs import Run
from proxtune.training.loop import Algorithm, TrainingConfig, fit
from proxtune.training.optim import OptimConfig
from tests.tiny import tiny_model

STEPS = 6
OPTIM = OptimConfig(learning_rate=5e-3)
FULL, LORA = TuningConfig(kind="full"), TuningConfig(rank=2, dropout=0.2)

TEXTS = [[5, 6, 7], [8], [9, 10], [11, 12, 13, 14], [15, 16], [17], [18, 19, 20]]


def policy(family: str = "own") -> LanguageModel:
    """A model with dropout, so that the draws of the global generator must come again as well."""
    model = tiny_model(family=family)
    for part in model.module.modules():
        if isinstance(part, nn.LSTM):
            part.dropout = 0.2
        if isinstance(part, nn.Dropout):
            part.p = 0.2
    return model


def sft(tuning: TuningConfig, family: str = "own") -> tuple[Algorithm, Loader[Any], dict[str, nn.Module]]:
    model = tune(policy(family), tuning)
    rows = [Example(ids, [*reversed(ids), 1], "", truncated=False) for ids in TEXTS]
    algorithm = SFT(model, SFTConfig(batch_size=4, microbatch_size=2), optim=OPTIM, total_steps=STEPS)
    return algorithm, Loader(rows, 4, seed=3), {"model": model.module}


def reward(tuning: TuningConfig) -> tuple[Algorithm, Loader[Any], dict[str, nn.Module]]:
    lm = tune(policy(), tuning)
    head = ScalarHead(32, zero=False, generator=torch.Generator().manual_seed(0))
    rows = [PreferenceExample(ids, [2, 1], [3, 4, 1], "") for ids in TEXTS]
    algorithm = RewardTrainer(
        RewardModel(lm, head, 64), RewardModelConfig(batch_size=4), optim=OPTIM, total_steps=STEPS
    )
    return algorithm, Loader(rows, 4, seed=3), {"lm": lm.module, "head": head}


def ppo(tuning: TuningConfig, kind: str, family: str = "own") -> tuple[Algorithm, Loader[Any], dict[str, nn.Module]]:
    base = policy(family)
    config = CriticConfig(kind=kind, warmup_steps=2 if kind == "separate" else None)
    critic = build_critic(base, config, tuning)
    algorithm = PPO(
        tune(base, tuning),
        lambda prompts, responses: [float(len(response)) for response in responses],
        PPOConfig(
            batch_size=4,
            minibatch_size=2,
            microbatch_size=1,
            epochs=1,
            kl_target=1.0,
            kl_horizon=20,
            reward_scale="running",
        ),
        rollout=SamplingConfig(max_new_tokens=5),
        optim=OPTIM,
        critic=critic,
        critic_config=config,
        total_steps=STEPS,
        seed=7,
    )
    modules: dict[str, nn.Module] = {"policy": base.module, "head": critic.head}
    if critic.trunk is not None:
        modules["critic"] = critic.trunk.module
    return algorithm, Loader(["ab", "c", "def", "gh", "i", "jkl", "m"], 4, seed=3), modules


CASES: dict[str, Callable[[], tuple[Algorithm, Loader[Any], dict[str, nn.Module]]]] = {
    "sft-full": lambda: sft(FULL),
    "sft-lora": lambda: sft(LORA),
    "reward-full": lambda: reward(FULL),
    "reward-lora": lambda: reward(LORA),
    "ppo-full-shared": lambda: ppo(FULL, "shared"),
    "ppo-lora-shared": lambda: ppo(LORA, "shared"),
    "ppo-full-separate": lambda: ppo(FULL, "separate"),
    "ppo-lora-separate": lambda: ppo(LORA, "separate"),
    "sft-lstm": lambda: sft(FULL, "lstm"),
    "ppo-lstm": lambda: ppo(FULL, "shared", "lstm"),
}


class Killed(Exception):  # noqa: N818 (it stands for kill -9)
    pass


class Doomed:
    """An algorithm whose process dies in the middle of a step: it has already moved, and what it did is lost."""

    def __init__(self, algorithm: Algorithm, last: int) -> None:
        self.algorithm, self.left = algorithm, last

    def step(self, batch: Any) -> dict[str, float]:
        metrics = self.algorithm.step(batch)
        self.left -= 1
        if self.left == 0:
            raise Killed
        return metrics

    def __getattr__(self, name: str) -> Any:
        return getattr(self.algorithm, name)


def live(case: str, path: Path, *, dies_after: int | None = None, steps: int = STEPS) -> dict[str, str]:
    """One process's life: everything is made anew, and trained as far as it gets. Returns the final hashes."""
    torch.manual_seed(hash(str(path)) % 2**31)  # a new process has another state of the global generator
    algorithm, batches, modules = CASES[case]()
    doomed = algorithm if dies_after is None else Doomed(algorithm, dies_after)
    with Run.create(path, resume=True) as run:
        run.write_config("{}\n")
        fit(doomed, batches, run, TrainingConfig(save_every=2), steps=steps)
    return {name: weight_hash(module) for name, module in modules.items()}


def figures(path: Path) -> list[dict[str, Any]]:
    """Every metric of a run but the clock's."""
    return [{k: x for k, x in row.items() if not k.startswith("time/")} for row in Run.open(path).metrics()]


SLOW = {"sft-full", "reward-full", "ppo-lora-shared", "ppo-full-separate", "ppo-lora-separate", "ppo-lstm"}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow) if case in SLOW else case for case in CASES]
)
def test_tr1_two_interruptions_leave_the_final_weights_byte_equal(case: str, tmp_path: Path) -> None:
    whole = live(case, tmp_path / "whole")
    for dies_after in (3, 3):  # in step 3, after a checkpoint at 2; then in step 5, after one at 4
        with pytest.raises(Killed):
            live(case, tmp_path / "killed", dies_after=dies_after)
    assert live(case, tmp_path / "killed") == whole
    assert [row["step"] for row in figures(tmp_path / "killed")] == list(range(1, STEPS + 1))
    assert figures(tmp_path / "killed") == figures(tmp_path / "whole")
    assert Run.open(tmp_path / "killed").samples() == Run.open(tmp_path / "whole").samples()


@pytest.mark.parametrize("case", ["sft-lora", "ppo-lora-shared"])
def test_every_weight_of_the_comparison_has_moved(case: str, tmp_path: Path) -> None:
    assert live(case, tmp_path / "long") != live(case, tmp_path / "short", steps=2)


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from tensors(inner)


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_holds_no_weight_that_is_not_trained(case: str, tmp_path: Path) -> None:
    algorithm, batches, _ = CASES[case]()
    algorithm.step(next(batches))
    optimizer: Sequence[nn.Parameter] = [p for group in algorithm.optimizer.groups.values() for p in group]
    trained = sum(p.numel() for p in optimizer)
    stored = sum(tensor.numel() for tensor in tensors(algorithm.state()))
    assert stored <= 3 * trained + 2 * len(optimizer)  # the weight and two moments each, and counts


def test_ro2_the_reference_after_a_resume_is_the_model_the_run_began_with(tmp_path: Path) -> None:
    live("ppo-full-shared", tmp_path, steps=4)
    algorithm, batches, _ = CASES["ppo-full-shared"]()
    assert isinstance(algorithm, PPO)
    with Run.create(tmp_path, resume=True) as run:
        fit(algorithm, batches, run, TrainingConfig(save_every=2), steps=STEPS)
    assert algorithm.reference is not None
    assert weight_hash(algorithm.reference.module) == weight_hash(policy().module)
    assert weight_hash(algorithm.policy.module) != weight_hash(policy().module)
