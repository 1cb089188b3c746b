"""PPO gets what it is rewarded for. Seeds are fixed, so nothing here fails by chance on one machine."""

import pytest
from torch import Tensor

from proxtune.algorithms.ppo import PPO
from proxtune.algorithms.ppo_config import PPOConfig
from proxtune.models.critic import CriticConfig, build_critic
from proxtune.models.peft import TuningConfig, tune
from proxtune.rewards.base import Answers
from proxtune.rollouts.sampling import SamplingConfig
from proxtune.training.optim import OptimConfig
from tests.tiny import tiny_model

PROMPTS = list("abcdefghijklmnop")
FULL, LORA = (TuningConfig(kind="full"), 3e-3), (TuningConfig(rank=4), 1e-2)

each_tuning = pytest.mark.parametrize(
    ("tuning", "learning_rate"),
    [pytest.param(*FULL, marks=pytest.mark.slow, id="full"), pytest.param(*LORA, id="lora")],
)


def count_a(prompts: list[str], responses: list[str]) -> list[float]:
    return [float(response.count("a")) for response in responses]


class Length:
    """Rewards long answers (or short ones), in tokens, the stop token included."""

    name = "length"

    def __init__(self, sign: float) -> None:
        self.sign = sign

    def __call__(self, answers: Answers) -> Tensor:
        return self.sign * answers.tokens.response_lengths / 4


def learn(
    reward: object,
    tuning: TuningConfig,
    learning_rate: float,
    *,
    updates: int = 16,
    pad_is_eos: bool = False,
    critic: CriticConfig | None = None,
    **options: object,
) -> list[dict[str, float]]:
    """The figures of `updates` steps."""
    policy = tiny_model(pad_is_eos=pad_is_eos)
    settings = {"batch_size": 16, "minibatch_size": 16, "epochs": 2, "kl_coef": 0.01} | options
    algorithm = PPO(
        tune(policy, tuning),
        reward,  # type: ignore[arg-type]
        PPOConfig(**settings),  # type: ignore[arg-type]
        rollout=SamplingConfig(max_new_tokens=8),
        optim=OptimConfig(learning_rate=learning_rate, warmup=0),
        critic=None if critic is None else build_critic(tiny_model(), critic, tuning),
        critic_config=critic,
    )
    return [algorithm.step(PROMPTS) for _ in range(updates)]


@each_tuning
def test_a_rewarded_letter_comes_ever_more_often(tuning: TuningConfig, learning_rate: float) -> None:
    history = learn(count_a, tuning, learning_rate)
    assert history[0]["score/mean"] < 0.5
    assert history[-1]["score/mean"] > 4  # of at most 8


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"minibatch_size": 4, "microbatch_size": 2},
        {"loss": "kl_penalty"},
        {"aggregate": "sequence"},
        {"reward_scale": "running", "kl_target": 20.0, "kl_horizon": 100.0},
        {"truncation": "bootstrap"},
        {"critic": CriticConfig(kind="separate", warmup_steps=2)},
        {"critic": CriticConfig(detach=False)},
    ],
    ids=["minibatches", "kl_penalty", "sequence", "scaled", "bootstrap", "separate", "undetached"],
)
def test_it_does_so_in_every_form_of_the_algorithm(options: dict[str, object]) -> None:
    history = learn(count_a, *LORA, updates=24, **options)  # type: ignore[arg-type]
    assert history[-1]["score/mean"] > history[0]["score/mean"] + 1


@pytest.mark.slow
def test_a_model_whose_pad_token_is_its_eos_learns_to_stop() -> None:
    history = learn(Length(-1), *LORA, pad_is_eos=True)
    assert history[0]["length/mean"] > 6
    assert history[-1]["length/mean"] < 4


@pytest.mark.slow
def test_and_not_to_stop() -> None:
    history = learn(Length(1), *FULL, updates=24, pad_is_eos=True)
    assert history[0]["length/mean"] < 7.4
    assert history[-1]["length/mean"] > 7.5  # of 8


@pytest.mark.slow
def test_a_penalty_for_truncation_teaches_to_stop() -> None:
    nothing = lambda prompts, responses: [0.0] * len(responses)  # noqa: E731
    history = learn(nothing, *LORA, truncation="penalty", penalty_score=-4.0)
    assert history[0]["length/truncated"] > 0.6
    assert history[-1]["length/truncated"] < 0.4


@pytest.mark.slow
def test_a_larger_kl_coef_keeps_the_policy_nearer_to_its_reference() -> None:
    free, held = (learn(count_a, *LORA, updates=10, kl_coef=coef)[-1] for coef in (0.001, 1.0))
    assert held["kl/sequence"] < 0.5 * free["kl/sequence"]
    assert held["score/mean"] < free["score/mean"]
