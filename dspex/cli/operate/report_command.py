"""``dspex report``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from dspex.cli.output.console_tables import console, print_table
from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.plain_text import echo
from dspex.cli.output.selection_options import internal_option
from dspex.cli.output.text_file import write_text
from dspex.cli.output.time_options import TimeParameter
from dspex.client.client import Client
from dspex.operations.report.html_page import page
from dspex.operations.report.markdown import markdown, trends
from dspex.operations.report.monitoring_report import MonitoringReport
from dspex.operations.report.report_tables import figures, left_out, moment, sections

__all__ = ["report"]

GAP = "   "
FORMATS = (".html", ".md", ".json")


@click.command()
@click.option("--since", type=TimeParameter(), default="24h", show_default=True, metavar="WHEN",
              help="Begin of the period: 24h, 7d, 2026-01-31, 2026-01-31T08:00.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(dir_okay=False, writable=True, path_type=Path), metavar="FILE",
              help="Write the report to FILE.html (self-contained, with plots), FILE.md or FILE.json.")  # fmt: skip
@internal_option
@json_option
def report(since: datetime, output: Path | None, internal: bool, as_json: bool) -> None:
    """Report outcomes, times, costs, errors, events and alerts of a period, with trends.

    \b
    Example: dspex report
             dspex report --since 7d -o week.html
    """
    if output is not None and output.suffix not in FORMATS:
        raise click.UsageError(f"{output} has an unsupported extension: use {', '.join(FORMATS)}")
    with Client() as client:
        found = client.report(since, internal=internal)
    if output is not None:
        write_text(output, _rendered(found, output.suffix))
    if as_json:
        echo_json(found.as_dict())
    elif output is not None:
        echo(f"{output}: {found.submitted:,} submitted, {found.total.ended:,} ended since {moment(found.since)}")
    else:
        _print(found, console())


def _rendered(found: MonitoringReport, suffix: str) -> str:
    if suffix == ".json":
        return json.dumps(found.as_dict(), ensure_ascii=False, indent=2, default=str) + "\n"
    return page(found) if suffix == ".html" else markdown(found)


def _lines(words: Sequence[str], width: int) -> Iterator[str]:
    """The words on as few lines of this width as they take."""
    line = ""
    for word in words:
        if line and len(line) + len(GAP) + len(word) > width:
            yield line
            line = ""
        line += (GAP if line else "") + word
    yield line


def _print(found: MonitoringReport, out: Console) -> None:
    out.print(Text(f"{moment(found.since)} to {moment(found.until)}", style="bold"))
    if found.left_out:
        out.print(Text(left_out(found), style="dim"))
    pairs = [f"{name} {value}" for name, value in figures(found)]
    for line in _lines(pairs, out.width):
        out.print(Text(line))
    out.print()
    for name, line, most in trends(found):
        style = "red" if name == "failed" else "cyan"
        out.print(Text.assemble(f"{name:<10} ", (line, style), (f"  at most {most}", "dim")), soft_wrap=True)
    for section in sections(found):
        out.print(Text(f"\n{section.title}", style="bold") + Text("" if section.rows else f": {section.empty}"))
        if section.rows:
            print_table(out, section.columns, section.rows)
