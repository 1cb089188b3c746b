"""Rollouts on disk, one file a step: what was sampled, and how it was scored.

They separate what sampling does from what training does: a run can be trained again on the very answers of another
one (`--replay`), and a killed run does not ask for scores that it has been given already.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from proxtune.data.collate import Tokens
from proxtune.errors import CheckpointError
from proxtune.rollouts.rollout import Rollout
from proxtune.rollouts.sampling import SamplingConfig
from proxtune.runs import write_atomic

PART = "score/"  # the tensors under this name are the single rewards that the scores were summed from


class RolloutConfig(SamplingConfig):
    """`rollout`: how responses are sampled, and whether they are kept."""

    save: bool | None = Field(
        None, description="keep every step's rollout and scores in rollouts/; by default where a reward is remote"
    )


@dataclass(frozen=True)
class Scored:
    """A rollout with the score [B] of each response (NaN: none was given), and the rewards it was summed from."""

    rollout: Rollout
    scores: Tensor
    parts: dict[str, Tensor]


class RolloutStore:
    """The rollouts in `folder`; with `replay` they all must be there, and none is written."""

    def __init__(self, folder: Path, *, replay: bool = False) -> None:
        self.folder, self.replay = folder, replay

    def save(self, step: int, scored: Scored) -> None:
        """Write the rollout of step number `step`, whole or not at all."""
        rollout = scored.rollout
        tensors = {
            "prompt_ids": rollout.tokens.prompt_ids,
            "prompt_lengths": rollout.tokens.prompt_lengths,
            "response_ids": rollout.tokens.response_ids,
            "response_lengths": rollout.tokens.response_lengths,
            "truncated": rollout.truncated,
            "logprobs": rollout.logprobs,
            "entropy": rollout.entropy,
            "scores": scored.scores,
        } | {PART + name: part for name, part in scored.parts.items()}
        if rollout.values is not None:
            tensors["values"] = rollout.values
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self._path(step), save({name: x.cpu().contiguous() for name, x in tensors.items()}))

    def load(self, step: int, prompts: list[list[int]], device: torch.device) -> Scored | None:
        """The rollout of step number `step`, which must answer `prompts`; None where it is still to be sampled.

        Raises CheckpointError: the file is damaged, or answers other prompts; or a replay has no such step.
        """
        path = self._path(step)
        if not path.exists():
            if self.replay:
                raise CheckpointError(f"{self.folder} has {self._count()}, but step {step} is asked for: {_ADVICE}")
            return None
        try:
            x = {name: tensor.to(device) for name, tensor in load(path.read_bytes()).items()}
            fields = ("prompt_ids", "prompt_lengths", "response_ids", "response_lengths")
            tokens = Tokens(*(x[name] for name in fields))
            rollout = Rollout(tokens, x["truncated"], x["logprobs"], x["entropy"], x.get("values"))
        except (OSError, SafetensorError, LookupError) as error:
            raise CheckpointError(
                f"{path} is damaged ({error!r}); delete it, and the step is sampled and scored again"
            ) from error
        if [ids.tolist() for ids in _rows(tokens)] != prompts:
            raise CheckpointError(f"{path} answers other prompts than step {step} of this run asks: {_ADVICE}")
        parts = {name.removeprefix(PART): part.cpu() for name, part in x.items() if name.startswith(PART)}
        return Scored(rollout, x["scores"].cpu(), parts)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}.safetensors"

    def _count(self) -> str:
        return f"the rollouts of {len(list(self.folder.glob('step-*.safetensors')))} steps"


_ADVICE = (
    "replay with the data, seed, ppo.batch_size and at most the training.steps of the run that saved them "
    "(with rollout.save=true)"
)


def _rows(tokens: Tokens) -> list[Tensor]:
    return [ids[:length] for ids, length in zip(tokens.prompt_ids, tokens.prompt_lengths.tolist(), strict=True)]
