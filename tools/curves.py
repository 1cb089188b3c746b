"""The stored curves of tests/curves: 50 updates of each algorithm on a model of a few thousand weights.

    python -m tools.curves        train again; write tests/curves/*.json and docs/images/curve_*.svg

Write them again when the numbers are meant to change, and say in the commit why they did.
"""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from proxtune.algorithms.ppo import PPO
from proxtune.algorithms.ppo_config import PPOConfig
from proxtune.algorithms.reward_model import RewardTrainer
from proxtune.algorithms.sft import SFT
from proxtune.charts import STYLE, line_chart
from proxtune.data.loader import Loader
from proxtune.data.template import Example, PreferenceExample
from proxtune.models.critic import CriticConfig, build_critic
from proxtune.models.heads import RewardModel, ScalarHead
from proxtune.models.peft import TuningConfig, tune
from proxtune.rollouts.sampling import SamplingConfig
from proxtune.training.loop import Algorithm
from proxtune.training.optim import OptimConfig
from tests.tiny import tiny_model

ROOT = Path(__file__).parents[1]
FOLDER, IMAGES = ROOT / "tests" / "curves", ROOT / "docs" / "images"
UPDATES = 50
EOS, LETTERS = 1, range(2, 28)
FULL, LORA = TuningConfig(kind="full"), TuningConfig(rank=4)

Curves = dict[str, list[float]]  # figure -> its value at each update
Made = tuple[Algorithm, Loader[Any]]


def sft(learning_rate: float = 3e-3) -> Made:
    """Of two letters the first one is repeated, as often as the two were."""
    rows = [Example([a, b] * n, [a] * n + [EOS], "", truncated=False) for a, b in pairwise(LETTERS) for n in (1, 2)]
    algorithm = SFT(tune(tiny_model(), FULL), optim=OptimConfig(learning_rate=learning_rate), total_steps=UPDATES)
    return algorithm, Loader(rows, 8, seed=0)


def reward(learning_rate: float = 3e-4) -> Made:
    """The answer that takes up the letter of its prompt is the better one."""
    pairs = [
        PreferenceExample([a], [b, a, EOS], [b, c, EOS], "")
        for a, b, c in zip(*[LETTERS[i:] for i in range(3)], strict=False)
    ]
    head = ScalarHead(32, zero=False, generator=torch.Generator().manual_seed(0))
    model = RewardModel(tune(tiny_model(), FULL), head, max_length=64)
    return RewardTrainer(model, optim=OptimConfig(learning_rate=learning_rate), total_steps=UPDATES), Loader(
        pairs, 8, seed=0
    )


def ppo(learning_rate: float = 3e-3, critic: CriticConfig | None = None, **config: Any) -> Made:
    """One letter is rewarded wherever it stands."""
    policy = tiny_model()
    built = build_critic(policy, critic or CriticConfig(), LORA)
    algorithm = PPO(
        tune(policy, LORA),
        _count_a,
        PPOConfig(**{"batch_size": 16, "minibatch_size": 8, "epochs": 2} | config),
        rollout=SamplingConfig(max_new_tokens=6),
        optim=OptimConfig(learning_rate=learning_rate),
        critic=built,
        critic_config=critic,
        total_steps=UPDATES,
    )
    return algorithm, Loader(list("abcdefghijklmnopqrstuvwxyz"), 16, seed=0)


def ppo_kl_penalty(**changes: Any) -> Made:
    """PPO's other form."""
    return ppo(loss="kl_penalty", penalty_target=0.03, **changes)


def ppo_separate_critic(**changes: Any) -> Made:
    """The critic has a trunk of its own, and a warm-up."""
    return ppo(critic=CriticConfig(kind="separate", warmup_steps=2), **changes)


CASES: dict[str, Callable[..., Made]] = {
    case.__name__: case for case in (sft, reward, ppo, ppo_kl_penalty, ppo_separate_critic)
}


def train(name: str, updates: int = UPDATES, **changes: Any) -> Curves:
    """The figures of a case, update by update; `changes` make it another one."""
    algorithm, batches = CASES[name](**changes)
    rows = [algorithm.step(next(batches)) for _ in range(updates)]
    return {figure: [row[figure] for row in rows] for figure in sorted(rows[0])}


def _count_a(prompts: list[str], responses: list[str]) -> list[float]:  # noqa: ARG001 (a reward is given both)
    return [float(response.count("a")) for response in responses]


def main() -> None:
    """Write the curves, and draw one figure of each case."""
    for name in CASES:
        curves = {figure: [float(f"{x:.8g}") for x in points] for figure, points in train(name).items()}
        rows = (f"  {json.dumps(figure)}: {json.dumps(points)}" for figure, points in curves.items())
        (FOLDER / f"{name}.json").write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")
        figure = "score/mean" if "score/mean" in curves else "loss"
        _draw(name, figure, curves[figure])
        print(f"{name}: {figure} {curves[figure][0]:.3f} -> {curves[figure][-1]:.3f}")


def _draw(name: str, figure: str, points: list[float]) -> None:
    numbered = [(float(i), x) for i, x in enumerate(points, start=1)]
    chart = line_chart({figure: numbered}, title=name, x_label="update", y_label=figure)
    styled = chart.replace(">", f"><style>{STYLE}</style>", 1).replace(
        "<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1
    )
    (IMAGES / f"curve_{name}.svg").write_text(styled, encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)  # another number adds up in another order
    main()
