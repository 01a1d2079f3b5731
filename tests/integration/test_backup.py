"""Backup and restore: with real pg_dump and pg_restore, and workers that go on afterwards."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

import dspex
from dspex.client.client import Client
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.errors import ConfigurationError, DspexError
from dspex.operations.backup import pg_tools
from dspex.operations.backup.backup import Backup, back_up, manifest_path
from dspex.operations.backup.restore import restore
from dspex.settings import Backends
from dspex.store import roles
from dspex.store.database import Database
from dspex.store.lifecycle.status import Status
from dspex.store.operations import backups
from tests.chaos.proxy import Proxy
from tests.conftest import fresh_backends
from tests.integration.test_cli import Shell
from tests.integration.test_roles import Login, login
from tests.processes import WorkerProcess
from tests.store.test_executions import register
from tests.waiting import wait_for

__all__ = ["login"]

QA = dspex.Program(
    "qa", dspex.signature("question -> answer"), adapter="scripted", module_options={"outputs": {"answer": "Grüße 🐈"}}
)
SLOW = dspex.Program(
    "slow", dspex.signature("question -> answer"), adapter="scripted", module_options={"sleep_ms": 500}
)


def silent(what: str, done: int, total: int) -> None:
    pass


@pytest.fixture
def elsewhere(servers: EmbeddedServers) -> Iterator[Database]:
    """Another database, to restore into."""
    with fresh_backends(servers) as fresh:
        database = Database(fresh.database_url)
        database.run(lambda connection: connection.execute(text("DROP SCHEMA dspex CASCADE")))
        yield database
        database.close()


@pytest.fixture
def made(client: Client, database: Database, tmp_path: Path) -> Backup:
    """A backup of a database with three queued executions."""
    client.deploy(QA)
    client.submit_many("qa", [{"question": str(n)} for n in range(3)])
    return back_up(database, tmp_path / "some.dump", silent)


def test_all_is_there_again_and_goes_on(
    client: Client, backends: Backends, database: Database, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    client.deploy(QA)
    client.deploy(SLOW)
    worker = start_worker(DSPEX_WORKER_CONCURRENCY=2)
    done = client.submit("qa", {"question": "?"}, idempotency_key="once")
    done.result(timeout=60)
    batch = client.submit_many("slow", [{"question": str(n)} for n in range(6)])
    wait_for(lambda: batch.progress.running, "executions to run")
    shell = Shell(backends, tmp_path)
    told = shell("backup", "-o", "some.dump", "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["rows"]["executions"] == 7
    worker.kill()
    database.run(lambda connection: connection.execute(text("DROP SCHEMA dspex CASCADE")))
    restored = shell("restore", "some.dump")
    assert restored.returncode == 0, restored.stderr
    assert "7 executions" in restored.stdout
    start_worker()
    results = [execution.status for execution in client.batch(batch.id).as_completed(timeout=60)]
    assert results == [Status.COMPLETED] * 6
    assert client.get(done.id).result().answer == "Grüße 🐈"
    assert client.submit("qa", {"question": "?"}, idempotency_key="once").id == done.id
    assert client.verify_audit() == {}


def test_a_backup_is_on_record_and_private(made: Backup, database: Database, tmp_path: Path) -> None:
    assert stat.S_IMODE(made.file.stat().st_mode) == 0o600
    found = database.run(backups.latest)
    assert found is not None
    assert (found["path"], found["bytes"]) == (str(made.file), made.manifest.bytes)
    with pytest.raises(DspexError, match="already exists: name a new file, or a directory"):
        back_up(database, made.file, silent)
    failed = database.run(lambda c: c.execute(text("SELECT error FROM dspex.backups WHERE NOT ok")).scalar_one())
    assert "already exists" in failed
    into = back_up(database, tmp_path, silent)
    assert into.file.parent == tmp_path
    assert "password" not in manifest_path(into.file).read_text()


def test_a_backup_that_may_not_be_recorded_says_why_it_was_not_made(
    login: Login, backends: Backends, tmp_path: Path
) -> None:
    database = Database(login(roles.PRODUCER))
    with pytest.raises(
        DspexError, match=r"no backup was made: pg_dump failed.*lm_calls.*is not recorded either"
    ) as raised:
        back_up(database, tmp_path / "some.dump", silent)
    database.close()
    assert raised.value.code == "backup_failed"
    assert list(tmp_path.glob("*some.dump*")) == []


def test_a_backup_that_cannot_be_put_in_place_leaves_nothing(database: Database, tmp_path: Path) -> None:
    file = tmp_path / "some.dump"

    def take_its_name(what: str, done: int, total: int) -> None:
        if what == "counting":
            file.mkdir()

    with pytest.raises(DspexError, match=r"some\.dump' cannot be written: Is a directory"):
        back_up(database, file, take_its_name)
    assert [path.name for path in tmp_path.iterdir() if "some.dump" in path.name] == ["some.dump"]


def test_a_restore_that_cannot_be_undone_says_where_the_data_is(made: Backup, database: Database) -> None:
    with Proxy(database.url) as proxy:

        def cut(what: str, done: int, total: int) -> None:
            if what == "verifying":
                proxy.cut()

        through = Database(proxy.url)
        with pytest.raises(DspexError, match=r"the restore failed: .*could not be undone: .*dspex_before_restore"):
            restore(through, made.file, cut, force=True)
        through.close()
    with pytest.raises(DspexError, match="Drop the schema that you do not want"):
        restore(database, made.file, silent)


def test_a_database_in_use_is_not_replaced(client: Client, made: Backup, database: Database) -> None:
    with pytest.raises(DspexError, match=r"3 executions, 1 programs: restore into an empty database"):
        restore(database, made.file, silent)
    newer = client.submit("qa", {"question": "newer"})
    assert restore(database, made.file, silent, force=True).queued == 3
    with pytest.raises(dspex.ExecutionNotFound):
        client.get(newer.id)
    register(database)
    with pytest.raises(DspexError, match="1 workers are alive"):
        restore(database, made.file, silent, force=True)


def test_the_rows_of_every_table_are_counted_and_compared(
    client: Client, made: Backup, database: Database, elsewhere: Database, tmp_path: Path
) -> None:
    client.dataset("capitals", [{"question": "France?", "answer": "Paris"}], inputs=["question"])
    backup = back_up(database, tmp_path / "all.dump", silent)
    tables = text(
        """SELECT relname FROM pg_class WHERE relnamespace = 'dspex'::regnamespace AND relkind IN ('r', 'p')
           AND NOT relispartition AND relname <> 'schema_version'"""
    )
    assert set(backup.manifest.rows) == set(database.run(lambda connection: connection.scalars(tables).all()))
    assert (backup.manifest.rows["datasets"], backup.manifest.rows["dataset_rows"]) == (1, 1)
    manifest = manifest_path(backup.file)
    original = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**original, "rows": {**backup.manifest.rows, "dataset_rows": 2, "gone": 3}}))
    with pytest.raises(DspexError, match=r"dataset_rows: 1 of 2, gone: None of 3"):
        restore(elsewhere, backup.file, silent)
    # A backup by an earlier version counts fewer tables.
    manifest.write_text(json.dumps({**original, "rows": {"programs": 1, "executions": 3}}))
    assert restore(elsewhere, backup.file, silent).queued == 3


def test_the_guards_of_the_audit_trail_are_back(made: Backup, elsewhere: Database) -> None:
    restore(elsewhere, made.file, silent)
    with pytest.raises(Exception, match="append-only"):
        elsewhere.run(lambda connection: connection.execute(text("DELETE FROM dspex.audit_events")))
    with pytest.raises(Exception, match="is not a transition"):
        elsewhere.run(
            lambda c: c.execute(text("UPDATE dspex.executions SET status = 'completed', finished_at = now()"))
        )


def test_what_is_damaged_is_refused_and_changes_nothing(made: Backup, elsewhere: Database, database: Database) -> None:
    manifest = manifest_path(made.file)
    original, content = manifest.read_text(), made.file.read_bytes()
    manifest.write_text(json.dumps({**json.loads(original), "rows": {**made.manifest.rows, "executions": 4}}))
    with pytest.raises(DspexError, match="executions: 3 of 4"):
        restore(elsewhere, made.file, silent)
    with pytest.raises(DspexError, match="executions: 3 of 4"):
        restore(database, made.file, silent, force=True)
    assert database.run(backups.counts)["executions"] == 3
    assert elsewhere.run(backups.in_use) == {}
    manifest.write_text(json.dumps({**json.loads(original), "schema": "9999"}))
    with pytest.raises(DspexError, match="upgrade DSPex on this host"):
        restore(elsewhere, made.file, silent)
    manifest.write_text(original)
    made.file.write_bytes(content[:-10])
    with pytest.raises(DspexError, match="is damaged"):
        restore(elsewhere, made.file, silent)
    manifest.unlink()
    with pytest.raises(DspexError, match="is missing"):
        restore(elsewhere, made.file, silent)


def test_a_restore_that_was_killed_is_undone_by_the_next(made: Backup, database: Database) -> None:
    database.run(lambda connection: connection.execute(text("ALTER SCHEMA dspex RENAME TO dspex_before_restore")))
    with pytest.raises(DspexError, match="3 executions"):
        restore(database, made.file, silent)
    assert database.run(backups.counts)["executions"] == 3


def test_a_tool_older_than_the_server_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "pg_dump"
    old.write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 12.1'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert pg_tools.find("pg_dump", 11).path == old
    assert pg_tools.find("pg_dump", 16).major >= 16
    with pytest.raises(ConfigurationError, match=r"pg_dump 99 or newer is needed.*is version 12"):
        pg_tools.find("pg_dump", 99)


def test_the_password_is_on_no_command_line() -> None:
    conninfo, environment = pg_tools._without_secrets("postgresql://u:s%40cret@h/d?sslmode=require")
    assert "cret" not in conninfo
    assert environment == {"PGPASSWORD": "s@cret"}
    assert pg_tools._without_secrets("postgresql://u@h/d")[1] == {}
