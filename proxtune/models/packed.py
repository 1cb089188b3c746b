"""Weights in the order that the machine's kernels read them in, while nothing is trained.

With few rows, a matrix product spends its time on bringing the weight into that order, at every call. Sampling calls
each weight hundreds of times between two updates, so they are ordered once, adapters merged in.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

ROWS = 32  # of the products that the order is best for; 1 to 256 were measured, and are served by it


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this build of torch has oneDNN's products for weights of this kind (they are private, and may go)."""
    return device.type == "cpu" and dtype == torch.float32 and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@contextmanager
def packed(module: nn.Module, device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Run the linear layers of `module` from packed copies of their weights; elsewhere than on a CPU, as they are."""
    layers = list(_linear_layers(module)) if can_pack(device, dtype) else []
    for layer in layers:
        layer.forward = _packed(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _linear_layers(module: nn.Module) -> Iterator[nn.Module]:
    """Every linear layer, an adapted one as a whole."""
    for part in module.children():
        if isinstance(part, BaseTunerLayer | nn.Linear | Conv1D):
            yield part
        else:
            yield from _linear_layers(part)


def _packed(layer: Any) -> Callable[[Tensor], Tensor]:
    base: Any = layer
    with torch.no_grad():
        if isinstance(layer, BaseTunerLayer):
            if not layer.disable_adapters:
                layer = copy.deepcopy(layer)
                layer.merge()
            base = layer.get_base_layer()
        weight = base.weight.T if isinstance(base, Conv1D) else base.weight
        ready = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS)  # noqa: SLF001 (see can_pack)
        bias = base.bias

    def forward(x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, ready, bias, "none", [], "")  # noqa: SLF001

    return forward
