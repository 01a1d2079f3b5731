"""The verdict on each case: ``make cases`` runs the tests that are marked with its id, and prints a line for it.

A mark names the line of ``messy.jsonl`` whose id it begins.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

CASES = Path(__file__).with_name("messy.jsonl")
_PLACES = ("tests/unit", "tests/store", "tests/integration")


class Verdicts:
    """A plugin of pytest that keeps the outcome of every marked test."""

    def __init__(self) -> None:
        self._tests: dict[str, set[str]] = defaultdict(set)
        self._failed: set[str] = set()

    def pytest_collection_modifyitems(self, items: Sequence[pytest.Item]) -> None:
        for item in items:
            for mark in item.iter_markers("case"):
                self._tests[mark.args[0]].add(item.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.passed:
            self._failed.add(report.nodeid)

    def lines(self, ids: Sequence[str]) -> Iterator[tuple[str, str, int]]:
        """The id, the verdict, and the number of tests. Raises ValueError for a mark that names no case."""
        if unknown := sorted(
            mark for mark in self._tests if not any(id.startswith(f"{mark}-") or id == mark for id in ids)
        ):
            raise ValueError(f"no such case: {', '.join(unknown)}")
        for id in ids:
            tests = {test for mark, tests in self._tests.items() if f"{id}-".startswith(f"{mark}-") for test in tests}
            verdict = "no test" if not tests else "wrong" if tests & self._failed else "right"
            yield id, verdict, len(tests)


def main() -> int:
    """Run the tests and print the verdicts. Returns 1 if one is wrong."""
    ids = [json.loads(line)["id"] for line in CASES.read_text().splitlines()]
    verdicts = Verdicts()
    pytest.main(["-q", "-m", "case", "--no-summary", *_PLACES, *sys.argv[1:]], plugins=[verdicts])
    found = list(verdicts.lines(ids))
    for id, verdict, count in found:
        print(f"{verdict:8} {id}  ({count} tests)" if count else f"{verdict:8} {id}")
    return int(any(verdict == "wrong" for _, verdict, _ in found))


if __name__ == "__main__":
    sys.exit(main())
