"""Sampling, PPO, saving and a second run of models with virtual tokens."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from proxtune.algorithms.ppo import PPO
from proxtune.algorithms.ppo_config import PPOConfig
from proxtune.errors import GenerationError, ModelError
from proxtune.models.critic import CriticConfig, build_critic
from proxtune.models.language_model import LanguageModel
from proxtune.models.load import ModelConfig, load, load_tokenizer
from proxtune.models.peft import TuningConfig, tune
from proxtune.models.score import frozen_states, score
from proxtune.models.virtual import Virtual
from proxtune.rollouts.collect import collect
from proxtune.rollouts.engine import Engine, sample
from proxtune.rollouts.generate import generate
from proxtune.rollouts.rollout import Rollout
from proxtune.rollouts.sampling import SamplingConfig, row_uniforms
from proxtune.training.optim import OptimConfig
from tests.tiny import tiny_model
from tests.tuned import TOKENS, K, each_virtual_kind, each_virtual_kind_and_family, logprobs, nudged, virtual_config

pytestmark = pytest.mark.slow  # together they take longer than `make check` has

PROMPTS = [[5, 6], [7], [8, 9, 10, 11, 12, 13, 14], [20, 3, 4], [7], [9, 1, 9]]


def tuned(kind: str, family: str = "llama") -> LanguageModel:
    return tune(tiny_model(family=family), virtual_config(kind))


def virtual(model: LanguageModel) -> Virtual:
    assert model.virtual is not None
    return model.virtual


def draw(model: LanguageModel, *, temperature: float = 1.0, plain: bool = False, rows_at_once: int = 3) -> Rollout:
    sampling = SamplingConfig(max_new_tokens=6, temperature=temperature)
    uniforms = row_uniforms(0, "rollout", 0, range(len(PROMPTS)), 6)
    if plain:
        return generate(model, PROMPTS, sampling, uniforms=uniforms)
    return sample(model, PROMPTS, sampling, uniforms=uniforms, rows_at_once=rows_at_once)


@each_virtual_kind_and_family
def test_rows_that_begin_while_others_go_on_are_answered_as_by_the_plain_sampler(kind: str, family: str) -> None:
    model = nudged(tuned(kind, family))
    plain = draw(model, temperature=0, plain=True)
    for rows_at_once in (2, 6):
        ours = draw(model, temperature=0, rows_at_once=rows_at_once)
        assert torch.equal(ours.tokens.response_ids, plain.tokens.response_ids)
        torch.testing.assert_close(ours.logprobs, plain.logprobs, rtol=0, atol=1e-5)


@each_virtual_kind_and_family
def test_log_probs_of_sampling_are_those_of_training(kind: str, family: str) -> None:
    model = nudged(tuned(kind, family))
    rollout = draw(model)
    torch.testing.assert_close(rollout.logprobs, score(model, rollout.tokens).logprobs, rtol=0, atol=1e-5)


@each_virtual_kind
def test_a_prompt_that_fills_what_is_left_of_the_context_is_answered(kind: str) -> None:
    model = nudged(tuned(kind, "gpt2"))
    assert model.context == 64 - K
    sampling = SamplingConfig(max_new_tokens=2)
    full = collect(model, [[5] * (62 - K)] * 2, sampling, sampler=sample, seed=0, step=0)
    torch.testing.assert_close(full.logprobs, score(model, full.tokens).logprobs, rtol=0, atol=1e-5)
    with pytest.raises(GenerationError, match=f"the model's context of {64 - K}"):
        collect(model, [[5] * (63 - K)], sampling, sampler=sample, seed=0, step=0)


def test_a_prompt_is_read_once_for_all_its_samples_the_slots_with_it() -> None:
    model = nudged(tuned("prefix"))
    with Engine(model, SamplingConfig(max_new_tokens=4), rows=4, slots=8) as engine:
        for uniforms in row_uniforms(0, "rollout", 0, range(4), 4):
            engine.add([8, 9], uniforms)
        read: list[int] = []
        trunk = model.module.base_model
        handle = trunk.register_forward_pre_hook(
            lambda _, __, given: read.append(given["input_ids"].shape[1]), with_kwargs=True
        )
        engine.step()
        engine.step()
        handle.remove()
    assert read == [K + 2, 4]


@each_virtual_kind_and_family
def test_before_anything_has_moved_the_ratio_is_1_and_the_kl_0_and_then_it_moves(kind: str, family: str) -> None:
    def count_a(_: list[str], responses: list[str]) -> list[float]:
        return [float(response.count("a")) for response in responses]

    policy = tuned(kind, family)
    sizes = PPOConfig(batch_size=8, minibatch_size=8, epochs=1)
    sampling, optim = SamplingConfig(max_new_tokens=6), OptimConfig(learning_rate=1e-2, warmup=0)
    algorithm = PPO(policy, count_a, sizes, rollout=sampling, optim=optim)
    asked = ["ab", "c", "defghij", "kl", "m", "nopq", "r", "st"]
    stats = algorithm.step(asked)
    assert stats["policy/ratio"] == pytest.approx(1, abs=1e-5)
    assert stats["policy/approx_kl"] == pytest.approx(0, abs=1e-6)
    assert stats["kl/sequence"] == pytest.approx(0, abs=1e-4)
    again = algorithm.step(asked)
    assert again["policy/ratio"] == pytest.approx(1, abs=1e-5)
    assert abs(again["kl/sequence"]) > 1e-5


@each_virtual_kind
def test_a_critic_of_its_own_gets_slots_of_its_own(kind: str) -> None:
    policy = tiny_model()
    critic = build_critic(policy, CriticConfig(kind="separate"), virtual_config(kind))
    assert policy.virtual is None
    assert critic.trunk is not None
    assert all(name.startswith("virtual.") for name in critic.trunk.trained())


@each_virtual_kind_and_family
def test_a_saved_folder_holds_them_beside_an_ordinary_model(kind: str, family: str, tmp_path: Path) -> None:
    model = nudged(tuned(kind, family))
    trained = logprobs(model)
    model.save(tmp_path)
    assert torch.equal(logprobs(model), trained)  # saving left the model itself alone
    again = load(ModelConfig(name=str(tmp_path)))
    assert again.adapter is None
    assert again.trained() == {}
    assert again.context == load_tokenizer(str(tmp_path))[1] == 64 - K
    torch.testing.assert_close(logprobs(again), trained, rtol=0, atol=1e-6)
    copied = again.frozen_copy()
    nudged(model, seed=1)
    torch.testing.assert_close(logprobs(copied), trained, rtol=0, atol=1e-6)
    plain = LanguageModel(AutoModelForCausalLM.from_pretrained(tmp_path), again.tokenizer)
    assert torch.equal(logprobs(plain), logprobs(tiny_model(family=family)))


def test_they_take_the_type_of_the_weights(tmp_path: Path) -> None:
    nudged(tuned("prefix")).save(tmp_path)
    model = load(ModelConfig(name=str(tmp_path), dtype="bfloat16"))
    assert {x.dtype for x in virtual(model).learned().values()} == {torch.bfloat16}
    assert logprobs(model).isfinite().all()


def test_a_folder_that_is_written_again_without_them_holds_none(tmp_path: Path) -> None:
    nudged(tuned("prompt")).save(tmp_path)
    tiny_model().save(tmp_path)
    assert load(ModelConfig(name=str(tmp_path))).virtual is None
    assert load_tokenizer(str(tmp_path))[1] == 64


@pytest.mark.parametrize("content", [b"", b"not a file of weights"])
def test_a_file_that_cannot_be_read_is_refused(content: bytes, tmp_path: Path) -> None:
    tuned("prompt").save(tmp_path)
    (tmp_path / "virtual.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"the virtual tokens of the model .* cannot be read"):
        load(ModelConfig(name=str(tmp_path)))


@pytest.mark.parametrize("first", ["prompt", "ptuning", "prefix"])
@pytest.mark.parametrize("second", ["lora", "ia3", "adapter", "full", "same"])
def test_a_run_on_those_of_an_earlier_run_keeps_them_or_trains_them_on(first: str, second: str, tmp_path: Path) -> None:
    nudged(tuned(first)).save(tmp_path / "first")
    model = load(ModelConfig(name=str(tmp_path / "first")))
    earlier = logprobs(model)
    kind = second if second != "same" else "prefix" if first == "prefix" else "prompt"
    tune(model, virtual_config(kind, rank=2, adapter_size=4))
    torch.testing.assert_close(logprobs(model), earlier, rtol=0, atol=1e-6)
    trains = any(name.startswith("virtual.") for name in model.trained())
    assert trains is (second in ("same", "full"))
    trained = logprobs(nudged(model, seed=1))
    assert (trained - earlier).abs().max() > 0.01
    if second != "full":
        with model.as_reference():
            torch.testing.assert_close(logprobs(model), earlier, rtol=0, atol=1e-6)
    model.save(tmp_path / "second")
    again = load(ModelConfig(name=str(tmp_path / "second")))
    assert virtual(again).count == K
    torch.testing.assert_close(logprobs(again), trained, rtol=0, atol=1e-4)


@each_virtual_kind
def test_blocks_below_the_trained_ones_are_run_every_time(kind: str, tmp_path: Path) -> None:
    nudged(tuned(kind)).save(tmp_path)
    model = tune(load(ModelConfig(name=str(tmp_path))), TuningConfig(rank=2, top_layers=1))
    assert all(".1." in name for name in model.trained())
    assert model.frozen_blocks == tuned(kind).frozen_blocks == 0
    assert frozen_states(model, TOKENS) is None
    assert draw(model).below is None


@pytest.mark.parametrize(
    ("kind", "count", "message"),
    [
        ("prefix", K, r"has 3 virtual tokens of an earlier run, and tuning.kind=prefix .*set tuning.kind=prompt and"),
        ("ptuning", K, r"tuning.kind=ptuning with tuning.virtual_tokens=3 cannot go on .*or tuning.kind=lora"),
        ("prompt", 4, r"tuning.kind=prompt with tuning.virtual_tokens=4 cannot go on .* tuning.virtual_tokens=3 to"),
    ],
)
def test_others_than_those_of_an_earlier_run_are_refused(kind: str, count: int, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        tune(tuned("prompt"), virtual_config(kind, virtual_tokens=count))
