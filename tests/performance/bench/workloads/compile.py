"""How fast signatures compile and validate, beside dspy and pydantic: tests/performance/bench_compile.py."""

from __future__ import annotations

from tests.performance.bench.context import Context
from tests.performance.bench.figures import Figure, at_least, at_most
from tests.performance.bench_compile import GOALS, cold_contestants, hot_contestants, memory_each, race, verdicts


def run(context: Context) -> list[Figure]:
    rounds = context.size(200, 50)
    found: dict[str, list[float]] = {goal: [] for goal in GOALS}
    for _ in range(context.repeats):
        cold, hot = race(cold_contestants(), rounds), race(hot_contestants(), rounds, repeat=20)
        for goal, (value, _) in verdicts(cold, hot, memory_each()):
            found[goal].append(value)
    return [_figure(goal, values) for goal, values in found.items()]


def _figure(goal: str, values: list[float]) -> Figure:
    """A goal is spelled ``what, unit`` or ``what, times something``, of which there is to be enough."""
    what, _, unit = goal.partition(", ")
    if unit.startswith("times "):
        return Figure(f"signatures: {what}", unit.removeprefix("times "), "×", values, at_least(GOALS[goal]))
    return Figure(f"signatures: {what}", "DSPex", unit, values, at_most(GOALS[goal]))
