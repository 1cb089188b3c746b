"""Figures by name."""

import torch

from proxtune.training.metrics import Tally, prefixed


def test_figures_are_summed_within_a_step_and_averaged_over_steps() -> None:
    tally = Tally()
    tally.add({"loss": torch.tensor(1.0), "norm": 2})
    tally.add({"loss": torch.tensor(4.0), "norm": 3})
    assert tally.total() == {"loss": 5.0, "norm": 5.0}
    assert tally.mean() == {"loss": 2.5, "norm": 2.5}
    assert tally.count == 2


def test_nothing_tallied_gives_no_figures() -> None:
    assert Tally().total() == Tally().mean() == {}


def test_a_total_is_a_copy() -> None:
    tally = Tally()
    tally.add({"loss": 1.0})
    tally.total()["loss"] = 9.0
    assert tally.total() == {"loss": 1.0}


def test_names_get_their_group() -> None:
    assert prefixed("policy", {"ratio": torch.tensor(1.0)}) == {"policy/ratio": torch.tensor(1.0)}
