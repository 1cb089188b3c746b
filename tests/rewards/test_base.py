"""A reward gives one finite number a response, or the run stops with its name."""

from typing import Any

import pytest
import torch

from proxtune.data.collate import collate
from proxtune.errors import RewardError
from proxtune.rewards.base import Answers, FunctionReward, as_reward, checked


def two_answers(**columns: list[Any]) -> Answers:
    return Answers(["a", "b"], ["cc", "dddd"], collate([[2], [3]], [[4, 4], [5, 5, 5, 5]]), columns)


def length(prompts: list[str], responses: list[str]) -> list[float]:
    return [float(len(response)) for response in responses]


def test_a_function_of_texts_is_a_reward() -> None:
    reward = FunctionReward(length)
    assert reward.name == "length"
    scores = reward(two_answers())
    assert scores.tolist() == [2.0, 4.0]
    assert scores.dtype == torch.float32


@pytest.mark.parametrize("returned", [(1, 2), [True, False], torch.tensor([1.0, 2.0], dtype=torch.float64)])
def test_whatever_holds_one_number_a_response_will_do(returned: Any) -> None:
    scores = FunctionReward(lambda prompts, responses: returned)(two_answers())
    assert scores.dtype == torch.float32
    assert scores.tolist() == [float(x) for x in returned]


def test_a_reward_never_carries_a_gradient() -> None:
    weight = torch.ones(2, requires_grad=True)
    assert not FunctionReward(lambda prompts, responses: 2 * weight)(two_answers()).requires_grad


def test_a_function_gets_the_columns_it_names() -> None:
    def match(prompts: list[str], responses: list[str], answer: list[str]) -> list[float]:
        return [float(x == y) for x, y in zip(responses, answer, strict=True)]

    assert FunctionReward(match)(two_answers(answer=["cc", "x"], other=[1, 2])).tolist() == [1.0, 0.0]


def test_a_function_gets_every_column_if_it_takes_them_all() -> None:
    seen: dict[str, Any] = {}

    def keep(prompts: list[str], responses: list[str], **columns: Any) -> list[float]:
        seen.update(columns)
        return [0.0, 0.0]

    FunctionReward(keep)(two_answers(answer=["x", None], level=[1, 2]))
    assert seen == {"answer": ["x", None], "level": [1, 2]}


def test_a_column_named_responses_does_not_hide_the_sampled_ones() -> None:
    assert FunctionReward(length)(two_answers(responses=["from the data", ""])).tolist() == [2.0, 4.0]


def test_a_reward_that_raises_stops_the_run_and_is_never_a_reward_of_0() -> None:
    def broken(prompts: list[str], responses: list[str]) -> list[float]:
        raise KeyError("answer")

    with pytest.raises(RewardError, match=r"'broken' raised KeyError: 'answer'.*not a reward of 0.*--resume") as caught:
        FunctionReward(broken)(two_answers())
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([1.0], r"'f' returned shape \(1,\); expected \(2,\)"),
        ([1.0, 2.0, 3.0], r"'f' returned shape \(3,\); expected \(2,\)"),
        ([[1.0], [2.0]], r"'f' returned shape \(2, 1\); expected \(2,\)"),
        (1.0, r"'f' returned shape \(\); expected \(2,\)"),
        ([], r"'f' returned shape \(0,\); expected \(2,\)"),
        ([0.0, float("nan")], r"'f' returned nan for response 1; expected a finite number"),
        ([float("-inf"), 0.0], r"'f' returned -inf for response 0"),
        ([1e300, 0.0], r"'f' returned inf for response 0"),
        (["good", "bad"], r"'f' returned \['good', 'bad'\]; expected 2 numbers"),
        ([None, 1.0], r"'f' returned \[None, 1.0\]; expected 2 numbers"),
        (None, r"'f' returned None; expected 2 numbers"),
        ({"score": 1.0}, r"'f' returned \{'score': 1.0\}; expected 2 numbers"),
    ],
)
def test_what_is_not_one_finite_number_a_response_is_refused_with_the_rewards_name(returned: Any, message: str) -> None:
    with pytest.raises(RewardError, match=message):
        checked("f", returned, 2)


def test_a_message_does_not_print_a_whole_batch() -> None:
    with pytest.raises(RewardError) as caught:
        checked("f", ["word"] * 10_000, 10_000)
    assert len(str(caught.value)) < 400


def test_a_reward_stays_as_it_is_and_a_function_becomes_one() -> None:
    class Constant:
        name = "constant"

        def __call__(self, answers: Answers) -> torch.Tensor:
            return torch.ones(len(answers.responses))

    reward = Constant()
    assert as_reward(reward) is reward
    assert as_reward(length).name == "length"
