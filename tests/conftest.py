"""What every test shares: Hypothesis profiles, the accelerator marker, and the command that repeats a failure."""

from __future__ import annotations

import functools
import os
import shlex
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, settings

# The same examples on every machine and in every run: a failure seen once is seen again. `explore` looks for new ones.
settings.register_profile(
    "ci", derandomize=True, deadline=None, max_examples=60, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", deadline=None, max_examples=2_000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@functools.cache
def _has_accelerator() -> bool:
    """Whether torch sees a CUDA device. Asked in another process: tests of the network must not import torch."""
    question = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", question], capture_output=True, check=False).returncode == 0


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not _has_accelerator():
        pytest.skip("needs an accelerator")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line to copy for each failure."""
    failed = [*terminalreporter.stats.get("failed", ()), *terminalreporter.stats.get("error", ())]
    nodes = dict.fromkeys(report.nodeid for report in failed if "::" in report.nodeid)
    if nodes:
        terminalreporter.section("repeat")
    for node in nodes:
        terminalreporter.write_line(f"{sys.executable} -m pytest -n 0 {shlex.quote(node)}")
