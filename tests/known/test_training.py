"""How others' training steps went wrong in silence. docs/known-failures.md lists all."""

import copy
import signal
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from proxtune.algorithms.ppo_config import PPOConfig
from proxtune.algorithms.reward_model import RewardTrainer
from proxtune.algorithms.sft import SFT, SFTConfig
from proxtune.config import load as load_config
from proxtune.data.collate import collate
from proxtune.data.loader import Loader
from proxtune.data.template import Example, PreferenceExample
from proxtune.errors import ConfigError, RewardError
from proxtune.models.critic import CriticConfig
from proxtune.models.heads import RewardModel, ScalarHead
from proxtune.models.load import ModelConfig, ScratchConfig, load
from proxtune.models.peft import TuningConfig, tune
from proxtune.rewards.base import Answers, FunctionReward
from proxtune.runs import Run
from proxtune.training.loop import TrainingConfig, fit
from proxtune.training.optim import OptimConfig
from proxtune.workflows.schemas import PPORun
from tests.known.made import FULL, LORA, PROMPTS, unmoved, watched, weights
from tests.tiny import tiny_model

EXAMPLES = [
    Example([5, 6, 7], [8, 9, 1], "", truncated=False),
    Example([8], [15, 16, 17, 18, 1], "", truncated=False),
    Example([9, 10, 11, 12], [1], "", truncated=False),
    Example([3, 2], [20, 21], "", truncated=True),
]
PAIRS = [PreferenceExample([5, i], [2, 1], [3, 4, 1], "") for i in range(2, 6)]


def sft(tuning: TuningConfig = FULL, **config: Any) -> SFT:
    return SFT(tune(tiny_model(), tuning), SFTConfig(**config), optim=OptimConfig(learning_rate=1e-2, warmup=0))


def reward_trainer(tuning: TuningConfig) -> RewardTrainer:
    head = ScalarHead(32, zero=False, generator=torch.Generator().manual_seed(0))
    return RewardTrainer(
        RewardModel(tune(tiny_model(), tuning), head, 64), optim=OptimConfig(learning_rate=1e-2, warmup=0)
    )


# Steps


@pytest.mark.parametrize(
    ("minibatch", "updates"),
    [(8, 2), pytest.param(4, 4, marks=pytest.mark.slow), pytest.param(2, 8, marks=pytest.mark.slow)],
)
def test_trl_5645_optimiser_steps_are_epochs_times_minibatches(minibatch: int, updates: int) -> None:
    watch = watched(epochs=2, minibatch_size=minibatch, microbatch_size=2)
    watch.step()
    assert watch.updates == updates


def test_trl_ppo_the_last_batch_of_a_pass_is_as_any_other() -> None:
    watch = watched(batch_size=4, epochs=1, minibatch_size=4, microbatch_size=1)
    batches = Loader(PROMPTS, 4, seed=0)  # two batches a pass
    made = [0]
    for _ in range(5):
        watch.step(next(batches))
        made.append(watch.updates)
    assert [after - before for before, after in pairwise(made)] == [1] * 5


def test_trl_ppo_figures_are_means_over_what_was_computed_and_nothing_else() -> None:
    ratios = [
        watched(epochs=1, minibatch_size=minibatch, microbatch_size=2, optim=OptimConfig(learning_rate=1e-9)).step()[
            "policy/ratio"
        ]
        for minibatch in (8, 4, 2)
    ]
    assert ratios == pytest.approx([1, 1, 1], abs=1e-5)  # with unfilled zeros in the mean it read 0.5 and 0.25


def test_trl_2596_accumulated_micro_batches_give_the_curve_of_whole_batches() -> None:
    curves = []
    for size in (None, 2, 1):
        algorithm = sft(batch_size=4, microbatch_size=size)
        # plain gradient descent: Adam would magnify the rounding of gradients near 0
        algorithm.optimizer.adam = torch.optim.SGD(algorithm.model.trained().values(), lr=0.1)
        curves.append([algorithm.step(EXAMPLES)["loss"] for _ in range(4)])
    assert curves[0][3] < 0.95 * curves[0][0]
    for curve in curves[1:]:
        assert curve == pytest.approx(curves[0], abs=1e-5)


def test_slime_2235_advantages_are_whitened_over_the_whole_rollout_and_not_a_minibatch() -> None:
    watch = watched(minibatch_size=2, microbatch_size=1)
    watch.step()
    (found,) = watch.experiences
    counted = found.advantages[found.mask]
    assert counted.mean().item() == pytest.approx(0, abs=1e-5)
    assert counted.std(unbiased=False).item() == pytest.approx(1, abs=1e-4)
    assert any(abs(float(found.advantages[i][found.mask[i]].mean())) > 0.1 for i in range(8))


@pytest.mark.parametrize("minibatch", [1, 2])
def test_trl_ppo_minibatches_of_any_size_can_be_whitened(minibatch: int) -> None:
    assert watched(whiten=True, minibatch_size=minibatch, epochs=1).step()["policy/epochs"] == 1


def test_trl_ppo_the_gradient_is_clipped_to_max_grad_norm() -> None:
    watch = watched(optim=OptimConfig(max_grad_norm=0.01), epochs=1)
    groups = [{"params": ps, "lr": 1.0} for ps in watch.ppo.optimizer.groups.values()]
    watch.ppo.optimizer.adam = torch.optim.SGD(groups)  # with a rate of 1 the move is the gradient
    watch.ppo.optimizer.peaks = dict.fromkeys(watch.ppo.optimizer.peaks, 1.0)
    before = weights(watch.ppo)
    stats = watch.step()
    assert stats["gradient/policy"] > 0.01  # before clipping
    moves = {name: (p - before[name]).norm() for name, p in weights(watch.ppo).items()}
    for part in ("policy", "critic"):
        norm = sum(float(x) ** 2 for name, x in moves.items() if name.startswith(part)) ** 0.5
        assert norm == pytest.approx(0.01, rel=1e-3)


