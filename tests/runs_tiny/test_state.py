"""TR-1, level L0: nothing that training changes is missing from a checkpoint, and nothing in it could be missing.

Every attribute of what trains is either saved, or derived from what is: a new one fails here until somebody says which.
Every saved entry is needed: with its first value in its place, a resumed run is another run.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from proxtune.algorithms.ppo import PPO
from proxtune.algorithms.ppo_config import PPOConfig
from proxtune.algorithms.ptx import Ptx
from proxtune.algorithms.reward_model import RewardTrainer
from proxtune.algorithms.sft import SFT
from proxtune.data.loader import Loader
from proxtune.data.template import Example
from proxtune.errors import GenerationError
from proxtune.models.critic import Critic, CriticConfig, build_critic
from proxtune.models.heads import RewardModel
from proxtune.models.language_model import weight_hash
from proxtune.models.peft import tune
from proxtune.rewards.combine import RunningScale, WeightedSum
from proxtune.rollouts.sampling import SamplingConfig
from proxtune.rollouts.store import RolloutStore
from proxtune.training import checkpoint
from proxtune.training.optim import Optimizer
from tests.runs_tiny.test_resume import FULL, LORA, OPTIM, policy, reward, sft
from tests.tiny import tiny_model

SAVED: dict[type, set[str]] = {
    SFT: {"model", "optimizer", "steps"},
    RewardTrainer: {"model", "optimizer", "steps"},
    PPO: {"policy", "critic", "optimizer", "scale", "steps", "kl_coef", "penalty_coef"},
    Optimizer: {"adam", "skipped_in_a_row", "drops", "worse_in_a_row"},
    RunningScale: {"count", "mean", "m2"},
    Loader: {"_epoch", "_position"},
    Critic: {"head", "trunk"},
    RewardModel: {"lm", "head"},
}
DERIVED: dict[type, dict[str, str]] = {
    SFT: {"config": "the run's config", "autocast": "the run's config"},
    RewardTrainer: {
        "config": "the run's config",
        "autocast": "the run's config",
        "judgements": "follows from the data",
    },
    PPO: {
        "config": "the run's config",
        "critic_config": "the run's config",
        "rollout": "the run's config",
        "seed": "the run's config",
        "reward": "the run's config and command line, which a resumed run must repeat",
        "sampler": "a function",
        "reference": "the policy as the run began; the hash of those weights is in the manifest, and compared",
        "starts_at_reference": "follows from the arguments",
        "store": "files of the run folder, each written whole",
        "ptx": "draws by seed, step and update",
        "seconds": "of the last step, for its figures, which are logged",
        "parts": "of the last step, for its figures, which are logged",
        "last": "the last step's samples, which are logged",
    },
    Optimizer: {
        "config": "the run's config",
        "total": "the run's config",
        "patience": "a constant of the algorithm",
        "peaks": "the run's config; the rate of a step follows from its number",
        "groups": "which weights are trained: the run's config",
    },
    RunningScale: {},
    Loader: {
        "_rows": "the data, whose fingerprint is in the manifest, and compared",
        "_batch_size": "the run's config",
        "_seed": "the run's config",
        "_shuffle": "the run's config",
        "_order": "follows from seed and epoch",
    },
    Critic: {"warmup_steps": "the run's config"},
    RewardModel: {
        "max_length": "the run's config",
        "gain": "set once the training has ended, from the model and the data",
        "bias": "like gain",
        "ratings": "mean and deviation of the ratings of the data",
    },
    Ptx: dict.fromkeys(("policy", "examples", "config", "seed"), "the policy, data and config of the run"),
    WeightedSum: {"rewards": "the run's config and command line", "parts": "of the last call"},
    RolloutStore: {"folder": "the run's", "replay": "the command line"},
}


def ppo() -> tuple[PPO, Loader[Any], dict[str, Any]]:
    """All that PPO can adapt adapts."""
    base = policy()
    critic_config = CriticConfig(kind="separate", warmup_steps=0)
    critic = build_critic(base, critic_config, LORA)
    lm = tune(base, FULL)
    algorithm = PPO(
        lm,
        lambda prompts, responses: [float(len(response)) for response in responses],
        PPOConfig(
            batch_size=4,
            minibatch_size=2,
            epochs=1,
            loss="kl_penalty",
            kl_target=1.0,
            kl_horizon=20,
            reward_scale="running",
        ),
        rollout=SamplingConfig(max_new_tokens=5),
        optim=OPTIM,
        critic=critic,
        critic_config=critic_config,
        total_steps=6,
        seed=7,
    )
    assert critic.trunk is not None
    modules = {"policy": base.module, "head": critic.head, "trunk": critic.trunk.module}
    return algorithm, Loader(["ab", "c", "def", "gh", "i", "jkl", "m"], 4, seed=3), modules


CASES: dict[str, Callable[[], tuple[Any, Loader[Any], dict[str, Any]]]] = {
    "sft": lambda: sft(LORA),
    "reward": lambda: reward(FULL),
    "ppo": ppo,
}
WEIGHTS = {"model", "head", "policy", "critic"}


def parts() -> Iterator[Any]:
    """One of everything that lives as long as a run does."""
    for case in CASES.values():
        algorithm, batches, _ = case()
        yield from (algorithm, algorithm.optimizer, batches)
        yield from (part for name in ("scale", "critic", "model") if (part := getattr(algorithm, name, None)))
    yield Ptx(tiny_model(), [Example([5], [6], "", truncated=False)], None)  # type: ignore[arg-type]
    yield WeightedSum([])
    yield RolloutStore(Path())


def test_tr1_every_attribute_is_saved_or_derived() -> None:
    seen = set()
    for part in parts():
        kind = type(part)
        if kind.__name__ == "LanguageModel":  # its trained weights are saved, all else of it is the run's base
            continue
        seen.add(kind)
        saved, derived = SAVED.get(kind, set()), DERIVED[kind].keys()
        assert not saved & derived, kind
        assert vars(part).keys() == saved | derived, kind
    assert seen == DERIVED.keys()


def flat(state: dict[str, Any], *above: str) -> Iterator[tuple[str, ...]]:
    """The entries of a state: weights as a whole, Adam's moments by their kind, the rest one by one."""
    for key, value in state.items():
        path = (*above, key)
        if key == "moments":
            yield from ((*path, kind) for kind in next(iter(value.values())))
        elif isinstance(value, dict) and key not in WEIGHTS:
            yield from flat(value, *path)
        else:
            yield path


