"""A sample of `make mutate`, and what it would miss if it made no mistakes or could not see a survivor."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.mutations import mutants

ROOT = Path(__file__).parents[2]

SOURCE = '''
def mean(x, mask, *, kind: Literal["a", "b"] = "a"):
    """x - 1."""
    if x.min() < 0.5:
        raise ValueError(f"{x}")
    return torch.where(mask, x[:, 0].detach(), 0).sum(dim=1) / x.clamp(min=1)
'''


def test_every_kind_of_mistake_is_made_once() -> None:
    made = {(m.before, m.after) for m in mutants(SOURCE)}
    line = "return torch.where(mask, x[:, 0].detach(), 0).sum(dim=1) / x.clamp(min=1)"
    assert {
        (line, line.replace("/", "*")),  # an operator
        (line, "return torch.where(mask, x[:, 0].detach(), 0).sum(dim=1)"),  # a term left out
        (line, "return x[:, 0].detach().sum(dim=1) / x.clamp(min=1)"),  # a mask left out
        (line, line.replace("(mask,", "(mask | True,")),
        (line, line.replace("x[:, 0].detach(), 0", "0, x[:, 0].detach()")),  # branches exchanged
        (line, line.replace(".detach()", "")),
        (line, line.replace(".clamp(min=1)", "")),
        (line, line.replace("min=1", "max=1")),
        (line, line.replace("x[:, 0]", "x[:, 1]")),  # off by one
        (line, line.replace("x[:, 0]", "x[1:, 0]")),
        (line, "pass"),
        ("if x.min() < 0.5:", "if x.min() <= 0.5:"),
        ("if x.min() < 0.5:", "if x.min() > 0.5:"),
        ("if x.min() < 0.5:", "if x.max() < 0.5:"),
        ("if x.min() < 0.5:", "if x.min() < 1.0:"),
        ("if x.min() < 0.5:", "if not x.min() < 0.5:"),
        (
            "def mean(x, mask, *, kind: Literal['a', 'b']='a'):",
            "def mean(x, mask, *, kind: Literal['a', 'b']='b'):",
        ),
    } <= made
    assert len(made) == len(list(mutants(SOURCE)))
    assert not any('"""' in before or "ValueError(f" in after for before, after in made)  # prose is left alone


@pytest.mark.slow
def test_one_mutant_in_40_of_the_objectives_dies() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tools.mutate", "--every", "40"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 survived" in done.stdout
