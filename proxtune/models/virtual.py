"""Virtual tokens: k slots before every row that hold what is learned, while the model's own weights are frozen.

    prompt   the input vectors of the slots (Lester et al. 2021, arXiv 2104.08691)
    ptuning  the same, made by a small network of trained embeddings (P-tuning, Liu et al. 2021, arXiv 2103.10385)
    prefix   their keys and values in every layer (Li & Liang 2021, arXiv 2101.00190; P-tuning v2, arXiv 2110.07602)

peft's own classes want padded batches and `past_key_values`; our passes are packed rows, so this is ours. The slots are
positions like any other: a row begins k positions later, and a window slides past them. They are no change of a
weight, so a model folder holds them beside the weights, in virtual.safetensors:

    vectors                             [k, E], of prompt, and of ptuning, whose network is folded in
    keys_<layer>, values_<layer>        [heads, k, d] of every layer, of prefix
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from proxtune.errors import ModelError
from proxtune.models.rows import Rows

FILE = "virtual.safetensors"


class Virtual(nn.Module):
    """The slots of one model, in its submodule `virtual`, and those that they were when the run began.

    Args:
        weights: as a folder holds them.
        network: put a two-layer network behind the vectors (ptuning).
    """

    def __init__(self, weights: Mapping[str, Tensor], *, network: bool = False) -> None:
        super().__init__()
        self.weights = nn.ParameterDict({name: nn.Parameter(x.detach().clone()) for name, x in weights.items()})
        some = next(iter(self.weights.values()))
        self.count, self.on, width = some.shape[-2], True, some.shape[-1]
        layers = (nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)) if network else ()
        self.network = nn.Sequential(*layers).to(some)
        for name, x in self.learned().items():
            self.register_buffer(f"began_{name}", x.detach().clone(), persistent=False)

    @property
    def kind(self) -> str:
        """As in `tuning.kind`, where what ptuning has learnt is a prompt."""
        return "prompt" if "vectors" in self.weights else "prefix"

    def learned(self) -> dict[str, Tensor]:
        """What stands in the slots, by the names of the folder."""
        return {name: self.network(x) for name, x in self.weights.items()}

    def began(self) -> dict[str, Tensor]:
        """What stood there when the run began."""
        return {name: self.get_buffer(f"began_{name}") for name in self.weights}

    def disable_adapter_layers(self) -> None:
        """The model with the slots that it began with; without any it is another, which this run never was."""
        self.on = False

    def enable_adapter_layers(self) -> None:
        """The model with what was learned."""
        self.on = True

    def run(
        self,
        trunk: Callable[[Tensor, Rows, Tensor | None], Tensor],
        embeddings: nn.Module,
        ids: Tensor,
        rows: Rows,
        segments: Tensor | None,
    ) -> Tensor:
        """The states [N, H] that `trunk` makes of the tokens [N] of packed rows, with the slots before every new row.

        Args:
            trunk: (ids, rows, segments) -> states, of longer rows; embeddings: its layer that reads the ids.
            segments: [N], as `LanguageModel.run` has them; the slots count to the first text.
        """
        longer = rows.longer(self.count)
        slots, tokens = ((longer.positions < self.count) == there for there in (True, False))
        slots, tokens = slots.nonzero()[:, 0], tokens.nonzero()[:, 0]
        found = self.learned() if self.on else self.began()

        def spread(x: Tensor) -> Tensor:
            return x.new_zeros(len(longer.positions)).index_copy(0, tokens, x)

        if "vectors" not in found:
            longer.learned = partial(_keys_and_values, found, slots)
        with _read_as(embeddings, found["vectors"], slots) if "vectors" in found else nullcontext():
            hidden = trunk(spread(ids), longer, None if segments is None else spread(segments))
        return hidden.index_select(0, tokens)


def _in_slots(x: Tensor, learned: Tensor, slots: Tensor) -> Tensor:
    """[·, N, d] with what is learned, [k, d] or [·, k, d], in the slots of each row."""
    return x.index_copy(1, slots, learned.to(x.dtype).repeat(1, len(slots) // learned.shape[-2], 1))


def _keys_and_values(
    found: Mapping[str, Tensor], slots: Tensor, layer: int, keys: Tensor, values: Tensor
) -> tuple[Tensor, Tensor]:
    """Those of a layer, [heads, N, d], with the learned ones in the slots."""
    return _in_slots(keys, found[f"keys_{layer}"], slots), _in_slots(values, found[f"values_{layer}"], slots)


@contextmanager
def _read_as(embeddings: nn.Module, vectors: Tensor, slots: Tensor) -> Iterator[None]:
    """Let the layer that reads the ids give the vectors for whatever stands in the slots."""
    handle = embeddings.register_forward_hook(lambda _, __, read: _in_slots(read, vectors, slots))
    try:
        yield
    finally:
        handle.remove()


class Noted:
    """A memory that a folder's weights are made of: every layer's keys and values of the one row that is run."""

    def __init__(self) -> None:
        self.weights = dict[str, Tensor]()

    def write(self, layer: int, places: Tensor, positions: Tensor, keys: Tensor, values: Tensor) -> None:  # noqa: ARG002 (all of one row)
        """Note keys and values [k, heads, d]."""
        if f"keys_{layer}" in self.weights:
            raise ModelError(
                "the model's attention layers do not say which they are, as tuning.kind=prefix needs; "
                "set tuning.kind=prompt"
            )
        self.weights |= {f"keys_{layer}": keys.transpose(0, 1), f"values_{layer}": values.transpose(0, 1)}

    def read(self, layer: int, rows: int, limit: int) -> tuple[Tensor, Tensor]:
        """Nothing goes on."""
        raise NotImplementedError


@contextmanager
def taken_out(module: nn.Module) -> Iterator[Virtual | None]:
    """Take the slots out of a model for a while."""
    virtual: Any = getattr(module, "virtual", None)
    if virtual is not None:
        del module.virtual
    try:
        yield virtual
    finally:
        if virtual is not None:
            module.virtual = virtual


def save_virtual(virtual: Virtual | None, folder: Path) -> None:
    """Write the slots, if there are any, beside the weights of a model folder."""
    (folder / FILE).unlink(missing_ok=True)
    if virtual is not None:
        save_file({name: x.detach().cpu().contiguous() for name, x in virtual.learned().items()}, folder / FILE)


def restore_virtual(module: nn.Module, folder: Path) -> None:
    """Put the slots of a model folder, if it holds any, back into the model that was loaded from it.

    Raises:
        ModelError: they cannot be read.
    """
    virtual = _saved(folder)
    if virtual is not None:
        module.add_module("virtual", virtual)


def virtual_tokens(folder: Path) -> int:
    """How many slots stand before each text of the model in a folder."""
    virtual = _saved(folder)
    return 0 if virtual is None else virtual.count


def _saved(folder: Path) -> Virtual | None:
    if not (folder / FILE).exists():
        return None
    try:
        return Virtual(load_file(folder / FILE))
    except Exception as error:
        raise ModelError(f"the virtual tokens of the model {folder} cannot be read: {error}") from error
