"""How fast signatures compile and validate, beside ``dspy.Signature(string)`` and ``pydantic.create_model``.

Run it with ``python -m tests.performance.bench_compile [--json FILE] [--rounds N]``. The contestants take turns within
each round, so that noise of the machine falls on all of them alike; each goes through every signature of the seed.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dspex.signatures import Signature, signature
from dspex.signatures.compile import compile_uncached
from dspex.signatures.parse.annotations import to_annotation
from tests.unit.signatures import seed

GOALS = {
    "cold mean, µs": 100.0,
    "cold p99, µs": 1000.0,
    "cold, times dspy.Signature": 8.0,
    "cold, times create_model": 4.0,
    "warm mean, µs": 2.0,
    "validate mean, µs": 10.0,
    "memory, bytes each": 8192.0,
}


@dataclass(frozen=True, slots=True)
class Sample:
    """What one contestant took, in microseconds a call."""

    name: str
    calls: int
    mean: float
    median: float
    p99: float

    @staticmethod
    def of(name: str, times_ns: list[int]) -> Sample:
        ordered = sorted(times_ns)
        p99 = ordered[min(len(ordered) - 1, math.ceil(0.99 * len(ordered)) - 1)]
        return Sample(name, len(ordered), statistics.fmean(ordered) / 1e3, statistics.median(ordered) / 1e3, p99 / 1e3)


def main() -> None:
    """Measure, print a table, and say which goals are met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the numbers to this file too")
    parser.add_argument("--rounds", type=int, default=300)
    options = parser.parse_args()
    cold = race(cold_contestants(), options.rounds)
    hot = race(hot_contestants(), options.rounds, repeat=20)
    memory = memory_each()
    report(cold, hot, memory, options.json)


def cold_contestants() -> dict[str, Callable[[], object]]:
    """Compile every signature of the seed from nothing, by each means."""
    import dspy
    from pydantic import create_model

    compiled = [(text, signature(text)) for text in seed.SIGNATURES.values()]
    texts = itertools.cycle([text for text, _ in compiled])
    strings = itertools.cycle([dspy_string(one) for _, one in compiled])
    fields = itertools.cycle([model_fields(one) for _, one in compiled])
    return {
        "dspex, cold": lambda: compile_uncached(next(texts)),
        "dspy.Signature(string)": lambda: dspy.Signature(next(strings)),
        "pydantic.create_model": lambda: [create_model("Model", **side) for side in next(fields)],
        "dspex, cold, comprehensive_types with constraints=": lambda: compile_uncached(
            seed.COMPREHENSIVE_TYPES, constraints=seed.COMPREHENSIVE_CONSTRAINTS
        ),
    }


def dspy_string(one: Signature) -> str:
    """The same fields for DSPy, whose strings have no type for a reasoning chain but a list of maps."""

    def side(fields: Any) -> str:
        return ", ".join(f"{field.name}: {python_text(str(field.full_type))}" for field in fields)

    return f"{side(one.input_fields)} -> {side(one.output_fields)}"


def python_text(kind: str) -> str:
    """A type of the seed as DSPy writes it."""
    for ours, theirs in {
        ":optional(": "Optional[",
        ":list(": "list[",
        ")": "]",
        ":string": "str",
        ":integer": "int",
        ":map": "dict[str, Any]",
        ":confidence_score": "float",
        ":reasoning_chain": "list[dict[str, Any]]",
    }.items():
        kind = kind.replace(ours, theirs)
    return kind


def model_fields(one: Signature) -> list[dict[str, Any]]:
    """The same fields for ``create_model``: a model for the inputs and one for the outputs."""
    sides = (one.input_fields, one.output_fields)
    return [{field.name: (to_annotation(field.full_type), field.default) for field in side} for side in sides]


def hot_contestants() -> dict[str, Callable[[], object]]:
    """What a producer does for every submit."""
    text, given, values = seed.COMPREHENSIVE_TYPES, seed.COMPREHENSIVE_CONSTRAINTS, seed.COMPREHENSIVE_INPUT
    compiled = signature(text, constraints=given)
    return {
        "dspex, warm": lambda: signature(text),
        "dspex, warm, with constraints=": lambda: signature(text, constraints=given),
        "validate_inputs": lambda: compiled.validate_inputs(values),
        "encode": lambda: compiled.encode("inputs", values),
    }


def race(contestants: dict[str, Callable[[], object]], rounds: int, *, repeat: int = 1) -> list[Sample]:
    """Time the contestants in turn; ``repeat`` calls make one measurement of those that are too quick for the clock."""
    times: dict[str, list[int]] = {name: [] for name in contestants}
    for call in contestants.values():
        for _ in range(20):
            call()
    gc.collect()
    for _ in range(rounds):
        for name, call in contestants.items():
            for _ in range(16):
                times[name].append(measure(call, repeat))
    return [Sample.of(name, found) for name, found in times.items()]


def measure(call: Callable[[], object], repeat: int) -> int:
    """Nanoseconds a call."""
    start = time.perf_counter_ns()
    for _ in range(repeat):
        call()
    return (time.perf_counter_ns() - start) // repeat


def memory_each() -> float:
    """Bytes of resident memory for one live ``comprehensive_types``, all of other names, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.performance.bench_compile_memory"], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def report(cold: list[Sample], hot: list[Sample], memory: float, target: Path | None) -> None:
    console = Console()
    table = Table("", "calls", "mean µs", "median µs", "p99 µs", "medians, ×", box=None, pad_edge=False)
    for sample in (*cold, *hot):
        ratio = f"{sample.median / cold[0].median:.2f}" if sample in cold else ""
        row = (f"{value:.2f}" for value in (sample.mean, sample.median, sample.p99))
        table.add_row(sample.name, str(sample.calls), *row, ratio)
    console.print(table)
    console.print(f"memory of one live comprehensive_types: {memory:.0f} bytes\n")
    results = dict(verdicts(cold, hot, memory))
    for goal, (value, met) in results.items():
        console.print(f"{'met   ' if met else 'MISSED'} {goal}: {value:.2f} (goal {GOALS[goal]:g})")
    if target is not None:
        goals = {goal: {"value": value, "goal": GOALS[goal], "met": met} for goal, (value, met) in results.items()}
        data = {"samples": [asdict(s) for s in (*cold, *hot)], "memory_bytes": memory, "goals": goals}
        target.write_text(json.dumps(data, indent=2, ensure_ascii=False))


def verdicts(cold: list[Sample], hot: list[Sample], memory: float) -> Iterator[tuple[str, tuple[float, bool]]]:
    """Each goal with what was measured and whether it is met."""
    ours, dspy_string_, create_model, _ = cold
    values = {
        "cold mean, µs": ours.mean,
        "cold p99, µs": ours.p99,
        "warm mean, µs": hot[0].mean,
        "validate mean, µs": hot[2].mean,
        "memory, bytes each": memory,
    }
    ratios = {
        "cold, times dspy.Signature": dspy_string_.median / ours.median,
        "cold, times create_model": create_model.median / ours.median,
    }
    for goal, limit in GOALS.items():
        if goal in ratios:
            yield goal, (ratios[goal], ratios[goal] >= limit)
        else:
            yield goal, (values[goal], values[goal] < limit)


if __name__ == "__main__":
    main()
