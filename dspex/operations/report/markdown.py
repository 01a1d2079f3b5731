"""The report as Markdown, and its trends as sparklines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dspex.operations.report.dollars import dollars
from dspex.operations.report.monitoring_report import MonitoringReport
from dspex.operations.report.report_tables import duration, figures, left_out, moment, sections

__all__ = ["markdown", "sparkline", "trends"]

STEPS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float | None]) -> str:
    """The values as block characters relative to the largest value; a space for 0 or None."""
    most = max((value or 0 for value in values), default=0)
    return "".join(
        STEPS[min(int(value / most * len(STEPS)), len(STEPS) - 1)] if value and most else " " for value in values
    )


def trends(report: MonitoringReport) -> Iterator[tuple[str, str, str]]:
    """Each trend: its name, its sparkline, and its largest value."""
    trend = report.trend
    for name, values in (
        ("submitted", trend.submitted),
        ("completed", trend.completed),
        ("failed", trend.failed),
    ):
        yield name, sparkline(values), f"{max(values):,}"
    slowest = max((value for value in trend.p95_seconds if value is not None), default=None)
    yield "ran, 95 %", sparkline(trend.p95_seconds), duration(slowest)
    most = max((value for value in trend.cost_usd if value is not None), default=None)
    yield "cost", sparkline(trend.cost_usd), _most_cost(most, report.total.unpriced)


def markdown(report: MonitoringReport) -> str:
    """The report as a Markdown document."""
    lines = [f"# DSPex, {moment(report.since)} to {moment(report.until)}", ""]
    lines += [left_out(report), ""] if report.left_out else []
    lines += _table(("", ""), figures(report))
    lines += ["## Trends", "", "```text"]
    lines += [f"{name:<10} {line}  at most {most}" for name, line, most in trends(report)]
    lines += ["```", ""]
    for section in sections(report):
        lines += [f"## {section.title}", ""]
        lines += _table(section.columns, section.rows) if section.rows else [section.empty, ""]
    return "\n".join(lines)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---"] + ["---:"] * (len(columns) - 1)
    return [_row(columns), _row(rule), *[_row([cell.replace("|", "\\|") for cell in row]) for row in rows], ""]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _most_cost(most: float | None, unpriced: int) -> str:
    known = dollars(most, unpriced if not most else 0)
    return f"{known}, as far as it is known" if unpriced and most else known
