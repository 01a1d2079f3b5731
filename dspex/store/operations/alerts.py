"""Alerts and their notifications.

``pending → firing → resolved``: a breach fires once it has lasted, and resolves once it has been absent for as long, so
that a figure that oscillates alerts once. Each step is one statement under a lock that evaluations share, and also
creates the deliveries to all channels. The process that claims a delivery makes it; a delivery is retried until it
succeeds or a day has passed, and made again if its process died before recording it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection, text

from dspex.store.array_text import array
from dspex.store.lifecycle.set_statements import for_each_row_within

__all__ = ["DeliveryCounts", "claim", "delivered", "delivery_counts", "listing", "note", "try_lock", "undelivered"]

log = logging.getLogger("dspex.alerts")

#: The key of the lock, of this database.
LOCK = 0x64737065782E616C  # "dspex.al"
CLAIM_SECONDS = 60.0
#: A delivery that fails for so long is given up; its row stays.
GIVE_UP_SECONDS = 86_400.0
MOST_AT_ONCE = 100
#: The wait after the first failure; it doubles with each.
BACKOFF_SECONDS, BACKOFF_MOST_SECONDS = 30.0, 900.0

_SEEN = text("""
INSERT INTO dspex.alerts (rule, subject, state, value, threshold, summary, since, seen_at)
SELECT b.rule, b.subject, 'pending', b.value, b.threshold, b.summary, :at, :at
FROM unnest(CAST(:rules AS text[]), CAST(:subjects AS text[]), CAST(:values AS float8[]),
    CAST(:thresholds AS float8[]), CAST(:summaries AS text[])) AS b (rule, subject, value, threshold, summary)
ON CONFLICT (rule, subject) WHERE state <> 'resolved'
DO UPDATE SET value = excluded.value, threshold = excluded.threshold, summary = excluded.summary, seen_at = :at
""")
_FORGET = text("DELETE FROM dspex.alerts WHERE state = 'pending' AND seen_at < :at")
_STEP = """
WITH stepped AS (
    UPDATE dspex.alerts SET {change} WHERE {condition} RETURNING id, value, summary
), notified AS (
    INSERT INTO dspex.alert_deliveries (alert_id, event, value, summary, channel, created_at, next_at)
    SELECT s.id, '{event}', s.value, s.summary, channel, clock_timestamp(), clock_timestamp()
    FROM stepped s, unnest(CAST(:channels AS text[])) AS channel ORDER BY s.id
)
SELECT count(*) FROM stepped
"""
_FIRE = text(_STEP.format(
    event="firing",
    change="state = 'firing', fired_at = :at, notified_at = :at",
    condition="state = 'pending' AND (rule = ANY(:sudden) OR since <= :at - make_interval(secs => :after_seconds))",
))  # fmt: skip
_RESOLVE = text(_STEP.format(
    event="resolved",
    change="state = 'resolved', resolved_at = :at",
    condition="state = 'firing' AND seen_at < :at AND seen_at <= :at - make_interval(secs => :after_seconds)",
))  # fmt: skip
_REMIND = text(_STEP.format(
    event="reminder",
    change="notified_at = :at",
    condition="state = 'firing' AND seen_at = :at AND notified_at <= :at - make_interval(secs => :reminder_seconds)",
))  # fmt: skip

# All open deliveries of a channel, in order, once any of them is due: a new one does not overtake a late one.
_CLAIM = text("""
WITH open AS (
    SELECT id FROM dspex.alert_deliveries
    WHERE channel = :channel AND delivered_at IS NULL
        AND created_at > clock_timestamp() - make_interval(secs => :give_up_seconds)
        AND (claimed_until IS NULL OR claimed_until < clock_timestamp())
        AND EXISTS (SELECT FROM dspex.alert_deliveries d WHERE d.channel = :channel AND d.delivered_at IS NULL
            AND d.next_at <= clock_timestamp()
            AND d.created_at > clock_timestamp() - make_interval(secs => :give_up_seconds))
    ORDER BY id LIMIT :most FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE dspex.alert_deliveries d
    SET attempts = attempts + 1, claimed_until = clock_timestamp() + make_interval(secs => :claim_seconds)
    FROM open WHERE d.id = open.id
    RETURNING d.*
)
SELECT c.id AS delivery_id, c.event, a.id, a.rule, a.subject, a.state, c.value, a.threshold, c.summary, a.since,
    a.seen_at, a.fired_at, a.resolved_at
FROM claimed c JOIN dspex.alerts a ON a.id = c.alert_id ORDER BY c.id
""")
_DELIVERED = text("""
UPDATE dspex.alert_deliveries SET delivered_at = clock_timestamp(), claimed_until = NULL, error = NULL
WHERE id = ANY(:ids)
""")
_UNDELIVERED = text("""
UPDATE dspex.alert_deliveries SET claimed_until = NULL, error = :error,
    next_at = clock_timestamp() + make_interval(secs => least(:backoff * 2 ^ (least(attempts, 10) - 1), :backoff_most))
WHERE id = ANY(:ids)
""")
_LISTING = text("""
SELECT a.id, a.rule, a.subject, a.state, a.value, a.threshold, a.summary, a.since, a.seen_at, a.fired_at,
    a.resolved_at, coalesce(d.undelivered, 0)::int AS undelivered, d.error AS delivery_error
