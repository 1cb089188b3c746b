"""Steps that multiply in bfloat16 learn what steps in float32 learn, and keep all that is added up in float32.

Tried on a CPU, where autocast computes by the same rules as on CUDA. No test has seen a CUDA device.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from proxtune.algorithms.reward_model import RewardTrainer
from proxtune.algorithms.sft import SFT
from proxtune.algorithms.supervised import Supervised
from proxtune.algorithms.task import TaskTrainer
from proxtune.config import load
from proxtune.data.labels import LabelExample
from proxtune.data.template import Example, PreferenceExample
from proxtune.errors import ConfigError, ModelError
from proxtune.evaluation.tasks.classification import Classification
from proxtune.models.heads import LinearHead, RewardModel, ScalarHead, TaskModel
from proxtune.models.load import check_bfloat16
from proxtune.models.peft import TuningConfig, tune
from proxtune.training.optim import OptimConfig
from proxtune.workflows.jobs import sft_job
from proxtune.workflows.schemas import PPORun, RewardRun, SFTRun
from tests.tiny import ENCODER_DECODERS, FAMILIES, tiny_encoder, tiny_model

KINDS = ("full", "lora", "adalora", "ia3", "adapter", "bitfit", "prompt", "ptuning", "prefix")
OPTIM = OptimConfig(learning_rate=3e-3, warmup=0, schedule="constant")
EXAMPLES = [Example([4, 5], [6, 7, 8, 1], "a", False), Example([9], [10, 11, 1], "b", False)]


def sft(*, autocast: bool, family: str = "llama", kind: str = "full") -> tuple[SFT, list[Any]]:
    config = TuningConfig(kind=kind, rank=4, virtual_tokens=3)
    return SFT(tune(tiny_model(family=family), config), optim=OPTIM, total_steps=40, autocast=autocast), EXAMPLES


def reward(*, autocast: bool) -> tuple[RewardTrainer, list[Any]]:
    lm = tiny_model()
    generator = torch.Generator().manual_seed(1)
    head = ScalarHead(lm.hidden_size, zero=False, generator=generator)
    tune(lm, TuningConfig(kind="full"), head=True)
    pairs = [PreferenceExample([4, 5], [6, 7, 1], [8, 1], "a"), PreferenceExample([9], [10, 1], [11, 12, 1], "b")]
    return RewardTrainer(RewardModel(lm, head, 64), optim=OPTIM, total_steps=40, autocast=autocast), pairs


def task(*, autocast: bool) -> tuple[TaskTrainer, list[Any]]:
    lm = tiny_encoder()
    kind = Classification(("a", "b"))
    head = LinearHead(lm.hidden_size, 2, generator=torch.Generator().manual_seed(1))
    tune(lm, TuningConfig(kind="full"), head=True)
    texts = [LabelExample([30, 4, 5, 31], 4, 0, "a"), LabelExample([30, 9, 10, 11, 31], 5, 1, "b")]
    return TaskTrainer(TaskModel(lm, head, 64, {}), kind, optim=OPTIM, total_steps=40, autocast=autocast), texts


Made = Callable[..., tuple[Supervised, list[Any]]]
each_algorithm = pytest.mark.parametrize("make", [sft, reward, task])


def gradients(make: Made, *, autocast: bool, **options: Any) -> tuple[float, Tensor]:
    """(loss, the gradient of all weights) of a batch in two micro-batches."""
    algorithm, batch = make(autocast=autocast, **options)
    algorithm.config = algorithm.config.model_copy(update={"microbatch_size": 1})
    found = list[Tensor]()
    weights = [p for group in algorithm.optimizer.groups.values() for p in group]
    algorithm.optimizer.adam.step = lambda: found.extend(  # type: ignore[method-assign]
        (torch.zeros_like(p) if p.grad is None else p.grad).flatten().clone() for p in weights
    )
    figures = algorithm.step(batch)
    assert {grad.dtype for grad in found} == {torch.float32}
    return figures["loss"], torch.cat(found)


def assert_near(make: Made, **options: Any) -> None:
    """A product in bfloat16 rounds to 8 bits, 0.4%; a few of them in a row stay within some percent."""
    (loss, grad), (low, rounded) = (gradients(make, autocast=on, **options) for on in (False, True))
    assert low == pytest.approx(loss, rel=0.03)
    assert torch.nn.functional.cosine_similarity(grad, rounded, dim=0) > 0.99
    assert not torch.equal(grad, rounded)


@contextmanager
def types_of_linear_layers(module: nn.Module) -> Iterator[set[torch.dtype]]:
    """What the linear layers of a model give while the block runs."""
    seen = set[torch.dtype]()
    layers = [part for part in module.modules() if isinstance(part, nn.Linear)]
    handles = [layer.register_forward_hook(lambda _, __, out: seen.add(out.dtype)) for layer in layers]
    yield seen
    for handle in handles:
        handle.remove()


@each_algorithm
@pytest.mark.parametrize(("autocast", "expected"), [(False, torch.float32), (True, torch.bfloat16)])
def test_the_trunk_multiplies_in_bfloat16_and_the_head_and_the_weights_stay_float32(
    make: Made, autocast: bool, expected: torch.dtype
) -> None:
    algorithm, batch = make(autocast=autocast)
    lm, head = algorithm.parts
    with (
        types_of_linear_layers(lm.module.base_model) as of_trunk,
        types_of_linear_layers(head or nn.Module()) as of_head,
    ):
        algorithm.step(batch)
    assert of_trunk == {expected}
    assert of_head <= {torch.float32}
    kept = [value for moment in algorithm.state()["optimizer"]["moments"].values() for value in moment.values()]
    assert {p.dtype for p in [*lm.module.parameters(), *kept]} == {torch.float32}


@each_algorithm
def test_loss_and_gradient_are_those_of_float32_within_its_rounding(make: Made) -> None:
    assert_near(make)


@pytest.mark.slow
@pytest.mark.parametrize("family", [*FAMILIES, *ENCODER_DECODERS])
def test_every_architecture_does(family: str) -> None:
    assert_near(sft, family=family)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tuning_does(kind: str) -> None:
    assert_near(sft, kind=kind, family="gpt2")


@each_algorithm
def test_the_loss_falls(make: Made) -> None:
    algorithm, batch = make(autocast=True)
    losses = [algorithm.step(batch)["loss"] for _ in range(40)]
    assert losses[-1] < losses[0] / 4


def test_a_cpu_is_refused_with_what_to_set(tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('{"text": "a cab"}\n{"text": "a bad cab"}\n')
    given = [f"data.train={data}", "model.name=scratch:transformer", "model.device=cpu", "tuning.kind=full"]
    given += ["training.autocast=bfloat16", "model.scratch={vocab_size: 260, layers: 1, hidden: 8, heads: 1}"]
    with pytest.raises(ModelError, match=r"autocast=bfloat16 got a model on the device cpu; .*set training\.autocast"):
        sft_job(load(SFTRun, [], given))


@pytest.mark.parametrize("has", [True, False])
def test_a_cuda_device_is_taken_where_it_multiplies_in_bfloat16_itself(
    has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has or including_emulation)
    if has:
        check_bfloat16(torch.device("cuda"))
        return
    with pytest.raises(ModelError, match="since Ampere"):
        check_bfloat16(torch.device("cuda"))


@pytest.mark.parametrize("schema", [SFTRun, RewardRun])
def test_float32_weights_are_needed(schema: type[SFTRun | RewardRun]) -> None:
    given = ["data.train=rows.jsonl", "training.autocast=bfloat16"]
    assert load(schema, [], given).training.autocast == "bfloat16"
    with pytest.raises(ConfigError, match=r"training\.autocast=.*: keeps weights in float32, and model\.dtype="):
        load(schema, [], [*given, "model.dtype=float16"])


def test_ppo_refuses_it_with_the_reason() -> None:
    with pytest.raises(ConfigError, match=r"training\.autocast=.*: PPO holds the log-probs of sampling against"):
        load(PPORun, [], ["data.train=rows.jsonl", "training.autocast=bfloat16"])
