"""The learning rate of each weight by how deep it lies."""

from collections.abc import Callable

import pytest
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from proxtune.algorithms.reward_model import RewardTrainer
from proxtune.algorithms.sft import SFT
from proxtune.algorithms.task import TaskTrainer
from proxtune.errors import ModelError
from proxtune.evaluation.tasks.classification import Classification
from proxtune.models.heads import LinearHead, RewardModel, ScalarHead, TaskModel
from proxtune.models.language_model import LanguageModel
from proxtune.models.peft import TuningConfig, tune
from proxtune.models.rates import layer_factors
from proxtune.training.optim import OptimConfig
from tests.tiny import LLAMA, WIDTH, letter_tokenizer, tiny_model

OPTIM = OptimConfig(learning_rate=0.1, layer_decay=0.5)


def named(model: LanguageModel, decay: float) -> dict[str, float]:
    factors = layer_factors(model, decay)
    return {name: factors[weight] for name, weight in model.trained().items()}


def full(module: PreTrainedModel) -> LanguageModel:
    return tune(LanguageModel(module, letter_tokenizer()), TuningConfig(kind="full"))


def bert() -> PreTrainedModel:
    return BertModel(BertConfig(**WIDTH, intermediate_size=64))


def untied() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**LLAMA | {"tie_word_embeddings": False}))


@pytest.mark.parametrize(
    ("make", "blocks", "embeddings", "above"),
    [
        (
            bert,
            "encoder.layer",
            ("embeddings.word_embeddings.weight", "embeddings.LayerNorm.bias"),
            ("pooler.dense.weight",),
        ),
        (untied, "model.layers", ("model.embed_tokens.weight",), ("model.norm.weight", "lm_head.weight")),
    ],
)
def test_of_two_blocks_the_upper_one_has_the_whole_rate(
    make: Callable[[], PreTrainedModel], blocks: str, embeddings: tuple[str, ...], above: tuple[str, ...]
) -> None:
    found = named(full(make()), 0.5)
    assert {x for name, x in found.items() if name.startswith(f"{blocks}.1.")} == {1.0}
    assert {x for name, x in found.items() if name.startswith(f"{blocks}.0.")} == {0.5}
    assert {found[name] for name in embeddings} == {0.25}
    assert {found[name] for name in above} == {1.0}


@pytest.mark.parametrize("family", ["llama", "own", "gpt2", "qwen2", "gemma3"])
def test_a_head_that_is_the_embeddings_learns_as_they_do(family: str) -> None:
    model = tune(tiny_model(family=family), TuningConfig(kind="full"))
    head = model.module.get_output_embeddings().weight
    assert layer_factors(model, 0.5)[head] == 0.25


def test_adapters_learn_at_the_rate_of_their_block() -> None:
    found = named(tune(tiny_model(), TuningConfig(rank=2)), 0.5)
    assert all("lora" in name for name in found)
    assert {x for name, x in found.items() if ".layers.0." in name} == {0.5}
    assert {x for name, x in found.items() if ".layers.1." in name} == {1.0}


def test_without_decay_nothing_is_multiplied_whatever_the_model() -> None:
    assert layer_factors(tiny_model(family="lstm"), 1.0) == {}


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(ModelError, match=r"layer_decay=0\.5 .*LSTM has no blocks; set optim\.layer_decay=1"):
        layer_factors(tiny_model(family="lstm"), 0.5)


def test_every_supervised_trainer_learns_by_layers_and_its_head_at_the_full_rate() -> None:
    lm = full(untied())
    head = LinearHead(lm.hidden_size, 2)
    task = TaskTrainer(TaskModel(lm, head, 64, {}), Classification(("a", "b")), optim=OPTIM)
    reward = RewardTrainer(RewardModel(lm, ScalarHead(lm.hidden_size, zero=True), 64), optim=OPTIM)
    for trainer, rates in (
        (SFT(lm, optim=OPTIM), [0.1, 0.05, 0.025]),
        (task, [0.1, 0.05, 0.025, 0.1]),
        (reward, [0.1, 0.05, 0.025, 0.5]),
    ):
        assert [group["lr"] for group in trainer.optimizer.adam.param_groups] == pytest.approx(rates)