FROM dspex.alerts a LEFT JOIN LATERAL (
    SELECT count(*) AS undelivered, max(channel || ': ' || error) AS error FROM dspex.alert_deliveries
    WHERE alert_id = a.id AND delivered_at IS NULL
) d ON true
WHERE a.state <> 'resolved' OR a.resolved_at >= clock_timestamp() - make_interval(secs => :resolved_seconds)
ORDER BY array_position(ARRAY['firing', 'pending', 'resolved'], a.state), coalesce(a.fired_at, a.since) DESC, a.id DESC
LIMIT :most
""")


def try_lock(connection: Connection) -> bool:
    """Whether this transaction may evaluate now; only one may. Postgres ends one that hangs."""
    connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = '30s'"))
    return bool(connection.scalar(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": LOCK}))


def note(
    connection: Connection,
    found: Sequence[Mapping[str, Any]],
    *,
    at: datetime,
    channels: Collection[str],
    sudden: Collection[str],
    after_seconds: float,
    reminder_seconds: float | None,
) -> Mapping[str, int]:
    """Record the breaches found at a time, and advance each alert.

    ``found``: ``rule subject value threshold summary`` of each. Returns how many fired, resolved and were repeated.
    """
    for fault in for_each_row_within(connection, partial(_note_seen, connection, at), found)[1]:
        log.error("the alert %s of %r cannot be stored: %s", fault.row["rule"], fault.row["subject"], fault.reason)
    connection.execute(_FORGET, {"at": at})
    given = {"at": at, "channels": list(channels)}
    lasting = {**given, "after_seconds": after_seconds}
    steps = {
        "fired": (_FIRE, {**lasting, "sudden": list(sudden)}),
        "resolved": (_RESOLVE, lasting),
    }
    if reminder_seconds is not None:
        steps["reminded"] = (_REMIND, {**given, "reminder_seconds": reminder_seconds})
    return {name: connection.execute(step, values).scalar_one() for name, (step, values) in steps.items()}


def _note_seen(connection: Connection, at: datetime, found: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    texts = {"rules": "rule", "subjects": "subject", "summaries": "summary"}
    numbers = {"values": "value", "thresholds": "threshold"}
    columns = {
        **{name: [each[column] for each in found] for name, column in texts.items()},
        **{name: array(each[column] for each in found) for name, column in numbers.items()},
    }
    connection.execute(_SEEN, {"at": at, **columns})
    return found


def claim(connection: Connection, channel: str) -> list[Mapping[str, Any]]:
    """The open deliveries of a channel, claimed for a minute: ``delivery_id event`` and the alert's columns."""
    given = {"channel": channel, "most": MOST_AT_ONCE, "claim_seconds": CLAIM_SECONDS,
             "give_up_seconds": GIVE_UP_SECONDS}  # fmt: skip
    return [dict(row) for row in connection.execute(_CLAIM, given).mappings()]


def delivered(connection: Connection, ids: Sequence[int]) -> None:
    connection.execute(_DELIVERED, {"ids": list(ids)})


def undelivered(connection: Connection, ids: Sequence[int], *, error: str) -> None:
    """Record a failure; the deliveries are retried after a backoff."""
    given = {"ids": list(ids), "error": error, "backoff": BACKOFF_SECONDS, "backoff_most": BACKOFF_MOST_SECONDS}
    connection.execute(_UNDELIVERED, given)


@dataclass(frozen=True, slots=True)
class DeliveryCounts:
    """Deliveries within a week: those that succeeded, and those that are late by channels in use and by others, with
    the channels of each."""

    delivered: int
    late: int
    channels: str | None
    late_elsewhere: int
    channels_elsewhere: str | None


_DELIVERY_COUNTS = text("""
SELECT count(*) FILTER (WHERE delivered_at IS NOT NULL),
    count(*) FILTER (WHERE late AND used), string_agg(DISTINCT channel, ', ') FILTER (WHERE late AND used),
    count(*) FILTER (WHERE late AND NOT used), string_agg(DISTINCT channel, ', ') FILTER (WHERE late AND NOT used)
FROM (
    SELECT channel, delivered_at, channel = ANY(CAST(:channels AS text[])) AS used,
        delivered_at IS NULL AND created_at < now() - make_interval(secs => :late_seconds) AS late
    FROM dspex.alert_deliveries WHERE created_at > now() - interval '7 days') d
""")


def delivery_counts(connection: Connection, *, channels: Collection[str], late_seconds: float) -> DeliveryCounts:
    """Deliveries within a week, where these ``channels`` are in use; an undelivered one is late after so many
    seconds."""
    given = {"channels": list(channels), "late_seconds": late_seconds}
    return DeliveryCounts(*connection.execute(_DELIVERY_COUNTS, given).one())


def listing(connection: Connection, *, resolved_within_seconds: float, most: int) -> list[Mapping[str, Any]]:
    """Open alerts, then recently resolved ones, each the newest first."""
    given = {"resolved_seconds": resolved_within_seconds, "most": most}
    return [dict(row) for row in connection.execute(_LISTING, given).mappings()]
