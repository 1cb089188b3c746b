"""Results are records: one JSON file for each measured claim, written by the command that measures it."""

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import JsonValue

from proxtune import runs
from proxtune.errors import DataError


def write_record(
    path: Path,
    *,
    claim: str,
    value: float,
    unit: str,
    interval: tuple[float, float] | None,
    goal: str,
    holds: bool,
    against: str | None,
    seeds: Sequence[int],
    command: str,
    measures: Sequence[str],
    raw: JsonValue,
    bound: str | None = None,
) -> None:
    """Write `results/<area>/<name>.json`, with the commit, the date (UTC) and the machine filled in.

    claim:    what was measured, in words that a table can show.
    interval: where the value lies with 95% confidence, low end first; None for an exact count.
    goal:     what was asked for, such as ">= 0.2"; `holds` says whether the value meets it.
    against:  the peer and its version that the value is compared with, if any.
    command:  what a reader types to measure again.
    measures: the files, from the project's root, whose change makes the record stale.
    raw:      the single measurements behind the value.
    bound:    what stands in the way of a missed goal: the finding of a profile, not a guess.

    Raises DataError when the value or an end of its interval is not finite, or the interval does not hold the value.
    """
    low, high = interval or (value, value)
    if not (math.isfinite(low) and math.isfinite(high) and low <= value <= high):
        raise DataError(
            f"{path}: value {value} with interval {interval}; expected finite numbers, low <= value <= high"
        )
    environment = runs.environment()
    record: dict[str, JsonValue] = {
        "claim": claim,
        "value": value,
        "unit": unit,
        "interval": None if interval is None else [low, high],
        "goal": goal,
        "holds": holds,
        "against": against,
        "seeds": list(seeds),
        "command": command,
        "measures": list(measures),
        "commit": environment.get("commit"),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {key: environment.get(key) for key in ("cpu", "threads", "torch")},
        "raw": raw,
    }
    if bound is not None:
        record["bound"] = bound
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
