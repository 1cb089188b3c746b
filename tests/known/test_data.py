"""How data was spoilt in silence elsewhere. docs/known-failures.md lists all."""

from collections import Counter
from typing import Any

import pytest
import torch

from proxtune.algorithms.sft import SFT
from proxtune.data.collate import collate, collate_pairs
from proxtune.data.loader import Loader
from proxtune.data.template import Example, PreferenceExample, PromptExample, encode_completion, encode_prompt
from proxtune.models.heads import RewardModel, ScalarHead
from proxtune.models.peft import tune
from proxtune.models.score import join, pair_rewards, rewards, score
from proxtune.rewards.base import Answers
from proxtune.rewards.learned import LearnedReward
from proxtune.training.optim import OptimConfig
from tests.known.made import EOS, FULL, PROMPTS, watched
from tests.tiny import tiny_model


def reward_model(*, pad_is_eos: bool = False) -> RewardModel:
    lm = tiny_model(pad_is_eos=pad_is_eos)
    return RewardModel(lm, ScalarHead(32, zero=False, generator=torch.Generator().manual_seed(0)), 64)


# A pad token that is the EOS


def test_trl_5303_an_eos_is_learnt_where_it_is_the_pad_token_too() -> None:
    model = tune(tiny_model(pad_is_eos=True), FULL)
    learner = SFT(model, optim=OptimConfig(learning_rate=1e-2, warmup=0))
    examples = [Example([5], [6, EOS], "", truncated=False), Example([7, 8], [6, 9, 6, EOS], "", truncated=False)]
    assert learner.step(examples)["tokens"] == 6  # both EOS among them
    for _ in range(30):
        learner.step(examples)
    with torch.no_grad():
        after = model.logits(model.hidden(torch.tensor([[5, 6]]))[0, -1]).softmax(-1)
    assert after[EOS] > 0.8


def test_trl_ppo_an_eos_inside_a_prompt_stays_what_it_is() -> None:
    tokens = collate([[7, EOS, 8], [9]], [[5, EOS], [6, EOS]])
    assert join(tokens).tolist()[0] == [7, EOS, 8, 5, EOS]
    assert tokens.prompt_lengths.tolist() == [3, 1]
    assert tokens.mask.tolist() == [[True, True], [True, True]]
    # and the model reads it: without it the answer has other log-probs
    model = tiny_model(pad_is_eos=True)
    with_it, without = (score(model, collate([p], [[5, EOS]])).logprobs for p in ([7, EOS, 8], [7, 8]))
    assert (with_it - without).abs().max() > 1e-2


def test_rlhf_reward_modeling_49_the_score_is_read_at_the_eos_though_it_is_the_pad_token() -> None:
    model = reward_model(pad_is_eos=True)
    found = rewards(model, collate([[5], [7, 8]], [[6, EOS], [6, 9, 6, EOS]]))
    for row, ids in enumerate([[5, 6, EOS], [7, 8, 6, 9, 6, EOS]]):
        by_hand = model.head(model.lm.hidden(torch.tensor([ids]))[0, -1])
        assert found[row].item() == pytest.approx(by_hand.item(), abs=1e-5)


# The reward model's input


def test_trl_1702_a_reward_model_reads_the_ids_that_it_was_trained_on() -> None:
    model = reward_model()
    tokenizer = model.lm.tokenizer
    prompt, chosen = encode_completion(tokenizer, "ab", "hello")
    _, rejected = encode_completion(tokenizer, "ab", "no")
    trained = torch.cat(pair_rewards(model, [PreferenceExample(prompt, chosen, rejected, "")]))
    asked = Answers(["ab", "ab"], ["hello", "no"], collate([prompt] * 2, [chosen, rejected]), {})
    for same_tokenizer in (True, False):
        scored = LearnedReward(model, same_tokenizer=same_tokenizer)(asked)
        torch.testing.assert_close(scored, trained.detach(), rtol=0, atol=1e-5)


def test_trl_5813_training_and_scoring_encode_a_prompt_alike() -> None:
    tokenizer = tiny_model().tokenizer
    for text in ("ab", "a b.", ""):
        assert encode_completion(tokenizer, text, "c")[0] == encode_prompt(tokenizer, text)


def test_rlhf_reward_modeling_49_a_score_does_not_depend_on_the_padding_beside_it() -> None:
    model = reward_model()
    short, long = PreferenceExample([5], [6, EOS], [7, EOS], ""), PreferenceExample([5] * 9, [6] * 20, [7] * 20, "")
    alone, beside = rewards(model, collate_pairs([short])), rewards(model, collate_pairs([short, long]))
    torch.testing.assert_close(alone, beside[[0, 2]], rtol=0, atol=1e-5)


# Batches


def test_trl_ppo_data_smaller_than_a_batch_makes_batches() -> None:
    batches = Loader(["x", "y", "z"], 4, seed=0)
    for _ in range(3):
        assert len(next(batches)) == 4
    assert watched(batch_size=4, minibatch_size=4).step(next(Loader(["ab", "c", "d"], 4, seed=0)))["tokens"] > 0


def test_trl_ppo_no_row_is_dropped_at_the_end_of_a_pass() -> None:
    batches = Loader(list("abcdef"), 4, seed=0)  # six rows in batches of four
    seen = Counter(row for _ in range(3) for row in next(batches))
    assert seen == dict.fromkeys("abcdef", 2)  # 3 batches of 4 are 2 passes


def test_trl_ppo_text_columns_go_to_the_reward_and_to_no_tensor() -> None:
    seen: list[list[Any]] = []

    def reward(prompts: list[str], responses: list[str], genre: list[Any]) -> list[float]:
        seen.append(genre)
        return [0.0] * len(responses)

    watched(reward=reward).step([PromptExample([5], text, {"genre": f"film {text}"}, "") for text in PROMPTS])
    assert seen == [[f"film {text}" for text in PROMPTS]]
