"""``dspex doctor``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from dspex.cli.output.console_tables import console as new_console
from dspex.cli.output.exit_codes import DONE, FAILED, UNREACHABLE
from dspex.cli.output.json_output import echo_json, json_option

if TYPE_CHECKING:
    from dspex.operations.doctor import CheckOutcome, Report

__all__ = ["doctor"]

MARKS = {
    "met": ("✓", "green"),
    "warning": ("!", "yellow"),
    "not_met": ("✗", "red"),
    "unknown": ("?", "magenta"),
    "skipped": ("-", "dim"),
}
WORST_FIRST = ("not_met", "unknown", "warning")
WORDS = {"met": "met", "warning": "met, see below", "not_met": "not met", "unknown": "unknown", "skipped": "skipped"}
COUNTED = {"met": "met", "warning": "with a warning", "not_met": "not met", "unknown": "unknown", "skipped": "skipped"}


@click.command()
@click.option("--only", multiple=True, metavar="GROUP", help="Run only this group of checks. Can be repeated.")
@json_option
def doctor(only: tuple[str, ...], as_json: bool) -> int:
    """Check whether this deployment is ready: every requirement, with evidence, and how to fix what is not met.

    The doctor checks Postgres, Redis, the workers and the settings, executes programs named dspex-doctor with a
    simulated model, and measures. It is safe in production, but the group performance puts a load of 50 users on the
    deployment for some seconds; use --only with other groups to leave it out.

    Exit code: 0 if every requirement is met, 1 if one is not met or unknown, 3 if Postgres or Redis is unreachable.

    \b
    Example: dspex doctor
             dspex doctor --only postgres --only redis
             dspex doctor --json | jq .score
    """
    from dspex.operations.doctor import GROUPS, examine

    names = [group.name for group in GROUPS]
    if wrong := [name for name in only if name not in names]:
        raise click.UsageError(f"no group {wrong[0]!r}; the groups are {', '.join(names)}")
    console = new_console(stderr=as_json)
    with _progress(console) as progress:
        task = progress.add_task("", total=None)
        report = examine(
            only=only,
            on_progress=lambda done, of, title: progress.update(task, completed=done, total=of, description=title),
        )
    if as_json:
        echo_json(report.as_data())
    else:
        _show(console, report)
    return UNREACHABLE if report.unreachable else DONE if report.ready else FAILED


def _progress(console: Console) -> Progress:
    columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("{task.description}"))
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _show(console: Console, report: Report) -> None:
    for group in report.groups:
        if not group.results:
            continue
        _, style = MARKS[group.verdict]
        console.print()
        console.print(
            Text.assemble(
                (group.group.title, "bold"), "  ", (WORDS[group.verdict], style), (f"  {group.group.name}", "dim")
            )
        )
        console.print(_table(group.results))
    _show_fixes(console, report)
    _show_summary(console, report)


def _table(results: Sequence[CheckOutcome]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, expand=True)
    table.add_column(width=1, no_wrap=True)
    table.add_column(ratio=4)
    table.add_column(ratio=6)
    table.add_column(justify="right", no_wrap=True, width=9, style="dim")
    for result in results:
        mark, style = MARKS[result.verdict]
        evidence = Text(result.evidence, "" if result.verdict in ("met", "skipped") else style)
        table.add_row(Text(mark, style), result.check.title, evidence, f"{result.ms:,.0f} ms")
    return table


def _show_fixes(console: Console, report: Report) -> None:
    """Print problems and their fixes, worst first. Each fix is printed once."""
    left = [result for result in report.results if result.fix]
    if not left:
        return
    console.print()
    console.print("To fix", style="bold")
    printed: set[str] = set()
    for result in sorted(left, key=lambda each: WORST_FIRST.index(each.verdict)):
        if result.fix in printed:
            continue
        printed.add(result.fix)
        mark, style = MARKS[result.verdict]
        console.print(Text.assemble((f"{mark} {result.check.name}", style), f": {result.evidence}"))
        console.print(Padding(result.fix, (0, 0, 0, 4)))


def _show_summary(console: Console, report: Report) -> None:
    counts = report.counts()
    summary = ", ".join(f"{counts[name]} {COUNTED[name]}" for name in COUNTED if counts[name])
    verdict = ("ready", "green") if report.ready else ("not ready", "red")
    requirements = (
        f"{report.requirements_met} of {len(report.requirements)} requirements met, " if report.requirements else ""
    )
    console.print()
    console.print(
        Text.assemble(
            (verdict[0], f"bold {verdict[1]}"),
            f": {requirements}score {report.score}/100 ({summary}) in {report.seconds:.1f} s",
        )
    )
