"""What holds for every test: no hub, one thread, the same random examples in CI each time, and no silent skips."""

import os
import signal
from collections.abc import Generator
from typing import TypeVar

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports transformers
os.environ.setdefault("OMP_NUM_THREADS", "1")  # thread counts change the bits of a sum

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell has its background jobs ignore Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

import hypothesis
import pytest

Report = TypeVar("Report", pytest.CollectReport, pytest.TestReport)
IN_CI = os.environ.get("CI") == "true"

hypothesis.settings.register_profile("default", deadline=None, derandomize=IN_CI)
hypothesis.settings.register_profile("fast", deadline=None, max_examples=25)  # of `make check`
hypothesis.settings.register_profile("nightly", deadline=None, max_examples=2_000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return missing_package_fails((yield))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return missing_package_fails((yield))


def missing_package_fails(report: Report) -> Report:
    """In CI a package that a test needs and does not find is a failure, not a skip."""
    if IN_CI and report.skipped and "could not import" in str(report.longrepr):
        report.outcome = "failed"
    return report
