"""Which weights a run trains: all of them, a few, or new ones of an adapter (LoRA, AdaLoRA, IA³, bottlenecks)."""

from typing import Literal

import torch
from peft import IA3Config, IA3Model, LoraConfig, LoraModel
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from proxtune.config import Section
from proxtune.errors import ModelError
from proxtune.models.adalora import AdaLora
from proxtune.models.adapters import Adapters, Sublayers, linear_layers, sublayers
from proxtune.models.language_model import LanguageModel
from proxtune.models.rows import Rows
from proxtune.models.trunk import blocks, stacks
from proxtune.models.virtual import Noted, Virtual

Kind = Literal["full", "lora", "adalora", "ia3", "adapter", "bitfit", "prompt", "ptuning", "prefix", "head"]
VIRTUAL = ("prompt", "ptuning", "prefix")
HALVES = ("full", "lora", "adalora", "bitfit", "head")  # what an encoder-decoder takes


class TuningConfig(Section):
    """`tuning`: which weights are trained."""

    kind: Kind = Field(
        "lora",
        description="full: every weight; lora: low-rank adapters beside frozen weights; adalora: the same, with rank "
        "moved between layers (supervised training only); ia3: scales on keys, values and inside the feed-forward; "
        "adapter: bottleneck layers; bitfit: the biases; prompt: vectors before the input; ptuning: the same, made by "
        "a small network; prefix: keys and values before those of every layer; head: the task's head alone, on a "
        "frozen model",
    )
    rank: PositiveInt = Field(16, description="LoRA rank r; AdaLoRA's mean rank at the end")
    alpha: PositiveInt = Field(32, description="LoRA scale: the update is alpha / rank · BA")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="dropout before the adapter (supervised training only; RL sets it to 0)"
    )
    adapter_size: PositiveInt = Field(64, description="adapter only: width of the bottleneck")
    adapter_placement: Literal["pfeiffer", "houlsby"] = Field(
        "pfeiffer", description="adapter only: after the feed-forward, or (houlsby) after attention too"
    )
    virtual_tokens: PositiveInt = Field(
        16, description="prompt, ptuning, prefix only: how many stand before each text; the context has less room"
    )
    top_layers: PositiveInt | None = Field(
        None, description="train only the top n blocks; nothing is back-propagated below them, and PPO runs them once"
    )
    checkpointing: bool = Field(
        False, description="compute activations again in the backward pass instead of keeping them: slower, smaller"
    )

    def problems(self) -> list[tuple[str, str]]:
        found = []
        if self.dropout and self.kind in ("ia3", "bitfit", "head", *VIRTUAL):
            message = f"{self.kind} has no adapter to drop inputs of; set 0, or tuning.kind=lora, adalora or adapter"
            found.append(("dropout", message))
        if self.kind in ("head", *VIRTUAL) and self.top_layers:
            message = f"{self.kind} trains no block; set null, or tuning.kind=full to train the top blocks"
            found.append(("top_layers", message))
        if self.kind == "head" and self.checkpointing:
            found.append(("checkpointing", "head back-propagates through no block; set false"))
        return found


def tune(model: LanguageModel, config: TuningConfig, *, seed: int = 0, head: bool = False) -> LanguageModel:
    """Make `model` trainable as `config` says, in place; `seed` draws the adapter's first weights.

    Args:
        head: whether a head of its own is trained on the model (a reward, labels), so that `head` is a choice.

    Raises:
        ModelError: fewer blocks than `top_layers` asks for, or a model that has not what this kind trains.
    """
    if model.module.config.is_encoder_decoder:
        _refuse_for_halves(config)
    if config.checkpointing:
        _checkpoint_activations(model.module)
    if config.kind in ("full", "bitfit", "head"):
        _mark(model.module, config, head=head)
        return model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.adapter = _virtual(model, config) if config.kind in VIRTUAL else _adapter(model.module, config)
    return model


def _refuse_for_halves(config: TuningConfig) -> None:
    """An encoder-decoder has two stacks of blocks, and attention between them."""
    if config.top_layers:
        raise ModelError(
            f"tuning.top_layers is {config.top_layers}, but an encoder-decoder has two stacks of blocks, of which the "
            "upper reads the lower everywhere; set null"
        )
    if config.kind not in HALVES:
        raise ModelError(
            f"tuning.kind={config.kind} is made for one stack of blocks, and an encoder-decoder has two; set one of "
            f"{', '.join(HALVES)}"
        )


def _mark(module: nn.Module, config: TuningConfig, *, head: bool) -> None:
    """Train weights that the model has already, and no others."""
    if config.kind == "head" and not head:
        raise ModelError(
            "tuning.kind=head trains a task's head alone, and a language model has none: nothing would be trained. "
            "Set tuning.kind=lora, or full"
        )
    inside = _top_blocks(module, config.top_layers) if config.top_layers else ("",)
    chosen = []
    for name, weight in module.named_parameters():
        fits = config.kind == "full" or (config.kind == "bitfit" and name.rpartition(".")[2].startswith("bias"))
        weight.requires_grad_(fits and name.startswith(inside))
        chosen.append(weight.requires_grad)
    if config.kind == "bitfit" and not any(chosen):
        raise ModelError(
            f"{type(module).__name__} has no biases{' in its top blocks' if config.top_layers else ''}, which are all "
            "that tuning.kind=bitfit trains; set tuning.kind=ia3, which trains as few weights, or lora"
        )


