"""AdaLoRA, through the peft library: low-rank adapters whose rank moves to the layers that make most of it."""

from collections.abc import Mapping
from typing import Any

import torch
from peft import AdaLoraConfig, AdaLoraModel
from torch import Tensor, nn

from proxtune.errors import ModelError


class AdaLora(AdaLoraModel):
    """ΔW = alpha / rank · P diag(λ) Q, P [out, r], λ [r], Q [r, in] (Zhang et al. 2023, arXiv 2303.10512).

    A run begins with r = 1.5 · rank everywhere. After its first tenth, the entries of all λ that change the loss least
    are set to 0, ever more of them, until rank · layers are left; in its last third their places stay.
    """

    def __init__(self, module: nn.Module, layers: list[str], *, rank: int, alpha: float, dropout: float) -> None:
        first = rank + (rank + 1) // 2
        config = AdaLoraConfig(
            init_r=first,
            target_r=rank,
            lora_alpha=alpha * first / rank,  # type: ignore[arg-type] # peft divides by the first rank
            lora_dropout=dropout,
            target_modules=layers,
            total_step=1,  # until `follow` knows
        )
        super().__init__(module, config, "default")  # type: ignore[no-untyped-call]
        self.moves = 0

    @property
    def plan(self) -> Any:
        """Schedule and ranks."""
        return self.peft_config["default"]

    def follow(self, optimizer: torch.optim.Optimizer, steps: int) -> None:
        """Move rank after each step of `optimizer`, while the gradients are still there, in a run of `steps`.

        Raises:
            ModelError: a run without 2 steps, one to learn from and one to move rank after.
        """
        if steps < 2:
            raise ModelError(
                f"AdaLoRA moves rank over the steps of a run, and this one has {steps} (0: not told); "
                "expected at least 2. Set total_steps, train longer, or set tuning.kind=lora"
            )
        self.plan.total_step, self.plan.deltaT = steps, max(1, steps // 100)
        self.plan.tinit, self.plan.tfinal = steps // 10, max(1, steps // 3)
        optimizer.register_step_post_hook(self._moved)

    def _moved(self, *_: object) -> None:
        self.update_and_allocate(self.moves)  # type: ignore[no-untyped-call]
        self.moves += 1

    def penalty(self) -> Tensor:
        """γ · mean of ‖PᵀP − I‖ and ‖QQᵀ − I‖ over all layers, Frobenius norms: a λ means as much as another."""
        square = [
            p @ p.T if "lora_A" in name else p.T @ p
            for name, p in self.model.named_parameters()
            if "lora_A" in name or "lora_B" in name
        ]
        distance = [(x - torch.eye(len(x), dtype=x.dtype, device=x.device)).norm() for x in square]
        return torch.stack(distance).mean() * float(self.plan.orth_reg_weight)

    def state(self) -> dict[str, Any]:
        """What a later process needs beside the weights to move rank as this one would."""
        kept = self.rankallocator
        return {
            "moves": self.moves,
            "ranks": self.plan.rank_pattern or {},
            "sensitivity": kept.exp_avg_ipt,
            "uncertainty": kept.exp_avg_unc,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state` was taken."""
        kept, device = self.rankallocator, next(self.model.parameters()).device
        self.moves, self.plan.rank_pattern = state["moves"], state["ranks"] or None
        kept.exp_avg_ipt = {name: x.to(device) for name, x in state["sensitivity"].items()}
        kept.exp_avg_unc = {name: x.to(device) for name, x in state["uncertainty"].items()}
        kept.ipt = dict(kept.exp_avg_ipt)  # peft begins anew with names that it does not find here
