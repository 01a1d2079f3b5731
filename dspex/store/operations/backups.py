"""The record of backups, and what a backup is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, text

__all__ = ["counts", "end_leases", "in_use", "latest", "record", "triggers"]

#: What a backup counts, and a restore counts again.
TABLES = (
    "programs", "program_versions", "executions", "idempotency_keys", "lm_calls", "audit_events", "budgets", "periods",
)  # fmt: skip


def counts(connection: Connection) -> Mapping[str, int]:
    """The rows of each table that matters."""
    count = "SELECT count(*) FROM dspex.{}"
    return {table: int(connection.scalar(text(count.format(table))) or 0) for table in TABLES}


def in_use(connection: Connection) -> Mapping[str, int]:
    """What would be lost with the schema: live ``workers``, ``executions`` and ``programs``; empty for nothing."""
    if connection.scalar(text("SELECT to_regclass('dspex.executions')")) is None:
        return {}
    row = connection.execute(
        text("""SELECT (SELECT count(*) FROM dspex.workers WHERE stopped_at IS NULL
                    AND heartbeat_at > clock_timestamp() - make_interval(secs => lease_seconds)) AS workers,
                (SELECT count(*) FROM dspex.executions) AS executions,
                (SELECT count(*) FROM dspex.programs) AS programs""")
    ).one()
    return {name: int(count) for name, count in row._mapping.items() if count}


def triggers(connection: Connection) -> list[str]:
    """The triggers that are on guard: of the audit trail and of the transitions."""
    rows = connection.scalars(
        text("""SELECT t.tgname FROM pg_trigger t WHERE t.tgenabled = 'O' AND NOT t.tgisinternal
                AND t.tgrelid IN ('dspex.executions'::regclass, 'dspex.audit_events'::regclass) ORDER BY 1""")
    )
    return list(rows)


def end_leases(connection: Connection) -> None:
    """The workers of the past are gone: what they ran is recovered by the next leader, at once."""
    connection.execute(
        text("UPDATE dspex.workers SET state = 'dead', stopped_at = clock_timestamp() WHERE stopped_at IS NULL")
    )
    connection.execute(text("DELETE FROM dspex.leaderships"))


def record(
    connection: Connection, *, ok: bool, host: str, path: str, bytes: int | None = None, sha256: str | None = None,
    error: str | None = None,
) -> None:  # fmt: skip
    """Keep what became of a backup."""
    connection.execute(
        text("INSERT INTO dspex.backups (ok, host, path, bytes, sha256, error) "
             "VALUES (:ok, :host, :path, :bytes, :sha256, :error)"),
        {"ok": ok, "host": host, "path": path, "bytes": bytes, "sha256": sha256, "error": error},
    )  # fmt: skip


def latest(connection: Connection) -> Mapping[str, Any] | None:
    """The last backup that was made whole, with ``age_seconds``; None when there was none."""
    row = connection.execute(
        text("""SELECT *, extract(epoch FROM clock_timestamp() - at)::float8 AS age_seconds
                FROM dspex.backups WHERE ok ORDER BY at DESC LIMIT 1""")
    )
    found = row.mappings().one_or_none()
    return dict(found) if found else None
