"""People as a reward: the mean of their ratings, and no score where there is none."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from proxtune.algorithms.ppo import PPO, PPOConfig
from proxtune.data.collate import collate
from proxtune.feedback.records import Options, Turn
from proxtune.feedback.store import Store
from proxtune.models.peft import TuningConfig, tune
from proxtune.rewards.base import Answers, Reward
from proxtune.rewards.human import HumanReward
from proxtune.rollouts.sampling import SamplingConfig
from tests.tiny import tiny_model

REQUESTS = itertools.count()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.create(tmp_path / "labels.db") as store:
        yield store


def answers(*responses: str) -> Answers:
    tokens = collate([[2]] * len(responses), [[3]] * len(responses))
    return Answers(["prompt"] * len(responses), list(responses), tokens, {})


def rate(store: Store, person: int, scores: dict[str, dict[str, int]]) -> None:
    """Rate the answers that the person has a score for; skip the others."""
    while (lease := store.queue.next(person)) is not None:
        text = lease.item.candidates[0].text
        body = {"kind": "rating", "scores": scores[text]} if text in scores else {"kind": "skip"}
        store.judgements.submit(person, lease.id, body, revision=lease.revision, request=f"r{next(REQUESTS)}")


def asked(store: Store, *raters: dict[str, dict[str, int]], **options: object) -> HumanReward:
    """A reward whose people answer while it waits."""
    judges = [store.people.add(f"person {i}", "annotator").id for i in range(len(raters))]

    def sleep(_: float) -> None:
        for person, scores in zip(judges, raters, strict=True):
            rate(store, person, scores)

    given = {"batch": "b", "people": len(raters), "wait": 0.2, "sleep": sleep, **options}
    return HumanReward(store, **given)


def asked_by(store: Store, person: int, scores: dict[str, dict[str, int]]) -> HumanReward:
    """A reward that one person answers while it waits."""
    return HumanReward(store, batch="b", wait=5.0, sleep=lambda _: rate(store, person, scores))


def test_the_reward_is_the_mean_of_the_ratings_on_a_scale_from_minus_1_to_1(store: Store) -> None:
    """R("x") = (5 + 4) / 2 = 4.5, and (4.5 − 3) / 2 = 0.75; R("y") = 1 is −1."""
    reward = asked(store, {"x": {"overall": 5}, "y": {"overall": 1}}, {"x": {"overall": 4}, "y": {"overall": 1}})
    assert reward(answers("x", "y")).tolist() == [0.75, -1.0]


def test_criteria_are_averaged_and_a_scale_of_seven_ends_at_1_too(store: Store) -> None:
    options = Options(criteria=("true", "kind"), scale=7)
    reward = asked(store, {"x": {"true": 7, "kind": 7}, "y": {"true": 7, "kind": 1}}, options=options)
    assert reward(answers("x", "y")).tolist() == [1.0, 0.0]


def test_an_answer_that_nobody_rated_has_no_score_and_is_not_asked_about_any_more(store: Store) -> None:
    reward = asked(store, {"x": {"overall": 5}})
    scores = reward(answers("x", "y"))
    assert scores[0] == 1.0
    assert scores[1].isnan()
    late = store.people.add("late", "annotator").id
    assert store.queue.next(late) is None
    assert (reward.asked, reward.rated) == (2, 1)


def test_what_was_left_is_asked_again_by_a_later_step_and_what_is_half_rated_is_not_in_its_way(store: Store) -> None:
    first = asked(store, {"x": {"overall": 5}}, {})
    assert first(answers("x", "y"))[1].isnan()
    late = store.people.add("late", "annotator").id
    assert store.queue.next(late) is None, "x has one of two ratings, and its step is over"
    again = asked_by(store, late, {"y": {"overall": 1}})
    assert again(answers("y")).tolist() == [-1.0]


def test_a_reviewers_decision_is_enough(store: Store) -> None:
    reward = asked(store, {}, {}, wait=60.0)
    reviewer = store.people.add("reviewer", "reviewer").id

    def decide(_: float) -> None:
        for item in range(1, 3):
            body = {"kind": "rating", "scores": {"overall": 5}}
            store.judgements.submit(reviewer, item, body, revision=1, request=f"f{item}", final=True)

    reward.sleep = decide
    assert reward(answers("x", "y")).tolist() == [1.0, 1.0]


def test_one_of_two_ratings_is_enough_when_time_is_up(store: Store) -> None:
    reward = asked(store, {"x": {"overall": 5}}, {})
    assert reward(answers("x")).tolist() == [1.0]


def test_people_read_the_conversation_and_not_what_the_template_makes_of_it(store: Store) -> None:
    turns = (Turn(role="user", content="Hi"),)
    HumanReward(store, batch="b", wait=0.0, shown={"prompt": turns})(answers("x"))
    (judged,) = store.judgements.all(unjudged=True)
    assert judged.item.prompt == turns


def test_equal_answers_are_one_question(store: Store) -> None:
    reward = asked(store, {"x": {"overall": 4}})
    assert reward(answers("x", "x")).tolist() == [0.5, 0.5]
    assert store.queue.batches()["b"].items == 1


def test_asked_again_the_same_answers_are_the_same_questions(store: Store) -> None:
    """A run that was killed while it waited asks again, and finds what people said meanwhile."""
    asked(store, {"x": {"overall": 5}})(answers("x"))
    again = HumanReward(store, batch="b", wait=0.0)
    assert again(answers("x")).tolist() == [1.0]


def test_where_there_is_a_model_it_scores_what_nobody_rated(store: Store) -> None:
    class Model:
        name = "model"

        def __call__(self, given: Answers) -> torch.Tensor:
            return torch.full((len(given.responses),), 0.25)

    assert isinstance(Model(), Reward)
    reward = asked(store, {"x": {"overall": 5}}, otherwise=Model())
    assert reward(answers("x", "y")).tolist() == [1.0, 0.25]


def test_ppo_leaves_out_what_nobody_rated(store: Store) -> None:
    """Nobody answers: nothing is learnt, and nothing is invented."""
    policy = tune(tiny_model(), TuningConfig(kind="full"))
    before = {name: weight.clone() for name, weight in policy.trained().items()}
    reward = HumanReward(store, batch="b", wait=0.0)
    config = PPOConfig(batch_size=4, minibatch_size=4)
    ppo = PPO(policy, reward, config, rollout=SamplingConfig(max_new_tokens=3))
    figures = ppo.step(["ab", "cd", "ef", "gh"])
    assert figures["score/failed"] == 1.0
    assert all(torch.equal(weight, before[name]) for name, weight in policy.trained().items())
