"""A language model as training needs it: a trunk that makes hidden states, and a head that reads them.

An encoder is one without a head for the next token: it reads both ways, and heads.py says what reads its states.
"""

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import IA3Model, LoraModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from proxtune.data.tokenizer import stop_ids
from proxtune.errors import CheckpointError, ModelError
from proxtune.models import trunk
from proxtune.models.adalora import AdaLora
from proxtune.models.adapters import Adapters, save_adapters, set_aside
from proxtune.models.rows import ATTENTION, Rows
from proxtune.models.virtual import Virtual, save_virtual, taken_out
from proxtune.models.vocabulary import Head


@dataclass
class LanguageModel:
    """A transformers model, its tokenizer, and the adapter that this run trains, if any."""

    module: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    adapter: LoraModel | IA3Model | Adapters | Virtual | None = None

    @property
    def device(self) -> torch.device:
        return self.module.device

    @property
    def hidden_size(self) -> int:
        return int(self.module.config.get_text_config().hidden_size)

    @property
    def context(self) -> int:
        """The longest sequence the model was made for, in tokens, without the virtual ones before it."""
        named = getattr(self.module.config.get_text_config(), "max_position_embeddings", None)
        taken = self.first_position + (0 if self.virtual is None else self.virtual.count)
        return 2**20 if named is None else int(named) - taken  # models without positions name none

    @property
    def virtual(self) -> Virtual | None:
        """The virtual tokens that every row begins with, of this run or an earlier one."""
        found: Virtual | None = getattr(self.module, "virtual", None)
        return found

    @property
    def causal(self) -> bool:
        """Whether it predicts the next token; an encoder does not."""
        return self.module.get_output_embeddings() is not None

    @cached_property
    def first_position(self) -> int:
        """The position of a row's first token: RoBERTa and its relatives count from the one after their padding's."""
        embeddings = getattr(self.module.base_model, "embeddings", None)
        counts_on = hasattr(embeddings, "create_position_ids_from_input_ids")
        return int(embeddings.padding_idx) + 1 if counts_on else 0  # type: ignore[union-attr]

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

    def follow(self, optimizer: torch.optim.Optimizer, steps: int) -> None:
        """Let the adapter act after each step of the optimiser, in a run of `steps`; only AdaLoRA does."""
        if isinstance(self.adapter, AdaLora):
            self.adapter.follow(optimizer, steps)

    def regularise(self) -> None:
        """Add the gradient of the adapter's own penalty, once an optimiser step; only AdaLoRA has one."""
        if isinstance(self.adapter, AdaLora):
            self.adapter.penalty().backward()

    def adapter_state(self) -> dict[str, Any]:
        """What the adapter needs beside its weights to go on bit for bit; nothing but for AdaLoRA."""
        return self.adapter.state() if isinstance(self.adapter, AdaLora) else {}

    def load_adapter_state(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `adapter_state` was taken."""
        if isinstance(self.adapter, AdaLora):
            self.adapter.load_state(state)

    def __post_init__(self) -> None:
        if self.module._can_set_attn_implementation():  # noqa: SLF001 (our own models call `Rows.attend` themselves)
            self.module.set_attn_implementation(ATTENTION)

    def hidden(self, ids: Tensor) -> Tensor:
        """Hidden states [B, S, H] of the trunk, of rows of one length [B, S] that nothing is remembered of."""
        if self.virtual is not None:
            rows = Rows([ids.shape[1]] * len(ids), device=ids.device)
            return self.run(ids.flatten(), rows).unflatten(0, ids.shape)
        return self.module.base_model(input_ids=ids, use_cache=False).last_hidden_state

    def run(
        self, ids: Tensor, rows: Rows, *, below: trunk.Below | None = None, segments: Tensor | None = None
    ) -> Tensor:
        """Hidden states [N, H] of the tokens [N] of packed rows.

        Args:
            below: [N, H], what the frozen lower blocks make of these tokens; only those above are run then.
            segments: [N], 0 in the first text and 1 in the second, for an encoder that tells two texts apart.
        """
        if self.virtual is not None:
            assert below is None, "there are no `frozen_blocks` then"
            return self.virtual.run(self._trunk, self.module.get_input_embeddings(), ids, rows, segments)
        with nullcontext() if below is None else trunk.begin_above(self.module, below):
            return self._trunk(ids, rows, segments)

    def _trunk(self, ids: Tensor, rows: Rows, segments: Tensor | None) -> Tensor:
        """The states [N, H] of exactly these tokens."""
        more = {} if segments is None else {"token_type_ids": segments[None]}
        made = ids.new_zeros(1, 1, 1, 1, dtype=torch.bool)  # stands for a mask, so that transformers makes none
        return self.module.base_model(
            input_ids=ids[None],
            attention_mask=made,
            position_ids=rows.positions[None] + self.first_position,
            use_cache=False,
            rows=rows,
            **more,
        ).last_hidden_state[0]

    @property
    def head(self) -> Head:
        """What makes logits of hidden states."""
        layer = self.module.get_output_embeddings()
        cap = getattr(self.module.config.get_text_config(), "final_logit_softcapping", None)
        return Head(layer.weight, getattr(layer, "bias", None), cap)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., H] -> [..., V] in float32."""
        layer: nn.Module = self.module.get_output_embeddings()
        logits: Tensor = layer(hidden).float()
        cap = self.head.cap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    @property
    def frozen_blocks(self) -> int:
        """How many of the lowest blocks this run does not train, if it trains blocks above them and nothing else.

        0 where virtual tokens stand before the rows: the states that passes hand on are those of the others alone.
        """
        return 0 if self.virtual is not None else trunk.frozen_blocks(self.module)

    def shares_below(self, other: "LanguageModel", count: int) -> bool:
        """Whether the lowest `count` blocks, and all they depend on, are the very weights of the other model."""
        mine, theirs = ([p.data_ptr() for p in trunk.below(model.module, count)] for model in (self, other))
        return mine == theirs

    def share(self, other: "LanguageModel") -> None:
        """Hold every weight only once that both models have alike and neither trains."""
        theirs = {_own_name(name): p for name, p in other.module.named_parameters() if not p.requires_grad}
        for name, weight in self.module.named_parameters():
            twin = theirs.get(_own_name(name))
            if twin is None or weight.requires_grad or twin.dtype != weight.dtype or twin.device != weight.device:
                continue
            if torch.equal(twin, weight):
                weight.data = twin.data

    @contextmanager
    def as_reference(self) -> Iterator["LanguageModel"]:
        """The weights as they stood when the run began: the same ones with this run's adapter off.

        Virtual tokens are those that the run began with.
        """
        assert self.adapter is not None
        self.adapter.disable_adapter_layers()
        try:
            with torch.no_grad():
                yield self
        finally:
            self.adapter.enable_adapter_layers()

    def frozen_copy(self) -> "LanguageModel":
        """A copy of its own that is never trained."""
        return type(self)(copy.deepcopy(self.module).requires_grad_(False), self.tokenizer)

    def save(self, folder: Path) -> None:
        """Write an ordinary model folder (safetensors, adapter merged in) that transformers and `load` read.

        Bottleneck adapters and virtual tokens cannot be merged: they stand beside the weights, where `load` alone
        finds them.
        """
        module: Any = self.module  # peft types the model it gives back as a bare nn.Module
        if isinstance(self.adapter, LoraModel | IA3Model):
            module = copy.deepcopy(self.adapter).merge_and_unload()
        with set_aside(module) as found, taken_out(module) as virtual:
            module.save_pretrained(folder)
        save_adapters(found, folder)
        save_virtual(virtual, folder)
        self.tokenizer.save_pretrained(folder)


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Neither gradient nor dropout, as long as the block runs."""
    before = [module.training for module in modules]
    for module in modules:
        module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, was_training in zip(modules, before, strict=True):
            module.train(was_training)


def _own_name(name: str) -> str:
    """The name of a weight, whether an adapter stands beside it or not."""
    return name.replace("base_layer.", "").replace("inner.", "")


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


def check_architecture(model: LanguageModel) -> None:
    """Refuse an architecture whose logits are not those of its head, or that cannot keep packed rows apart."""
    ids = torch.arange(8, device=model.device)[None] % model.module.config.get_text_config().vocab_size
    read: Callable[[Tensor], Tensor] = model.logits
    if not model.causal:
        ids, read = ids + 8, Tensor.float  # clear of the padding that RoBERTa finds by its id
    with torch.no_grad(), taken_out(model.module):  # of virtual tokens transformers knows nothing
        theirs = read(model.hidden(ids))
        if model.causal:
            refuse(model, theirs, model.module(input_ids=ids).logits.float(), "changes its logits after the head")
        rows = Rows([3, 8], device=model.device)
        try:
            packed = read(model.run(torch.cat([ids[0, :3], ids[0]]), rows))[3:]
        except TypeError:  # no room for `rows` in its forward pass
            packed = torch.full_like(theirs[0], torch.nan)
        refuse(model, packed[None], theirs, "does not take rows of different lengths without padding")


def refuse(model: LanguageModel, ours: Tensor, theirs: Tensor, what: str) -> None:
    """Raise ModelError where two passes that must agree do not, because the model `what`."""
    gap = float(torch.where(ours.isnan() & theirs.isnan(), 0, ours - theirs).abs().max())
    if not gap <= 1e-3 * max(1.0, float(theirs.abs().max())):
        raise ModelError(
            f"{type(model.module).__name__} {what} (largest difference {gap:.3g}); expected logits = head(hidden "
            "states), with an optional final soft cap, and attention through transformers' AttentionInterface. "
            "This architecture cannot be trained here yet"
        )
