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

__all__ = ["as_data", "markdown", "print_report", "renewed", "write"]

#: A run by itself loads each core with about one process.
BUSY = 2.0


def as_data(found: Mapping[str, Sequence[Figure]], *, quick: bool, repeats: int, seconds: float) -> dict[str, Any]:
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "quick": quick,
        "repeats": repeats,
        "seconds": round(seconds),
        "workloads": {name: [figure.as_dict() for figure in figures] for name, figures in found.items()},
    }


def renewed(kept: Mapping[str, Any], data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The figures of ``kept`` with those of ``data`` in place of its own; each of these says when it was measured.

    Figures of another machine or of other sizes are not kept.
    """
    if any(kept[name] != data[name] for name in ("machine", "quick")):
        return data
    since = f"{data['at']}, medians of {data['repeats']} repeats"
    measured = {**kept.get("renewed", {}), **dict.fromkeys(data["workloads"], since)}
    return {**kept, "renewed": measured, "workloads": {**kept["workloads"], **data["workloads"]}}


def write(data: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def machine() -> str:
    """Cores, memory and version: what a figure depends on."""
    gigabytes = psutil.virtual_memory().total / 2**30
    return f"{os.cpu_count()} cores ({platform.machine()}), {gigabytes:.0f} GiB, Python {platform.python_version()}"


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


def markdown(data: Mapping[str, Any]) -> str:
    """Every figure as a page of the documentation."""
    quick = "; sizes for a look (`QUICK=1`), not to be quoted" if data["quick"] else ""
    lines = [
        "# Figures of `make bench`",
        "",
        "Made by `make bench KEEP=docs/explanation/performance`; not written by hand. What they mean: "
        "[performance](../performance.md).",
        "",
        f"{data['at']}: {data['machine']}, load average {data['load_average']:.1f} at the end. "
        f"Medians of {data['repeats']} repeats{quick}.",
    ]
    if data["load_average"] > BUSY * data["cores"]:
        lines += ["", "**The machine was busy with other work: neither rates nor ratios of this run mean much.**"]
    for name, figures in data["workloads"].items():
        since = data.get("renewed", {}).get(name)
        lines += ["", f"## {name.replace('_', ' ')}", *(["", f"Measured again: {since}."] if since else [])]
        lines += ["", "| figure | whose | median | least to most | goal | |"]
        lines += ["|---|---|---|---|---|---|", *map(_row, figures)]
    return "\n".join(lines) + "\n"


def _row(figure: Mapping[str, Any]) -> str:
    met = {True: "met", False: "**not met**", None: ""}[figure["met"]]
    least, most = min(figure["values"]), max(figure["values"])
    cells = (
        figure["name"],
        figure["system"],
        f"{spelled(figure['median'])} {figure['unit']}",
        f"{spelled(least)} to {spelled(most)}",
        figure["goal"] or "",
        " ".join(filter(None, (met, figure.get("note")))),
    )
    return f"| {' | '.join(cells)} |"
