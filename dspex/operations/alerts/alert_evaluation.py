"""Evaluate the figures, store the state of alerts, and send notifications."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from dspex.errors import AlertNotDelivered
from dspex.operations.alerts.alert import Alert, Notice
from dspex.operations.alerts.alert_channels import AlertChannel, alert_channels, deployment
from dspex.operations.alerts.alert_rules import ALERT_RULES, breaches
from dspex.operations.alerts.rollout_watch import end_tripped, ended_rollouts
from dspex.settings import Settings
from dspex.store.database import Database
from dspex.store.operations import alerts, figures

__all__ = ["AlertEvaluation", "deliver", "evaluate", "evaluate_and_notify", "list_alerts"]

log = logging.getLogger("dspex.alerts")


@dataclass(frozen=True, slots=True)
class AlertEvaluation:
    """The result of an evaluation. ``skipped``: another one was running. ``failures``: errors by channel."""

    fired: int = 0
    resolved: int = 0
    reminded: int = 0
    skipped: bool = False
    sent: int = 0
    failures: Mapping[str, str] = field(default_factory=dict)


def evaluate_and_notify(settings: Settings) -> AlertEvaluation:
    """Evaluate alerts and send notifications, on a new connection. Safe to run concurrently.

    Raises BackendUnavailable.
    """
    backends = settings.backends()
    database = Database(backends.database_url, pool_size=1, application_name="dspex alerts")
    try:
        changes = evaluate(database, settings)
        sent, failures = deliver(database, alert_channels(settings, deployment(settings, backends)))
        return AlertEvaluation(**changes, skipped=not changes, sent=sent, failures=failures)
    finally:
        database.close()


def evaluate(database: Database, settings: Settings, *, at: datetime | None = None) -> Mapping[str, int]:
    """Compare the current figures with the thresholds, and store the state of alerts as of ``at`` (default: now).

    Rollouts whose guard trips are ended first. Returns the numbers of alerts that ``fired``, ``resolved`` and were
    ``reminded``; an empty mapping if another evaluation is running.
    """
    end_tripped(database)
    rolled_back = ended_rollouts(database, within_seconds=settings.alert_window_seconds)
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
            [asdict(breach) for breach in (*breaches(found, settings), *rolled_back)],
            at=at or found.at,
            channels=settings.alerts,
            sudden=[name for name, rule in ALERT_RULES.items() if rule.sudden],
            after_seconds=settings.alert_after_seconds,
            reminder_seconds=settings.alert_reminder_seconds,
        )


def deliver(database: Database, channels: Mapping[str, AlertChannel]) -> tuple[int, Mapping[str, str]]:
    """Send the pending notifications of each channel. Returns how many were sent, and the errors by channel.

    Failed notifications are sent again by a later evaluation. A failure does not affect other channels, and a
    notification that a channel refuses does not affect its others.
    """
    sent, failures = 0, {}
    for name, channel in channels.items():
        rows = database.run(partial(alerts.claim, channel=name))
        failed = _send(channel, rows)
        if done := [row["delivery_id"] for row in rows if row["delivery_id"] not in failed]:
            sent += len(done)
            database.run(partial(alerts.delivered, ids=done))
        for error in dict.fromkeys(failed.values()):
            failures[name] = error
            ids = [id for id, why in failed.items() if why == error]
            log.warning("%s alerts were not sent by %s and will be sent again: %s", len(ids), name, error)
            database.run(partial(alerts.undelivered, ids=ids, error=error))
    return sent, failures


def _send(channel: AlertChannel, rows: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Send all at once, or one by one if the channel refuses the content. Returns the errors of the unsent, by id."""
    if not rows:
        return {}
    try:
        channel.send([_notice(row) for row in rows])
    except AlertNotDelivered as error:
        why, refused = str(error), bool(error.details.get("refused"))
    except ValueError as error:  # a text that the channel cannot encode, for example in a header
        why, refused = f"its content cannot be sent: {error}", True
    else:
        return {}
    if refused and len(rows) > 1:
        return {id: error for row in rows for id, error in _send(channel, [row]).items()}
    return {row["delivery_id"]: why for row in rows}


def list_alerts(database: Database, *, resolved_within: timedelta, most: int = 200) -> list[Alert]:
    """Pending and firing alerts, then those resolved within this time."""
    rows = database.run(partial(alerts.listing, resolved_within_seconds=resolved_within.total_seconds(), most=most))
    return [Alert(**row) for row in rows]


def _notice(row: Mapping[str, Any]) -> Notice:
    values = {name: value for name, value in row.items() if name not in ("delivery_id", "event")}
    return Notice(str(row["delivery_id"]), row["event"], Alert(**values))
