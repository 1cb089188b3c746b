"""How often a reward may fail before it stops the run: a failed call is no score, never a score of 0."""

import logging
import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from proxtune.errors import RewardError

Outcome = float | str
"""What became of one answer: its score, or why it has none."""

IN_A_ROW = 3

logger = logging.getLogger(__name__)


class Budget:
    """Answers without a score are left out of a step as long as they are few.

    Args:
        name: of the reward, for messages.
        max_failed: share of a call's answers that may go without a score.
    """

    def __init__(self, name: str, max_failed: float) -> None:
        self.name, self.max_failed = name, max_failed
        self.failed_calls = 0  # in a row; not saved, for whoever resumes a run has looked after its reward

    def scores(self, outcomes: Sequence[Outcome]) -> Tensor:
        """[B] float32, NaN where there is no score.

        Raises RewardError: more than `max_failed` of the answers have none, or it is the third call in a row in which
        any has none.
        """
        reasons = Counter(outcome for outcome in outcomes if isinstance(outcome, str))
        failed, count = reasons.total(), len(outcomes)
        self.failed_calls = self.failed_calls + 1 if failed else 0
        if failed:
            told = "; ".join(f"{times} × {reason}" for reason, times in reasons.most_common(3))
            account = f"the reward {self.name!r} gave no score to {failed} of {count} answers: {told}"
            if failed > self.max_failed * count:
                raise RewardError(
                    f"{account}\nreward.max_failed={self.max_failed:g} allows {int(self.max_failed * count)}. {_GO_ON}"
                )
            if self.failed_calls >= IN_A_ROW:
                raise RewardError(f"{account}\nIt failed in {self.failed_calls} calls in a row. {_GO_ON}")
            logger.warning("%s; left out of this step", account)
        return torch.tensor([math.nan if isinstance(outcome, str) else outcome for outcome in outcomes])


_GO_ON = "A failed call is not a score of 0, so the run stops; mend what failed and go on with --resume"
