"""Webhooks: which outcomes are to be posted, and what became of each.

A delivery is stored with its execution, or after the last row of its batch. It is claimed once the execution is final,
or all rows of the batch are, by one gateway at a time; one that dies holds it for a minute. Executions that finished
within some seconds are found by the index of the time when they finished, all others by ``next_at``, which moves on as
long as an execution runs: so a backlog of a million unfinished executions with webhooks costs little. Of a batch, its
first unfinished row is looked up, from the one that was found before on. ``now`` is the database's clock.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

__all__ = ["WebhookDelivery", "add_batch", "claim", "delivered", "forget", "listing", "send_again", "undelivered"]

#: A gateway that claimed a delivery has so long to send it.
CLAIM_SECONDS = 60
#: Executions that finished within so many seconds are looked for each time.
RECENT_SECONDS = 5
#: The most deliveries of unfinished executions that are looked at each time.
MOST_LOOKED_AT = 500
#: An unfinished batch is looked at again after at most so long.
BATCH_SECONDS = 5
#: A delivery that fails is tried again after 5 s, then three times as long, up to an hour, and is given up after a day.
BACKOFF_SECONDS, BACKOFF_MOST_SECONDS, GIVE_UP_SECONDS = 5.0, 3600.0, 86_400.0
#: How long deliveries are kept that are over.
KEEP_DAYS = 7


@dataclass(frozen=True, slots=True)
class WebhookDelivery:
    """A delivery: open, delivered, or given up at ``dead_at`` with the last ``error``.

    It is of an execution, or of a batch, which ``content`` describes.
    """

    id: int
    execution_id: UUID | None
    batch_id: UUID | None
    content: Mapping[str, Any] | None
    url: str
    created_at: datetime
    attempts: int
    next_at: datetime
    delivered_at: datetime | None
    dead_at: datetime | None
    error: str | None


_COLUMNS = ", ".join(
    f"d.{name}" for name in ("id", "execution_id", "batch_id", "content", "url", "created_at", "attempts", "next_at",
                             "delivered_at", "dead_at", "error")
)  # fmt: skip
_OPEN = (
    "d.delivered_at IS NULL AND d.dead_at IS NULL AND (d.claimed_until IS NULL OR d.claimed_until < clock_timestamp())"
)
_CLAIM = text(f"""
WITH recent AS (
    SELECT d.id FROM dspex.executions e JOIN dspex.webhook_deliveries d ON d.execution_id = e.id
    WHERE e.finished_at > now() - make_interval(secs => :recent_seconds) AND d.attempts = 0 AND {_OPEN}
        AND EXISTS (SELECT FROM dspex.webhook_deliveries d WHERE {_OPEN})
    LIMIT :most
), looked_at AS MATERIALIZED (
    SELECT d.id, d.created_at, d.batch_id, unfinished.batch_index,
        CASE WHEN d.batch_id IS NULL THEN e.finished_at IS NOT NULL ELSE unfinished.batch_index IS NULL END AS is_final,
        d.batch_id IS NULL AND e.id IS NULL AS is_gone
    FROM (
        SELECT d.id, d.execution_id, d.batch_id, d.over_before, d.created_at FROM dspex.webhook_deliveries d
        WHERE {_OPEN} AND d.next_at <= clock_timestamp() ORDER BY d.next_at LIMIT :most_looked_at
        FOR UPDATE SKIP LOCKED) d
    LEFT JOIN dspex.executions e ON e.id = d.execution_id
    LEFT JOIN LATERAL (
        SELECT r.batch_index FROM dspex.executions r
        WHERE r.batch_id = d.batch_id AND r.batch_index >= d.over_before AND r.finished_at IS NULL
        ORDER BY r.batch_index LIMIT 1) unfinished ON true
), postponed AS (
    UPDATE dspex.webhook_deliveries d SET over_before = coalesce(l.batch_index, d.over_before),
        next_at = clock_timestamp() + least(greatest((clock_timestamp() - l.created_at) / 4, interval '1 s'),
            make_interval(secs => CASE WHEN l.batch_id IS NULL THEN 60 ELSE :batch_seconds END)),
        dead_at = CASE WHEN l.is_gone THEN clock_timestamp() END,
        error = CASE WHEN l.is_gone THEN 'the execution does not exist' END
    FROM looked_at l WHERE d.id = l.id AND NOT l.is_final
), chosen AS (
    SELECT d.id FROM dspex.webhook_deliveries d
    WHERE d.id = ANY(ARRAY(SELECT id FROM recent UNION SELECT id FROM looked_at WHERE is_final)) AND {_OPEN}
    ORDER BY d.next_at LIMIT :most FOR UPDATE SKIP LOCKED
)
UPDATE dspex.webhook_deliveries d SET attempts = d.attempts + 1, first_at = coalesce(d.first_at, clock_timestamp()),
    claimed_until = clock_timestamp() + make_interval(secs => :claim_seconds)
