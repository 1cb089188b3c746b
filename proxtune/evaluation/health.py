"""Diagnosis while training: what the figures of a run so far say is wrong with it.

`diagnose` is a pure function of the rows as they stand; `Health` remembers what was found on the way. The checks
themselves, each with its threshold, are in `checks.py` and `checks_ppo.py`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from proxtune.config.source import Draft, value_at
from proxtune.evaluation import checks, checks_ppo
from proxtune.evaluation.checks import Check, Level
from proxtune.runs import Row, Run

CHECKS = (*checks_ppo.CHECKS, *checks.CHECKS)
LASTING = {check.name for check in CHECKS if check.lasting}


@dataclass(frozen=True)
class Finding:
    """What a check found, when, and what to do.

    name:          the check's.
    level:         "sick": stop and mend it; "watch": it may be right, look at the samples.
    step:          at which it was found.
    metric:        whose curve shows it.
    what:          the measured number, in a sentence.
    threshold:     of the check, in words.
    usually_means: the causes, the most frequent one first.
    try_:          options, with the values to set.
    """

    name: str
    level: Level
    step: int
    metric: str
    what: str
    threshold: str
    usually_means: str
    try_: str


def diagnose(rows: Sequence[Row], options: Mapping[str, Any]) -> list[Finding]:
    """All that is wrong at the last of `rows`, as `metrics.jsonl` holds them; `options` is the run's config, nested.

    Every check has a least number of steps, and takes means or medians of several.
    """
    found = ((check, check.look(rows, options)) for check in CHECKS if len(rows) >= check.steps)
    return [_finding(check, *verdict, rows[-1]["step"], options) for check, verdict in found if verdict]


def _finding(check: Check, level: Level, what: str, step: int, options: Mapping[str, Any]) -> Finding:
    advice = fill_in(check.try_, options)
    return Finding(check.name, level, step, check.metric, what, check.threshold, check.usually_means, advice)


def fill_in(advice: str, options: Mapping[str, Any]) -> str:
    """`raise ppo.kl_coef (× 2)` -> `raise ppo.kl_coef (now 0.05) to 0.1`, where the option has a value."""

    def value(match: re.Match[str]) -> str:
        now = value_at(options, tuple(match[1].split(".")))
        if not now:
            return match[0] if now is None else f"{match[1]} (now {now:g})"
        return f"{match[1]} (now {now:g}) to {now * float(match[2]):g}"

    return re.sub(r"([a-z_]+\.[a-z_]+) \(× ([\d.]+)\)", value, advice)


class Health:
    """What was found in a run so far: each finding when it first appeared, or grew worse."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options
        self.rows: list[Row] = []
        self.found: dict[str, Finding] = {}
        self.present: set[str] = set()  # names of the findings that the newest row confirms

    @classmethod
    def of(cls, run: Run) -> Self:
        """The health of a run from its folder, as who watched it would have seen it."""
        draft = Draft()
        if run.config_path.is_file():
            draft.read_file(0, str(run.config_path))
        health = cls(draft.values)
        for row in run.metrics():
            health.add(row)
        return health

    def add(self, row: Row) -> list[Finding]:
        """Take the next row; returns what is new or has grown worse."""
        self.rows.append(row)
        now = diagnose(self.rows, self.options)
        self.present = {finding.name for finding in now}
        new = [f for f in now if f.name not in self.found or (f.level, self.found[f.name].level) == ("sick", "watch")]
        self.found |= {finding.name: finding for finding in new}
        return new

    @property
    def findings(self) -> list[Finding]:
        """The worst first, then as they came."""
        return sorted(self.found.values(), key=lambda finding: (finding.level != "sick", finding.step))

    def passed(self, finding: Finding) -> bool:
        """Whether it was found, and the newest row does not confirm it any more."""
        return finding.name not in self.present | LASTING

    def __str__(self) -> str:
        """In one line: `nothing found in 100 steps`, or the names with their steps."""
        steps = len(self.rows)
        if not self.found:
            few = min(check.steps for check in CHECKS if check.steps > 1)
            return f"nothing found in {steps} steps" if steps >= few else f"{steps} steps are too few to tell"
        return ", ".join(f"{f.name} ({f.level}, step {f.step})" for f in self.findings)
