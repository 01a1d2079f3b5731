"""``python -m tests.performance.bench [--only NAME,…] [--quick] [--repeats N]``: what ``make bench`` runs."""

from __future__ import annotations

import argparse
import importlib
import time
from pathlib import Path

from rich.console import Console

from tests.performance.bench.context import BUILD, Context
from tests.performance.bench.figures import Figure

#: In the order in which they are run.
WORKLOADS = ("model_bound", "noop", "latency", "submit", "memory", "cpu", "processes", "history")


def main() -> None:
    options = arguments()
    console = Console()
    began = time.monotonic()

    def told(what: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:6.0f} s[/]  {what}", highlight=False)

    found: dict[str, list[Figure]] = {}
    with Context(quick=options.quick, repeats=options.repeats, told=told) as context:
        for name in options.only:
            told(f"[bold]{name}[/]")
            found[name] = importlib.import_module(f"tests.performance.bench.workloads.{name}").run(context)
    for figures in found.values():
        for figure in figures:
            console.print(
                f"{figure.name:50} {figure.system:26} {figure.median:10,.1f} {figure.unit} "
                f"({min(figure.values):,.1f} to {max(figure.values):,.1f}) {figure.goal or ''}"
            )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure DSPex beside its peers.")
    parser.add_argument("--only", type=lambda names: names.split(","), default=list(WORKLOADS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=BUILD)
    return parser.parse_args()


if __name__ == "__main__":
    main()
