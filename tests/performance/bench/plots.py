"""The plots of docs/explanation/performance.md: ``python plots.py BENCH.json DIRECTORY``.

Run in an environment of its own (deploy/bench-peers plots), so that nothing else needs matplotlib. Bars are medians;
the thin lines are the least and the most of the repeats.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

OURS, THEIRS = "#1f6f8b", "#b8b8b8"
Figures = Sequence[dict[str, Any]]

#: File, workload, figure, title.
BARS = (
    ("model-bound.png", "model_bound", "model-bound executions/s", "200 ms model, 500 in flight: executions/s"),
    ("noop.png", "noop", "no-op executions/s", "No-op executions/s, submitted and settled"),
    ("latency.png", "latency", "idle latency p50", "Idle latency, submit to result: median, ms"),
    ("submit.png", "submit", "submit_many", "Rows/s into Postgres"),
    ("memory.png", "memory", "memory of a worker, ready", "Memory of a process that is ready, MiB"),
    ("cpu.png", "cpu", "CPU per execution", "CPU per model-bound execution, ms"),
)
#: File, workload, figures, label of the horizontal axis, title.
LINES = (
    ("processes.png", "processes", ("no-op executions/s by processes", "model-bound executions/s by processes"),
     "worker processes", "Executions/s by worker processes"),
    ("history.png", "history", ("no-op executions/s by history",), "finished executions in the database",
     "No-op executions/s with a history"),
    ("users.png", "shapes", ("results/s by users",), "users at once", "Results/s by users at once"),
)  # fmt: skip
#: File, workload, the beginning of the figures' names, title, scale: a line for each system, over users.
CURVES = (
    ("interactive.png", "interactive", "results/s of users who wait, ", "Results/s by users who wait", "linear"),
    ("interactive-p50.png", "interactive", "p50 of users who wait, ", "Submit to result by users: median, ms", "log"),
)


def main() -> None:
    data = json.loads(Path(sys.argv[1]).read_text())
    directory = Path(sys.argv[2])
    directory.mkdir(parents=True, exist_ok=True)
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    workloads = data["workloads"]
    for file, workload, name, title in BARS:
        if workload in workloads:
            bars(directory / file, [f for f in workloads[workload] if f["name"] == name], title)
    for file, workload, names, label, title in LINES:
        if workload in workloads:
            lines(directory / file, workloads[workload], names, label, title)
    for file, workload, beginning, title, scale in CURVES:
        if workload in workloads:
            found = [f for f in workloads[workload] if f["name"].startswith(beginning) and f.get("at") is not None]
            curves(directory / file, found, title, scale)


def bars(path: Path, figures: Figures, title: str) -> None:
    figure, axes = plt.subplots(figsize=(7, 0.5 + 0.38 * len(figures)), layout="constrained")
    names = [f["system"] for f in figures]
    medians = [f["median"] for f in figures]
    colours = [OURS if name.startswith("DSPex") else THEIRS for name in names]
    axes.barh(names, medians, xerr=spread(figures), color=colours, error_kw={"lw": 0.8, "capsize": 2})
    axes.invert_yaxis()
    for position, (median, found) in enumerate(zip(medians, figures, strict=True)):
        axes.text(max(found["values"]), position, f" {spelled(median)}", va="center")
    axes.set_title(title, loc="left")
    axes.margins(x=0.12)
    save(figure, path)


def lines(path: Path, figures: Figures, names: Sequence[str], label: str, title: str) -> None:
    figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
    for name in names:
        points = [f for f in figures if f["name"] == name]
        places = range(len(points))
        medians = [f["median"] for f in points]
        axes.errorbar(places, medians, yerr=spread(points), marker="o", ms=4, capsize=2, label=name)
        for place, median in zip(places, medians, strict=True):
            axes.annotate(spelled(median), (place, median), xytext=(4, 5), textcoords="offset points")
        axes.set_xticks(list(places), [f"{f['at']:,g}" for f in points])
    axes.set_ylim(bottom=0)
    axes.margins(x=0.1, y=0.2)
    axes.set_xlabel(label)
    axes.set_title(title, loc="left")
    if len(names) > 1:
        axes.legend(frameon=False)
    save(figure, path)


def curves(path: Path, figures: Figures, title: str, scale: str) -> None:
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    users = sorted({f["at"] for f in figures})
    for system in dict.fromkeys(f["system"] for f in figures):
        points = sorted((f for f in figures if f["system"] == system), key=lambda f: f["at"])
        ours = system.startswith("DSPex")
        places, medians = [users.index(f["at"]) for f in points], [f["median"] for f in points]
        axes.errorbar(
            places, medians, yerr=spread(points), marker="o", ms=4, capsize=2, label=system, lw=2 if ours else 1
        )
    axes.set_xticks(range(len(users)), [f"{at:,g}" for at in users])
    axes.set_yscale(scale)
    axes.yaxis.set_major_formatter("{x:,g}")
    if scale == "linear":
        axes.set_ylim(bottom=0)
    axes.set_xlabel("users at once")
    axes.set_title(title, loc="left")
    axes.legend(frameon=False)
    save(figure, path)


def spread(figures: Figures) -> list[list[float]]:
    """How far the least and the most are from the median."""
    return [
        [f["median"] - min(f["values"]) for f in figures],
        [max(f["values"]) - f["median"] for f in figures],
    ]


def spelled(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def save(figure: Any, path: Path) -> None:
    # No date and no version inside, so that the same figures make the same file.
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
