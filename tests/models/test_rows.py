"""Packed rows see themselves alone, whatever stands beside them; a frozen trunk is run once for all that need it."""

import pytest
import torch
from torch import Tensor

from proxtune.data.collate import collate
from proxtune.models.language_model import LanguageModel
from proxtune.models.packed import packed
from proxtune.models.peft import TuningConfig, tune
from proxtune.models.rows import Rows
from proxtune.models.score import frozen_states, score
from proxtune.rollouts.cache import memory_for
from tests.tiny import ADAPTABLE, FAMILIES, tiny_model

PROMPTS = [[5, 6], [7, 8, 9, 10, 11, 12, 13], [14]]
TOKENS = collate([[5, 6], [7, 8, 9], [10]], [[11, 1], [12], [13, 14, 15, 16, 1]])

each_family = pytest.mark.parametrize("family", FAMILIES)
each_adaptable_family = pytest.mark.parametrize("family", ADAPTABLE)


def alone(model: LanguageModel, prompt: list[int]) -> Tensor:
    return model.hidden(torch.tensor([prompt]))[0]


def flat(rows: list[list[int]]) -> Tensor:
    return torch.tensor([token for row in rows for token in row])


@each_family
@torch.no_grad()
def test_packed_rows_are_what_each_is_alone(family: str) -> None:
    model = tiny_model(family=family)
    found = model.run(flat(PROMPTS), Rows([len(p) for p in PROMPTS]))
    torch.testing.assert_close(found, torch.cat([alone(model, p) for p in PROMPTS]), rtol=0, atol=1e-5)


@each_family
def test_gradients_are_the_sum_of_those_of_each_row_alone(family: str) -> None:
    model = tiny_model(family=family)
    weights = list(model.module.base_model.requires_grad_(True).parameters())
    groups = [list(range(5, 5 + length)) for length in (6, 2, 5, 3)]  # of like lengths: 6 and 5, 3 and 2
    packed = model.run(flat(groups), Rows([len(row) for row in groups])).pow(3).sum()
    single = sum(alone(model, row).pow(3).sum() for row in groups)
    pairs = zip(*(torch.autograd.grad(loss, weights, allow_unused=True) for loss in (packed, single)), strict=True)
    for ours, theirs in pairs:
        if theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_attention_pads_rows_of_like_lengths_together() -> None:
    groups, slots = Rows([6, 2, 5, 3]).groups
    assert groups == [(2, 6), (2, 3)]
    assert slots is not None
    assert slots.tolist() == [0, 1, 2, 3, 4, 5, 15, 16, 6, 7, 8, 9, 10, 12, 13, 14]


@each_family
@torch.no_grad()
def test_rows_that_go_on_and_rows_that_begin_share_a_pass(family: str) -> None:
    model = tiny_model(family=family)
    memory = memory_for(model, 3, 16)
    model.run(flat([p[:-1] for p in PROMPTS[:2]]), Rows([len(p) - 1 for p in PROMPTS[:2]], memory=memory))
    going = [len(p) - 1 for p in PROMPTS[:2]]
    found = model.run(flat([[6], [13], PROMPTS[2]]), Rows([1], going=going, memory=memory))
    expected = torch.stack([alone(model, p)[-1] for p in PROMPTS])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@each_family
@torch.no_grad()
def test_a_place_that_is_copied_goes_on_as_its_source_would(family: str) -> None:
    model = tiny_model(family=family)
    memory = memory_for(model, 3, 16)
    model.run(flat(PROMPTS), Rows([len(p) for p in PROMPTS], memory=memory))
    memory.copy(1, 0, 7)
    found = model.run(torch.tensor([3, 4]), Rows([], going=[7, 7], memory=memory))
    expected = torch.stack([alone(model, [*PROMPTS[1], token])[-1] for token in (3, 4)])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@each_family
@pytest.mark.parametrize("kind", ["full", "lora"])
@torch.no_grad()
def test_packed_weights_are_the_same_function_and_are_forgotten(family: str, kind: str) -> None:
    model = tiny_model(family=family)
    if kind == "lora" and family != "lstm":
        tune(model, TuningConfig(rank=2))
        for name, weight in model.trained().items():
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))) / 10)
    plain = score(model, TOKENS).logprobs
    with packed(model.module, model.device, model.module.dtype):
        torch.testing.assert_close(score(model, TOKENS).logprobs, plain, rtol=0, atol=1e-5)
    assert torch.equal(score(model, TOKENS).logprobs, plain)
    assert not any("forward" in vars(part) for part in model.module.modules())


@each_adaptable_family
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_above_kept_states_values_and_gradients_are_those_of_the_whole_pass(family: str, kind: str) -> None:
    def pass_over(keep: bool) -> list[Tensor]:
        model = tune(tiny_model(family=family), TuningConfig(kind=kind, rank=2, top_layers=1))
        with torch.no_grad():
            for weight in model.trained().values():
                weight.add_(torch.linspace(-0.1, 0.1, weight.numel()).view_as(weight))
        found = score(model, TOKENS, below=frozen_states(model, TOKENS) if keep else None).logprobs
        found.sum().backward()
        return [found.detach(), *(p.grad for p in model.trained().values() if p.grad is not None)]

    for kept, whole in zip(pass_over(True), pass_over(False), strict=True):
        torch.testing.assert_close(kept, whole, rtol=1e-4, atol=1e-5)


@each_adaptable_family
def test_above_kept_states_no_lower_block_is_run(family: str) -> None:
    model = tune(tiny_model(family=family), TuningConfig(rank=2, top_layers=1))
    below = frozen_states(model, TOKENS)
    assert below is not None
    whole = score(model, TOKENS).logprobs.detach()
    with torch.no_grad():
        for name, weight in model.module.named_parameters():
            if ".0." in name:
                weight.fill_(torch.nan)
    torch.testing.assert_close(score(model, TOKENS, below=below).logprobs.detach(), whole, rtol=0, atol=1e-5)


@each_family
def test_where_all_is_trained_nothing_is_kept(family: str) -> None:
    assert frozen_states(tune(tiny_model(family=family), TuningConfig(kind="full")), TOKENS) is None
    assert frozen_states(tiny_model(family=family), TOKENS) is None


def test_equal_frozen_weights_are_held_once_and_trained_ones_never() -> None:
    policy, other = tiny_model(), tiny_model()
    tune(policy, TuningConfig(kind="full", top_layers=1))
    assert not other.shares_below(policy, 1)
    other.share(policy)
    assert other.shares_below(policy, 1)
    mine, theirs = (dict(model.module.named_parameters()) for model in (other, policy))
    for name, weight in mine.items():
        assert (weight.data_ptr() == theirs[name].data_ptr()) is (".1." not in name)


def test_another_models_weights_are_not_shared() -> None:
    policy, other = tiny_model(), tiny_model(seed=1)
    other.share(policy)
    same = zip(other.module.parameters(), policy.module.parameters(), strict=True)
    assert not any(a.data_ptr() == b.data_ptr() and a.std() > 0 for a, b in same)
