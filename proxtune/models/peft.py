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
        None, description="adapt only the top n blocks; nothing is back-propagated below them"
    )

    def problems(self) -> list[tuple[str, str]]:
        if self.kind == "full" and self.top_layers is not None:
            return [
                (
                    "top_layers",
                    "only LoRA can be limited to the top blocks; set tuning.kind=lora or remove tuning.top_layers",
                )
            ]
        return []


def tune(model: LanguageModel, config: TuningConfig, *, seed: int = 0) -> LanguageModel:
    """Make `model` trainable as `config` says, in place; `seed` draws the adapter's first weights.

    Raises:
        ModelError: fewer blocks than `top_layers` asks for.
    """
    if config.kind == "full":
        model.module.requires_grad_(True)
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
    """Set every dropout to p = 0, so that the sampler and the trainer are the same function in train mode too.

    `eval()` would do it as well, but it also turns off gradient checkpointing.
    """
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        for name in ("attention_dropout", "dropout", "activation_dropout"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)


def _linear_layers(module: nn.Module, top: int | None) -> list[str]:
    """Names of the linear layers inside the blocks, or the top `top` of them; the head is not one."""
    lists = [(len(part), name) for name, part in module.named_modules() if isinstance(part, nn.ModuleList)]
    if not lists:
        raise ModelError(
            f"{type(module).__name__} has no blocks of linear layers to put adapters in; set tuning.kind=full"
        )
    blocks, path = max(lists)
    if top is not None and top > blocks:
        raise ModelError(f"tuning.top_layers is {top}, but the model has {blocks} blocks; set at most {blocks}")
    inside = tuple(f"{path}.{i}." for i in range(blocks - (top or blocks), blocks))
    return [
        name
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear | Conv1D) and name.startswith(inside)
    ]
