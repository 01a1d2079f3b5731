"""Bundles: requests of parked executions that go through a provider's batch API together.

A bundle is a row before anything is sent: which requests are in it never changes. Its states::

    created ─upload─► uploaded ─intend─► creating ─create─► running ─read─► ended

``creating`` is stored before the request that creates the batch at the provider, which costs money. A leader that finds
it does not know whether that request arrived, and looks for the batch before it creates one. Each change names the
state before it, so that a leader that was paused changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection

__all__ = [
    "BundledCall",
    "StoredBundle",
    "Unbundled",
    "advance",
    "assemble",
    "calls_of",
    "due",
    "forget_ended",
    "has_work",
    "is_creating",
    "known_ids",
    "listing",
    "note_answers",
    "note_read",
    "note_trouble",
    "postpone",
    "request_cancel",
    "unbundled",
    "unneeded",
    "unneeded_unsent",
    "waiting_calls",
]

#: What a request grows by at most as a line of a provider's file, and what is left as room.
_FILLED = 0.8


class Unbundled(NamedTuple):
    """Requests for one target that are in no bundle, and how long the oldest has waited."""

    target: str
    requests: int
    oldest_seconds: float


_UNBUNDLED = """
SELECT p.target, count(*)::int, extract(epoch FROM clock_timestamp() - min(p.parked_at))::float8
FROM dspex.parked_calls p
WHERE p.kind = 'batch' AND p.bundle_id IS NULL AND p.error IS NULL
    AND (p.expires_at IS NULL OR p.expires_at > statement_timestamp())
    AND (SELECT e.status = 'waiting' AND e.attempt = p.attempt FROM dspex.executions e WHERE e.id = p.execution_id)
GROUP BY p.target
"""


def unbundled(connection: Connection) -> list[Unbundled]:
    """The requests that wait for a bundle, by target."""
    return [Unbundled(*row) for row in connection.exec_driver_sql(_UNBUNDLED)]


# These subqueries stop at the first that waits: a join would read all that wait. Only the index on bundles has this
# order; with an equality, for which the order says nothing, Postgres would read the table for the first one.
_NOBODY_WAITS = """
(SELECT p.execution_id FROM dspex.parked_calls p WHERE p.bundle_id >= b.id AND p.bundle_id <= b.id
     AND (SELECT e.finished_at IS NULL FROM dspex.executions e WHERE e.id = p.execution_id)
 ORDER BY p.bundle_id, p.execution_id LIMIT 1) IS NULL
"""
_UNNEEDED = f"""
SELECT b.id FROM dspex.bundles b
WHERE b.state = 'running' AND b.cancel_requested_at IS NULL AND {_NOBODY_WAITS}
"""  # noqa: S608
# With the ORDER BY Postgres uses the index; without it, it would read all calls for one that is in no bundle.
_HAS_WORK = f"""
SELECT EXISTS (SELECT FROM dspex.bundles WHERE state <> 'ended' AND next_at <= clock_timestamp())
    OR (SELECT target FROM dspex.parked_calls WHERE kind = 'batch' AND bundle_id IS NULL AND error IS NULL
        ORDER BY target, parked_at LIMIT 1) IS NOT NULL
    OR EXISTS ({_UNNEEDED})
