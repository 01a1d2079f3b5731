"""A psycopg connection of the caller, such as Django's, as one of SQLAlchemy.

Nothing is begun, committed, rolled back, closed or set up: that is the caller's. One engine serves all of them; its
pool keeps nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.pool import NullPool

__all__ = ["BorrowedDialect", "borrowed"]

_lent: ContextVar[psycopg.Connection[Any]] = ContextVar("lent")
_first = threading.Lock()


class BorrowedDialect(PGDialect_psycopg):
    """Postgres through psycopg, on connections that belong to somebody else."""

    supports_statement_cache = True

    def on_connect(self) -> None:
        """Add no handlers to a connection: each use would add them again."""

    def do_begin(self, dbapi_connection: object) -> None:
        """The owner begins."""

    def do_commit(self, dbapi_connection: object) -> None:
        """The owner commits."""

    def do_rollback(self, dbapi_connection: object) -> None:
        """The owner rolls back."""

    def do_close(self, dbapi_connection: object) -> None:
        """The owner closes."""

    def do_terminate(self, dbapi_connection: object) -> None:
        """The owner closes."""


@contextmanager
def borrowed(connection: psycopg.Connection[Any]) -> Iterator[Connection]:
    """The connection for SQLAlchemy, in the transaction that it is in."""
    token = _lent.set(connection)
    try:
        with _first:  # the first connection of an engine is examined, and no other meanwhile
            opened = _engine().connect()
        with opened:
            yield opened
    finally:
        _lent.reset(token)


@cache
def _engine() -> Engine:
    registry.register("postgresql.dspex_borrowed", __name__, BorrowedDialect.__name__)
    return create_engine(
        "postgresql+dspex_borrowed://",
        creator=_lent.get,
        poolclass=NullPool,
        pool_reset_on_return=None,
        use_native_hstore=False,
        hide_parameters=True,
    )
