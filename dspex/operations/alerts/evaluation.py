"""Evaluate the figures, take down what follows, and have the channels tell it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from dspex.errors import AlertNotDelivered
from dspex.operations.alerts.alert import Alert, Notice
from dspex.operations.alerts.alert_channels import Channel, channels, deployment
from dspex.operations.alerts.alert_rules import RULES, breaches
from dspex.settings import Settings
from dspex.store.database import Database
from dspex.store.operations import alerts, figures

__all__ = ["Evaluation", "deliver", "evaluate", "evaluate_and_tell", "listed"]

log = logging.getLogger("dspex.alerts")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation led to. ``skipped``: another was under way. ``failures``: by channel, why it did not tell."""

    fired: int = 0
    resolved: int = 0
    reminded: int = 0
    skipped: bool = False
    told: int = 0
    failures: Mapping[str, str] = field(default_factory=dict)


def evaluate_and_tell(settings: Settings) -> Evaluation:
    """Do all of it, on a connection of its own. Safe beside another that does the same. Raises BackendUnavailable."""
    backends = settings.backends()
    database = Database(backends.database_url, pool_size=1, application_name="dspex alerts")
    try:
        changes = evaluate(database, settings)
        told, failures = deliver(database, channels(settings, deployment(settings, backends)))
        return Evaluation(**changes, skipped=not changes, told=told, failures=failures)
    finally:
        database.close()


def evaluate(database: Database, settings: Settings, *, at: datetime | None = None) -> Mapping[str, int]:
    """Judge the figures of now and take down what follows, as of ``at``, by default now too.

    Returns how many alerts ``fired``, ``resolved`` and were ``reminded`` of; nothing when another is at it.
    """
    found = database.run(
        partial(
            figures.read,
            window_seconds=settings.alert_window_seconds,
            cost=settings.alert_thresholds.watches_cost,
        )
    )
    with database.transaction() as connection:
        if not alerts.try_lock(connection):
            return {}
        return alerts.note(
            connection,
            [asdict(breach) for breach in breaches(found, settings)],
            at=at or found.at,
            channels=settings.alerts,
            sudden=[name for name, rule in RULES.items() if rule.sudden],
            after_seconds=settings.alert_after_seconds,
            reminder_seconds=settings.alert_reminder_seconds,
        )


def deliver(database: Database, told_by: Mapping[str, Channel]) -> tuple[int, Mapping[str, str]]:
    """Have each channel tell what it has to. Returns how much was told, and by channel why it was not.

    What fails is left for a later evaluation, and keeps no other channel from telling.
    """
    told, failures = 0, {}
    for name, channel in told_by.items():
        if not (rows := database.run(partial(alerts.claim, channel=name))):
            continue
        ids = [row["delivery_id"] for row in rows]
        try:
            channel.tell([_notice(row) for row in rows])
        except AlertNotDelivered as error:
            failures[name] = str(error)
            log.warning("%s alerts were not told by %s, which is tried again: %s", len(rows), name, error)
            database.run(partial(alerts.undelivered, ids=ids, error=str(error)))
        else:
            told += len(rows)
            database.run(partial(alerts.delivered, ids=ids))
    return told, failures


def listed(database: Database, *, resolved_within: timedelta, most: int = 200) -> list[Alert]:
    """Alerts that are open, then those resolved so recently."""
    rows = database.run(partial(alerts.listing, resolved_within_seconds=resolved_within.total_seconds(), most=most))
    return [Alert(**row) for row in rows]


def _notice(row: Mapping[str, Any]) -> Notice:
    values = {name: value for name, value in row.items() if name not in ("delivery_id", "event")}
    return Notice(str(row["delivery_id"]), row["event"], Alert(**values))
