"""pgbouncer in transaction mode, in front of the tests' Postgres: with so few connections that all share them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from dspex.embedded.child_process import Account, ChildProcess, server_environment
from dspex.embedded.ports import free_port
from tests.waiting import wait_for

CONFIGURATION = """\
[databases]
* = host={host} port={port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = transaction
default_pool_size = 4
max_client_conn = 500
"""


@contextmanager
def pgbouncer(database_url: str, place: Path) -> Iterator[str]:
    """The URL of the database through a pgbouncer of one's own; skips the test where there is none."""
    binary = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    if binary is None:
        pytest.skip("pgbouncer is not installed: apt-get install pgbouncer")
    server = urlsplit(database_url)
    listen = free_port()
    users = place / "users.txt"
    users.write_text(f'"{server.username}" "{server.password}"\n')
    configuration = place / "pgbouncer.ini"
    configuration.write_text(
        CONFIGURATION.format(host=server.hostname, port=server.port, listen=listen, users=users.name)
    )
    for path in (users, configuration):
        path.chmod(0o644)  # it does not run as root
    process = ChildProcess(
        "pgbouncer", [binary, configuration.name], server_environment(), place / "pgbouncer.log", cwd=place,
        account=Account.unprivileged(),
    )  # fmt: skip
    process.start()
    credentials = server.netloc.rpartition("@")[0]
    url = urlunsplit(server._replace(netloc=f"{credentials}@127.0.0.1:{listen}"))
    try:
        wait_for(lambda: _answers(url, process), "pgbouncer to answer")
        yield f"{url}?pgbouncer=true"
    finally:
        process.stop()


def _answers(url: str, process: ChildProcess) -> bool:
    if not process.running:
        raise AssertionError(process.evidence())
    try:
        psycopg.connect(url, connect_timeout=2, prepare_threshold=None).close()
    except psycopg.OperationalError:
        return False
    return True
