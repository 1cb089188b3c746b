"""A causal language model as RLHF needs it: a trunk that makes hidden states, and a head that reads them."""

import copy
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import LoraModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from proxtune.data.tokenizer import stop_ids
from proxtune.errors import CheckpointError, ModelError


@dataclass
class LanguageModel:
    """A transformers model, its tokenizer, and the adapter that this run trains, if any."""

    module: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    adapter: LoraModel | None = None

    @property
    def device(self) -> torch.device:
        return self.module.device

    @property
    def hidden_size(self) -> int:
        return int(self.module.config.get_text_config().hidden_size)

    @property
    def context(self) -> int:
        """The longest sequence the model was made for, in tokens."""
        named = getattr(self.module.config.get_text_config(), "max_position_embeddings", None)
        return 2**20 if named is None else int(named)  # models without positions (ALiBi) name none

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer."""
        return stop_ids(self.tokenizer)

    def text(self, ids: list[int] | Tensor) -> str:
        """Token ids as text, without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def reads_as(self, other: "LanguageModel") -> bool:
        """Whether both read text as the same token ids."""
        return bool(self.tokenizer.get_vocab() == other.tokenizer.get_vocab())

    def trained(self) -> dict[str, nn.Parameter]:
        """The weights that this run trains, by name."""
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}

    def hidden(self, ids: Tensor, *, positions: Tensor | None = None, mask: Any = None, cache: Any = None) -> Tensor:
        """Hidden states [B, S, H] of the trunk.

        Without a mask attention is causal, so right padding needs none: no real token sees what comes after it.

        Args:
            ids, positions: [B, S]; mask: [B, 1, S, K] additive (or one for each kind of layer, see `rollouts.cache`).
        """
        return self.module.base_model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., H] -> [..., V] in float32."""
        head: nn.Module = self.module.get_output_embeddings()
        logits: Tensor = head(hidden).float()
        cap = getattr(self.module.config.get_text_config(), "final_logit_softcapping", None)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    @contextmanager
    def as_reference(self) -> Iterator["LanguageModel"]:
        """The weights as they stood when the run began: the same ones with this run's adapter off."""
        assert self.adapter is not None
        self.adapter.disable_adapter_layers()
        try:
            with torch.no_grad():
                yield self
        finally:
            self.adapter.enable_adapter_layers()

    def frozen_copy(self) -> "LanguageModel":
        """A copy of its own that is never trained."""
        return LanguageModel(copy.deepcopy(self.module).requires_grad_(False), self.tokenizer)

    def save(self, folder: Path) -> None:
        """Write an ordinary model folder (safetensors, adapter merged in) that transformers and `load` read."""
        # Any: peft types the model it gives back as a bare nn.Module.
        module: Any = self.module if self.adapter is None else copy.deepcopy(self.adapter).merge_and_unload()
        module.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def copy_into(weights: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> None:
    """Overwrite `weights` with what a checkpoint stored under the same names."""
    if weights.keys() != stored.keys():
        odd = sorted(weights.keys() ^ stored.keys())
        raise CheckpointError(
            f"the checkpoint holds other weights than this run trains (first difference: {odd[0]}); "
            "is the config the same?"
        )
    with torch.no_grad():
        for name, weight in weights.items():
            if weight.shape != stored[name].shape:
                sizes = f"{tuple(stored[name].shape)} in the checkpoint, {tuple(weight.shape)} in the model"
                raise CheckpointError(f"{name} has another size: {sizes}; is the config the same?")
            weight.copy_(stored[name])


def weight_hash(module: nn.Module) -> str:
    """SHA-256 over the names and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_head(model: LanguageModel) -> None:
    """Refuse an architecture that does something to its logits that `LanguageModel.logits` does not."""
    ids = torch.arange(8, device=model.device)[None] % model.module.config.get_text_config().vocab_size
    with torch.no_grad():
        ours = model.logits(model.hidden(ids))
        theirs = model.module(input_ids=ids).logits.float()
    gap = float((ours - theirs).abs().max())
    if gap > 1e-3 * max(1.0, float(theirs.abs().max())):
        raise ModelError(
            f"{type(model.module).__name__} changes its logits after the head (largest difference {gap:.3g}); "
            "expected logits = head(hidden states), with an optional final soft cap. "
            "This architecture cannot be trained here yet"
        )
