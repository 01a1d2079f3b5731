"""Databases of tests: migrated and empty. One is used again as long as tests changed nothing in it but rows."""

from __future__ import annotations

import itertools
from typing import Any

import psycopg

from dspex.embedded.embedded_servers import EmbeddedServers
from tests.homes import superuser
from tests.left_open import keep

__all__ = ["TestDatabases"]

#: The servers' own database, which is migrated. Nobody connects to it.
TEMPLATE = "dspex"
#: A database that grew by more bytes is dropped: its tables would be slow to read, and their statistics are wrong.
MOST_GROWTH = 1024 * 1024
#: Ends the sessions of workers that a test killed, which may be in the middle of a statement.
END_SESSIONS = """
SELECT count(pg_terminate_backend(pid, 10000))
FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
#: Changes with every change of the schema, of rights and of the rows that the migrations insert. A row of a catalog
#: that is changed gets another xmin; a copied database has those of its template.
FINGERPRINT = """
SELECT (SELECT (count(*), sum(xmin::text::bigint)) FROM pg_class)::text
    || (SELECT (count(*), sum(xmin::text::bigint)) FROM pg_attribute)::text
    || (SELECT (count(*), sum(xmin::text::bigint)) FROM pg_proc)::text
    || (SELECT (count(*), sum(xmin::text::bigint)) FROM pg_trigger)::text
    || (SELECT (count(*), sum(xmin::text::bigint)) FROM pg_constraint)::text
    || (SELECT (count(*), sum(xmin::text::bigint)) FROM pg_type)::text
    || (SELECT (count(*), sum(xmin::text::bigint)) FROM pg_default_acl)::text
    || (SELECT (count(*), sum(xmin::text::bigint)) FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_')::text
    || (SELECT (datconnlimit, datacl) FROM pg_database WHERE datname = current_database())::text
    || (SELECT count(*) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
        WHERE d.datname = current_database())
"""
TABLES = """
SELECT format('%I.%I', n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname !~ '^(pg_|information_schema)'
ORDER BY 1
"""
RESTART_SEQUENCES = """
SELECT count(setval(format('%I.%I', schemaname, sequencename)::regclass, start_value, false))
FROM pg_sequences WHERE last_value IS NOT NULL
"""


class TestDatabases:
    """Hands out databases of the servers. Their names begin with ``prefix``."""

    __test__ = False

    def __init__(self, servers: EmbeddedServers, prefix: str = "test") -> None:
        self._servers = servers
        self._prefix = prefix
        self._numbers = itertools.count(1)
        self._free: list[str] = []
        #: A session for each database, and one to make and drop them: a new one costs 15 ms.
        self._sessions: dict[str, psycopg.Connection] = {}
        with superuser(servers, TEMPLATE) as connection:
            self._tables = [name for (name,) in connection.execute(TABLES)]
            self._seeded = self._with_rows(connection)
            self._fingerprint, self._seeds = _row(connection, FINGERPRINT), self._seeds_of(connection)
            self._size = _size(connection)

    def take(self) -> str:
        """The name of a migrated, empty database."""
        if self._free:
            return self._free.pop()
        name = f"{self._prefix}_{next(self._numbers)}"
        create = f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} OWNER dspex STRATEGY FILE_COPY"
        self._session("postgres").execute(create.encode())
        return name

    def give_back(self, name: str) -> None:
        """Empty the database for another test, or drop it if more than rows was changed."""
        session = self._session(name)
        session.execute(END_SESSIONS)
        if (
            _row(session, FINGERPRINT) == self._fingerprint
            and self._seeds_of(session) == self._seeds
            and _size(session) - self._size < MOST_GROWTH
        ):
            self._empty(session)
            self._free.append(name)
        else:
            self._sessions.pop(name).close()
            self._session("postgres").execute(f"DROP DATABASE {name} WITH (FORCE)".encode())

    def close(self) -> None:
        """Close the sessions."""
        for session in self._sessions.values():
            session.close()

    def url(self, name: str) -> str:
        return f"{self._servers.database_url.rsplit('/', 1)[0]}/{name}"

    def _empty(self, connection: psycopg.Connection) -> None:
        connection.execute("SET session_replication_role = replica")  # no trigger refuses
        for table in self._with_rows(connection):
            if table not in self._seeded:
                connection.execute(f"DELETE FROM {table}".encode())
        connection.execute(RESTART_SEQUENCES)

    def _with_rows(self, connection: psycopg.Connection) -> list[str]:
        """Of the tables of the schema, which is that of the template, those with rows."""
        asked = ", ".join(f"EXISTS (SELECT FROM {table})" for table in self._tables)
        found = _row(connection, f"SELECT {asked}")
        return [table for table, has_rows in zip(self._tables, found, strict=True) if has_rows]

    def _seeds_of(self, connection: psycopg.Connection) -> list[object]:
        counted = "SELECT count(*), sum(xmin::text::bigint) FROM"
        return [_row(connection, f"{counted} {table}") for table in self._seeded]

    def _session(self, name: str) -> psycopg.Connection:
        """A superuser's, open until the database is dropped."""
        if name not in self._sessions:
            self._sessions[name] = superuser(self._servers, name)
            keep(self._sessions[name].fileno())
        return self._sessions[name]


def _size(connection: psycopg.Connection) -> int:
    (size,) = _row(connection, "SELECT pg_database_size(current_database())")
    return int(size)


def _row(connection: psycopg.Connection, statement: str) -> tuple[Any, ...]:
    row = connection.execute(statement.encode()).fetchone()
    assert row is not None
    return row
