"""What a config makes the reward of a run."""

from pathlib import Path
from typing import Any

import pytest

from proxtune import config as configs
from proxtune.errors import ConfigError
from proxtune.models.load import ModelConfig
from proxtune.rewards.likelihood import TeacherLikelihood
from proxtune.workflows.jobs import ppo_job
from proxtune.workflows.rewards import RewardConfig, build_reward, longest_scored
from proxtune.workflows.schemas import PPORun
from tests.tiny import tiny_model


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    tiny_model(seed=5).save(tmp_path / "teacher")
    return tmp_path / "teacher"


def build(teachers: list[str], **options: Any) -> Any:
    config = RewardConfig(teachers=teachers, **options)
    return build_reward(config, ModelConfig(), [], tiny_model())[0]


def test_a_teacher_scores_with_its_weight_and_under_its_name(teacher: Path) -> None:
    reward = build([f"{teacher}=0.5"], likelihood="sum")
    [(part, weight)] = reward.rewards
    assert isinstance(part, TeacherLikelihood)
    assert (part.name, part.likelihood, part.same_tokenizer, weight) == ("teacher", "sum", True, 0.5)
    assert part.teacher.trained() == {}
    assert longest_scored(reward) == 64


def test_a_weight_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match=r"teachers: could not convert .* write RUN or RUN=WEIGHT"):
        RewardConfig(teachers=["runs/teacher=much"])


@pytest.mark.parametrize("key", ["models", "teachers"])
def test_a_weight_that_would_make_every_score_nan_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=rf"{key}: the weight 'nan' is not a finite number; write RUN or RUN=WEIGHT"):
        RewardConfig(**{key: ["runs/a=nan"]})


def test_nothing_rewarded_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"set reward\.models=\[runs/NAME\], reward\.teachers=\[runs/NAME\]"):
        build([])


def test_a_summed_likelihood_that_would_be_clipped_to_one_value_is_refused() -> None:
    overrides = ["data.train=prompts.jsonl", "reward.teachers=[runs/teacher]", "reward.likelihood=sum"]
    with pytest.raises(ConfigError, match=r"ppo\.reward_clip.*: 10 would make .* below −10 alike; set .*=null"):
        configs.load(PPORun, [], overrides)
    assert configs.load(PPORun, [], [*overrides, "ppo.reward_clip=null"]).reward.likelihood == "sum"


def test_prompts_that_leave_the_teacher_no_room_are_refused_before_anything_is_trained(
    teacher: Path, tmp_path: Path
) -> None:
    policy, data = tmp_path / "policy", tmp_path / "prompts.csv"
    model = tiny_model()
    model.module.config.max_position_embeddings = 128
    model.save(policy)
    data.write_text("prompt\na\n" + "b" * 60 + "\n")
    overrides = [f"model.name={policy}", f"data.train={data}", f"reward.teachers=[{teacher}]"]
    config = configs.load(PPORun, [], [*overrides, "data.eval_fraction=0", "rollout.max_new_tokens=5"])
    with pytest.raises(ConfigError, match=r"come to 65 tokens, but the model that scores them takes at most 64"):
        ppo_job(config)
