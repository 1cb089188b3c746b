"""What is trained is what was asked for, and the sampler and the trainer stay one function."""

import pytest
import torch
from torch import nn

from proxtune.data.collate import collate
from proxtune.errors import ModelError
from proxtune.models.language_model import LanguageModel
from proxtune.models.peft import TuningConfig, disable_dropout, tune
from proxtune.models.score import score
from tests.tiny import ADAPTABLE, FAMILIES, tiny_model

TOKENS = collate([[5, 6], [7]], [[8, 9, 1], [10, 11, 12, 13]])

each_family = pytest.mark.parametrize("family", FAMILIES)
each_adaptable_family = pytest.mark.parametrize("family", ADAPTABLE)


def train(model: LanguageModel, steps: int = 3) -> None:
    optimizer = torch.optim.SGD(model.trained().values(), lr=0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        (-score(model, TOKENS).logprobs.sum()).backward()
        optimizer.step()


def logprobs(model: LanguageModel) -> torch.Tensor:
    with torch.no_grad():
        return score(model, TOKENS).logprobs


def base_weights(model: LanguageModel) -> dict[str, torch.Tensor]:
    return {name: p.clone() for name, p in model.module.named_parameters() if "lora" not in name}


@each_family
def test_full_tuning_trains_every_weight(family: str) -> None:
    model = tune(tiny_model(family=family), TuningConfig(kind="full"))
    assert model.adapter is None
    assert set(model.trained()) == {name for name, _ in model.module.named_parameters()}


@each_adaptable_family
def test_a_fresh_adapter_changes_nothing(family: str) -> None:
    plain = logprobs(tiny_model(family=family))
    tuned = tune(tiny_model(family=family), TuningConfig(rank=2))
    torch.testing.assert_close(logprobs(tuned), plain, rtol=0, atol=1e-6)


@each_adaptable_family
def test_lora_trains_its_adapters_alone_and_switched_off_gives_the_original_output(family: str) -> None:
    original = logprobs(tiny_model(family=family))
    model = tune(tiny_model(family=family), TuningConfig(rank=2))
    assert all(".lora_" in name for name in model.trained())
    before = base_weights(model)
    train(model)
    assert all(torch.equal(weight, before[name]) for name, weight in base_weights(model).items())
    assert (logprobs(model) - original).abs().max() > 0.01
    with model.as_reference() as reference:
        assert torch.equal(score(reference, TOKENS).logprobs, original)
    assert (logprobs(model) - original).abs().max() > 0.01


@each_adaptable_family
def test_every_linear_layer_of_the_blocks_is_adapted_and_the_head_is_not(family: str) -> None:
    model = tune(tiny_model(family=family), TuningConfig(rank=2))
    adapted = {name.rpartition(".lora_")[0].split(".", 2)[-1] for name in model.trained()}
    each_block = {
        "own": 4,  # qkv, out, up, down
        "gpt2": 4,  # c_attn, c_proj, c_fc, c_proj
    }.get(family, 7)  # q, k, v, o, gate, up, down
    assert len(adapted) == 2 * each_block
    assert not any("lm_head" in name or "embed" in name for name in adapted)


@each_adaptable_family
def test_after_a_pass_of_the_reference_the_adapter_is_on_and_trainable(family: str) -> None:
    model = tune(tiny_model(family=family), TuningConfig(rank=2))
    names = set(model.trained())
    with model.as_reference() as reference:
        assert not score(reference, TOKENS).logprobs.requires_grad
    assert set(model.trained()) == names
    assert score(model, TOKENS).logprobs.requires_grad


def test_the_adapter_is_on_again_after_an_error_in_the_reference_pass() -> None:
    model = tune(tiny_model(), TuningConfig(rank=2))
    train(model)
    trained = logprobs(model)
    with pytest.raises(ZeroDivisionError), model.as_reference():
        raise ZeroDivisionError
    assert torch.equal(logprobs(model), trained)


@each_adaptable_family
def test_top_layers_adapts_the_top_blocks_and_no_gradient_flows_below(family: str) -> None:
    model = tune(tiny_model(family=family), TuningConfig(rank=2, top_layers=1))
    assert model.trained()
    assert all(".1." in name for name in model.trained())
    blocks = next(part for part in model.module.modules() if isinstance(part, nn.ModuleList))
    needs_gradient = {}

    def note(block: nn.Module, _inputs: object, output: object) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        assert isinstance(hidden, torch.Tensor)
        needs_gradient[block] = hidden.requires_grad

    for block in blocks:
        block.register_forward_hook(note)
    score(model, TOKENS).logprobs.sum().backward()
    assert [needs_gradient[block] for block in blocks] == [False, True]


def test_more_top_layers_than_blocks_are_refused() -> None:
    with pytest.raises(ModelError, match=r"top_layers is 3, but the model has 2 blocks; set at most 2"):
        tune(tiny_model(), TuningConfig(top_layers=3))


def test_an_lstm_takes_no_adapter_and_says_what_to_do() -> None:
    message = r"^LSTM has no blocks of linear layers to put adapters in; set tuning\.kind=full$"
    with pytest.raises(ModelError, match=message):
        tune(tiny_model(family="lstm"), TuningConfig())


@each_adaptable_family
def test_full_tuning_of_the_top_trains_the_top_blocks_alone(family: str) -> None:
    model = tune(tiny_model(family=family), TuningConfig(kind="full", top_layers=1))
    before = {name: p.clone() for name, p in model.module.named_parameters()}
    assert model.frozen_blocks == 1
    train(model)
    moved = {name for name, p in model.module.named_parameters() if not torch.equal(p, before[name])}
    assert moved == set(model.trained())
    assert all(".1." in name for name in moved)


@pytest.mark.parametrize("kind", ["full", "lora"])
@each_adaptable_family
def test_activations_that_are_computed_again_give_the_same_gradient(family: str, kind: str) -> None:
    def gradients(checkpointing: bool) -> list[torch.Tensor]:
        model = tune(tiny_model(family=family), TuningConfig(kind=kind, rank=2, checkpointing=checkpointing))
        train(model, steps=1)  # past LoRA's first step, whose gradient of A is 0
        disable_dropout(model.module)
        model.module.train()
        (-score(model, TOKENS).logprobs.sum()).backward()
        return [p.grad for p in model.trained().values() if p.grad is not None]

    for kept, again in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(again, kept, rtol=1e-4, atol=1e-5)


def test_an_lstm_has_no_blocks_to_compute_again() -> None:
    with pytest.raises(ModelError, match=r"LSTM cannot compute activations again; set tuning\.checkpointing=false"):
        tune(tiny_model(family="lstm"), TuningConfig(kind="full", checkpointing=True))


def test_the_scale_of_an_update_is_alpha_over_rank() -> None:
    model = tune(tiny_model(), TuningConfig(rank=4, alpha=8))
    train(model)
    layer = model.module.get_submodule("model.layers.0.mlp.up_proj")
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert down.shape == (4, 32)
    x = torch.ones(32)
    torch.testing.assert_close(layer(x) - layer.base_layer(x), 8 / 4 * up @ down @ x, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "kind"), [*((family, "full") for family in FAMILIES), *((family, "lora") for family in ADAPTABLE)]
)
def test_with_dropout_off_train_mode_is_deterministic_and_equals_eval_mode(family: str, kind: str) -> None:
    model = tiny_model(family=family)
    clean = logprobs(model)
    for part in model.module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.5
        for name in ("attention_dropout", "dropout"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.5)
    tune(model, TuningConfig(kind=kind, rank=2, dropout=0.5))
    model.module.train()
    assert not torch.equal(logprobs(model), logprobs(model))
    disable_dropout(model.module)
    assert model.module.training
    assert torch.equal(logprobs(model), logprobs(model))
    torch.testing.assert_close(logprobs(model), clean, rtol=0, atol=1e-6)
