"""The report as tables of text, for the terminal, Markdown and HTML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from dspex.operations.report.dollars import dollars
from dspex.operations.report.monitoring_report import MonitoringReport, ProgramReport

__all__ = ["Section", "duration", "figures", "left_out", "moment", "sections"]


@dataclass(frozen=True, slots=True)
class Section:
    """A table: its first column is a name, the others are values. ``empty`` is the text for a table without rows."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    empty: str


def figures(report: MonitoringReport) -> Sequence[tuple[str, str]]:
    """The most important figures, by name."""
    total = report.total
    tokens = total.prompt_tokens + total.completion_tokens
    return (
        ("submitted", f"{report.submitted:,}"),
        ("completed", f"{total.completed:,}"),
        ("failed", f"{total.failed:,} ({_error_rate(total)})"),
        ("cancelled", f"{total.cancelled:,}"),
        ("ran, median", duration(total.p50_seconds)),
        ("ran, 95 %", duration(total.p95_seconds)),
        ("waited, 95 %", duration(total.p95_queued_seconds)),
        ("cost", dollars(total.cost_usd, total.unpriced)),
        ("tokens", f"{tokens:,}"),
        ("workers", f"{report.workers['live']} live, {report.workers['died']} died"),
    )


def left_out(report: MonitoringReport) -> str:
    """What the report leaves out, as a sentence; empty for nothing."""
    if not report.left_out:
        return ""
    return f"Without {report.left_out:,} of DSPex's own executions (dspex doctor, dspex bench); --internal counts them."


def sections(report: MonitoringReport) -> Iterator[Section]:
    """The tables, in order."""
    yield Section(
        "Alerts",
        ("alert", "since", "until", "what"),
        [
            (f"{alert.rule} {alert.subject}".strip(), moment(alert.since),
             moment(alert.resolved_at) if alert.resolved_at else "firing", alert.summary)
            for alert in report.alerts
        ],
        "none",
    )  # fmt: skip
    yield Section(
        "Programs",
        ("program", "completed", "failed", "cancelled", "errors", "median", "95 %", "waited 95 %", "tokens", "cost"),
        [_program(program) for program in report.programs],
        "no execution ended",
    )
    yield Section(
        "Errors",
        ("program", "code", "executions"),
        [(row["program"], row["code"] or "unknown", f"{row['count']:,}") for row in report.errors],
        "none",
    )
    yield Section(
        "Models",
        ("model", "calls", "prompt tokens", "completion tokens", "cost", "saved", "median", "95 %"),
        [
            (row["model"], f"{row['calls']:,}", f"{row['prompt_tokens']:,}", f"{row['completion_tokens']:,}",
             dollars(row["cost_usd"], row["unpriced"]), dollars(row["saved_usd"]) if row["saved_usd"] else "–",
             duration(row["p50_seconds"]), duration(row["p95_seconds"]))
            for row in report.models
        ],
        "no model was called",
    )  # fmt: skip
    yield Section(
        "Events",
        ("kind", "events"),
        [(kind, f"{count:,}") for kind, count in report.events.items()],
        "none",
    )


def duration(seconds: float | None) -> str:
    """A duration as text: ``850 ms``, ``12.3 s``, ``8.5 min``; a dash for None."""
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{seconds * 1000:,.0f} ms"
    return f"{seconds:,.1f} s" if seconds < 120 else f"{seconds / 60:,.1f} min"


def moment(at: datetime) -> str:
    """A time as text, in UTC."""
    return f"{at:%Y-%m-%d %H:%M} UTC"


def _program(program: ProgramReport) -> Sequence[str]:
    return (
        str(program.program), f"{program.completed:,}", f"{program.failed:,}", f"{program.cancelled:,}",
        _error_rate(program), duration(program.p50_seconds), duration(program.p95_seconds),
        duration(program.p95_queued_seconds), f"{program.prompt_tokens + program.completion_tokens:,}",
        dollars(program.cost_usd, program.unpriced),
    )  # fmt: skip


def _error_rate(program: ProgramReport) -> str:
    """The share of failures; a dash where there is nothing to have a share of."""
    return f"{program.error_rate:.1%}" if program.completed + program.failed else "–"
