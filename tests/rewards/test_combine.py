"""Several rewards as one, and scores on a steady scale."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from proxtune.data.collate import collate
from proxtune.errors import ConfigError, RewardError
from proxtune.rewards.base import Answers, FunctionReward, Reward
from proxtune.rewards.combine import RunningScale, WeightedSum

ANSWERS = Answers(["a", "b"], ["cc", "dddd"], collate([[2], [3]], [[4, 4], [5, 5, 5, 5]]), {})
LENGTH = FunctionReward(lambda prompts, responses: [len(r) for r in responses], "length")
TWO = FunctionReward(lambda prompts, responses: [2.0] * len(responses), "two")


def test_rewards_are_summed_with_their_weights() -> None:
    # 0.5 · 2 − 1 · 2 = −1 and 0.5 · 4 − 1 · 2 = 0
    assert WeightedSum([(LENGTH, 0.5), (TWO, -1.0)])(ANSWERS).tolist() == [-1.0, 0.0]


def test_the_unweighted_parts_are_kept_for_the_curves() -> None:
    total = WeightedSum([(LENGTH, 0.5), (TWO, -1.0)])
    total(ANSWERS)
    assert {name: part.tolist() for name, part in total.parts.items()} == {"length": [2.0, 4.0], "two": [2.0, 2.0]}


def test_a_part_that_fails_stops_the_sum_and_is_named() -> None:
    bad = FunctionReward(lambda prompts, responses: [0.0], "bad")
    with pytest.raises(RewardError, match="'bad'"):
        WeightedSum([(LENGTH, 1.0), (bad, 0.0)])(ANSWERS)


@pytest.mark.parametrize(("name", "taken"), [("two", "two"), ("mean", "mean"), ("std", "std")])
def test_two_figures_of_one_name_are_refused(name: str, taken: str) -> None:
    other = FunctionReward(lambda prompts, responses: [3.0] * len(responses), name)
    with pytest.raises(ConfigError, match=rf"names of their own beside mean and std: {taken} is taken; rename one"):
        WeightedSum([(TWO, 1.0), (other, 10.0)])


batches = st.lists(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=6).map(lambda row: [round(x, 3) for x in row]),
    min_size=1,
    max_size=6,
)


@given(batches)
def test_a_running_scale_is_the_population_deviation_of_all_scores_so_far(rows: list[list[float]]) -> None:
    scale, seen = RunningScale(), np.array([])
    for row in rows:
        batch = torch.tensor(row)
        seen = np.concatenate([seen, batch.double().numpy()])
        deviation = float(seen.std())
        scaled = scale(batch)
        assert scaled.dtype == torch.float32
        if deviation > 1e-4:  # below it the scores are equal but for rounding, and there is no scale
            np.testing.assert_allclose(scaled.numpy(), np.array(row) / deviation, rtol=1e-4)


def test_the_mean_stays() -> None:
    # deviation of (4, 8) is 2
    assert RunningScale()(torch.tensor([4.0, 8.0])).tolist() == [2.0, 4.0]


def test_scores_are_unchanged_until_two_differ() -> None:
    scale = RunningScale()
    assert scale(torch.tensor([3.0])).tolist() == [3.0]
    assert scale(torch.tensor([3.0, 3.0])).tolist() == [3.0, 3.0]
    assert scale(torch.tensor([0.0])).tolist() == [0.0]
    assert scale(torch.tensor([3.0]))[0] != 3.0


def test_a_scale_goes_on_exactly_from_its_state() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second, third = torch.randn(3, 7, generator=generator)
    whole, resumed = RunningScale(), RunningScale()
    whole(first)
    whole(second)
    resumed.load_state(json.loads(json.dumps(whole.state())))
    assert torch.equal(whole(third), resumed(third))
    assert whole.state() == resumed.state()


@pytest.mark.parametrize("names", [("good", "good"), ("mean", "good")])
def test_two_rewards_of_one_name_are_refused(names: tuple[str, str]) -> None:
    rewards: list[tuple[Reward, float]] = [
        (FunctionReward(lambda prompts, responses: [0.0], name), 1.0) for name in names
    ]
    with pytest.raises(ConfigError, match="is taken"):
        WeightedSum(rewards)
