"""The monitoring report, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from dspex.errors import ValidationError
from dspex.operations.alerts.alert import Alert
from dspex.store.database import Database
from dspex.store.facts import server_facts
from dspex.store.operations import report

__all__ = ["BUCKETS", "MonitoringReport", "ProgramReport", "Trend", "gather"]

#: The number of points of each trend.
BUCKETS = 48


@dataclass(frozen=True, slots=True)
class ProgramReport:
    """The executions of a program that ended within the period; ``program`` is None for the totals.

    Times are measured for the last attempt of each execution, in seconds; None without executions. ``cost_usd`` is the
    known part of the cost, None if no part is known; ``unpriced`` executions have an unknown cost, or a part that is.
    """

    program: str | None
    completed: int
    failed: int
    cancelled: int
    p50_seconds: float | None
    p95_seconds: float | None
    p95_queued_seconds: float | None
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None
    unpriced: int

    @property
    def ended(self) -> int:
        return self.completed + self.failed + self.cancelled

    @property
    def error_rate(self) -> float:
        """The share of failed executions; cancelled ones are not counted."""
        counted = self.completed + self.failed
        return self.failed / counted if counted else 0.0


@dataclass(frozen=True, slots=True)
class Trend:
    """A value for each of the equal parts of the period. ``p95_seconds`` is None if no execution ended, ``cost_usd`` if
    no part of the cost is known."""

    submitted: Sequence[int]
    completed: Sequence[int]
    failed: Sequence[int]
    cancelled: Sequence[int]
    p95_seconds: Sequence[float | None]
    cost_usd: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class MonitoringReport:
    """The report from ``since`` until ``until``.

    ``events``: the number of audit events by kind, for executions submitted within the period. ``errors``:
    ``program code count``. ``models``: ``model calls prompt_tokens completion_tokens cost_usd unpriced saved_usd
    p50_seconds p95_seconds``, where ``unpriced`` counts calls and ``saved_usd`` is what batch APIs saved. ``workers``:
    ``live started died most_memory_mb``. ``left_out`` is how many of DSPex's own executions were submitted, which
    nothing else counts.
    """

    since: datetime
    until: datetime
    submitted: int
    left_out: int
    total: ProgramReport
    programs: Sequence[ProgramReport]
    errors: Sequence[Mapping[str, Any]]
    events: Mapping[str, int]
    models: Sequence[Mapping[str, Any]]
    workers: Mapping[str, Any]
    alerts: Sequence[Alert]
    trend: Trend

    @property
    def events_detected(self) -> int:
        return sum(self.events.values())

    @property
    def signature_compilation_events(self) -> int:
        return self.events.get("signature_compilation", 0)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-friendly data."""
        return {
            "since": self.since.isoformat(),
            "until": self.until.isoformat(),
            "submitted": self.submitted,
            "left_out": self.left_out,
            "total": _as_data(self.total),
            "programs": [_as_data(program) for program in self.programs],
            "errors": list(self.errors),
            "events_detected": self.events_detected,
            "signature_compilation_events": self.signature_compilation_events,
            "events": dict(self.events),
            "models": list(self.models),
            "workers": dict(self.workers),
            "alerts": [alert.as_dict() for alert in self.alerts],
            "trend": asdict(self.trend),
        }


def gather(database: Database, *, since: datetime | timedelta, internal: bool = False) -> MonitoringReport:
    """The report from a time, or for a duration, until now by the database's clock.

    ``internal``: DSPex's own executions are counted, too.

    Raises ValidationError for a time in the future.
    """
    with database.transaction(snapshot=True) as connection:
        until = server_facts.now(connection)
        begin = until - since if isinstance(since, timedelta) else since
        if begin >= until:
            raise ValidationError(f"{begin.isoformat()} is in the future: a report from then on has no data yet")
        found = report.read(connection, since=begin, until=until, buckets=BUCKETS, internal=internal)
    return _made(found, begin, until)


def _made(found: Mapping[str, list[Mapping[str, Any]]], since: datetime, until: datetime) -> MonitoringReport:
    total, *programs = [ProgramReport(**row) for row in found["programs"]]
    submitted = {row["bucket"]: row["count"] for row in found["submitted"]}
    ended = {row["bucket"]: row for row in found["trend"]}

    def points(name: str, empty: Any) -> list[Any]:
        return [ended[bucket][name] if bucket in ended else empty for bucket in range(BUCKETS)]

    return MonitoringReport(
        since=since,
        until=until,
        submitted=sum(submitted.values()),
        left_out=sum(row["left_out"] for row in found["submitted"]),
        total=total,
        programs=programs,
        errors=found["errors"],
        events={row["kind"]: row["count"] for row in found["events"] if row["kind"] is not None},
        models=found["models"],
        workers=found["workers"][0],
        alerts=[Alert(**row) for row in found["alerts"]],
        trend=Trend(
            submitted=[submitted.get(bucket, 0) for bucket in range(BUCKETS)],
            completed=points("completed", 0),
            failed=points("failed", 0),
            cancelled=points("cancelled", 0),
            p95_seconds=points("p95_seconds", None),
            cost_usd=points("cost_usd", 0.0),
        ),
    )


def _as_data(program: ProgramReport) -> dict[str, Any]:
    return {**asdict(program), "ended": program.ended, "error_rate": program.error_rate}
