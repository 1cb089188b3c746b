"""Reward modelling: the better answer gets the higher score, on a scale of mean 0 and deviation 1."""

import copy
import math

import pytest
import torch
from torch import Tensor

from proxtune.algorithms.reward_model import RewardModelConfig, RewardTrainer, normalise
from proxtune.data.template import PreferenceExample
from proxtune.models.heads import RewardModel, ScalarHead
from proxtune.models.language_model import weight_hash
from proxtune.models.peft import TuningConfig, tune
from proxtune.models.score import pair_rewards
from proxtune.training.optim import OptimConfig
from tests.tiny import tiny_model

FULL = TuningConfig(kind="full")
A, B, EOS = 2, 3, 1


def pairs(count: int = 8) -> list[PreferenceExample]:
    """An answer with an `a` is better than one with a `b`; prompts and lengths vary."""
    found = []
    for i in range(count):
        rest = [10 + (3 * i + j) % 15 for j in range(i % 4)]
        found.append(PreferenceExample([5 + i, 6][: 1 + i % 2], [*rest, A, EOS], [*rest, B, *rest, EOS], ""))
    return found


def reward_model(tuning: TuningConfig = FULL) -> RewardModel:
    lm = tune(tiny_model(), tuning)
    return RewardModel(lm, ScalarHead(32, zero=False, generator=torch.Generator().manual_seed(2)), max_length=64)


def trainer(config: RewardModelConfig | None = None, tuning: TuningConfig = FULL) -> RewardTrainer:
    return RewardTrainer(reward_model(tuning), config, optim=OptimConfig(learning_rate=3e-3, warmup=0))


def weights(model: RewardModel) -> Tensor:
    parts = [*model.lm.module.parameters(), *model.head.parameters()]
    return torch.cat([p.detach().flatten() for p in parts])


def test_the_loss_is_the_bradley_terry_likelihood_of_the_scores() -> None:
    model = reward_model()
    chosen, rejected = pair_rewards(model, pairs())
    margins = (chosen - rejected).tolist()
    stats = RewardTrainer(model).step(pairs())
    assert stats["loss"] == pytest.approx(sum(math.log1p(math.exp(-m)) for m in margins) / 8, abs=1e-5)
    assert stats["margin"] == pytest.approx(sum(margins) / 8, abs=1e-5)
    assert stats["accuracy"] == sum(m > 0 for m in margins) / 8


def test_a_model_that_knows_nothing_loses_log_2_a_pair() -> None:
    model = RewardModel(tune(tiny_model(), FULL), ScalarHead(32, zero=True), max_length=64)
    stats = RewardTrainer(model).step(pairs())
    assert stats["loss"] == pytest.approx(math.log(2))
    assert stats["accuracy"] == 0  # a tie is not a hit


@pytest.mark.parametrize("tuning", [FULL, TuningConfig(rank=4)], ids=["full", "lora"])
def test_pairs_that_can_be_told_apart_are_told_apart(tuning: TuningConfig) -> None:
    train = trainer(tuning=tuning)
    history = [train.step(pairs()) for _ in range(25)]
    assert history[-1]["accuracy"] == 1
    assert history[-1]["loss"] < 0.2 < history[0]["loss"]
    assert history[-1]["margin"] > 1
    with torch.no_grad():
        chosen, rejected = pair_rewards(train.model, [PreferenceExample([20], [25, A, EOS], [25, B, EOS], "")])
    assert chosen > rejected


@pytest.mark.parametrize("size", [1, 3, 4])
def test_micro_batches_change_no_result(size: int) -> None:
    config = RewardModelConfig(batch_size=12, microbatch_size=size)
    whole, split = trainer(), trainer(config)
    stats = []
    for train in (whole, split):
        parameters = [p for group in train.optimizer.adam.param_groups for p in group["params"]]
        train.optimizer.adam = torch.optim.SGD(
            parameters, lr=0.01
        )  # Adam would magnify the rounding of gradients near 0
        train.optimizer.peaks = {"all": 0.01}
        stats.append(train.step(pairs(7)))
    torch.testing.assert_close(weights(split.model), weights(whole.model), rtol=0, atol=1e-6)
    for name in ("loss", "accuracy", "margin", "gradient/model", "gradient/head", "tokens"):
        assert stats[1][name] == pytest.approx(stats[0][name], rel=1e-5)


