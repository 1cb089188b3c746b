"""Supervised fine-tuning: the likelihood of the responses, however they are split."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from proxtune.algorithms.sft import SFT, SFTConfig
from proxtune.data.template import Example
from proxtune.models.language_model import weight_hash
from proxtune.models.peft import TuningConfig, tune
from proxtune.training.optim import OptimConfig
from tests.tiny import FAMILIES, tiny_model

FULL = TuningConfig(kind="full")
EXAMPLES = [
    Example([5, 6, 7], [8, 9, 1], "", truncated=False),
    Example([8], [15, 16, 17, 18, 1], "", truncated=False),
    Example([9, 10, 11, 12], [1], "", truncated=False),
    Example([3, 2], [20, 21], "", truncated=True),
]


def trainer(config: SFTConfig | None = None, *, family: str = "llama", tuning: TuningConfig = FULL) -> SFT:
    return SFT(tune(tiny_model(family=family), tuning), config, optim=OptimConfig(learning_rate=1e-2, warmup=0))


def weights(sft: SFT) -> Tensor:
    return torch.cat([p.detach().flatten() for p in sft.model.module.parameters()])


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_loss_is_the_plain_cross_entropy_of_the_response_tokens(family: str) -> None:
    module = tiny_model(family=family).module
    losses = []
    for example in EXAMPLES:
        labels = torch.tensor([-100] * len(example.prompt_ids) + example.response_ids)
        logits = module(input_ids=torch.tensor([example.prompt_ids + example.response_ids])).logits[0]
        losses.append(F.cross_entropy(logits[:-1], labels[1:], reduction="sum"))
    expected = float(sum(losses) / 11)  # 3 + 5 + 1 + 2 response tokens
    with torch.enable_grad():
        stats = trainer(family=family).step(EXAMPLES)
    assert stats["loss"] == pytest.approx(expected, abs=1e-5)
    assert stats["tokens"] == 11


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("tuning", [FULL, TuningConfig(rank=2)], ids=["full", "lora"])
def test_micro_batches_change_no_result(size: int, tuning: TuningConfig) -> None:
    config = SFTConfig(batch_size=12, microbatch_size=size)
    # plain gradient descent in effect: Adam would magnify the rounding of gradients near 0
    whole, split = trainer(tuning=tuning), trainer(config, tuning=tuning)
    for sft in (whole, split):
        sft.optimizer.adam = torch.optim.SGD(sft.optimizer.adam.param_groups[0]["params"], lr=0.1)
    stats = [sft.step(EXAMPLES) for sft in (whole, split)]
    torch.testing.assert_close(weights(split), weights(whole), rtol=0, atol=1e-6)
    for name in ("loss", "likelihood", "gradient/model", "tokens"):
        assert stats[1][name] == pytest.approx(stats[0][name], rel=1e-5)


def test_what_stands_before_the_response_is_not_learnt() -> None:
    """The gradient of the loss is that of the response alone: a prompt's tokens change it only by what they say."""
    sft = trainer()
    loss = sft.step([Example([5], [6, 7, 1], "", truncated=False)])["loss"]
    longer = trainer().step([Example([5, 6], [7, 1], "", truncated=False)])["loss"]
    only_first = trainer().step([Example([5], [6], "", truncated=True)])["loss"]
    assert 3 * loss == pytest.approx(only_first + 2 * longer, abs=1e-4)


@pytest.mark.parametrize("tuning", [FULL, TuningConfig(rank=4)], ids=["full", "lora"])
def test_the_loss_falls(tuning: TuningConfig) -> None:
    sft = trainer(tuning=tuning)
    losses = [sft.step(EXAMPLES)["loss"] for _ in range(15)]
    assert losses[-1] < 0.5 * losses[0]
    assert sft.steps == 15


def test_the_stop_token_is_learnt_where_it_is_the_pad_token_too() -> None:
    model = tune(tiny_model(pad_is_eos=True), FULL)
    sft = SFT(model, optim=OptimConfig(learning_rate=1e-2, warmup=0))
    examples = [Example([5], [6, 1], "", truncated=False), Example([7, 8, 9, 5], [6, 10, 6, 1], "", truncated=False)]
    for _ in range(40):
        stats = sft.step(examples)
    assert stats["likelihood"] > 0.9
    with torch.no_grad():
        assert model.logits(model.hidden(torch.tensor([[5, 6]]))[0, -1]).softmax(-1)[1] > 0.8


def test_lora_leaves_the_base_bit_identical() -> None:
    base = tiny_model()
    before = {name: p.clone() for name, p in base.module.named_parameters()}
    sft = SFT(tune(base, TuningConfig(rank=2)), optim=OptimConfig(learning_rate=1e-2))
    for _ in range(3):
        sft.step(EXAMPLES)
    after = {
        name.replace(".base_layer", ""): p for name, p in sft.model.module.named_parameters() if "lora" not in name
    }
    assert all(torch.equal(after[name], p) for name, p in before.items())
    trained = [p for name, p in sft.model.trained().items() if "lora_B" in name]
    assert all(p.any() for p in trained)


def test_every_weight_moves_in_full_tuning() -> None:
    sft = trainer()
    before = {name: p.detach().clone() for name, p in sft.model.trained().items()}
    sft.step(EXAMPLES)
    assert [name for name, p in sft.model.trained().items() if torch.equal(p, before[name])] == []


def test_a_state_taken_and_loaded_goes_on_bit_for_bit() -> None:
    first, second = trainer(), trainer()
    first.step(EXAMPLES[:2])
    second.load_state(copy.deepcopy(first.state()))
    assert second.steps == 1
    assert first.step(EXAMPLES[2:]) == second.step(EXAMPLES[2:])
    assert weight_hash(first.model.module) == weight_hash(second.model.module)


def test_the_schedule_runs_over_the_whole_run() -> None:
    optim = OptimConfig(learning_rate=0.4, warmup=0)
    sft = SFT(tune(tiny_model(), FULL), optim=optim, total_steps=4)
    assert [sft.step(EXAMPLES)["optim/learning_rate"] for _ in range(4)] == pytest.approx([0.4, 0.3, 0.2, 0.1])


def test_a_smaller_last_batch_is_averaged_over_itself() -> None:
    assert trainer(SFTConfig(batch_size=4)).step(EXAMPLES[:1])["tokens"] == 3


@pytest.mark.parametrize("batch", [[], [Example([5, 6], [], "", truncated=True)]])
def test_tr4_a_batch_without_a_token_to_learn_is_refused_in_plain_words(batch: list[Example]) -> None:
    with pytest.raises(ValueError, match="the batch has no token to learn"):
        trainer().step(batch)


def test_a_micro_batch_that_does_not_divide_the_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"3 does not divide batch_size=4; set a divisor"):
        SFTConfig(batch_size=4, microbatch_size=3)
