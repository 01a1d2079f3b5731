"""The end of a long run: how long it took, how busy the machine was, and which files and tests took longest."""

from __future__ import annotations

import time
from collections import Counter

import psutil
import pytest
from _pytest.terminal import TerminalReporter

__all__ = ["RunTimes"]

SHOWN = 10


class RunTimes:
    """The plugin, for runs of ``long_run_seconds`` or more. Times include set-up and tear-down."""

    def __init__(self, *, long_run_seconds: float = 60) -> None:
        self._long_run_seconds = long_run_seconds
        self._began = time.monotonic()
        self._times = psutil.cpu_times()
        self._tests: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._tests[report.nodeid] += report.duration  # type: ignore[assignment]

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        took = time.monotonic() - self._began
        if took < self._long_run_seconds:
            return
        files: Counter[str] = Counter()
        for test, seconds in self._tests.items():
            files[test.partition("::")[0]] += seconds
        terminalreporter.section(f"{len(self._tests)} tests took {took // 60:.0f} min {took % 60:.0f} s")
        terminalreporter.write_line(f"the processors were busy for {self._busy():.0%} of it")
        for kind, times in (("files", files), ("tests", self._tests)):
            terminalreporter.write_line(f"slowest {kind}:")
            for name, seconds in times.most_common(SHOWN):
                terminalreporter.write_line(f"{seconds:7.1f} s  {name}")

    def _busy(self) -> float:
        """The part of the time in which the processors of the machine computed, for this run or for others."""
        passed = [now - before for before, now in zip(self._times, psutil.cpu_times(), strict=True)]
        used = type(self._times)(*passed)
        return 1 - (used.idle + getattr(used, "iowait", 0)) / sum(passed)
