"""What a long run prints at its end: :mod:`tests.run_times`, in a run of pytest of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.test_left_open import run

CONFTEST = """
from tests.run_times import RunTimes

def pytest_configure(config):
    config.pluginmanager.register(RunTimes(long_run_seconds=0))
"""
SUITE = """
import threading

def test_quick():
    pass

def test_slow():
    threading.Event().wait(0.2)
"""


@pytest.mark.usefixtures("fork_server")
def test_the_slowest_come_first_and_the_outcome_last(tmp_path: Path) -> None:
    printed = run(tmp_path, SUITE, conftest=CONFTEST).stdout
    assert "2 tests took 0 min" in printed
    assert re.search(r"^the processors were busy for \d+% of it$", printed, re.MULTILINE)
    slowest = re.findall(r"^ +[0-9.]+ s  (.+)$", printed, re.MULTILINE)
    assert slowest == ["test_suite.py", "test_suite.py::test_slow", "test_suite.py::test_quick"]
    assert "2 passed" in printed.splitlines()[-1]
