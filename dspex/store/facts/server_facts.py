"""The Postgres server: its clock, its settings, its connections and how long a commit takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import psycopg
from sqlalchemy import Connection, text

from dspex.store.facts.rows import all_rows, one_row
from dspex.store.sessions import libpq_url

__all__ = [
    "ConnectionLimit",
    "DeadRows",
    "OpenTransaction",
    "ServerState",
    "backends_used",
    "commit_nothing",
    "connection_limits",
    "dead_rows",
    "major_version",
    "now",
    "open_transactions",
    "ping",
    "sees_all_sessions",
    "settings",
    "state",
    "unix_time",
]


@dataclass(frozen=True, slots=True)
class ServerState:
    """Whether the server takes writes, how many of its connections are used, and how long ago it started."""

    version: str
    standby: bool
    read_only: bool
    max_connections: int
    reserved_connections: int
    connections: int
    up_seconds: float


@dataclass(frozen=True, slots=True)
class ConnectionLimit:
    """The most connections that a role or this database may have, and how many it has; ``own``: it binds this
    session, too."""

    of: str
    most: int
    used: int
    own: bool


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """A transaction that has been open for ``seconds``."""

    pid: int
    application_name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class DeadRows:
    """A table with more dead rows than live ones."""

    table: str
    live: int
    dead: int


# The type of a session of another role is hidden from most roles.
_SESSIONS = """pg_stat_activity a
    WHERE a.usesysid IS NOT NULL AND a.datid IS NOT NULL
        AND coalesce(a.backend_type, 'client backend') = 'client backend'"""
_CONNECTIONS = f"(SELECT count(*) FROM {_SESSIONS})::int"  # noqa: S608
_STATE = text(f"""
SELECT current_setting('server_version'), pg_is_in_recovery(), current_setting('default_transaction_read_only') = 'on',
    current_setting('max_connections')::int, current_setting('superuser_reserved_connections')::int, {_CONNECTIONS},
    extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())::float8
""")  # noqa: S608
_LIMITS = text(f"""
SELECT 'the role ' || r.rolname, r.rolconnlimit, (SELECT count(*) FROM {_SESSIONS} AND a.usesysid = r.oid)::int AS used,
    r.rolname = session_user
FROM pg_roles r WHERE r.rolconnlimit >= 0 AND NOT r.rolsuper AND (r.rolname = session_user OR EXISTS (
    SELECT FROM pg_stat_activity a WHERE a.usesysid = r.oid AND a.datname = current_database()))
UNION ALL
SELECT 'the database ' || d.datname, d.datconnlimit, (SELECT count(*) FROM {_SESSIONS} AND a.datid = d.oid)::int, true
FROM pg_database d WHERE d.datname = current_database() AND d.datconnlimit >= 0
""")  # noqa: S608
_OPEN_TRANSACTIONS = text("""
SELECT pid, coalesce(application_name, ''), extract(epoch FROM now() - xact_start)::float8 FROM pg_stat_activity
WHERE xact_start < now() - make_interval(secs => :seconds) AND backend_type = 'client backend'
ORDER BY xact_start LIMIT :most
""")
_DEAD_ROWS = text("""
SELECT relname, n_live_tup, n_dead_tup FROM pg_stat_user_tables
WHERE schemaname = 'dspex' AND n_dead_tup > :many AND n_dead_tup > n_live_tup ORDER BY n_dead_tup DESC
""")


def ping(connection: Connection) -> None:
    """Make one round trip to the server."""
    connection.execute(text("SELECT 1"))


def now(connection: Connection) -> datetime:
    """When the transaction began, by the server's clock."""
    moment: datetime = connection.execute(text("SELECT now()")).scalar_one()
    return moment


def unix_time(connection: Connection) -> float:
    """Seconds since 1970 by the server's clock, at this instant."""
    return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())::float8")).scalar_one())


def settings(connection: Connection, *names: str) -> Mapping[str, str | None]:
    """The values of these settings of the server; None for one that it does not know."""
    statement = text("SELECT name, current_setting(name, true) FROM unnest(CAST(:names AS text[])) AS s (name)")
    return {row.name: row.current_setting for row in connection.execute(statement, {"names": list(names)})}


def major_version(connection: Connection) -> int:
    """18 for PostgreSQL 18.1."""
    return int(settings(connection, "server_version_num")["server_version_num"] or 0) // 10_000


def state(connection: Connection) -> ServerState:
    return one_row(connection, ServerState, _STATE)


def connection_limits(connection: Connection) -> list[ConnectionLimit]:
    """The limits of this database, of this role, and of the other roles that have sessions in this database."""
    return all_rows(connection, ConnectionLimit, _LIMITS)


def sees_all_sessions(connection: Connection) -> bool:
    """Whether the current role may see what the sessions of other roles do."""
    return bool(connection.scalar(text("SELECT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')")))


def open_transactions(connection: Connection, *, seconds: float, most: int = 5) -> list[OpenTransaction]:
    """Transactions of clients that have been open for longer, the longest first; see :func:`sees_all_sessions`."""
    return all_rows(connection, OpenTransaction, _OPEN_TRANSACTIONS, seconds=seconds, most=most)


def dead_rows(connection: Connection, *, many: int = 100_000) -> list[DeadRows]:
    """Tables of DSPex with more than ``many`` dead rows, and more dead rows than live ones; the worst first."""
    return all_rows(connection, DeadRows, _DEAD_ROWS, many=many)


def commit_nothing(connection: Connection) -> None:
    """Write to the log as any commit does, without leaving a row."""
    connection.execute(text("SELECT pg_logical_emit_message(true, 'dspex-bench', '')"))


def backends_used(url: str, *, turns: int = 3) -> int:
    """How many server processes answer one client connection.

    More than one means that a pooler gives each transaction another session. A second connection holds a transaction
    open meanwhile, so that the pooler cannot return the same session each time.
    """
    libpq = libpq_url(url)
    with _session(libpq) as asking, _session(libpq) as other:
        seen = set()
        for _ in range(turns):
            with other.transaction():
                other.execute("SELECT 1")
                seen.add(_backend(asking))
            seen.add(_backend(asking))
        return len(seen)


def _session(url: str) -> psycopg.Connection[tuple[int]]:
    return psycopg.connect(url, autocommit=True, connect_timeout=5, prepare_threshold=None)


def _backend(connection: psycopg.Connection[tuple[int]]) -> int:
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    return row[0] if row else 0
