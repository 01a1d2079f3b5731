"""The report as a self-contained HTML file."""

from __future__ import annotations

from dspex.operations.report.monitoring_report import MonitoringReport
from dspex.operations.report.plots import Series, columns
from dspex.operations.report.report_tables import Section, duration, figures, left_out, moment, sections
from dspex.signatures.text_order import escaped

__all__ = ["page"]

STYLE = """
:root { --paper: #fff; --ink: #1c2530; --faint: #67727e; --line: #e2e6ea;
        --good: #2a8f6a; --bad: #cc3d3d; --other: #a9b2bb; --plain: #3b74b5; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181d; --ink: #e3e7eb; --faint: #98a3ae; --line: #2b323a; } }
body { font: 14px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
       max-width: 62rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin: 0 } h2 { font-size: 1.05rem; margin: 2rem 0 .4rem }
p { color: var(--faint); margin: .2rem 0 }
dl { display: grid; grid-template-columns: repeat(5, 1fr); gap: 1rem; margin: 1.5rem 0 } dt { color: var(--faint) }
dd { margin: 0; font-size: 1.15rem; font-variant-numeric: tabular-nums }
.plots { display: grid; grid-template-columns: 1fr 1fr; gap: 0 2rem } .plots h2 { margin-top: 1rem }
@media (max-width: 50rem) { .plots { grid-template-columns: 1fr } dl { grid-template-columns: 1fr 1fr } }
svg { width: 100%; height: auto } svg text { fill: var(--faint); font-size: 11px } .grid { stroke: var(--line) }
.completed { fill: var(--good); color: var(--good) } .failed { fill: var(--bad); color: var(--bad) }
.cancelled { fill: var(--other); color: var(--other) }
.plain { fill: var(--plain) }
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap }
th { color: var(--faint); font-weight: normal } th:first-child, td:first-child { text-align: left; padding-left: 0 }
.Alerts th, .Alerts td, .Errors td:nth-child(2), .Errors th:nth-child(2) { text-align: left }
.Alerts td:last-child { white-space: normal }
"""


LEGEND = ", ".join(f'<span class="{name}">{name}</span>' for name in ("completed", "failed", "cancelled"))


def page(report: MonitoringReport) -> str:
    """The report as an HTML document."""
    period = f"{moment(report.since)} to {moment(report.until)}"
    facts = "".join(f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}</dd></div>" for name, value in figures(report))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>DSPex, {period}</title><style>{STYLE}</style></head><body>
<h1>DSPex</h1><p>{period}</p>
<dl>{facts}</dl>
<div class="plots">{_plots(report)}</div>
{"".join(_section(section) for section in sections(report))}
<p>{escaped(left_out(report))}</p>
<p>Outcomes are counted by the time when executions ended; events and model calls belong to executions submitted
within the period.</p>
</body></html>
"""


def _plots(report: MonitoringReport) -> str:
    trend = report.trend
    outcomes = [Series(name, name, getattr(trend, name)) for name in ("completed", "failed", "cancelled")]
    drawn = (
        (f"Ended: {LEGEND}", outcomes, lambda value: f"{value:,.0f}"),
        ("Submitted", [Series("submitted", "plain", trend.submitted)], lambda value: f"{value:,.0f}"),
        ("95th percentile of the run time", [Series("95 %", "plain", trend.p95_seconds)], duration),
        ("Cost, as far as it is known", [Series("cost", "plain", trend.cost_usd)], lambda value: f"${value:,.4g}"),
    )
    return "".join(
        f"<div><h2>{title}</h2>"
        + columns(series, since=report.since, until=report.until, format_value=format_value)
        + "</div>"
        for title, series, format_value in drawn
    )


def _section(section: Section) -> str:
    if not section.rows:
        return f"<h2>{section.title}</h2><p>{escaped(section.empty)}</p>"
    head = "".join(f"<th>{escaped(column)}</th>" for column in section.columns)
    rows = "".join("<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in row) + "</tr>" for row in section.rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<section class="{section.title}"><h2>{section.title}</h2><div class="scroll">{table}</div></section>'
