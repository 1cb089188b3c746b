"""Adapters stand where they should, begin as nothing, and come back from a folder, however often that is done."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, BertConfig, BertModel, PreTrainedModel

from proxtune.errors import ModelError
from proxtune.models.adapters import Bottleneck, linear_layers, set_aside, sublayers
from proxtune.models.language_model import LanguageModel
from proxtune.models.load import ModelConfig, load
from proxtune.models.peft import TuningConfig, tune
from proxtune.models.trunk import blocks
from tests.tiny import ADAPTABLE, FAMILIES, WIDTH, tiny_model
from tests.tuned import logprobs, nudged

pytestmark = pytest.mark.slow  # together they take longer than `make check` has

ADAPTER = TuningConfig(kind="adapter", adapter_size=4, adapter_placement="houlsby")

each_adaptable_family = pytest.mark.parametrize("family", ADAPTABLE)


def tiny_bert() -> PreTrainedModel:
    return BertModel(BertConfig(**WIDTH, intermediate_size=64), add_pooling_layer=False)


def test_an_adapter_adds_a_small_network_of_the_layers_output() -> None:
    part = Bottleneck(nn.Linear(1, 2), 1)
    with torch.no_grad():
        for weight, values in [
            (part.inner.weight, [[1.0], [2.0]]),  # y = (x, 2x)
            (part.inner.bias, [0.0, 0.0]),
            (part.down.weight, [[1.0, 1.0]]),  # relu(3x − 1)
            (part.down.bias, [-1.0]),
            (part.up.weight, [[10.0], [100.0]]),
            (part.up.bias, [0.5, 0.0]),
        ]:
            assert isinstance(weight, torch.Tensor)
            weight.copy_(torch.tensor(values))
    assert part(torch.tensor([[1.0], [-1.0]])).tolist() == [[1 + 20 + 0.5, 2 + 200], [-1 + 0.5, -2]]
    part.on = False
    assert part(torch.tensor([[1.0]])).tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("family", "keys_values", "attention", "feedforward"),
    [
        *(
            (family, ["self_attn.k_proj", "self_attn.v_proj"], "self_attn.o_proj", "mlp.down_proj")
            for family in ("llama", "qwen2", "gemma3")
        ),
        ("own", ["attention.qkv"], "attention.out", "down"),
        ("gpt2", ["attn.c_attn"], "attn.c_proj", "mlp.c_proj"),
        ("bert", ["attention.self.key", "attention.self.value"], "attention.output.dense", "output.dense"),
    ],
)
def test_what_makes_keys_and_values_and_what_ends_attention_and_feedforward_is_found(
    family: str, keys_values: list[str], attention: str, feedforward: str
) -> None:
    module = tiny_bert() if family == "bert" else FAMILIES[family]()
    path, found = blocks(module)
    name = f"{path}.1"
    expected = ([f"{name}.{layer}" for layer in keys_values], f"{name}.{attention}", f"{name}.{feedforward}")
    assert sublayers(name, found[1], 32) == expected
    for layer in (attention, feedforward):  # and again where adapters stand already
        module.set_submodule(f"{name}.{layer}", Bottleneck(module.get_submodule(f"{name}.{layer}"), 4))
    inside = (expected[0], f"{name}.{attention}.inner", f"{name}.{feedforward}.inner")
    assert sublayers(name, found[1], 32) == inside
    assert not any(layer.endswith((".down", ".up")) for layer, _ in linear_layers(found[1], name) if family != "own")


def test_a_block_that_is_built_otherwise_is_not_guessed_at() -> None:
    assert sublayers("block", nn.ModuleDict({"mix": nn.Linear(4, 4), "up": nn.Linear(4, 4)}), 4) is None
    assert sublayers("block", nn.ModuleDict({"attention": nn.Linear(4, 4), "up": nn.Linear(4, 8)}), 4) is None


@each_adaptable_family
def test_a_saved_folder_holds_the_adapters_beside_an_ordinary_model(family: str, tmp_path: Path) -> None:
    base = logprobs(tiny_model(family=family))
    model = nudged(tune(tiny_model(family=family), ADAPTER))
    trained = logprobs(model)
    model.save(tmp_path)
    assert torch.equal(logprobs(model), trained)  # saving left the model itself alone
    again = load(ModelConfig(name=str(tmp_path)))
    assert again.adapter is None
    assert again.trained() == {}
    assert torch.equal(logprobs(again), trained)
    plain = LanguageModel(AutoModelForCausalLM.from_pretrained(tmp_path), again.tokenizer)
    assert torch.equal(logprobs(plain), base)
    assert (trained - base).abs().max() > 0.01


@pytest.mark.parametrize("kind", ["adapter", "lora", "ia3", "full"])
def test_a_run_on_adapters_of_an_earlier_run_keeps_them_and_saves_both(kind: str, tmp_path: Path) -> None:
    nudged(tune(tiny_model(), ADAPTER)).save(tmp_path / "first")
    second = load(ModelConfig(name=str(tmp_path / "first")))
    first = logprobs(second)
    config = TuningConfig(kind=kind, rank=2, adapter_size=3, adapter_placement="houlsby")  # type: ignore[arg-type]
    tune(second, config)
    torch.testing.assert_close(logprobs(second), first, rtol=0, atol=1e-6)
    trained = logprobs(nudged(second, seed=1))
    assert (trained - first).abs().max() > 0.01
    second.save(tmp_path / "second")
    torch.testing.assert_close(logprobs(load(ModelConfig(name=str(tmp_path / "second")))), trained, rtol=0, atol=1e-4)
    if second.adapter is not None:
        with second.as_reference():
            torch.testing.assert_close(logprobs(second), first, rtol=0, atol=1e-6)


def test_adapters_that_are_taken_out_for_a_while_are_back_after_an_error() -> None:
    model = nudged(tune(nudged(tune(tiny_model(), ADAPTER)), ADAPTER))
    names, trained = [name for name, _ in model.module.named_modules()], logprobs(model)
    with set_aside(model.module) as found:
        assert len(found) == 8  # two stacks of two adapters in each of two blocks
        assert not any(isinstance(part, Bottleneck) for part in model.module.modules())
        assert torch.equal(logprobs(model), logprobs(tiny_model()))
    with pytest.raises(ZeroDivisionError), set_aside(model.module):
        raise ZeroDivisionError
    assert [name for name, _ in model.module.named_modules()] == names
    assert torch.equal(logprobs(model), trained)


def test_a_folder_that_is_written_again_without_adapters_holds_none(tmp_path: Path) -> None:
    nudged(tune(tiny_model(), ADAPTER)).save(tmp_path)
    tiny_model().save(tmp_path)
    assert torch.equal(logprobs(load(ModelConfig(name=str(tmp_path)))), logprobs(tiny_model()))


@pytest.mark.parametrize("name", ["model.layers.7.mlp.down_proj", "model.norm", 5])
def test_adapters_of_another_model_are_refused(name: object, tmp_path: Path) -> None:
    tune(tiny_model(), ADAPTER).save(tmp_path)
    (tmp_path / "adapters.json").write_text(json.dumps({"layers": [name]}))
    with pytest.raises(ModelError, match=r"the adapters of the model .* cannot be read"):
        load(ModelConfig(name=str(tmp_path)))


def test_a_copy_of_a_model_has_adapters_of_its_own() -> None:
    model = nudged(tune(tiny_model(), ADAPTER))
    trained = logprobs(model)
    other = LanguageModel(copy.deepcopy(model.module), model.tokenizer)
    nudged(model, seed=1)
    assert torch.equal(logprobs(other), trained)