"""  # noqa: S608


def has_work(connection: Connection) -> bool:
    """Whether requests wait for a bundle, bundles for their next step, or a provider for no execution."""
    return bool(connection.exec_driver_sql(_HAS_WORK).scalar())


class StoredBundle(NamedTuple):
    """A bundle: see dspex/store/tables.py."""

    id: UUID
    target: str
    state: str
    requests: int
    bytes: int
    file_id: str | None
    provider_id: str | None
    provider_state: str | None
    answered: int
    failed: int
    cost_usd: float
    list_cost_usd: float
    created_at: datetime
    intended_at: datetime | None
    looks: int
    reads: int
    expires_at: datetime | None
    cancel_requested_at: datetime | None
    ended_at: datetime | None
    trouble: str | None
    #: How long ago these moments were, by Postgres' clock.
    intended_seconds: float | None
    expired_seconds: float | None
    cancelling_seconds: float | None

    @property
    def is_expired(self) -> bool:
        return (self.expired_seconds or 0.0) > 0.0


_COLUMNS = """
id, target, state, requests, bytes, file_id, provider_id, provider_state, answered, failed, cost_usd::float8,
list_cost_usd::float8, created_at, intended_at, looks, reads, expires_at, cancel_requested_at, ended_at, trouble,
extract(epoch FROM clock_timestamp() - intended_at)::float8, extract(epoch FROM clock_timestamp() - expires_at)::float8,
extract(epoch FROM clock_timestamp() - cancel_requested_at)::float8
"""

# The oldest first, until the bundle is full.
_ASSEMBLE = """
WITH oldest AS MATERIALIZED (
    SELECT p.execution_id, p.request_hash, p.occurrence, p.expires_at, p.parked_at,
        octet_length(p.request::text) AS bytes
    FROM dspex.parked_calls p JOIN dspex.executions e ON e.id = p.execution_id
    WHERE p.kind = 'batch' AND p.bundle_id IS NULL AND p.error IS NULL AND p.target = %(target)s
        AND e.status || '' = 'waiting' AND p.attempt = e.attempt
        AND (p.expires_at IS NULL OR p.expires_at > clock_timestamp())
    ORDER BY p.parked_at LIMIT %(most)s FOR UPDATE OF p SKIP LOCKED
), summed AS (
    SELECT o.*, sum(bytes) OVER (ORDER BY parked_at, execution_id, request_hash, occurrence) AS filled,
        row_number() OVER (ORDER BY parked_at, execution_id, request_hash, occurrence) AS number
    FROM oldest o
), chosen AS MATERIALIZED (
    SELECT * FROM summed WHERE filled <= %(most_bytes)s OR number = 1
), marked AS (
    UPDATE dspex.parked_calls p SET bundle_id = %(id)s FROM chosen c
    WHERE p.execution_id = c.execution_id AND p.request_hash = c.request_hash AND p.occurrence = c.occurrence
)
INSERT INTO dspex.bundles (id, target, state, requests, bytes, expires_at)
SELECT %(id)s, %(target)s, 'created', count(*), sum(bytes), min(expires_at) FROM chosen HAVING count(*) > 0
RETURNING requests
"""


def assemble(connection: Connection, id: UUID, target: str, *, most: int, most_bytes: int) -> int:
    """Make a bundle of the requests for a target that have waited longest. Returns how many it has, or 0."""
    given = {"id": id, "target": target, "most": most, "most_bytes": int(most_bytes * _FILLED)}
    return int(connection.exec_driver_sql(_ASSEMBLE, given).scalar() or 0)


_DUE = f"""
SELECT {_COLUMNS} FROM dspex.bundles WHERE state <> 'ended' AND next_at <= clock_timestamp() ORDER BY next_at
"""  # noqa: S608
_LISTING = f"""
SELECT {_COLUMNS} FROM dspex.bundles WHERE state <> 'ended' OR %(ended)s ORDER BY created_at DESC LIMIT %(most)s
"""  # noqa: S608


def due(connection: Connection) -> list[StoredBundle]:
    """The bundles whose next step is due."""
    return [StoredBundle(*row) for row in connection.exec_driver_sql(_DUE)]


def listing(connection: Connection, *, ended: bool = True, most: int = 50) -> list[StoredBundle]:
    """Bundles, the newest first; ``ended``: also those that are over."""
    return [StoredBundle(*row) for row in connection.exec_driver_sql(_LISTING, {"ended": ended, "most": most})]


_ADVANCE = """
UPDATE dspex.bundles SET state = %(after)s, file_id = coalesce(%(file_id)s::text, file_id),
    provider_id = coalesce(%(provider_id)s::text, provider_id),
    provider_state = coalesce(%(provider_state)s::text, provider_state), looks = 0, trouble = NULL,
    intended_at = CASE WHEN %(after)s = 'creating' THEN clock_timestamp() ELSE intended_at END,
    ended_at = CASE WHEN %(after)s = 'ended' THEN clock_timestamp() END,
    next_at = clock_timestamp() + make_interval(secs => %(seconds)s)
