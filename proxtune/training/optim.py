"""One optimiser step: schedule, clip, refuse what is not finite, move."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import torch
from pydantic import Field, PositiveInt
from torch import nn

from proxtune.config import Section
from proxtune.errors import DivergedError


class OptimConfig(Section):
    """`optim`: the optimiser and its schedule."""

    name: Literal["adamw", "sgd", "adafactor"] = Field(
        "adamw",
        description="adamw: Adam with decoupled weight decay; sgd: gradient descent with momentum; adafactor: Adam "
        "without the first moment, the second one kept as a row and a column of each matrix",
    )
    learning_rate: float = Field(
        2e-4, gt=0, description="peak learning rate; adafactor takes it relative to the size of each weight"
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="decay of Adam's first moment")
    beta2: float = Field(0.95, ge=0, lt=1, description="decay of Adam's second moment")
    eps: float = Field(1e-5, gt=0, description="Adam's ε; 1e-5 as in every PPO since Baselines")
    momentum: float = Field(0.9, ge=0, lt=1, description="sgd only: share of the last move that is made again")
    weight_decay: float = Field(
        0.0, ge=0, description="decoupled weight decay; sgd, which does not scale gradients, adds it to them"
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="each block learns at this multiple of the rate of the block above it (sft, reward)",
    )
    schedule: Literal["linear", "cosine", "constant", "plateau"] = Field(
        "linear", description="from the peak to 0, or constant; plateau: lower whenever evaluations get no better"
    )
    plateau_factor: float = Field(0.5, gt=0, lt=1, description="plateau only: what the rate is multiplied by")
    plateau_patience: PositiveInt = Field(
        1, description="plateau only: evaluations in a row without a better one after which it is"
    )
    warmup: float = Field(0.03, ge=0, lt=1, description="share of the steps in which the rate rises from 0 to its peak")
    max_grad_norm: float = Field(1.0, gt=0, description="the gradient of each group is scaled down to this norm")


def schedule_factor(step: int, total: int, config: OptimConfig) -> float:
    """The learning rate at `step` (0, 1, …, total − 1) over its peak, where no plateau was met."""
    warmup = math.ceil(config.warmup * total)
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule in ("constant", "plateau"):
        return 1.0
    left = 1 - (step - warmup) / max(total - warmup, 1)
    return left if config.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2


class Optimizer:
    """Named groups of weights that are moved together, each with its own rate and its own gradient norm.

    The rate is a function of the step number, and of the evaluations where the schedule is `plateau`.

    Args:
        groups: name -> weights; an empty group is left out.
        rates: peak learning rates that differ from `config.learning_rate`.
        factors: what the rate of single weights is multiplied by, 1 where not given (`models.rates.layer_factors`).
        total: steps of the whole run, for the schedule; 0 keeps the rates constant.
        patience: steps in a row that are not finite at which the run stops. 1 for fixed data, where the step would be
            the same again; more where the next step samples anew.
    """

    def __init__(
        self,
        groups: Mapping[str, Sequence[nn.Parameter]],
        config: OptimConfig,
        *,
        total: int = 0,
        rates: Mapping[str, float] | None = None,
        factors: Mapping[nn.Parameter, float] = MappingProxyType({}),
        patience: int = 3,
    ) -> None:
        self.config, self.total, self.patience = config, total, patience
        self.groups = {name: list(weights) for name, weights in groups.items() if weights}
        self.peaks: dict[str, float] = {}
        parts: list[dict[str, Any]] = []
        for name, weights in self.groups.items():
            for factor in sorted({factors.get(w, 1.0) for w in weights}, reverse=True):
                peak = (rates or {}).get(name, config.learning_rate) * factor
                self.peaks[name if factor == 1 else f"{name} × {factor}"] = peak
                parts.append({"params": [w for w in weights if factors.get(w, 1.0) == factor], "lr": peak})
        self.skipped_in_a_row = self.drops = self.worse_in_a_row = 0
        self.adam = _torch_optimizer(parts, config)

    def begin(self, step: int) -> None:
        """Set the rates of this step."""
        factor = schedule_factor(min(step, self.total - 1), self.total, self.config) if self.total else 1.0
        factor *= self.config.plateau_factor**self.drops
        for group, peak in zip(self.adam.param_groups, self.peaks.values(), strict=True):
            group["lr"] = peak * factor

    def evaluated(self, *, better: bool) -> None:
        """Hear of an evaluation: whether it was better than all before. Only the plateau schedule acts on it."""
        if self.config.schedule != "plateau":
            return
        self.worse_in_a_row = 0 if better else self.worse_in_a_row + 1
        if self.worse_in_a_row == self.config.plateau_patience:
            self.drops, self.worse_in_a_row = self.drops + 1, 0

    def apply(self, figures: Mapping[str, float] = MappingProxyType({})) -> dict[str, float]:
        """Clip, move, and forget the gradients. A loss or a gradient that is not finite moves nothing.

        Args:
            figures: what is known of the step; a `loss` among them must be finite.

        Returns:
            The figures, the gradient norm of each group before clipping, `gradient/<group>`, and `gradient/skipped`,
            1.0 or 0.0.

        Raises:
            DivergedError: `patience` steps in a row were not finite.
        """
        norms = {
            f"gradient/{name}": float(nn.utils.clip_grad_norm_(weights, self.config.max_grad_norm))
            for name, weights in self.groups.items()
        }
        losses = {name: x for name, x in figures.items() if name.rpartition("/")[2] == "loss"}
        wild = [f"{name} {x}" for name, x in (losses | norms).items() if not math.isfinite(x)]
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if wild else 0
        if not wild:
            self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        told = {**figures, **norms, "gradient/skipped": float(bool(wild))}
        if self.skipped_in_a_row >= self.patience:
            raise DivergedError(
                f"not finite: {', '.join(wild)} (optimiser steps in a row: {self.skipped_in_a_row}); the weights were "
                "not moved. Lower optim.learning_rate, or look for data or a reward that explodes",
                told,
            )
        return told

    @property
    def learning_rate(self) -> float:
        """That of the first group, now."""
        return float(self.adam.param_groups[0]["lr"])

    def state(self) -> dict[str, Any]:
        """The moments and step counts of all weights, and what is counted here."""
        moments = {str(i): dict(moment) for i, moment in self.adam.state_dict()["state"].items()}
        counts = {"skipped_in_a_row": self.skipped_in_a_row}
        if self.config.schedule == "plateau":
            counts |= {"drops": self.drops, "worse_in_a_row": self.worse_in_a_row}
        return {"moments": moments} | counts

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state` was taken."""
        whole = self.adam.state_dict()
        self.adam.load_state_dict(whole | {"state": {int(i): dict(moment) for i, moment in state["moments"].items()}})
        self.skipped_in_a_row = state["skipped_in_a_row"]
        self.drops, self.worse_in_a_row = state.get("drops", 0), state.get("worse_in_a_row", 0)


def _torch_optimizer(parts: list[dict[str, Any]], config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019), SGD, or Adafactor (Shazeer and Stern 2018, arXiv 1804.04235)."""
    decay = config.weight_decay
    if config.name == "sgd":
        return torch.optim.SGD(parts, momentum=config.momentum, weight_decay=decay)
    if config.name == "adafactor":
        return torch.optim.Adafactor(parts, weight_decay=decay)
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(parts, betas=betas, eps=config.eps, weight_decay=decay, fused=True)
