"""Trunk and head give what the whole model gives, and what is saved is an ordinary model."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BloomConfig,
    BloomForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    PreTrainedModel,
)

from proxtune.errors import CheckpointError, ModelError
from proxtune.models.language_model import LanguageModel, check_architecture, copy_into, weight_hash
from proxtune.models.load import ModelConfig, load
from proxtune.models.peft import TuningConfig, tune
from proxtune.models.score import score
from tests.tiny import ADAPTABLE, FAMILIES, LETTERS, LLAMA, letter_tokenizer, tiny_model
from tests.tuned import TOKENS, logprobs

IDS = torch.tensor([[5, 9, 2, 27, 13, 1, 8, 8, 20, 3, 4, 7]])
EOS_AND_PAD = {"eos_token_id": 1, "pad_token_id": 0}

each_family = pytest.mark.parametrize("family", FAMILIES)


@each_family
@torch.no_grad()
def test_the_head_on_the_trunk_gives_the_models_own_logits(family: str) -> None:
    model = tiny_model(family=family)
    hidden = model.hidden(IDS)
    assert hidden.shape == (1, 12, model.hidden_size)
    torch.testing.assert_close(model.logits(hidden), model.module(input_ids=IDS).logits, rtol=0, atol=1e-5)
    check_architecture(model)


def test_logits_are_float32_whatever_the_weights_are() -> None:
    model = tiny_model()
    model.module.to(torch.bfloat16)
    assert model.logits(model.hidden(IDS)).dtype == torch.float32


@pytest.mark.parametrize(
    "build",
    [
        lambda: GraniteForCausalLM(GraniteConfig(**LLAMA, **EOS_AND_PAD, logits_scaling=4.0)),
        lambda: CohereForCausalLM(CohereConfig(**LLAMA, **EOS_AND_PAD, logit_scale=0.5)),
    ],
    ids=["granite", "cohere"],
)
def test_an_architecture_that_changes_its_logits_after_the_head_is_refused(
    build: Callable[[], PreTrainedModel],
) -> None:
    model = LanguageModel(build().eval(), letter_tokenizer())
    message = r"(Granite|Cohere)ForCausalLM changes its logits after the head .*cannot be trained here yet"
    with pytest.raises(ModelError, match=message):
        check_architecture(model)


@each_family
def test_the_context_and_the_stop_tokens_are_known(family: str) -> None:
    model = tiny_model(family=family)
    assert model.context == 64
    assert model.stop_ids == (1,)


def test_a_model_that_names_no_longest_sequence_is_refused_or_has_one() -> None:
    module = BloomForCausalLM(BloomConfig(vocab_size=len(LETTERS), hidden_size=32, n_layer=1, n_head=2))
    assert LanguageModel(module, letter_tokenizer()).context > 0


def nudge(model: LanguageModel) -> None:
    """Change every weight that is trained, as training would."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.trained().values():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))


@pytest.mark.parametrize(
    ("family", "kind"), [*((family, "full") for family in FAMILIES), *((family, "lora") for family in ADAPTABLE)]
)
def test_a_saved_model_loads_and_gives_the_same_logprobs(family: str, kind: str, tmp_path: Path) -> None:
    model = tune(tiny_model(family=family), TuningConfig(kind=kind, rank=2))
    before = logprobs(model)
    nudge(model)
    trained = logprobs(model)
    model.save(tmp_path)
    assert (trained - before).abs().max() > 0.01
    again = load(ModelConfig(name=str(tmp_path)))
    assert again.adapter is None
    torch.testing.assert_close(logprobs(again), trained, rtol=0, atol=0 if kind == "full" else 1e-4)
    torch.testing.assert_close(logprobs(model), trained, rtol=0, atol=0)  # saving left the model itself alone
    assert again.tokenizer.encode("ab") == [2, 3]


@each_family
def test_transformers_alone_reads_what_was_saved(family: str, tmp_path: Path) -> None:
    kind = "lora" if family in ADAPTABLE else "full"
    model = tune(tiny_model(family=family), TuningConfig(kind=kind, rank=2))
    nudge(model)
    model.save(tmp_path)
    module = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(module(IDS).logits, model.logits(model.hidden(IDS)), rtol=0, atol=1e-4)
    assert AutoTokenizer.from_pretrained(tmp_path).eos_token == "<|eos|>"


def test_saving_keeps_training_possible(tmp_path: Path) -> None:
    model = tune(tiny_model(), TuningConfig(kind="lora", rank=2))
    names = set(model.trained())
    model.save(tmp_path)
    assert set(model.trained()) == names
    assert score(model, TOKENS).logprobs.requires_grad


def test_a_frozen_copy_shares_no_memory_and_trains_nothing() -> None:
    model = tune(tiny_model(), TuningConfig(kind="full"))
    copy = model.frozen_copy()
    before = weight_hash(copy.module)
    nudge(model)
    assert weight_hash(copy.module) == before != weight_hash(model.module)
    assert copy.trained() == {}


def test_a_hash_sees_every_bit_of_every_weight() -> None:
    model = tiny_model()
    before = weight_hash(model.module)
    assert before == weight_hash(tiny_model().module)
    assert before != weight_hash(tiny_model(seed=1).module)
    weight = next(iter(model.module.parameters()))
    with torch.no_grad():
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(torch.inf))
    assert weight_hash(model.module) != before


def test_weights_of_another_run_are_not_copied_in() -> None:
    weights = {"a": torch.zeros(2), "b": torch.zeros(2)}
    with pytest.raises(CheckpointError, match=r"first difference: b\); is the config the same"):
        copy_into(weights, {"a": torch.ones(2)})
    copy_into(weights, {"a": torch.ones(2), "b": torch.ones(2)})
    assert weights["b"].tolist() == [1, 1]


def test_weights_of_another_size_are_refused_by_name() -> None:
    with pytest.raises(CheckpointError, match="a"):
        copy_into({"a": torch.zeros(2)}, {"a": torch.ones(3)})
