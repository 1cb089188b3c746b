"""Mangled configs: no error but a ConfigError, and a misspelt key is named with its line and what was meant."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings

from tests.config.mangled import Mangled, mangled_configs, told


def holds(mangled: Mangled) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert told(mangled, Path(folder)), mangled.mistake


@settings(max_examples=100)
@given(mangled=mangled_configs)
def test_se2_a_mangled_config_is_refused_with_line_and_suggestion(mangled: Mangled) -> None:
    holds(mangled)


@pytest.mark.nightly
@settings(max_examples=500)
@given(mangled=mangled_configs)
def test_se2_five_hundred_mangled_configs_are_refused_with_line_and_suggestion(mangled: Mangled) -> None:
    holds(mangled)
