"""What is trained is what was asked for, and the sampler and the trainer stay one function."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from transformers import BertConfig, BertModel, PhimoeConfig, PhimoeForCausalLM

from proxtune.algorithms.reward_model import RewardTrainer
from proxtune.data.template import PreferenceExample
from proxtune.errors import ModelError
from proxtune.models.heads import RewardModel, ScalarHead
from proxtune.models.language_model import LanguageModel
from proxtune.models.load import ModelConfig, load
from proxtune.models.packed import packed
from proxtune.models.peft import TuningConfig, disable_dropout, tune
from proxtune.models.score import frozen_states, score
from tests.tiny import ADAPTABLE, FAMILIES, LLAMA, WIDTH, letter_tokenizer, tiny_model
from tests.tuned import TOKENS, logprobs, nudged

pytestmark = pytest.mark.slow  # together they take longer than `make check` has


KINDS: dict[str, dict[str, Any]] = {
    "lora": {"kind": "lora", "rank": 2},
    "adalora": {"kind": "adalora", "rank": 2},
    "ia3": {"kind": "ia3"},
    "adapter": {"kind": "adapter", "adapter_size": 4},
    "houlsby": {"kind": "adapter", "adapter_size": 4, "adapter_placement": "houlsby"},
}
BIASED = ["gpt2", "qwen2", "lstm"]
PARTS = {"lora": ("lora_",), "adalora": ("lora_",), "ia3": ("ia3_l",), "adapter": (".down.", ".up.")}
PARTS["houlsby"] = PARTS["adapter"]

each_kind = pytest.mark.parametrize("kind", KINDS)
each_family = pytest.mark.parametrize("family", FAMILIES)
each_adaptable_family = pytest.mark.parametrize("family", ADAPTABLE)


def train(model: LanguageModel, steps: int = 3) -> None:
    optimizer = torch.optim.SGD(model.trained().values(), lr=0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        (-score(model, TOKENS).logprobs.sum()).backward()
        optimizer.step()


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


def tuned(kind: str, family: str = "llama", **more: Any) -> LanguageModel:
    options = {"kind": kind, **KINDS.get(kind, {}), **more}
    return tune(tiny_model(family=family), TuningConfig(**options))


def count(model: LanguageModel) -> int:
    return sum(weight.numel() for weight in model.trained().values())


def loss(model: LanguageModel) -> float:
    return -float(logprobs(model).sum())


@each_adaptable_family
@each_kind
def test_every_kind_begins_unchanged_trains_its_own_weights_and_is_switched_off(kind: str, family: str) -> None:
    plain = tiny_model(family=family)
    original, weights = logprobs(plain), dict(plain.module.state_dict())
    model = tuned(kind, family)
    torch.testing.assert_close(logprobs(model), original, rtol=0, atol=1e-6)
    names = set(model.trained())
    assert names
    assert all(any(part in name for part in PARTS[kind]) for name in names)
    nudged(model)
    assert (logprobs(model) - original).abs().max() > 0.01
    with model.as_reference() as reference:
        assert torch.equal(logprobs(reference), original)
    assert set(model.trained()) == names
    others = [x for name, x in model.module.state_dict().items() if name not in names]
    others = [x for x in others if x.numel() > 1]  # without the ranks that AdaLoRA divides by
    assert all(torch.equal(*pair) for pair in zip(others, weights.values(), strict=True))


@pytest.mark.parametrize(
    ("kind", "family"), [*((kind, family) for kind in KINDS for family in ADAPTABLE), *(("bitfit", f) for f in BIASED)]
)
def test_a_step_of_every_kind_lowers_the_loss(kind: str, family: str) -> None:
    model = tuned(kind, family)
    before = loss(model)
    optimizer = torch.optim.Adam(model.trained().values(), lr=1e-2)
    for _ in range(2):  # what is multiplied by zero at the start has a gradient from the second step on
        optimizer.zero_grad()
        (-score(model, TOKENS).logprobs.sum()).backward()
        optimizer.step()
    assert loss(model) < before
    assert all(weight.grad is not None and weight.grad.any() for weight in model.trained().values())


@pytest.mark.parametrize(
    ("kind", "family", "weights"),
    [
        # two blocks of q 32·32, k and v 32·16, o 32·32, gate and up 32·64, down 64·32: inputs and outputs add up to
        # 64 + 48 + 48 + 64 + 3 · 96 = 512
        ("lora", "llama", 2 * 2 * 512),
        ("adalora", "llama", 2 * 3 * (512 + 7)),  # 1.5 times the rank, and one λ for each of it
        ("ia3", "llama", 2 * (16 + 16 + 64)),  # keys, values, inside the feed-forward
        ("ia3", "gpt2", 2 * (96 + 128)),  # one layer makes queries, keys and values
        ("ia3", "own", 2 * (96 + 128)),
        ("adapter", "gemma3", 2 * (32 * 4 + 4 + 4 * 32 + 32)),
        ("houlsby", "gpt2", 4 * (32 * 4 + 4 + 4 * 32 + 32)),
        ("bitfit", "qwen2", 2 * (32 + 16 + 16)),  # of queries, keys and values alone
        ("bitfit", "gpt2", 2 * (32 + 96 + 32 + 32 + 128 + 32) + 32),  # norm, qkv, out, norm, up, down; last norm
        ("bitfit", "lstm", 2 * 2 * 4 * 32),  # two layers, of input and of state, four gates
    ],
)
def test_so_many_weights_are_trained_and_no_others(kind: str, family: str, weights: int) -> None:
    assert count(tuned(kind, family)) == weights


@pytest.mark.parametrize(
    ("kind", "weights"),
    [
        ("ia3", 2 * (32 + 32 + 64)),
        ("adapter", 2 * 292),
        ("houlsby", 4 * 292),
        # the embeddings' norm; q, k, v, out, norm, up, down, norm
        ("bitfit", 32 + 2 * (3 * 32 + 32 + 32 + 64 + 32 + 32)),
        ("lora", 2 * 2 * (4 * 64 + 2 * 96)),
        ("head", 0),
    ],
)
def test_an_encoder_is_tuned_too(kind: str, weights: int) -> None:
    torch.manual_seed(0)
    module = BertModel(BertConfig(**WIDTH, intermediate_size=64), add_pooling_layer=False).eval()
    model = LanguageModel(module.requires_grad_(False), letter_tokenizer())
    ids = torch.tensor([[5, 9, 2]])
    original = model.hidden(ids)
    options = {"kind": kind, **KINDS.get(kind, {})}
    tune(model, TuningConfig(**options), head=True)
    assert count(model) == weights
    torch.testing.assert_close(model.hidden(ids), original, rtol=0, atol=1e-6)
    nudged(model)
    assert torch.equal(model.hidden(ids), original) is (kind == "head")
    if model.adapter is not None:
        with model.as_reference():
            assert torch.equal(model.hidden(ids), original)


@pytest.mark.parametrize(
    ("kind", "family"), [*((kind, family) for kind in KINDS for family in ADAPTABLE), *(("bitfit", f) for f in BIASED)]
)
def test_what_every_kind_has_learnt_is_in_the_saved_folder(kind: str, family: str, tmp_path: Path) -> None:
    model = tuned(kind, family)
    before = logprobs(model)
    nudged(model)
    trained = logprobs(model)
    model.save(tmp_path)
    again = load(ModelConfig(name=str(tmp_path)))
    assert again.adapter is None
    assert (trained - before).abs().max() > 0.01
    torch.testing.assert_close(logprobs(again), trained, rtol=0, atol=1e-4)
    assert torch.equal(logprobs(model), trained)  # saving left the model itself alone


@each_adaptable_family
@each_kind
@torch.no_grad()
def test_the_samplers_packed_weights_are_the_same_function(kind: str, family: str) -> None:
    model = tuned(kind, family)
    original = logprobs(model)
    nudged(model)
    plain = logprobs(model)
    with packed(model.module, model.device, model.module.dtype):
        torch.testing.assert_close(logprobs(model), plain, rtol=0, atol=1e-5)
    with model.as_reference(), packed(model.module, model.device, model.module.dtype):
        torch.testing.assert_close(logprobs(model), original, rtol=0, atol=1e-5)
    assert torch.equal(logprobs(model), plain)


@each_kind
def test_the_top_blocks_alone_are_trained_and_those_below_run_once(kind: str) -> None:
    model = tuned(kind, top_layers=1)
    assert all(".1." in name for name in model.trained())
    nudged(model)
    below = frozen_states(model, TOKENS)
    assert below is not None
    torch.testing.assert_close(score(model, TOKENS, below=below).logprobs, score(model, TOKENS).logprobs)
    assert all(".1." in name for name in tuned("bitfit", "gpt2", top_layers=1).trained())


@each_kind
def test_the_same_seed_draws_the_same_adapter_and_leaves_the_global_generator(kind: str) -> None:
    options = KINDS[kind]
    models = [tiny_model(), tiny_model(), tiny_model()]
    before = torch.get_rng_state()
    one, same, other = (
        tune(model, TuningConfig(**options), seed=seed) for model, seed in zip(models, (1, 1, 2), strict=True)
    )
    assert torch.equal(torch.get_rng_state(), before)
    weights = [torch.cat([p.detach().flatten() for p in model.trained().values()]) for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2]) is (kind == "ia3")  # which begins at 1


@pytest.mark.parametrize("kind", ["adapter", "houlsby"])
def test_adapters_take_dropout_and_lose_it(kind: str) -> None:
    model = tuned(kind, dropout=0.5)
    nudged(model)
    clean = logprobs(model)
    model.module.train()
    assert not torch.equal(logprobs(model), logprobs(model))
    disable_dropout(model.module)
    assert torch.equal(logprobs(model), clean)


def test_a_head_alone_is_trained_where_there_is_one() -> None:
    lm = tune(tiny_model(), TuningConfig(kind="head"), head=True)
    assert lm.trained() == {}
    original = logprobs(lm)
    head = ScalarHead(32, zero=True)
    trainer = RewardTrainer(RewardModel(lm, head, max_length=64))
    trainer.step([PreferenceExample([5, 6], [7, 1], [8, 1], "")])
    assert head.linear.weight.any()
    assert torch.equal(logprobs(lm), original)
    with pytest.raises(ModelError, match=r"a language model has none: nothing would be trained. Set tuning\.kind=lora"):
        tune(tiny_model(), TuningConfig(kind="head"))


@pytest.mark.parametrize("family", ["llama", "own", "gemma3"])
def test_a_model_without_biases_is_refused_with_what_to_set(family: str) -> None:
    with pytest.raises(ModelError, match=r"has no biases, which are all .*set tuning\.kind=ia3"):
        tuned("bitfit", family)


@pytest.mark.parametrize("kind", ["adalora", "ia3", "adapter"])
def test_an_lstm_takes_no_adapter_of_any_kind(kind: str) -> None:
    with pytest.raises(ModelError, match=r"^LSTM has no blocks of linear layers .*set tuning\.kind=full$"):
        tuned(kind, "lstm")


def test_a_mixture_of_experts_has_no_one_feedforward_to_stand_at() -> None:
    module = PhimoeForCausalLM(
        PhimoeConfig(**LLAMA, num_local_experts=2, eos_token_id=1, pad_token_id=0, bos_token_id=1)
    )
    model = LanguageModel(module, letter_tokenizer())
    with pytest.raises(
        ModelError, match=r"PhimoeForCausalLM has blocks without .*tuning\.kind=ia3 .*set tuning\.kind=lora"
    ):
        tune(model, TuningConfig(kind="ia3"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({"kind": kind, "dropout": 0.1}, f"dropout: {kind} has no adapter") for kind in ("ia3", "bitfit", "head")),
        ({"kind": "head", "top_layers": 2}, "top_layers: head trains no block; set null"),
        ({"kind": "head", "checkpointing": True}, "checkpointing: head back-propagates through no block; set false"),
    ],
)
def test_combinations_that_cannot_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TuningConfig(**options)