def test_the_order_within_a_pair_is_what_is_learnt() -> None:
    swapped = [PreferenceExample(p.prompt_ids, p.rejected_ids, p.chosen_ids, p.where) for p in pairs()]
    train = trainer()
    for _ in range(25):
        train.step(swapped)
    with torch.no_grad():
        chosen, rejected = pair_rewards(train.model, pairs())
    assert (chosen < rejected).all()


def test_lora_trains_adapters_and_head_alone() -> None:
    model = reward_model(TuningConfig(rank=2))
    base = {name: p.clone() for name, p in model.lm.module.named_parameters() if "lora" not in name}
    head = model.head.linear.weight.detach().clone()
    train = RewardTrainer(model, optim=OptimConfig(learning_rate=1e-2))
    for _ in range(3):
        train.step(pairs())
    assert all(torch.equal(p, base[name]) for name, p in model.lm.module.named_parameters() if name in base)
    assert all(p.any() for name, p in model.lm.trained().items() if "lora_B" in name)
    assert not torch.equal(model.head.linear.weight, head)


@pytest.mark.parametrize(("rate", "expected"), [(None, 0.5), (0.3, 0.3)])
def test_a_new_head_learns_at_a_rate_of_its_own(rate: float | None, expected: float) -> None:
    train = RewardTrainer(
        reward_model(), RewardModelConfig(head_learning_rate=rate), optim=OptimConfig(learning_rate=0.1)
    )
    assert train.optimizer.peaks == pytest.approx({"model": 0.1, "head": expected})


@pytest.mark.parametrize("rows_at_once", [1, 3, 32])
def test_normalised_scores_have_mean_0_and_deviation_1(rows_at_once: int) -> None:
    model = reward_model()
    model.lm.module.eval()
    normalise(model, pairs(), rows_at_once=rows_at_once)
    with torch.no_grad():
        scores = torch.cat(pair_rewards(model, pairs()))
    assert scores.mean().item() == pytest.approx(0, abs=1e-5)
    assert scores.std(unbiased=False).item() == pytest.approx(1, abs=1e-5)


def test_normalising_again_changes_nothing_and_never_the_order() -> None:
    model = reward_model()
    with torch.no_grad():
        before = torch.cat(pair_rewards(model, pairs())).argsort()
    normalise(model, pairs())
    scale = (model.gain, model.bias)
    normalise(model, pairs())
    assert (model.gain, model.bias) == pytest.approx(scale)
    assert model.gain > 0
    with torch.no_grad():
        assert torch.equal(torch.cat(pair_rewards(model, pairs())).argsort(), before)


def test_scores_are_normalised_without_dropout() -> None:
    model = reward_model(TuningConfig(rank=2, dropout=0.5))
    train = RewardTrainer(model, optim=OptimConfig(learning_rate=3e-2))
    for _ in range(3):
        train.step(pairs())
    normalise(model, pairs())
    model.lm.module.eval()
    with torch.no_grad():
        scores = torch.cat(pair_rewards(model, pairs()))
    assert scores.mean().item() == pytest.approx(0, abs=1e-4)


def test_scores_that_do_not_differ_are_centred() -> None:
    model = RewardModel(tiny_model(), ScalarHead(32, zero=True), max_length=64)
    with torch.no_grad():
        model.head.linear.bias.fill_(0.25)
    normalise(model, pairs())
    with torch.no_grad():
        assert torch.cat(pair_rewards(model, pairs())).abs().max() < 1e-3


def test_a_state_taken_and_loaded_goes_on_bit_for_bit() -> None:
    first, second = trainer(), trainer()
    first.step(pairs()[:4])
    second.load_state(copy.deepcopy(first.state()))
    assert first.step(pairs()[4:]) == second.step(pairs()[4:])
    assert weight_hash(first.model.lm.module) == weight_hash(second.model.lm.module)
    assert weight_hash(first.model.head) == weight_hash(second.model.head)


def test_tokens_are_those_that_went_through_the_model() -> None:
    assert trainer().step([PreferenceExample([5, 6], [7, 1], [8, 9, 1], "")])["tokens"] == 2 + 2 + 2 + 3


def test_a_micro_batch_that_does_not_divide_the_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"3 does not divide batch_size=4; set a divisor"):
        RewardModelConfig(batch_size=4, microbatch_size=3)
