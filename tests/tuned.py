"""Tiny models with a kind of tuning, as the tests of every kind look at them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from proxtune.data.collate import collate
from proxtune.models.language_model import LanguageModel
from proxtune.models.peft import VIRTUAL, TuningConfig
from proxtune.models.score import score
from tests.tiny import ADAPTABLE, FAMILIES

TOKENS = collate([[5, 6], [7]], [[8, 9, 1], [10, 11, 12, 13]])
K = 3  # virtual tokens

each_virtual_kind = pytest.mark.parametrize("kind", VIRTUAL)
each_virtual_kind_and_family = pytest.mark.parametrize(
    ("kind", "family"), [(kind, f) for kind in VIRTUAL for f in (ADAPTABLE if kind == "prefix" else FAMILIES)]
)


def logprobs(model: LanguageModel) -> Tensor:
    """[B, T]: what the model says of `TOKENS`."""
    with torch.no_grad():
        return score(model, TOKENS).logprobs


def nudged(model: LanguageModel, seed: int = 0) -> LanguageModel:
    """Every weight that is trained is another, as after training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.trained().values():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return model


def virtual_config(kind: str, **more: Any) -> TuningConfig:
    """`K` virtual tokens of that kind."""
    return TuningConfig(kind=kind, **{"virtual_tokens": K, **more})
