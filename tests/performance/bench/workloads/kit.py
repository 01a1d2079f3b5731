"""How long the servers and the worker of a test session take to start: tests/performance/bench_test_kit.py."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial

from tests.performance.bench.context import ROOT, Context
from tests.performance.bench.figures import Figure, alternate, at_most
from tests.performance.bench_test_kit import PARTS

#: Seconds in which a session's stack is to be up.
MOST_SECONDS = 5


def run(context: Context) -> list[Figure]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def seconds(part: str) -> float:
        found = context.ask([sys.executable, "-m", "tests.performance.bench_test_kit", part], environment)
        return float(found["seconds"])

    each: dict[str, Callable[[], float]] = {part: partial(seconds, part) for part in PARTS}
    found = alternate(each, context.repeats, context.told)
    return [
        Figure(f"dspex.testing, a session: {what}", "DSPex", "s", found[part], at_most(MOST_SECONDS))
        for part, what in PARTS.items()
    ]