def _adapter(module: nn.Module, config: TuningConfig) -> LoraModel | IA3Model | Adapters:
    """New weights beside those of the blocks, or of the top ones; the head is in none."""
    if config.kind in ("lora", "adalora"):
        layers = _linear_layers(module, config.top_layers)
        if config.kind == "adalora":
            return AdaLora(module, layers, rank=config.rank, alpha=config.alpha, dropout=config.dropout)
        lora = LoraConfig(r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=layers)
        return LoraModel(module, lora, "default")
    found = _sublayers(module, config)
    after = [block.feedforward for block in found]
    if config.kind == "ia3":
        scaled = [layer for block in found for layer in block.keys_values]
        return IA3Model(module, IA3Config(target_modules=[*scaled, *after], feedforward_modules=after), "default")
    if config.adapter_placement == "houlsby":
        after = [layer for block in found for layer in (block.attention, block.feedforward)]
    return Adapters(module, after, config.adapter_size, dropout=config.dropout)


def _virtual(model: LanguageModel, config: TuningConfig) -> Virtual:
    """Virtual tokens before every row: those of an earlier run, or new ones from random tokens of the vocabulary."""
    module, count, earlier = model.module, config.virtual_tokens, model.virtual
    if earlier is not None and (earlier.kind, earlier.count) != (config.kind, count):
        raise ModelError(
            f"the model has {earlier.count} virtual tokens of an earlier run, and tuning.kind={config.kind} with "
            f"tuning.virtual_tokens={count} cannot go on from them; set tuning.kind={earlier.kind} and "
            f"tuning.virtual_tokens={earlier.count} to train them on, or tuning.kind=lora to train beside them"
        )
    if earlier is None and count >= model.context:
        raise ModelError(
            f"tuning.virtual_tokens is {count}, but the model's context is {model.context}, and they take their places "
            "in it; set fewer"
        )
    if config.kind == "prefix" and not blocks(module)[1]:
        raise ModelError(
            f"{type(module).__name__} has no attention, whose keys and values tuning.kind=prefix trains; "
            "set tuning.kind=prompt"
        )
    module.requires_grad_(False)
    weights = _started(model, config) if earlier is None else earlier.learned()
    virtual = Virtual(weights, network=config.kind == "ptuning")
    module.add_module("virtual", virtual)
    return virtual


@torch.no_grad()
def _started(model: LanguageModel, config: TuningConfig) -> dict[str, Tensor]:
    """What the model itself has in the places of random tokens: their input vectors, or keys and values."""
    tokenizer = model.tokenizer
    words = torch.tensor(sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)))
    ids = words[torch.randint(len(words), (config.virtual_tokens,))].to(model.device)
    if config.kind != "prefix":
        return {"vectors": model.module.get_input_embeddings()(ids)}
    noted = Noted()
    model.run(ids, Rows([len(ids)], memory=noted, device=model.device))
    return noted.weights


def disable_dropout(module: nn.Module) -> None:
    """Set every dropout to p = 0, and train mode: the sampler and the trainer are one function in it too.

    `eval()` would do it as well, but it also turns off gradient checkpointing.
    """
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        for name in ("attention_dropout", "dropout", "activation_dropout", "layerdrop"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)
    module.train()


def _checkpoint_activations(module: nn.Module) -> None:
    if not getattr(module, "supports_gradient_checkpointing", False):
        raise ModelError(f"{type(module).__name__} cannot compute activations again; set tuning.checkpointing=false")
    module.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]


def _linear_layers(module: nn.Module, top: int | None) -> list[str]:
    """Names of the linear layers inside the blocks, or the top `top` of them; the head is not one."""
    return [layer for name in _adaptable(module, top) for layer, _ in linear_layers(module.get_submodule(name), name)]


def _sublayers(module: nn.Module, config: TuningConfig) -> list[Sublayers]:
    """Attention and feed-forward of each block that is trained."""
    width = module.config.get_text_config().hidden_size  # type: ignore[union-attr,operator]
    found = [sublayers(name, module.get_submodule(name), width) for name in _adaptable(module, config.top_layers)]
    if None in found:
        raise ModelError(
            f"{type(module).__name__} has blocks without an attention and a feed-forward that end with linear layers, "
            f"which tuning.kind={config.kind} looks for; set tuning.kind=lora"
        )
    return [block for block in found if block is not None]


def _adaptable(module: nn.Module, top: int | None) -> list[str]:
    """Names of the blocks that adapters are put in."""
    inside = _top_blocks(module, top)
    if not inside:
        raise ModelError(
            f"{type(module).__name__} has no blocks of linear layers to put adapters in; set tuning.kind=full"
        )
    return [name.removesuffix(".") for name in inside]


def _top_blocks(module: nn.Module, top: int | None) -> tuple[str, ...]:
    """What the names of the weights in the top `top` blocks, or in all of them, begin with."""
    if top is None:
        return tuple(f"{path}.{i}." for path, found in stacks(module) for i in range(len(found)))
    path, found = blocks(module)
    count = len(found)
    if top > count:
        most = f"{count} blocks; set at most {count}" if count else "no blocks; leave it out"
        raise ModelError(f"tuning.top_layers is {top}, but the model has {most}")
    return tuple(f"{path}.{i}." for i in range(count - top, count))
