"""Virtual tokens are what text before a row would be, in every pass there is, and a folder keeps what they learnt."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    DynamicCache,
)

from proxtune.errors import ConfigError, ModelError
from proxtune.models.language_model import LanguageModel
from proxtune.models.peft import VIRTUAL, tune
from proxtune.models.rows import Rows
from proxtune.models.score import row_states, score
from proxtune.models.virtual import Virtual, taken_out
from tests.tiny import ADAPTABLE, FAMILIES, WIDTH, letter_tokenizer, tiny_model
from tests.tuned import TOKENS, K, each_virtual_kind, each_virtual_kind_and_family, logprobs, nudged, virtual_config

pytestmark = pytest.mark.slow  # together they take longer than `make check` has

CACHED = [family for family in ADAPTABLE if family != "own"]  # those with transformers' own memory

each_family = pytest.mark.parametrize("family", FAMILIES)


def tuned(kind: str, family: str = "llama", *, seed: int = 0) -> LanguageModel:
    return tune(tiny_bert() if family == "bert" else tiny_model(family=family), virtual_config(kind), seed=seed)


def tiny_bert() -> LanguageModel:
    torch.manual_seed(0)
    module = BertModel(BertConfig(**WIDTH, intermediate_size=64, initializer_range=0.2), add_pooling_layer=False)
    return LanguageModel(module.eval().requires_grad_(False), letter_tokenizer())


def virtual(model: LanguageModel) -> Virtual:
    assert model.virtual is not None
    return model.virtual


def words(model: LanguageModel) -> list[int]:
    """The tokens that fresh vectors were taken from."""
    table = model.module.get_input_embeddings()(torch.arange(len(letter_tokenizer())))
    same = (virtual(model).learned()["vectors"][:, None] == table).all(-1)
    assert same.sum(1).tolist() == [1] * K
    found: list[int] = same.nonzero()[:, 1].tolist()
    return found


def behind(model: LanguageModel, before: list[int], text: list[int]) -> Tensor:
    """[S, H]: the states of a text behind other tokens."""
    with torch.no_grad():
        return model.hidden(torch.tensor([before + text]))[0, len(before) :]


def hidden(model: LanguageModel, text: list[int]) -> Tensor:
    with torch.no_grad():
        return model.hidden(torch.tensor([text]))[0]


@each_family
def test_fresh_slots_are_ordinary_words_before_the_text(family: str) -> None:
    model = tuned("prompt", family)
    found = words(model)
    assert not set(found) & {0, 1}
    text = [5, 9, 2, 7]
    expected = behind(tiny_model(family=family), found, text)
    torch.testing.assert_close(hidden(model, text), expected, rtol=0, atol=1e-5)
    if family != "lstm":  # nothing that comes later changes the keys and values of words
        torch.testing.assert_close(hidden(tuned("prefix", family), text), expected, rtol=0, atol=1e-5)


@each_virtual_kind
def test_the_seed_draws_the_words_and_leaves_the_global_generator(kind: str) -> None:
    before = torch.get_rng_state()
    one, same, other = (tune(tiny_model(), virtual_config(kind), seed=seed) for seed in (1, 1, 2))
    torch.set_rng_state(before)  # `tiny_model` seeds it
    tune(one.frozen_copy(), virtual_config("lora"))
    assert torch.equal(torch.get_rng_state(), before)
    weights = [torch.cat([p.detach().flatten() for p in model.trained().values()]) for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("kind", ["prompt", "ptuning"])
@pytest.mark.parametrize("family", [*FAMILIES, "bert"])
def test_vectors_are_words_that_the_vocabulary_does_not_have(kind: str, family: str) -> None:
    model = nudged(tuned(kind, family))
    vectors = virtual(model).learned()["vectors"].detach()
    longer = tiny_bert() if family == "bert" else tiny_model(family=family)
    table: Any = longer.module.get_input_embeddings()
    table.weight.data = torch.cat([table.weight, vectors / (32**0.5 if family == "gemma3" else 1)])  # it scales them
    text, new = [5, 9, 2, 7], [len(table.weight) - K + i for i in range(K)]
    torch.testing.assert_close(hidden(model, text), behind(longer, new, text), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", CACHED)
def test_a_prefix_is_what_transformers_remembers_before_the_text(family: str) -> None:
    model = nudged(tuned("prefix", family))
    past = DynamicCache()
    for layer in range(2):
        x = {name: weight.detach()[None] for name, weight in virtual(model).learned().items()}
        past.update(x[f"keys_{layer}"], x[f"values_{layer}"], layer)
    plain, text = tiny_model(family=family), [5, 9, 2, 7]
    with torch.no_grad():
        expected = plain.module.base_model(input_ids=torch.tensor([text]), past_key_values=past).last_hidden_state[0]
    torch.testing.assert_close(hidden(model, text), expected, rtol=0, atol=1e-5)


def test_a_prefix_of_an_encoder_is_read_by_every_token_in_every_layer() -> None:
    model = nudged(tuned("prefix", "bert"))
    plain, text = tiny_bert(), [5, 9, 2, 7]

    def stand_in(layer: nn.Module, weight: Tensor) -> None:
        instead = weight.detach().transpose(0, 1).flatten(1)  # [heads, k, d] -> [k, heads · d]
        layer.register_forward_hook(lambda _, __, made: torch.cat([instead[None], made[:, K:]], 1))

    for name, weight in virtual(model).learned().items():
        kind, _, block = name.partition("_")
        stand_in(plain.module.get_submodule(f"encoder.layer.{block}.attention.self.{kind.removesuffix('s')}"), weight)
    torch.testing.assert_close(hidden(model, text), behind(plain, [2] * K, text), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "family", "weights"),
    [
        ("prompt", "llama", K * 32),
        ("prompt", "lstm", K * 32),
        ("ptuning", "gpt2", K * 32 + 2 * (32 * 32 + 32)),
        ("prefix", "llama", 2 * 2 * K * 16),  # layers, keys and values, two heads of 8 for four of queries
        ("prefix", "gpt2", 2 * 2 * K * 32),
        ("prefix", "bert", 2 * 2 * K * 32),
    ],
)
def test_so_many_weights_are_trained_and_no_others(kind: str, family: str, weights: int) -> None:
    assert sum(weight.numel() for weight in tuned(kind, family).trained().values()) == weights


@each_virtual_kind_and_family
def test_they_alone_are_trained_and_the_reference_is_the_model_that_the_run_began_with(kind: str, family: str) -> None:
    plain = tiny_model(family=family)
    base, weights = logprobs(plain), plain.module.state_dict()
    model = tuned(kind, family)
    began, names = logprobs(model), set(model.trained())
    assert all(name.startswith("virtual.") for name in names)
    optimizer = torch.optim.Adam(model.trained().values(), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        (-score(model, TOKENS).logprobs.sum()).backward()
        optimizer.step()
    assert all(weight.grad is not None and weight.grad.any() for weight in model.trained().values())
    assert logprobs(model).sum() > began.sum()
    with model.as_reference() as reference:
        assert torch.equal(logprobs(reference), began)
    assert logprobs(model).sum() > began.sum()
    assert set(model.trained()) == names
    others = {name: x for name, x in model.module.state_dict().items() if name not in names}
    assert others.keys() == weights.keys()
    assert all(torch.equal(x, weights[name]) for name, x in others.items())
    with taken_out(model.module):
        assert torch.equal(logprobs(model), base)


def test_the_slots_are_back_after_an_error() -> None:
    model = nudged(tuned("prefix"))
    trained = logprobs(model)
    with pytest.raises(ZeroDivisionError), taken_out(model.module):
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), model.as_reference():
        raise ZeroDivisionError
    assert torch.equal(logprobs(model), trained)


@each_virtual_kind
@pytest.mark.parametrize("family", ["llama", "own", "gpt2"])
def test_activations_that_are_computed_again_give_the_same_gradient(family: str, kind: str) -> None:
    def gradients(checkpointing: bool) -> list[Tensor]:
        model = nudged(tune(tiny_model(family=family), virtual_config(kind, checkpointing=checkpointing)))
        model.module.train()
        (-score(model, TOKENS).logprobs.sum()).backward()
        return [p.grad for p in model.trained().values() if p.grad is not None]

    for kept, again in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(again, kept, rtol=1e-4, atol=1e-5)


TEXTS = st.lists(st.lists(st.integers(2, 27), min_size=1, max_size=9), min_size=1, max_size=5)


@settings(max_examples=20, deadline=None)
@given(texts=TEXTS, kind=st.sampled_from(VIRTUAL), family=st.sampled_from(["qwen2", "gemma3", "own", "bert"]))
def test_packed_rows_are_the_rows_alone(texts: list[list[int]], kind: str, family: str) -> None:
    model = nudged(tuned(kind, family))
    with torch.no_grad():
        packed, rows = row_states(model, texts)
    assert rows.lengths == [len(text) for text in texts]
    torch.testing.assert_close(packed, torch.cat([hidden(model, text) for text in texts]), rtol=0, atol=1e-5)


@each_virtual_kind
def test_the_slots_of_an_encoder_count_to_the_first_of_two_texts(kind: str) -> None:
    model = nudged(tuned(kind, "bert"))
    texts, second = [[5, 9, 2, 7], [8, 3]], [2, 1]
    with torch.no_grad():
        packed, _ = row_states(model, texts, second)
        alone = [row_states(model, [text], [at])[0] for text, at in zip(texts, second, strict=True)]
        one_text, _ = row_states(model, texts, [4, 2])
        plain, _ = row_states(model, texts)
    torch.testing.assert_close(packed, torch.cat(alone), rtol=0, atol=1e-5)
    assert torch.equal(one_text, plain)
    assert (packed - plain).abs().max() > 0.01


@each_virtual_kind
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_more_than_the_context_holds_are_refused(kind: str, family: str) -> None:
    model = tiny_bert() if family == "bert" else tiny_model(family=family)
    with pytest.raises(ModelError, match=r"tuning.virtual_tokens is 64, but the model's context is 64, .*set fewer"):
        tune(model, virtual_config(kind, virtual_tokens=64))
    assert tune(model, virtual_config(kind, virtual_tokens=63)).context == 1


def test_an_lstm_has_no_keys_and_values() -> None:
    with pytest.raises(ModelError, match=r"^LSTM has no attention, whose keys .* set tuning\.kind=prompt$"):
        tuned("prefix", "lstm")


def test_layers_that_do_not_say_which_they_are_are_not_guessed_at() -> None:
    sizes = {"vocab_size": 30, "dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 64}
    model = LanguageModel(DistilBertModel(DistilBertConfig(**sizes)).eval(), letter_tokenizer())  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"do not say which they are, as tuning.kind=prefix needs; set tuning.kind=pr"):
        tune(model, virtual_config("prefix"))
    tune(model, virtual_config("prompt"))


@each_virtual_kind
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 0.1}, "dropout: {} has no adapter"),
        ({"top_layers": 2}, "top_layers: {} trains no block; set null"),
        ({"virtual_tokens": 0}, "virtual_tokens"),
    ],
)
def test_combinations_that_cannot_work_are_refused(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValidationError, ConfigError), match=message.format(kind)):
        virtual_config(kind, **options)


def test_rows_that_go_on_and_rows_that_begin_are_longer_by_as_much() -> None:
    longer = Rows([2, 1], going=[4, 7]).longer(3)
    assert longer.lengths == [5, 4]
    assert longer.positions.tolist() == [7, 10, 0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert longer.places.tolist() == [0, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3]
    assert longer.limit == 11
