"""What was tried against the app, by the goals of its tests: each must have been refused.

A test's name begins with the number of its goal. Access, forgery, markup, paths, guesses and sizes are tried against
the app itself, markup in a real browser too.
"""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from proxtune.evaluation.record import write_record

ROOT = Path(__file__).parents[1]
TESTS = "tests/feedback/web"
GOALS = {
    "wa1": "routes and methods of others' roles, and those that are not there",
    "wa2": "default logins, a secret that others can read, an open port without an admin",
    "wa3": "script and markup in everything that is shown",
    "wa4": "requests of other sites, and without a token or with a wrong one",
    "wa5": "paths out of a folder",
    "wa6": "addresses that the app could be made to fetch",
    "wa7": "secrets in answers, unknown fields and formats",
    "wa8": "passwords guessed, logins flooded",
    "wa9": "items and answers of others, by their numbers",
    "wa10": "bodies and files that are too large, formulas in CSV",
    "wa11": "sessions that are old, locked or logged out",
}


def security(command: str) -> None:
    """Run the tests and write how many passed of each goal."""
    chosen = ["-k", " or ".join(f"{goal}_" for goal in GOALS)]
    pytest = [sys.executable, "-m", "pytest", "-v", TESTS, *chosen]
    done = subprocess.run(pytest, cwd=ROOT, capture_output=True, text=True, check=False)
    outcomes = re.findall(r"::test_(wa\d+)_.*(PASSED|FAILED|ERROR|SKIPPED) +\[", done.stdout)
    tried = Counter(goal for goal, _ in outcomes)
    passed = Counter(goal for goal, outcome in outcomes if outcome == "PASSED")
    refused, count = passed.total(), tried.total()
    write_record(
        ROOT / "results" / "people" / "security.json",
        claim=f"of {count} cases of attack on the app, those that are refused",
        value=refused,
        unit="cases",
        interval=None,
        goal=str(count),
        holds=done.returncode == 0 and refused == count and set(tried) == set(GOALS),
        against=None,
        seeds=[1],
        command=command,
        measures=["proxtune/feedback/web", TESTS],
        raw={goal: {"what": what, "cases": tried[goal], "refused": passed[goal]} for goal, what in GOALS.items()},
        bound=None if refused == count else "the cases of `raw` that were not refused",
    )
    print({goal: f"{passed[goal]} of {tried[goal]}" for goal in GOALS})