WHERE id = %(id)s AND state = %(before)s
RETURNING id
"""


def advance(
    connection: Connection,
    bundle: StoredBundle,
    state: str,
    *,
    file_id: str | None = None,
    provider_id: str | None = None,
    provider_state: str | None = None,
    seconds: float = 0.0,
) -> bool:
    """Record the next state of a bundle; its next step is due in so many ``seconds``. False when another leader did."""
    given = {"id": bundle.id, "before": bundle.state, "after": state, "file_id": file_id, "provider_id": provider_id,
             "provider_state": provider_state, "seconds": seconds}  # fmt: skip
    return connection.exec_driver_sql(_ADVANCE, given).one_or_none() is not None


_POSTPONE = """
UPDATE dspex.bundles SET looks = looks + 1, trouble = %(trouble)s::text,
    provider_state = coalesce(%(provider_state)s::text, provider_state),
    next_at = clock_timestamp() + make_interval(secs => %(seconds)s)
WHERE id = %(id)s AND state = %(state)s
"""


def postpone(
    connection: Connection, bundle: StoredBundle, seconds: float, *, provider_state: str | None = None
) -> None:
    """Look at a bundle again in so many seconds: the provider is not done with it."""
    given = {"id": bundle.id, "state": bundle.state, "seconds": seconds, "trouble": None}
    connection.exec_driver_sql(_POSTPONE, {**given, "provider_state": provider_state})


def note_trouble(connection: Connection, bundle: StoredBundle, seconds: float, trouble: str) -> None:
    """Do a step that failed again in so many seconds."""
    given = {"id": bundle.id, "state": bundle.state, "seconds": seconds, "trouble": trouble, "provider_state": None}
    connection.exec_driver_sql(_POSTPONE, given)


_NOTE_READ = "UPDATE dspex.bundles SET reads = reads + 1 WHERE id = %(id)s"


def note_read(connection: Connection, id: UUID) -> None:
    """Count a look at a batch that should have had results, and had not all of them."""
    connection.exec_driver_sql(_NOTE_READ, {"id": id})


_NOTE_ANSWERS = """
UPDATE dspex.bundles SET answered = answered + %(answered)s, failed = failed + %(failed)s,
    cost_usd = cost_usd + %(cost_usd)s::numeric, list_cost_usd = list_cost_usd + %(list_cost_usd)s::numeric
WHERE id = %(id)s
"""


def note_answers(
    connection: Connection, id: UUID, *, answered: int, failed: int, cost_usd: float, list_cost_usd: float
) -> None:
    """Count answers that were journaled, and requests that failed."""
    given = {"id": id, "answered": answered, "failed": failed, "cost_usd": cost_usd, "list_cost_usd": list_cost_usd}
    connection.exec_driver_sql(_NOTE_ANSWERS, given)


class BundledCall(NamedTuple):
    """A request of a bundle. ``request`` is JSON text, sealed where values are."""

    execution_id: UUID
    request_hash: bytes
    occurrence: int
    attempt: int
    subject: str
    request: str
    parked_at: datetime
    is_waiting: bool

    @property
    def custom_id(self) -> str:
        """The name of the request at the provider: of at most 64 characters of ``[A-Za-z0-9_-]``."""
        return f"{self.execution_id.hex}-{bytes(self.request_hash)[:8].hex()}-{self.occurrence}"


_CALLS_OF = """
SELECT p.execution_id, p.request_hash, p.occurrence, p.attempt, p.subject, p.request::text, p.parked_at,
    coalesce(e.status = 'waiting', false)
