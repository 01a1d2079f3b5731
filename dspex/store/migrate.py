"""Bringing a database's schema up to date, forward only, one process at a time."""

from __future__ import annotations

import logging
from hashlib import sha256
from pathlib import Path

import psycopg
from sqlalchemy import Connection, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import OperationalError

from dspex.errors import ConfigurationError, SchemaOutdated
from dspex.store import partitions, roles

__all__ = ["ENCODING", "check", "current", "digests", "head", "make_roles", "upgrade"]

log = logging.getLogger("dspex")

#: The encoding in which a database can store every text.
ENCODING = "UTF8"
_SCRIPTS = Path(__file__).parent / "migrations"
# The key of the lock that migrations run under: any number, the same in every DSPex.
_LOCK = 0x0D59E8


def head() -> str:
    """The revision that this version of DSPex needs: the newest migration file."""
    return max(path.name[:4] for path in (_SCRIPTS / "versions").glob("[0-9]*.py"))


def digests() -> dict[str, str]:
    """For each revision, a digest of the migrations up to it: what two states of one revision differ in."""
    found, digest = {}, sha256()
    for path in sorted((_SCRIPTS / "versions").glob("[0-9]*.py")):
        digest.update(path.read_bytes())
        found[path.name[:4]] = digest.hexdigest()
    return found


def current(connection: Connection) -> str | None:
    """The revision of the database, or None when it has no DSPex schema."""
    if connection.scalar(text("SELECT to_regclass('dspex.schema_version')")) is None:
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM dspex.schema_version"))
    return revision


def check(connection: Connection) -> None:
    """Raise SchemaOutdated unless the database has the schema this version needs."""
    found, needed = current(connection), head()
    if found is None:
        raise SchemaOutdated("the database has no DSPex schema: run `dspex migrate`", found=None, needed=needed)
    if found < needed:
        raise SchemaOutdated(
            f"the schema is at {found}, this version needs {needed}: run `dspex migrate`", found=found, needed=needed
        )
    if found > needed:
        raise SchemaOutdated(
            f"the schema is at {found}, this version knows {needed}: upgrade DSPex here", found=found, needed=needed
        )


def upgrade(engine: Engine, *, keep_days: int | None = None) -> tuple[str | None, str]:
    """Apply the missing migrations and make the coming partitions. Returns the revisions before and after.

    ``keep_days`` is DSPEX_RETENTION_DAYS, on which the length of periods depends (partitions.py). Raises
    ConfigurationError for a database that cannot store every text.
    """
    from alembic import command
    from alembic.config import Config

    with engine.begin() as connection:
        _check_encoding(connection)
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        before = current(connection)
        if before is not None and before > head():
            check(connection)
        connection.exec_driver_sql("CREATE SCHEMA IF NOT EXISTS dspex")
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(_SCRIPTS))
        command.upgrade(config, "head")
        _make_partitions(connection, keep_days)
        if roles.in_use(connection):
            roles.grant(connection)  # the new tables, too
        return before, head()


def _make_partitions(connection: Connection, keep_days: int | None) -> None:
    """Make the coming partitions, or leave them to beat's upkeep while another session, such as a backup, holds a lock:
    until then the default partitions take the rows."""
    try:
        with connection.begin_nested():
            partitions.ensure(connection, keep_days=keep_days)
    except OperationalError as error:
        if not isinstance(error.orig, psycopg.errors.LockNotAvailable):
            raise
        log.warning("the coming partitions are not made, because another session holds a lock: beat makes them later")


def _check_encoding(connection: Connection) -> None:
    encoding = connection.scalar(text("SHOW server_encoding"))
    if encoding != ENCODING:
        raise ConfigurationError(
            f"the database's encoding is {encoding}, and DSPex needs {ENCODING}: create another one with "
            f"CREATE DATABASE … ENCODING '{ENCODING}' TEMPLATE template0"
        )


def make_roles(engine: Engine) -> list[str]:
    """Create the roles of producers, workers and readers (roles.py), and grant their rights. Returns the new ones."""
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        return roles.ensure(connection)
