"""Homes of embedded servers that are made once in a run of tests, and copied: half a second rather than three."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.embedded.embedded_stack import EmbeddedStack
from dspex.embedded.home import FileLock

__all__ = ["RUN_DIRECTORY", "copy_home", "migrated_servers", "prepared_home", "superuser"]

#: The variable that names the directory which all processes of a run share.
RUN_DIRECTORY = "TESTS_RUN_DIRECTORY"


@contextmanager
def migrated_servers(home: Path) -> Iterator[EmbeddedServers]:
    """Servers in a new ``home``, whose database is migrated."""
    copy_home(home)
    with EmbeddedServers(home, durable=False) as servers:
        yield servers


def copy_home(home: Path) -> None:
    """Make it one in which a stack has run before, without workers."""
    home.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "--archive", "--sparse=always", f"{prepared_home()}/.", str(home)], check=True)


def superuser(servers: EmbeddedServers, database: str) -> psycopg.Connection:
    """A superuser's connection."""
    return psycopg.connect(
        host="127.0.0.1",
        port=servers.postgres.port,
        user="postgres",
        password=servers.home.password("superuser"),
        dbname=database,
        autocommit=True,
    )


def prepared_home() -> Path:
    """The home that others are copied from; made by the first process of the run that asks for it."""
    directory = Path(os.environ[RUN_DIRECTORY])
    prepared, lock = directory / "home", FileLock(directory / "home.lock")
    assert lock.acquire(timeout=240)
    try:
        if not prepared.exists():
            _prepare(directory / "home.new")
            (directory / "home.new").rename(prepared)
    finally:
        lock.close()
    return prepared


def _prepare(home: Path) -> None:
    with (
        EmbeddedStack(home, workers=0, beat=False, flower=False, durable=False) as stack,
        superuser(stack.servers, "postgres") as connection,
    ):
        _hash_passwords_once(stack.servers, connection)
    shutil.rmtree(home / "log")


def _hash_passwords_once(servers: EmbeddedServers, connection: psycopg.Connection) -> None:
    """By default both sides hash a password 4,096 times with every connection, which is half of its time."""
    connection.execute("SET scram_iterations = 1")
    for role, password in (("dspex", "postgres"), ("postgres", "superuser")):
        statement = sql.SQL("ALTER ROLE {} PASSWORD {}")
        connection.execute(statement.format(sql.Identifier(role), servers.home.password(password)))
