"""What the loop changes for its next iteration, and why. Rules, each with a sentence."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

HACKED = 2.0  # factor of kl_coef where people like the new policy less although its reward rose
MORE = 1.5  # factor of the pairs where the reward model is below what people agree on
PENALTY = 0.5  # standard deviations of the reward: what an answer twice as long as the mean loses


class Share(NamedTuple):
    """A share and its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Design:
    """What of an iteration may change."""

    kl_coef: float
    pairs: int
    length_penalty: float = 0.0

    def state(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Findings:
    """What an iteration measured; None: too little to say. Only what its interval leaves no doubt about has effects."""

    judged: int  # pairs so far
    accuracy: Share | None  # of the reward model, on judgements that it never learnt from
    ceiling: float | None  # the most that a model can be right, by how often two people agree
    longer_people: Share | None  # of the pairs that people judged, how often the longer answer won
    longer_model: Share | None  # of the same pairs, how often the model gives the longer one more
    win: Share | None  # how often people prefer the new policy, a tie as a half
    score: tuple[float, float] | None  # the reward model's mean score on held-out prompts, before and after PPO
    kl: float | None  # nats an answer, at the end of PPO


def figures(found: Findings) -> dict[str, float]:
    """What can be drawn as a curve: the shares without their intervals."""
    values = asdict(found).items()
    plain = {name: value[0] if isinstance(value, Share) else value for name, value in values}
    return {name: float(value) for name, value in plain.items() if isinstance(value, int | float)}


def kept(findings: Findings) -> bool:
    """Whether the loop goes on from the new policy: it does unless people clearly like the old one better."""
    return findings.win is None or findings.win.high >= 0.5


def adjusted(design: Design, findings: Findings) -> tuple[Design, list[str]]:
    """The design of the next iteration, and a sentence for each change."""
    reasons = []
    for change, reason in _changes(design, findings):
        design = replace(design, **change)
        reasons.append(reason)
    return design, reasons


def _changes(design: Design, found: Findings) -> Iterator[tuple[dict[str, Any], str]]:
    rose = found.score is not None and found.score[1] > found.score[0]
    if found.win is not None and found.win.high < 0.5 and rose:
        coef = design.kl_coef * HACKED or 0.05
        reason = (
            f"the reward rose, and people prefer the new policy in {found.win.value:.0%} of comparisons: the reward "
            f"model was exploited; the weight of the KL goes from {design.kl_coef:g} to {coef:g}, and the old policy "
            "stays"
        )
        yield {"kl_coef": coef}, reason
    if found.accuracy is not None and found.ceiling is not None and found.accuracy.high < found.ceiling:
        pairs = round(design.pairs * MORE)
        reason = (
            f"the reward model is right in {found.accuracy.value:.0%} of held-out judgements, and could be in "
            f"{found.ceiling:.0%} by how far people agree: {pairs} pairs are asked about instead of {design.pairs}"
        )
        yield {"pairs": pairs}, reason
    if found.longer_people is None or found.longer_model is None:
        return
    if found.longer_model.low > found.longer_people.high:
        penalty = design.length_penalty + PENALTY
        reason = (
            f"the reward model prefers the longer answer in {found.longer_model.value:.0%} of pairs and people in "
            f"{found.longer_people.value:.0%}: an answer loses {penalty:g} for each mean length that it is longer"
        )
        yield {"length_penalty": penalty}, reason
    elif design.length_penalty and found.longer_model.high < found.longer_people.low:
        penalty = max(0.0, design.length_penalty - PENALTY)
        reason = f"people prefer longer answers more than the reward model does: the penalty of length is {penalty:g}"
        yield {"length_penalty": penalty}, reason
