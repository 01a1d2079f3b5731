"""Connections to Postgres, and the errors when there is none.

A single statement runs in autocommit (one round trip, and atomic by itself), several in
:meth:`Database.transaction`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from dspex.errors import BackendUnavailable, ConfigurationError, FieldError, SchemaOutdated, ValidationError
from dspex.program.storable_text import STORABLE
from dspex.settings import without_password
from dspex.store.sessions import IN_UTC, is_pooled, libpq_url, session_arguments

__all__ = ["Database", "is_disconnect", "unavailable"]

T = TypeVar("T")

CONNECT_TIMEOUT_SECONDS = 5
#: What an error states when a statement was sent, and no answer came.
UNKNOWN_SAVED = "whether it was saved is not known"
#: A peer that vanished silently is noticed after about 10 s rather than the kernel's two hours.
KEEPALIVE: dict[str, Any] = {
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


class Database:
    """A pool of connections to one Postgres, safe to share between threads. Connects on first use."""

    def __init__(self, url: str, *, pool_size: int = 5, application_name: str = "dspex") -> None:
        self.url = url
        self.engine: Engine = create_engine(
            libpq_url(url).replace("postgresql://", "postgresql+psycopg://", 1),
            pool_size=pool_size,
            max_overflow=pool_size * 2,
            pool_timeout=30,
            pool_use_lifo=True,
            hide_parameters=True,  # errors end up in logs, which must not contain inputs
            connect_args={
                "connect_timeout": CONNECT_TIMEOUT_SECONDS,
                "application_name": application_name,
                **session_arguments(url),
                **KEEPALIVE,
            },
        )
        event.listen(self.engine, "handle_error", _leave_the_demoted)
        if is_pooled(url):
            event.listen(self.engine, "connect", _set_time_zone)
        self._autocommit = self.engine.execution_options(isolation_level="AUTOCOMMIT")

    def run(self, work: Callable[[Connection], T], *, saved: str = "nothing was saved") -> T:
        """Call ``work`` with an autocommit connection, and once more when a pooled connection turns out to be dead.

        So ``work`` must be safe to repeat. Raises BackendUnavailable, whose message states what was ``saved``; or that
        this is not known, when the connection was lost before the answer came and Postgres stays out of reach.
        """
        try:
            return self._once(self._autocommit, work)
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise self._translate(error, saved) from error
            if not _answered(error):
                saved = UNKNOWN_SAVED
        try:
            return self._once(self._autocommit, work)
        except DBAPIError as error:
            raise self._translate(error, saved) from error

    @contextmanager
    def transaction(
        self,
        *,
        read_only: bool = False,
        snapshot: bool = False,
        statement_seconds: float | None = None,
        saved: str = "nothing was saved",
    ) -> Iterator[Connection]:
        """A connection in a transaction that commits at the end. Raises BackendUnavailable, whose message states what
        was ``saved``; or that this is not known, when the answer to the commit did not come.

        With ``snapshot`` it is read-only, and all its statements see the database as it was at the first one.
        ``statement_seconds`` is how long Postgres lets each statement run.
        """
        committing = False
        try:
            with self.engine.begin() as connection:
                if snapshot:
                    connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                elif read_only:
                    connection.exec_driver_sql("SET TRANSACTION READ ONLY")
                if statement_seconds is not None:
                    connection.exec_driver_sql(f"SET LOCAL statement_timeout = {int(statement_seconds * 1000)}")
                yield connection
                committing = True
        except DBAPIError as error:
            raise self._translate(error, UNKNOWN_SAVED if committing and not _answered(error) else saved) from error
        except PoolTimeout as error:
            raise self._pool_exhausted(saved) from error
        except psycopg.Error as error:  # from COPY, which goes past SQLAlchemy
            if not is_disconnect(error):
                raise
            raise unavailable(self.url, error, saved) from error

    def within(self, connection: Connection, work: Callable[[Connection], T]) -> T:
        """Call ``work`` in the caller's own transaction. Raises BackendUnavailable, SchemaOutdated."""
        try:
            return work(connection)
        except UnicodeEncodeError as error:
            raise _unstorable() from error
        except DBAPIError as error:
            raise self._translate(error, "nothing was saved") from error

    def guard(self, work: Callable[[Engine], T]) -> T:
        """Call ``work`` with the engine itself. Raises BackendUnavailable."""
        try:
            return work(self.engine)
        except DBAPIError as error:
            raise self._translate(error, "nothing was changed") from error

    def close(self) -> None:
        self.engine.dispose()

    def _once(self, engine: Engine, work: Callable[[Connection], T]) -> T:
        try:
            with engine.connect() as connection:
                return work(connection)
        except PoolTimeout as error:
            raise self._pool_exhausted("nothing was saved") from error
        except UnicodeEncodeError as error:
            raise _unstorable() from error

    def _translate(self, error: DBAPIError, saved: str) -> Exception:
        cause = error.orig
        if isinstance(cause, psycopg.errors.UndefinedTable | psycopg.errors.InvalidSchemaName):
            return SchemaOutdated("the database has no DSPex schema, or an old one: run `dspex migrate`")
        if isinstance(cause, psycopg.errors.InsufficientPrivilege) and str(cause).startswith("permission denied"):
            return _not_allowed(self.url, cause)
        if isinstance(cause, psycopg.DataError) and "cannot contain NUL" in str(cause):
            return _unstorable()
        if error.connection_invalidated or (isinstance(cause, psycopg.Error) and is_disconnect(cause)):
            return unavailable(self.url, cause or error, saved)
        return error

    def _pool_exhausted(self, saved: str) -> BackendUnavailable:
        return BackendUnavailable(
            f"no free connection to Postgres at {without_password(self.url)} within 30 s ({saved}): "
            "share fewer threads per Client, or give it a larger pool",
            backend="postgres",
        )