FROM dspex.parked_calls p LEFT JOIN dspex.executions e ON e.id = p.execution_id
WHERE p.bundle_id = %(id)s AND p.error IS NULL AND (p.execution_id, p.request_hash, p.occurrence)
    > (%(execution_id)s::uuid, %(request_hash)s::bytea, %(occurrence)s::int)
ORDER BY p.execution_id, p.request_hash, p.occurrence LIMIT %(most)s
"""
_WAITING_CALLS = """
SELECT p.execution_id, p.request_hash, p.occurrence, p.attempt, p.subject, p.request::text, p.parked_at,
    coalesce(e.status = 'waiting', false)
FROM dspex.parked_calls p LEFT JOIN dspex.executions e ON e.id = p.execution_id
WHERE p.bundle_id = %(id)s AND p.error IS NULL AND p.execution_id = ANY(%(execution_ids)s)
"""


def calls_of(
    connection: Connection, id: UUID, *, after: tuple[UUID, bytes, int] = (UUID(int=0), b"", -1), most: int
) -> list[BundledCall]:
    """The unanswered requests of a bundle in order, from after one of them on."""
    execution_id, request_hash, occurrence = after
    given = {"id": id, "execution_id": execution_id, "request_hash": request_hash, "occurrence": occurrence,
             "most": most}  # fmt: skip
    return [_call(row) for row in connection.exec_driver_sql(_CALLS_OF, given)]


def waiting_calls(connection: Connection, id: UUID, execution_ids: Collection[UUID]) -> list[BundledCall]:
    """The unanswered requests of these executions in a bundle."""
    rows = connection.exec_driver_sql(_WAITING_CALLS, {"id": id, "execution_ids": list(execution_ids)})
    return [_call(row) for row in rows]


def _call(row: Sequence[Any]) -> BundledCall:
    return BundledCall(row[0], bytes(row[1]), *row[2:])


_UNNEEDED_UNSENT = f"""
SELECT {_COLUMNS} FROM dspex.bundles b
WHERE b.state IN ('created', 'uploaded') AND {_NOBODY_WAITS}
"""  # noqa: S608
_REQUEST_CANCEL = """
UPDATE dspex.bundles SET cancel_requested_at = clock_timestamp(), next_at = clock_timestamp()
WHERE id = ANY(%(ids)s) AND state = 'running' AND cancel_requested_at IS NULL
"""


def unneeded(connection: Connection) -> list[UUID]:
    """Running bundles that no unfinished execution waits for any more."""
    return list(connection.exec_driver_sql(_UNNEEDED).scalars())


def unneeded_unsent(connection: Connection) -> list[StoredBundle]:
    """Bundles that the provider does not have, and that no unfinished execution waits for any more."""
    return [StoredBundle(*row) for row in connection.exec_driver_sql(_UNNEEDED_UNSENT)]


def is_creating(connection: Connection, target: str) -> bool:
    """Whether it is not known of a bundle for this target if the provider has it."""
    asked = "SELECT EXISTS (SELECT FROM dspex.bundles WHERE state = 'creating' AND target = %(target)s)"
    return bool(connection.exec_driver_sql(asked, {"target": target}).scalar())


def request_cancel(connection: Connection, ids: Collection[UUID]) -> None:
    """Record that the provider is to cancel these."""
    connection.exec_driver_sql(_REQUEST_CANCEL, {"ids": list(ids)})


def known_ids(connection: Connection) -> set[str]:
    """The providers' ids of all bundles."""
    asked = "SELECT provider_id FROM dspex.bundles WHERE provider_id IS NOT NULL"
    return set(connection.exec_driver_sql(asked).scalars())


def forget_ended(connection: Connection, *, days: float) -> int:
    """Delete bundles that ended so long ago. Returns how many."""
    deleted = connection.exec_driver_sql(
        "DELETE FROM dspex.bundles WHERE ended_at < clock_timestamp() - make_interval(secs => %(seconds)s)",
        {"seconds": days * 86_400},
    )
    return deleted.rowcount
