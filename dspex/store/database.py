"""Connections to Postgres, and the errors when there is none or when Postgres refuses a statement for now.

A single statement runs in autocommit (one round trip, and atomic by itself), several in
:meth:`Database.transaction`. dspex/store/sqlstates.py has the kinds of refusals: conflicts are tried again here, data
at fault and bugs are raised as they are, and the rest is BackendUnavailable.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from dspex.errors import BackendUnavailable, ConfigurationError, FieldError, SchemaOutdated, ValidationError
from dspex.program.storable_text import STORABLE
from dspex.settings import without_password
from dspex.signatures.values.json_text import read_json
from dspex.store.batching.bare_connection import BareConnection
from dspex.store.sessions import IN_UTC, connect_arguments, is_pooled, libpq_url
from dspex.store.sqlstates import Refusal, is_disconnect, reason, refusal

__all__ = ["Database", "unavailable"]

T = TypeVar("T")

#: What an error states when a statement was sent, and no answer came.
UNKNOWN_SAVED = "whether it was saved is not known"
#: A single statement that conflicts with another transaction is tried again after these times.
CONFLICT_PAUSES = (0.0, 0.02, 0.1, 0.5)
#: The longest wait for a connection of the pool.
POOL_SECONDS = 30


class Database:
    """A pool of connections to one Postgres, safe to share between threads. Connects on first use."""

    _bare_connection = BareConnection

    def __init__(
        self, url: str, *, pool_size: int = 5, overflow: int | None = None, application_name: str = "dspex",
        **session: str,
    ) -> None:  # fmt: skip
        """``overflow``: how many connections beyond the pool's are opened at need, and closed after use. ``session``:
        settings of Postgres."""
        self.url = url
        # Most statements run by themselves: a connection of the pool is in autocommit, but for a transaction.
        self._autocommit = self._engine(
            connect_args=connect_arguments(url, application_name, **session),
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,
            pool_size=pool_size,
            max_overflow=pool_size * 2 if overflow is None else overflow,
            pool_timeout=POOL_SECONDS,
            pool_use_lifo=True,
            hide_parameters=True,  # errors end up in logs, which must not contain inputs
            json_deserializer=read_json,
        )
        event.listen(self._autocommit, "do_connect", _connect_to(libpq_url(url)))
        event.listen(self._autocommit, "handle_error", _leave_the_demoted)
        self._is_closed = False
        event.listen(self._autocommit, "checkin", self._on_return)
        if is_pooled(url):
            event.listen(self._autocommit, "connect", _set_time_zone)
        self.engine = self._autocommit.execution_options(isolation_level="READ COMMITTED")

    def _engine(self, **options: Any) -> Engine:
        # libpq reads the URL itself: see _connect_to. Without hstore, of which there is none, Postgres is asked less.
        return create_engine("postgresql+psycopg://", use_native_hstore=False, **options)

    def _sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def run(self, work: Callable[[Connection], T], *, saved: str = "nothing was saved") -> T:
        """Call ``work`` with an autocommit connection, and once more when a pooled connection turns out to be dead, or
        some times when Postgres reports a conflict with another transaction.

        So ``work`` must be safe to repeat. Raises BackendUnavailable, whose message states what was ``saved``; or that
        this is not known, when the connection was lost before the answer came and Postgres stays out of reach.
        """
        pauses = iter(CONFLICT_PAUSES)
        lost = False
        while True:
            try:
                return self._once(self._autocommit, work)
            except DBAPIError as error:
                if error.connection_invalidated and not _answered(error):
                    saved = UNKNOWN_SAVED
                pause = next(pauses, None) if _kind(error) is Refusal.RETRY else None
                if error.connection_invalidated and not lost:
                    lost, pause = True, 0.0
                if pause is None:
                    raise self._translate(error, saved) from error
            self._sleep(pause)

    def run_in_batch(self, work: Callable[[Connection], T]) -> T:
        """As :meth:`run`, for the statements of every submit and wait. ``work`` gets a BareConnection; for the next try
        a Connection."""
        saved = "nothing was saved"
        try:
            pooled = self._autocommit.raw_connection()
        except PoolTimeout as error:
            raise self._pool_exhausted(saved) from error
        except psycopg.Error as error:
            raise self._translate(_of_sqlalchemy(error), saved) from error
        try:
            return self._bare(pooled, work)
        except UnicodeEncodeError as error:
            raise _unstorable() from error
        except psycopg.Error as error:
            if _is_final(error):
                raise self._translate(_of_sqlalchemy(error), saved) from error
            if error.sqlstate is None:
                saved = UNKNOWN_SAVED
        return Database.run(self, work, saved=saved)

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
                try:
                    yield connection
                except BaseException as error:
                    if not connection.invalidated and _is_busy(connection.connection.driver_connection):
                        connection.invalidate(error)  # a ROLLBACK would hide the error
                    raise
                committing = True
        except DBAPIError as error:
            raise self._translate(error, UNKNOWN_SAVED if committing and not _answered(error) else saved) from error
        except PoolTimeout as error:
            raise self._pool_exhausted(saved) from error
        except psycopg.Error as error:  # from COPY, which goes past SQLAlchemy
            if not _passes(error):
                raise
            raise unavailable(self.url, error, saved) from error

    def within(self, connection: Connection, work: Callable[[Connection], T]) -> T:
        """Call ``work`` in the caller's own transaction. Raises BackendUnavailable, SchemaOutdated."""
        try:
            return work(connection)
        except UnicodeEncodeError as error:
            raise _unstorable() from error
        except DBAPIError as error:
            saved = "nothing was saved"
            if _kind(error) is Refusal.RETRY:
                saved += ": roll back this transaction and repeat it"
            raise self._translate(error, saved) from error

    def guard(self, work: Callable[[Engine], T]) -> T:
        """Call ``work`` with the engine itself. Raises BackendUnavailable."""
        try:
            return work(self.engine)
        except DBAPIError as error:
            raise self._translate(error, "nothing was changed") from error

    def close(self) -> None:
        """Close the connections; each that is in use, once it comes back."""
        self._is_closed = True
        self._autocommit.dispose()

    def _on_return(self, _connection: object, record: ConnectionPoolEntry) -> None:
        if self._is_closed or _is_busy(record.driver_connection):
            record.invalidate()

    def _bare(self, pooled: PoolProxiedConnection, work: Callable[[Connection], T]) -> T:
        connection = self._bare_connection(pooled.driver_connection)
        try:
            return work(cast("Connection", connection))
        except BaseException as error:
            if connection.is_closed or not isinstance(error, Exception):
                pooled.invalidate(error)
            raise
        finally:
            pooled.close()

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
        if error.connection_invalidated or (isinstance(cause, psycopg.Error) and _passes(cause)):
            return unavailable(self.url, cause or error, saved)
        return error

    def _pool_exhausted(self, saved: str) -> BackendUnavailable:
        return BackendUnavailable(
            f"no free connection to Postgres at {without_password(self.url)} within {POOL_SECONDS} s ({saved}): "
            "the database is slow, or DSPEX_CLIENT_CONNECTIONS is too small",
            backend="postgres",
        )


