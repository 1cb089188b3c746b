"""Damaged data files: no error but a DataError, every row counted, and the right file and line named."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings

from tests.data.damaged import Damaged, damaged_files, named_rightly


def holds(damaged: Damaged) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert named_rightly(damaged, Path(folder)) or damaged.line is None


@settings(max_examples=150)
@given(damaged=damaged_files)
def test_dl1_dl8_a_damaged_file_is_counted_and_its_line_named(damaged: Damaged) -> None:
    holds(damaged)


@pytest.mark.nightly
@settings(max_examples=2_000)
@given(damaged=damaged_files)
def test_dl1_dl8_two_thousand_damaged_files_are_counted_and_their_lines_named(damaged: Damaged) -> None:
    holds(damaged)
