"""A reward may fail for a few rows; many, or some three times in a row, stop the run and say why and how to go on."""

import logging

import pytest
import torch

from proxtune.errors import RewardError
from proxtune.rewards.budget import Budget


def test_rows_without_a_score_are_nan_and_named_with_their_reasons(caplog: pytest.LogCaptureFixture) -> None:
    scores = Budget("judge", 0.5).scores([1.0, "HTTP 500", 3.0, "null for a score", "HTTP 500", 6.0])
    assert scores.dtype == torch.float32
    assert [None if x != x else x for x in scores.tolist()] == [1.0, None, 3.0, None, None, 6.0]  # noqa: PLR0124
    assert caplog.messages == [
        "the reward 'judge' gave no score to 3 of 6 answers: 2 × HTTP 500; 1 × null for a score; left out of this step"
    ]


def test_without_failures_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    assert Budget("judge", 0.0).scores([1.0, 2.0]).tolist() == [1.0, 2.0]
    assert caplog.messages == []


@pytest.mark.parametrize(("failed", "count", "share", "stops"), [(1, 20, 0.05, False), (2, 20, 0.05, True)])
def test_rw1_more_than_the_share_allows_stops(failed: int, count: int, share: float, *, stops: bool) -> None:
    outcomes: list[float | str] = ["HTTP 500"] * failed + [1.0] * (count - failed)
    if not stops:
        assert int(Budget("judge", share).scores(outcomes).isnan().sum()) == failed
        return
    with pytest.raises(RewardError) as caught:
        Budget("judge", share).scores(outcomes)
    assert str(caught.value) == (
        "the reward 'judge' gave no score to 2 of 20 answers: 2 × HTTP 500\n"
        "reward.max_failed=0.05 allows 1. A failed call is not a score of 0, so the run stops; "
        "mend what failed and go on with --resume"
    )


def test_rw1_a_share_of_0_allows_no_failure_and_of_1_a_step_without_scores() -> None:
    with pytest.raises(RewardError, match=r"reward.max_failed=0 allows 0\."):
        Budget("judge", 0.0).scores([1.0] * 99 + ["HTTP 500"])
    assert Budget("judge", 1.0).scores(["HTTP 500"]).isnan().all()


def test_rw1_the_third_call_in_a_row_with_any_failure_stops() -> None:
    budget = Budget("judge", 0.5)
    good, bad = [1.0] * 40, [1.0] * 39 + ["HTTP 500"]
    for outcomes in (bad, bad, good, bad, bad):  # the good one in the middle begins the count anew
        budget.scores(outcomes)
    with pytest.raises(RewardError, match=r"1 of 40 answers: 1 × HTTP 500\nIt failed in 3 calls in a row\. .*--resume"):
        budget.scores(bad)
