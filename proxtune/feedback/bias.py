"""What should not decide an answer but may: the side, the length, haste."""

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable
from typing import Any, NamedTuple

import numpy as np

from proxtune.errors import DataError
from proxtune.feedback.figures import Figure, share

CHARACTERS_A_SECOND = 60.0
LETTERS_A_HAN_CHARACTER = 4
LEAST_SECONDS = 1.0


class Speed(NamedTuple):
    """The median seconds of one person's answers, and the share that came suspiciously fast."""

    median: float
    fast: Figure


def position_bias(first_shown_won: Iterable[bool]) -> Figure:
    """The share of comparisons that the answer shown first (or left) won, with Wilson's interval.

    Where sides are drawn by lot, 1/2 is no bias. Ties say nothing: leave them out.
    """
    return share(first_shown_won)


def length_bias(lengths: Iterable[tuple[int, int]]) -> Figure:
    """The share of comparisons that the longer answer won, with Wilson's interval.

    lengths: of the winner and of the loser of each comparison, in one unit; equal ones are not counted, and ties have
    no winner: leave them out. A longer answer may well be the better one: more than 1/2 is a question, not a verdict.
    """
    return share(winner > loser for winner, loser in lengths if winner != loser)


def least_seconds(text: str) -> float:
    """The seconds below which an answer to a text is suspiciously fast: max(1, letters / 60). The rule is ours.

    Most adults read 175 to 300 words of English prose a minute in silence (Brysbaert 2019), 300 words are some 1800
    characters, and we allow for twice that speed. A Han character counts as 4 letters.
    """
    han = sum("\u4e00" <= character <= "\u9fff" for character in text)
    letters = len(text) + (LETTERS_A_HAN_CHARACTER - 1) * han
    return max(LEAST_SECONDS, letters / CHARACTERS_A_SECOND)


def speed(answers: Iterable[tuple[Any, float, float]]) -> dict[Hashable, Speed]:
    """The speed of each person: of rows of a person, the seconds it took, and `least_seconds` of what was to read.

    Raises DataError: seconds that are negative or not finite.
    """
    took: dict[Hashable, list[tuple[float, float]]] = defaultdict(list)
    for person, seconds, least in answers:
        if not 0 <= seconds < math.inf:
            raise DataError(f"an answer of {person!r} took {seconds} seconds; give the time from shown to sent")
        took[person].append((seconds, least))
    return {
        person: Speed(float(np.median([seconds for seconds, _ in rows])), share(s < least for s, least in rows))
        for person, rows in took.items()
    }
