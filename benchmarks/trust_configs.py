"""Measure what is told of mangled configs: for `python -m benchmarks.trust configs`."""

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings

from tests.config.mangled import Mangled, mangled_configs, told


def measure(count: int = 500) -> list[dict[str, str | bool]]:
    """Read `count` mangled configs: what was wrong, whether a line must be named, and whether the message is right."""
    found: list[dict[str, str | bool]] = []

    @settings(
        max_examples=count, database=None, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(mangled=mangled_configs)
    def each(mangled: Mangled) -> None:
        with tempfile.TemporaryDirectory() as folder:
            right = told(mangled, Path(folder))
        found.append({"mistake": mangled.mistake, "must be named": mangled.line is not None, "right": right})

    each()
    return found
