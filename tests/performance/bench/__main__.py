"""``python -m tests.performance.bench``: what ``make bench`` runs.

Every workload measures DSPex and its peers in turn, ``--repeats`` times, on one Postgres and one Redis that are started
for the run. Everything is ended in the end, also on Ctrl-C; what was found until then is reported.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.performance.bench.context import BUILD, ROOT, Context
from tests.performance.bench.figures import Figure
from tests.performance.bench.report import as_data, markdown, print_report, renewed, write

#: In the order in which they are run.
WORKLOADS = (
    *("model_bound", "noop", "latency", "interactive", "submit", "cpu", "memory", "shapes", "processes"),
    *("fairness", "adapters", "compile", "history", "parked", "many_waits", "http", "data", "kit", "evaluate"),
)


def main() -> None:
    options = arguments()
    console = Console() if sys.stdout.isatty() else Console(width=150)
    began = time.monotonic()
    found: dict[str, list[Figure]] = {}
    failed: list[str] = []

    def told(what: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:6.0f} s[/]  {what}", highlight=False, soft_wrap=True)

    try:
        with Context(quick=options.quick, repeats=options.repeats, gib=options.gib, told=told) as context:
            for name in options.only:
                told(f"[bold]{name}[/]")
                try:
                    found[name] = importlib.import_module(f"tests.performance.bench.workloads.{name}").run(context)
                except Exception:  # one that breaks does not cost what the others found
                    failed.append(name)
                    console.print_exception()
    except KeyboardInterrupt:
        failed.append("interrupted")
    print_report(console, found)
    data: Mapping[str, Any] = as_data(
        found, quick=options.quick, repeats=options.repeats, seconds=time.monotonic() - began
    )
    path = BUILD / "bench.json"
    write(data, path)
    plot(path, BUILD)
    if options.keep:
        kept = options.keep / "bench.json"
        if kept.exists() and set(options.only) < set(WORKLOADS):
            data = renewed(json.loads(kept.read_text()), data)
        write(data, kept)
        (options.keep / "figures.md").write_text(markdown(data))
        plot(kept, options.keep)
    console.print(f"{path.relative_to(ROOT)} has every figure, {path.parent.relative_to(ROOT)}/*.png the plots")
    if failed:
        sys.exit(f"not done: {', '.join(failed)}")


def plot(path: Path, directory: Path) -> None:
    subprocess.run(["deploy/bench-peers", str(BUILD / "venvs"), "plots"], cwd=ROOT, check=True)
    python = BUILD / "venvs" / "plots" / "bin" / "python"
    subprocess.run([python, Path(__file__).with_name("plots.py"), path, directory], check=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description="Measure DSPex beside its peers.")
    parser.add_argument("--only", type=_names, default=list(WORKLOADS), metavar="NAME,…", help=", ".join(WORKLOADS))
    parser.add_argument("--quick", action="store_true", help="small sizes: for a look, not for figures to quote")
    parser.add_argument("--repeats", type=int, help="3; 1 when quick")
    parser.add_argument("--keep", type=Path, help="also write bench.json and the plots there; --only renews these")
    parser.add_argument("--gib", type=float, help="the size of the files of data, in GiB: 1; 0.1 when quick")
    options = parser.parse_args()
    options.repeats = options.repeats or (1 if options.quick else 3)
    options.gib = options.gib or (0.1 if options.quick else 1.0)
    return options


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in WORKLOADS]:
        raise argparse.ArgumentTypeError(f"no workload {', '.join(unknown)}: there are {', '.join(WORKLOADS)}")
    return names


if __name__ == "__main__":
    main()