# Weights


@pytest.mark.parametrize("tuning", [FULL, LORA], ids=["full", "lora"])
def test_openrlhf_zero3_every_weight_that_is_trained_moves(tuning: TuningConfig) -> None:
    learner, judge = sft(tuning), reward_trainer(tuning)
    assert unmoved(lambda: learner.step(EXAMPLES), learner.model.trained()) == []
    assert unmoved(lambda: judge.step(PAIRS), judge.model.lm.trained()) == []
    assert "linear.weight" not in unmoved(lambda: judge.step(PAIRS), dict(judge.model.head.named_parameters()))
    watch = watched(tuning, critic=CriticConfig(kind="separate", warmup_steps=0))
    ppo = watch.ppo
    assert unmoved(watch.step, {**ppo.policy.trained(), **ppo.critic.trained()}) == []


def test_trl_ppo_with_lora_the_critic_too_is_an_adapter_and_a_head() -> None:
    critic = watched(LORA, critic=CriticConfig(kind="separate")).ppo.critic
    assert critic.trunk is not None
    trained = sum(p.numel() for p in critic.trained().values())
    whole = sum(p.numel() for p in critic.trunk.module.parameters())
    assert trained < 0.3 * whole
    assert all("lora" in name or name.startswith("head.") for name in critic.trained())


def test_trl_6120_a_resumed_run_has_its_critic_and_all_moments() -> None:
    options: dict[str, Any] = {"critic": CriticConfig(kind="separate", warmup_steps=0)}
    first, second = watched(LORA, **options).ppo, watched(LORA, **options).ppo
    first.step(PROMPTS)
    second.load_state(copy.deepcopy(first.state()))
    assert all(torch.equal(p, weights(second)[name]) for name, p in weights(first).items())
    moments = second.optimizer.state()["moments"]
    assert len(moments) == len(weights(first))
    assert first.step(PROMPTS) == second.step(PROMPTS)


# Options that are heard


@pytest.mark.parametrize("option", ["bf16=true", "gradient_checkpointing=true", "stop_token=eos", "num_mini_batches=4"])
def test_trl_ppo_an_option_is_heard_or_refused_and_never_ignored(option: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"unknown key.*{option.partition('=')[0]}"):
        load_config(PPORun, [], [f"training.{option}", f"data.train={tmp_path}/prompts.txt"])


def test_trl_ppo_bfloat16_is_what_one_gets_when_one_asks_for_it() -> None:
    sizes = ScratchConfig(vocab_size=300, layers=1, hidden=16, heads=2, context=16)
    config = ModelConfig(name="scratch:transformer", dtype="bfloat16", scratch=sizes)
    model = load(config, corpus=["a few words to make a tokenizer of"])
    assert {p.dtype for p in model.module.parameters()} == {torch.bfloat16}


def test_trl_2808_evaluation_happens_when_it_was_asked_for(tmp_path: Path) -> None:
    calls: list[int] = []

    def evaluate() -> dict[str, float]:
        calls.append(1)
        return {"eval/loss": 1.0}

    with Run.create(tmp_path / "run", resume=False) as run:
        run.write_config("{}\n")
        fit(sft(), Loader(EXAMPLES, 2, seed=0), run, TrainingConfig(eval_every=2), steps=5, evaluate=evaluate)
    assert [row["step"] for row in Run.open(tmp_path / "run").metrics() if "eval/loss" in row] == [2, 4, 5]
    assert len(calls) == 3


def test_openrlhf_1289_a_kl_target_of_0_is_refused() -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        PPOConfig(kl_target=0)


def test_trlx_441_the_controller_gets_the_kl_of_whole_responses() -> None:
    watch = watched(kl_coef=0.1, kl_target=5.0, kl_horizon=80, parts={"reference": tiny_model(seed=9)})
    kl = watch.step()["kl/sequence"]
    assert kl > 1.2 * 5  # above the target as a sum, and far below it as a mean over six tokens
    assert kl / 6 < 0.8 * 5
    assert watch.ppo.kl_coef == pytest.approx(0.1 * (1 + 0.2 * 8 / 80))


# Rewards


def answers(*texts: str) -> Answers:
    return Answers(["q"] * len(texts), list(texts), collate([[5]] * len(texts), [[9, 1]] * len(texts)), {})


def with_alarm(prompts: list[str], responses: list[str]) -> list[float]:
    """As a maths verifier does it: the parser is stopped by a signal, and signals belong to the main thread."""
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, before)
    return [float(response) for response in responses]


def test_verl_5635_a_reward_that_sets_an_alarm_gives_its_own_scores() -> None:
    assert FunctionReward(with_alarm)(answers("1", "0.5")).tolist() == [1, 0.5]


def test_areal_1426_a_reward_that_fails_off_the_main_thread_is_an_error_and_no_0() -> None:
    caught: list[BaseException] = []

    def call() -> None:
        try:
            FunctionReward(with_alarm)(answers("1"))
        except RewardError as error:
            caught.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert "signal only works in main thread" in str(caught[0])


def test_verl_5839_one_response_that_cannot_be_parsed_stops_the_step_and_moves_nothing() -> None:
    watch = watched(reward=with_alarm)  # no sampled text is a number
    before = weights(watch.ppo)
    with pytest.raises(RewardError, match="ValueError: could not convert string to float"):
        watch.step()
    assert all(torch.equal(p, before[name]) for name, p in weights(watch.ppo).items())
