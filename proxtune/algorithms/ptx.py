"""PPO-ptx: a little language modelling with every update, so that the policy does not forget how to write."""

from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import Field, PositiveInt

from proxtune.config import Section
from proxtune.data.collate import collate_examples
from proxtune.data.template import Example
from proxtune.models.language_model import LanguageModel
from proxtune.models.score import score
from proxtune.objectives import sft_loss
from proxtune.runs import derive_seed
from proxtune.training.metrics import Metrics


class PtxConfig(Section):
    """`ptx`: PPO-ptx (Ouyang et al. 2022, arXiv 2203.02155, equation 2)."""

    data: Path | None = Field(None, description="texts, or prompts with completions, to mix in; by default none")
    coef: float = Field(1.0, gt=0, description="weight of the mean −log π of their tokens beside the policy loss (γ)")
    batch_size: PositiveInt = Field(8, description="their rows in an optimiser step")


class Ptx:
    """Adds coef · mean(−log π(token)) over rows of `examples` to the gradient of each PPO update.

    The rows of an update depend on the seed, the step and the update's number alone, so there is no state to save.
    """

    def __init__(self, policy: LanguageModel, examples: Sequence[Example], config: PtxConfig, *, seed: int = 0) -> None:
        self.policy, self.examples, self.config, self.seed = policy, examples, config, seed

    def backward(self, step: int, update: int) -> Metrics:
        """Add the gradient; returns `ptx/loss`, nats a token before the weight."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "ptx", step, update))
        rows = torch.randint(len(self.examples), (self.config.batch_size,), generator=generator).tolist()
        tokens = collate_examples([self.examples[row] for row in rows]).to(self.policy.device)
        loss, _ = sft_loss(score(self.policy, tokens).logprobs, tokens.mask)
        (self.config.coef * loss).backward()
        return {"ptx/loss": float(loss.detach())}
