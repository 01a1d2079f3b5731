"""What a run found: a table on the terminal, and a JSON that the plots and the documentation are made from."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.performance.bench.figures import Figure

__all__ = ["as_data", "print_report", "read", "spelled", "write"]


def as_data(found: Mapping[str, Sequence[Figure]], *, quick: bool, repeats: int, seconds: float) -> dict[str, Any]:
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "quick": quick,
        "repeats": repeats,
        "seconds": round(seconds),
        "workloads": {name: [figure.as_dict() for figure in figures] for name, figures in found.items()},
    }


def write(data: Mapping[str, Any], *paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def machine() -> str:
    """Cores, memory, load and versions: what a figure depends on."""
    gigabytes = psutil.virtual_memory().total / 2**30
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {gigabytes:.0f} GiB, Python {platform.python_version()}, "
        f"load average {os.getloadavg()[0]:.1f} at the end"
    )


def print_report(console: Console, found: Mapping[str, Sequence[Figure]]) -> None:
    """Every figure with its spread; then how many goals are met."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("figure", "whose", "median", "", "least to most", "goal", ""):
        table.add_column(column, justify="right" if column == "median" else "left", overflow="fold")
    for figures in found.values():
        name = ""
        for figure in figures:
            table.add_row("" if figure.name == name else figure.name, *_cells(figure))
            name = figure.name
        table.add_section()
    console.print(table)
    judged = [figure for figures in found.values() for figure in figures if figure.met is not None]
    missed = [figure for figure in judged if not figure.met]
    console.print(f"{len(judged) - len(missed)} of {len(judged)} goals met", style="green" if not missed else "red")


def _cells(figure: Figure) -> tuple[str | Text, ...]:
    met = {True: Text("met", "green"), False: Text("NOT met", "red"), None: Text()}[figure.met]
    spread = f"{spelled(min(figure.values))} to {spelled(max(figure.values))}" if len(figure.values) > 1 else ""
    goal = "" if figure.goal is None else str(figure.goal)
    return figure.system, spelled(figure.median), figure.unit, spread, goal, met


def spelled(value: float) -> str:
    """Three digits or more."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def read(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text())
    return data
