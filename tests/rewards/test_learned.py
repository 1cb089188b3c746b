"""A reward model as a reward: the sampled tokens are scored as they are, and text as training would encode it."""

import pytest
import torch

from proxtune.data.collate import Tokens, collate
from proxtune.errors import RewardError
from proxtune.models.heads import RewardModel, ScalarHead
from proxtune.models.score import rewards
from proxtune.rewards.base import Answers
from proxtune.rewards.learned import LearnedReward
from tests.tiny import tiny_model

EOS = 1


def reward_model(*, max_length: int = 64) -> RewardModel:
    lm = tiny_model(seed=5)
    head = ScalarHead(lm.hidden_size, zero=False, generator=torch.Generator().manual_seed(1))
    return RewardModel(lm, head, max_length=max_length, gain=2.0, bias=-0.5)


def answers(prompts: list[str], responses: list[str]) -> Answers:
    """What a policy with the same tokenizer has answered, each answer ended by its stop token."""
    encode = tiny_model().tokenizer.encode
    tokens = collate([encode(p) for p in prompts], [[*encode(r), EOS] for r in responses])
    return Answers(prompts, responses, tokens, {})


ASKED = answers(["ab", "c", "defg"], ["hello", "x", "yz"])


@pytest.mark.parametrize("rows_at_once", [1, 2, 32])
def test_tokens_are_scored_as_they_were_sampled_whatever_the_chunk(rows_at_once: int) -> None:
    model = reward_model()
    reward = LearnedReward(model, same_tokenizer=True, rows_at_once=rows_at_once)
    scores = reward(ASKED)
    assert reward.name == "model"
    assert not scores.requires_grad
    torch.testing.assert_close(scores, rewards(model, ASKED.tokens).detach(), rtol=0, atol=1e-5)


def test_text_is_scored_as_the_tokens_it_was_trained_on() -> None:
    model = reward_model()
    by_text = LearnedReward(model, same_tokenizer=False)(ASKED)
    torch.testing.assert_close(by_text, LearnedReward(model, same_tokenizer=True)(ASKED), rtol=0, atol=1e-5)


def test_answers_without_any_text_are_scored_too() -> None:
    empty = answers(["ab", "c"], ["", ""])
    assert LearnedReward(reward_model(), same_tokenizer=False)(empty).shape == (2,)


def test_a_longer_answer_than_the_reward_model_knows_is_refused() -> None:
    longest = 2 + 5 + 1  # "ab", "hello" and the stop token
    assert len(LearnedReward(reward_model(max_length=longest), same_tokenizer=True)(ASKED)) == 3
    with pytest.raises(RewardError, match=r"8 tokens \(prompt included\) is longer than the 7 .*max_new_tokens"):
        LearnedReward(reward_model(max_length=longest - 1), same_tokenizer=True)(ASKED)


def test_a_score_that_is_not_finite_is_refused() -> None:
    model = reward_model()
    with torch.no_grad():
        model.head.linear.bias.fill_(torch.nan)
    with pytest.raises(RewardError, match="'model' returned nan for response 0"):
        LearnedReward(model, same_tokenizer=True)(ASKED)


def test_what_stands_after_an_answer_does_not_change_its_score() -> None:
    model = reward_model()
    t = ASKED.tokens
    rubbish = torch.where(t.mask, t.response_ids, 17)
    padded = Answers(
        ASKED.prompts, ASKED.responses, Tokens(t.prompt_ids, t.prompt_lengths, rubbish, t.response_lengths), {}
    )
    reward = LearnedReward(model, same_tokenizer=True)
    assert torch.equal(reward(padded), reward(ASKED))


def test_a_reward_model_scores_without_dropout() -> None:
    model = reward_model()
    model.lm.module.config.attention_dropout = 0.5
    for layer in model.lm.module.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.lm.module.train()  # as RewardTrainer leaves it
    reward = LearnedReward(model, same_tokenizer=True)
    assert torch.equal(reward(ASKED), reward(ASKED))
