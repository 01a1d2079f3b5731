"""``dspex doctor``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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

__all__ = ["doctor", "show_report"]

MARKS = {
    "met": ("✓", "green"),
    "warning": ("!", "yellow"),
    "not_met": ("✗", "red"),
    "unknown": ("?", "magenta"),
    "not_applicable": ("-", "dim"),
}
WORDS = {
    "met": "met",
    "warning": "needs attention",
    "not_met": "not met",
    "unknown": "unknown",
    "not_applicable": "not applicable",
}
COUNTED = WORDS | {"warning": "in need of attention"}
#: Checks that need attention for one reason are named up to so many.
MOST_NAMED = 12


@click.command()
@click.option("--only", multiple=True, metavar="GROUP", help="Run only this group of checks. Can be repeated.")
@click.option("--all", "everything", is_flag=True, help="Show every check, also those that are met or do not apply.")
@json_option
def doctor(only: tuple[str, ...], everything: bool, as_json: bool) -> int:
    """Check whether this deployment is ready, and show what needs attention, with evidence and how to fix it.

    A check is met, not met, unknown (it could not be made), not applicable here, or met but in need of attention. The
    doctor checks Postgres, Redis, the workers and the settings, executes programs named dspex-doctor with a
    simulated model, and measures. It is safe in production, but the group performance puts a load of 50 users on the
    deployment for some seconds; use --only with other groups to leave it out.

    Exit code: 0 if every check is met (also with a warning) or does not apply, 1 if one is not met or unknown, 3 if
    Postgres or Redis is unreachable.

    \b
    Example: dspex doctor
             dspex doctor --all
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
        show_report(console, report, everything=everything)
    return UNREACHABLE if report.unreachable else DONE if report.ready else FAILED


def _progress(console: Console) -> Progress:
    columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("{task.description}"))
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def show_report(console: Console, report: Report, *, everything: bool) -> None:
    """Print what needs attention, and before it every check if ``everything``."""
    if everything:
        _show_groups(console, report)
    _show_attention(console, report)
    _show_summary(console, report, everything=everything)


def _show_groups(console: Console, report: Report) -> None:
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


def _table(results: Sequence[CheckOutcome]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, expand=True)
    table.add_column(width=1, no_wrap=True)
    table.add_column(ratio=4)
    table.add_column(ratio=6)
    table.add_column(justify="right", no_wrap=True, width=9, style="dim")
    for result in results:
        mark, style = MARKS[result.verdict]
        evidence = Text(result.evidence, "" if result.verdict in ("met", "not_applicable") else style)
        table.add_row(Text(mark, style), result.check.title, evidence, f"{result.ms:,.0f} ms")
    return table


def _show_attention(console: Console, report: Report) -> None:
    """Print what needs attention, the worst first. Checks with one reason and one fix are printed together."""
    reasons: dict[tuple[str, str, str], list[CheckOutcome]] = {}
    for result in report.attention:
        reasons.setdefault((result.verdict, result.evidence, result.fix), []).append(result)
    for (verdict, evidence, fix), results in reasons.items():
        mark, style = MARKS[verdict]
        console.print()
        console.print(Text.assemble((f"{mark} ", style), *_named(results)))
        console.print(Padding(Text(evidence, style), (0, 0, 0, 2)))
        console.print(Padding(Text(f"→ {fix}"), (0, 0, 0, 2)))


def _named(results: Sequence[CheckOutcome]) -> Iterator[tuple[str, str]]:
    """The check that needs attention, or several."""
    if len(results) == 1:
        yield results[0].check.title, "bold"
        yield f"  {results[0].check.name}", "dim"
        return
    names = [result.check.name for result in results]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    yield f"{len(names)} checks", "bold"
    yield f"  {', '.join(names[:MOST_NAMED])}{more}", "dim"


def _show_summary(console: Console, report: Report, *, everything: bool) -> None:
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
            f": {requirements}score {report.score}/100 in {report.seconds:.1f} s ({summary})",
        )
    )
    if not everything:
        console.print(Text("`dspex doctor --all` shows every check", style="dim"))