def _not_allowed(url: str, cause: psycopg.Error) -> ConfigurationError:
    reason = str(cause).strip().split("\n")[0]
    return ConfigurationError(
        f"{without_password(url)}: this user of Postgres may not do that ({reason}): use one with the role for it, "
        "of a producer or a worker (docs/how-to/secure-connections.md)"
    )


def _unstorable() -> ValidationError:
    """The error for text that psycopg cannot send. The message does not repeat it: it may be a user's."""
    return ValidationError.of("statement", [FieldError("parameters", STORABLE)])


def _set_time_zone(connection: psycopg.Connection[Any], _record: object) -> None:
    connection.execute(IN_UTC)
    connection.commit()


def _answered(error: DBAPIError) -> bool:
    """Whether Postgres answered, with an error: then what was sent has not happened."""
    return isinstance(error.orig, psycopg.Error) and error.orig.sqlstate is not None


def _leave_the_demoted(context: ExceptionContext) -> None:
    """Close a connection that refuses to write: after a failover it still leads to the old primary."""
    if isinstance(context.original_exception, psycopg.errors.ReadOnlySqlTransaction):
        context.is_disconnect = True


def is_disconnect(error: psycopg.Error) -> bool:
    """Whether the server cannot be used at all at present, rather than having refused one statement.

    Class 08 and no state at all: no connection; 57P: shutting down or starting; 53300: too many connections;
    25006: read-only, as a standby is after a failover.
    """
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | psycopg.errors.ReadOnlySqlTransaction):
        return False
    state = error.sqlstate
    return state is None or state.startswith(("08", "57P")) or state in ("53300", "25006")


def unavailable(url: str, cause: BaseException, saved: str) -> BackendUnavailable:
    reason = str(cause).strip().split("\n")[0]
    if "unsupported startup parameter" in reason:
        reason += "; if this is pgbouncer, end the URL with ?pgbouncer=true"
    return BackendUnavailable(
        f"Postgres at {without_password(url)} is out of reach ({saved}): {reason}",
        backend="postgres",
        where=without_password(url),
    )
