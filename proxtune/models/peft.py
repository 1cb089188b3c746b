"""Which weights a run trains: all of them, or low-rank adapters (LoRA, through the peft library)."""

from typing import Literal

import torch
from peft import LoraConfig, LoraModel
from pydantic import Field, PositiveInt
from torch import nn
from transformers.pytorch_utils import Conv1D

from proxtune.config import Section
from proxtune.errors import ModelError
from proxtune.models.language_model import LanguageModel
from proxtune.models.trunk import blocks


class TuningConfig(Section):
    """`tuning`: which weights are trained."""

    kind: Literal["full", "lora"] = Field(
        "lora", description="full: every weight; lora: low-rank adapters beside frozen weights"
    )
    rank: PositiveInt = Field(16, description="LoRA rank r")
    alpha: PositiveInt = Field(32, description="LoRA scale: the update is alpha / rank · BA")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="dropout before the adapter (supervised training only; RL sets it to 0)"
    )
    top_layers: PositiveInt | None = Field(
        None, description="train only the top n blocks; nothing is back-propagated below them, and PPO runs them once"
    )
    checkpointing: bool = Field(
        False, description="compute activations again in the backward pass instead of keeping them: slower, smaller"
    )


def tune(model: LanguageModel, config: TuningConfig, *, seed: int = 0) -> LanguageModel:
    """Make `model` trainable as `config` says, in place; `seed` draws the adapter's first weights.

    Raises:
        ModelError: fewer blocks than `top_layers` asks for.
    """
    if config.checkpointing:
        _checkpoint_activations(model.module)
    if config.kind == "full":
        inside = _top_blocks(model.module, config.top_layers) if config.top_layers else ("",)
        for name, weight in model.module.named_parameters():
            weight.requires_grad_(name.startswith(inside))
        return model
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=_linear_layers(model.module, config.top_layers),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.adapter = LoraModel(model.module, lora, "default")
    return model


def disable_dropout(module: nn.Module) -> None:
    """Set every dropout to p = 0, and train mode: the sampler and the trainer are one function in it too.

    `eval()` would do it as well, but it also turns off gradient checkpointing.
    """
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        for name in ("attention_dropout", "dropout", "activation_dropout"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)
    module.train()


def _checkpoint_activations(module: nn.Module) -> None:
    if not getattr(module, "supports_gradient_checkpointing", False):
        raise ModelError(f"{type(module).__name__} cannot compute activations again; set tuning.checkpointing=false")
    module.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]


def _linear_layers(module: nn.Module, top: int | None) -> list[str]:
    """Names of the linear layers inside the blocks, or the top `top` of them; the head is not one."""
    inside = _top_blocks(module, top)
    if not inside:
        raise ModelError(
            f"{type(module).__name__} has no blocks of linear layers to put adapters in; set tuning.kind=full"
        )
    return [
        name
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear | Conv1D) and name.startswith(inside)
    ]


def _top_blocks(module: nn.Module, top: int | None) -> tuple[str, ...]:
    """What the names of the weights in the top `top` blocks, or in all of them, begin with."""
    path, found = blocks(module)
    count = len(found)
    if top is not None and top > count:
        raise ModelError(f"tuning.top_layers is {top}, but the model has {count} blocks; set at most {count}")
    return tuple(f"{path}.{i}." for i in range(count - (top or count), count))
