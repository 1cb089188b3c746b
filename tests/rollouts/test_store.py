"""Rollouts on disk: what comes back is what was sampled, and nothing else is taken for it."""

from pathlib import Path

import pytest
import torch

from proxtune.errors import CheckpointError
from proxtune.rollouts.collect import collect
from proxtune.rollouts.engine import sample
from proxtune.rollouts.sampling import SamplingConfig
from proxtune.rollouts.store import RolloutStore, Scored
from tests.tiny import tiny_model

PROMPTS = [[3, 4, 5], [6], [7, 8]]
CPU = torch.device("cpu")


def scored() -> Scored:
    rollout = collect(tiny_model(), PROMPTS, SamplingConfig(max_new_tokens=5), sampler=sample, seed=1, step=0)
    return Scored(rollout, torch.tensor([0.5, torch.nan, -2.0]), {"brevity": torch.tensor([1.0, 2.0, 3.0])})


def test_a_rollout_comes_back_bit_for_bit(tmp_path: Path) -> None:
    before, store = scored(), RolloutStore(tmp_path / "rollouts")
    store.save(1, before)
    after = store.load(1, PROMPTS, CPU)
    assert after is not None
    for name in ("truncated", "logprobs", "entropy", "mask"):
        assert torch.equal(getattr(before.rollout, name), getattr(after.rollout, name)), name
    for name in ("prompt_ids", "prompt_lengths", "response_ids", "response_lengths"):
        assert torch.equal(getattr(before.rollout.tokens, name), getattr(after.rollout.tokens, name)), name
    assert after.scores.nan_to_num(99).tolist() == [0.5, 99, -2.0]
    assert {name: part.tolist() for name, part in after.parts.items()} == {"brevity": [1.0, 2.0, 3.0]}
    assert after.rollout.values is None


def test_a_step_that_was_not_saved_is_none_and_in_a_replay_an_error(tmp_path: Path) -> None:
    RolloutStore(tmp_path).save(1, scored())
    assert RolloutStore(tmp_path).load(2, PROMPTS, CPU) is None
    with pytest.raises(CheckpointError, match="has the rollouts of 1 steps, but step 2 is asked for: replay with"):
        RolloutStore(tmp_path, replay=True).load(2, PROMPTS, CPU)


def test_other_prompts_are_not_answered_by_what_is_stored(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    store.save(1, scored())
    with pytest.raises(CheckpointError, match="answers other prompts than step 1 of this run asks"):
        store.load(1, [[3, 4, 5], [6], [7, 9]], CPU)


@pytest.mark.parametrize("kept", [-7, 0, 20])
def test_a_torn_file_is_named(kept: int, tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    store.save(1, scored())
    path = tmp_path / "step-000001.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"step-000001.safetensors is damaged .* delete it"):
        store.load(1, PROMPTS, CPU)