def forget(state: dict[str, Any], fresh: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """The state with one entry as it was before the first step."""
    state = deepcopy(state)
    inner, first = state, fresh
    for key in path[:-1]:
        if key == "moments":
            for moment in inner["moments"].values():
                assert moment[path[-1]].any()
                moment[path[-1]].zero_()
            return state
        inner, first = inner[key], first[key]
    assert not same(inner[path[-1]], first[path[-1]]), f"{path} did not change in training: the control says nothing"
    inner[path[-1]] = deepcopy(first[path[-1]])
    return state


def same(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return all(same(left[key], right[key]) for key in left)
    return torch.equal(left, right) if isinstance(left, Tensor) else left == right


def take(algorithm: Any, batches: Loader[Any]) -> dict[str, Any]:
    return deepcopy({"algorithm": algorithm.state(), "batches": batches.state()})


def end(case: str, state: dict[str, Any]) -> tuple[list[dict[str, float]], dict[str, str]]:
    """Two more steps from `state`, in objects that are made anew: their figures, and the weights."""
    algorithm, batches, modules = CASES[case]()
    algorithm.load_state(deepcopy(state["algorithm"]))
    batches.load_state(state["batches"])
    figures = []
    for step in range(2):
        torch.manual_seed(step)
        figures.append(algorithm.step(next(batches)))
    return figures, {name: weight_hash(module) for name, module in modules.items()}


# It counts steps that were not finite, and there is none here: tests/training/test_optim.py shows that it matters.
UNCHANGED = {("algorithm", "optimizer", "skipped_in_a_row")}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_tr1_a_run_that_forgets_any_one_entry_is_another_run(case: str, tmp_path: Path) -> None:
    algorithm, batches, _ = CASES[case]()
    fresh = take(algorithm, batches)
    for step in range(3):
        torch.manual_seed(100 + step)
        algorithm.step(next(batches))
    checkpoint.save(tmp_path, 3, take(algorithm, batches))
    _, state = checkpoint.load(tmp_path / "step-000003")
    whole = end(case, state)
    assert end(case, state) == whole
    entries = [path for path in flat(state) if path not in UNCHANGED]
    assert len(entries) >= 7
    for path in entries:
        forgetful = forget(state, fresh, path)
        try:
            assert end(case, forgetful) != whole, f"{path} is not needed"
        except GenerationError as error:  # PPO at step 0 knows that the policy must be the reference yet
            assert (path[-1], "before the first update" in str(error)) == ("steps", True)  # noqa: PT017


@pytest.mark.parametrize("case", CASES)
def test_tr1_what_is_not_saved_of_a_model_does_not_change(case: str) -> None:
    """No buffer and no frozen weight moves: only the trained weights need to be saved."""
    algorithm, batches, modules = CASES[case]()

    def frozen() -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, module in modules.items():
            found |= {f"{name}.{key}": x.clone() for key, x in module.named_buffers()}
            found |= {f"{name}.{key}": p.clone() for key, p in module.named_parameters() if not p.requires_grad}
        return found

    before = frozen()
    for _ in range(2):
        algorithm.step(next(batches))
    assert same(before, frozen())