def _not_allowed(url: str, cause: psycopg.Error) -> ConfigurationError:
    reason = str(cause).strip().split("\n")[0]
    return ConfigurationError(
        f"{without_password(url)}: this user of Postgres may not do that ({reason}): use one with the role for it, "
        "of a producer or a worker, or the schema's owner (docs/how-to/secure-connections.md). If it has that role, "
        "run `dspex migrate` of this version as the owner: it gives the roles the rights that this version needs"
    )


def _unstorable() -> ValidationError:
    """The error for text that psycopg cannot send. The message does not repeat it: it may be a user's."""
    return ValidationError.of("statement", [FieldError("parameters", STORABLE)])


def _connect_to(conninfo: str) -> Callable[..., None]:
    """A listener that gives psycopg the URL as it is, where SQLAlchemy would take it apart by its own rules."""

    def connect(_dialect: object, _record: object, arguments: list[Any], _named: object) -> None:
        arguments[0] = conninfo

    return connect


def _set_time_zone(connection: DBAPIConnection, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute(IN_UTC)
    cursor.close()
    connection.commit()


def _is_final(error: psycopg.Error) -> bool:
    """Whether Postgres refuses this for now, so that another try at once would only take as long again."""
    return refusal(error) is Refusal.WAIT and not is_disconnect(error)


def _is_busy(connection: Any) -> bool:
    """Whether a statement is under way: an exception that a signal handler raised, a time limit, ended the wait for its
    answer. Such a connection cannot be used again."""
    if connection is None or connection.closed:
        return False
    return bool(connection.pgconn.transaction_status == TransactionStatus.ACTIVE)


def _of_sqlalchemy(error: psycopg.Error) -> DBAPIError:
    """The error as SQLAlchemy raises it."""
    return cast("DBAPIError", DBAPIError.instance(None, None, error, psycopg.Error, hide_parameters=True))


def _answered(error: DBAPIError) -> bool:
    """Whether Postgres answered, with an error: then what was sent has not happened."""
    return isinstance(error.orig, psycopg.Error) and error.orig.sqlstate is not None


def _leave_the_demoted(context: ExceptionContext) -> None:
    """Close a connection that refuses to write: after a failover it still leads to the old primary."""
    if isinstance(context.original_exception, psycopg.errors.ReadOnlySqlTransaction):
        context.is_disconnect = True


def _kind(error: DBAPIError) -> Refusal | None:
    return refusal(error.orig) if isinstance(error.orig, psycopg.Error) else None


def _passes(error: psycopg.Error) -> bool:
    """Whether the same statement succeeds once what refused it has passed."""
    return refusal(error) in (Refusal.RETRY, Refusal.WAIT)


def unavailable(url: str, cause: BaseException, saved: str) -> BackendUnavailable:
    """The error for a connection that was lost, or for a statement that Postgres refuses for now."""
    why = reason(cause)
    if "unsupported startup parameter" in why:
        why += "; if this is pgbouncer, end the URL with ?pgbouncer=true"
    lost = not isinstance(cause, psycopg.Error) or is_disconnect(cause)
    details: dict[str, Any] = {"backend": "postgres", "where": without_password(url)}
    if saved == UNKNOWN_SAVED:
        details["saved"] = "unknown"
    if isinstance(cause, psycopg.Error) and cause.sqlstate is not None:
        details |= {"sqlstate": cause.sqlstate, "reason": why}
    return BackendUnavailable(
        f"Postgres at {details['where']} {'is out of reach' if lost else 'refuses this for now'} ({saved}): {why}",
        **details,
    )