FROM chosen c WHERE d.id = c.id
RETURNING {_COLUMNS}
""")  # noqa: S608
_ADD_BATCH = text("""
INSERT INTO dspex.webhook_deliveries (batch_id, url, content) VALUES (:batch_id, :url, CAST(:content AS json))
ON CONFLICT (batch_id) DO NOTHING
""")
# An execution that was queued again meanwhile has made the delivery new: its next outcome is sent.
_DELIVERED = text("""
UPDATE dspex.webhook_deliveries SET delivered_at = clock_timestamp(), claimed_until = NULL, error = NULL
WHERE id = :id AND attempts = :attempts
""")
_UNDELIVERED = text("""
UPDATE dspex.webhook_deliveries SET claimed_until = NULL, error = :error,
    next_at = clock_timestamp() + make_interval(secs => least(:backoff * 3 ^ (least(attempts, 10) - 1), :backoff_most)),
    dead_at = CASE WHEN :final OR first_at < clock_timestamp() - make_interval(secs => :give_up_seconds)
        THEN clock_timestamp() END
WHERE id = :id AND attempts = :attempts
""")
_SEND_AGAIN = text("""
UPDATE dspex.webhook_deliveries SET delivered_at = NULL, dead_at = NULL, first_at = NULL, error = NULL, attempts = 0,
    next_at = clock_timestamp(), claimed_until = NULL
WHERE id = :id RETURNING id
""")
_LISTING = text(f"""
SELECT {_COLUMNS} FROM dspex.webhook_deliveries d
WHERE CASE WHEN :trouble THEN delivered_at IS NULL AND error IS NOT NULL ELSE true END
ORDER BY d.id DESC LIMIT :most
""")  # noqa: S608
_FORGET = text("""
DELETE FROM dspex.webhook_deliveries WHERE coalesce(delivered_at, dead_at) < now() - make_interval(days => :days)
""")


def add_batch(connection: Connection, *, batch_id: UUID, url: str, content: Mapping[str, Any]) -> None:
    """Store that the outcome of a batch, whose rows are all stored, is to be posted. A batch has one delivery."""
    connection.execute(_ADD_BATCH, {"batch_id": batch_id, "url": url, "content": json.dumps(content)})


def claim(connection: Connection, *, most: int) -> Sequence[WebhookDelivery]:
    """Deliveries of what is over that are due, claimed for a minute."""
    given = {"most": most, "most_looked_at": MOST_LOOKED_AT, "recent_seconds": RECENT_SECONDS,
             "batch_seconds": BATCH_SECONDS, "claim_seconds": CLAIM_SECONDS}  # fmt: skip
    return [WebhookDelivery(*row) for row in connection.execute(_CLAIM, given)]


def delivered(connection: Connection, claimed: WebhookDelivery) -> None:
    """Record that the address accepted it."""
    connection.execute(_DELIVERED, {"id": claimed.id, "attempts": claimed.attempts})


def undelivered(connection: Connection, claimed: WebhookDelivery, *, error: str, final: bool) -> None:
    """Record a failure. It is tried again after a backoff, unless it is ``final`` or a day old."""
    given: dict[str, Any] = {
        "id": claimed.id, "attempts": claimed.attempts, "error": error, "final": final, "backoff": BACKOFF_SECONDS,
        "backoff_most": BACKOFF_MOST_SECONDS, "give_up_seconds": GIVE_UP_SECONDS,
    }  # fmt: skip
    connection.execute(_UNDELIVERED, given)


def send_again(connection: Connection, id: int) -> bool:
    """Send a delivery again that was delivered or given up. False when it does not exist."""
    return connection.execute(_SEND_AGAIN, {"id": id}).one_or_none() is not None


def listing(connection: Connection, *, trouble: bool, most: int) -> list[WebhookDelivery]:
    """The latest deliveries; with ``trouble`` those that failed and are not delivered yet."""
    return [WebhookDelivery(*row) for row in connection.execute(_LISTING, {"trouble": trouble, "most": most})]


def forget(connection: Connection) -> None:
    """Delete deliveries that have been over for a week."""
    connection.execute(_FORGET, {"days": KEEP_DAYS})
