"""Retention: what goes, what stays, what is told of it; against a real Postgres."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from dspex.client.client import Client
from dspex.errors import DspexError, ExecutionNotFound
from dspex.operations.audit import audit_export
from dspex.operations.audit.verify_audit import verify_trails
from dspex.operations.retention.upkeep import plan, upkeep
from dspex.settings import Settings
from dspex.settings.storage_settings import StorageSettings
from dspex.store import migrate, partitions, programs
from dspex.store.database import Database
from dspex.store.operations import retention
from tests.store.test_executions import PROGRAM, claim, register, settle, submit, triggers

PERIODS = [(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC))]
NAME = "2026_01_01"
LONG_AGO = datetime(2026, 1, 10, tzinfo=UTC)
KEEP_AUDIT: dict[str, Any] = {"retention_days": 30, "audit_retention_days": 36_500}


@pytest.fixture
def worker_id(database: Database) -> UUID:
    database.run(partial(programs.deploy, program=PROGRAM))
    for begin, end in PERIODS:
        given = {"low": partitions.first_id(begin), "high": partitions.first_id(end), "name": f"{begin:%Y_%m_%d}"}
        assert database.run(lambda c: c.scalar(text("SELECT dspex.make_period(:name, :low, :high)"), given))  # noqa: B023
    return register(database)


def old_id(number: int) -> UUID:
    return UUID(int=partitions.first_id(LONG_AGO + timedelta(minutes=number)).int + number)


def completed(
    database: Database, worker_id: UUID, ids: Sequence[UUID], *, at: datetime | None = LONG_AGO
) -> Sequence[UUID]:
    """Executions that completed at this time; None for now."""
    for id in ids:
        submit(database, id=id)
    for claimed in claim(database, worker_id, *ids):
        assert settle(database, claimed, result='{"answer":"!"}')
    if at is not None:
        finish(database, ids, at)
    return ids


def finish(database: Database, ids: Sequence[UUID], at: datetime) -> None:
    with database.transaction() as connection:
        triggers(connection, "executions", "DISABLE")
        statement = text("UPDATE dspex.executions SET finished_at = :at WHERE id = ANY(:ids)")
        connection.execute(statement, {"ids": list(ids), "at": at})
        triggers(connection, "executions", "ENABLE")


def run(database: Database, **settings: Any) -> list[str]:
    return [("waits: " if step.waits else "") + step.what for step in upkeep(database, StorageSettings(**settings))]


def count(database: Database, table: str, where: str = "true") -> int:
    return int(
        database.run(lambda c: c.execute(text(f"SELECT count(*) FROM dspex.{table} WHERE {where}")).scalar_one())
    )


def faults(database: Database) -> dict[UUID, Sequence[str]]:
    return {id: verdict.faults for id, verdict in verify_trails(database)}


def test_a_period_goes_whole_but_for_what_is_not_settled(database: Database, worker_id: UUID) -> None:
    completed(database, worker_id, [old_id(n) for n in range(3)])
    (recent,) = completed(database, worker_id, [partitions.first_id(datetime.now(UTC))])
    waiting, running = submit(database, id=old_id(10)), submit(database, id=old_id(11))
    claim(database, worker_id, running)
    assert run(database) == []  # nothing is asked for
    kept = f"removed the executions of {NAME}; kept 2 of them, which are not settled, or were settled lately"
    assert kept in run(database, retention_days=30)
    assert run(database, retention_days=30) == []  # twice is harmless
    left = database.run(lambda c: set(c.scalars(text("SELECT id FROM dspex.executions"))))
    assert left == {waiting, running, recent}
    assert count(database, "audit_events", f"execution_id <= '{old_id(9)}'") == 0
    assert faults(database) == {}
    (period,) = (p for p in database.run(retention.periods) if p.name == NAME)
    assert (period.executions, period.bytes, period.leftovers) == (3, 0, False)


def test_what_stayed_goes_on_and_goes_once_it_is_settled(database: Database, worker_id: UUID) -> None:
    submit(database, id=old_id(1))
    completed(database, worker_id, [old_id(2)])
    run(database, retention_days=30)
    (claimed,) = claim(database, worker_id, old_id(1))
    assert settle(database, claimed)
    assert faults(database) == {}
    assert run(database, retention_days=30) == [], "it was settled just now"
    finish(database, [claimed.id], datetime.now(UTC) - timedelta(days=31))
    assert "removed 1 executions outside their period" in run(database, retention_days=30)
    assert [count(database, table) for table in partitions.TABLES] == [0, 0, 0]


def test_what_was_settled_lately_stays_until_its_time_is_over(database: Database, worker_id: UUID) -> None:
    """It waited long, and its client has not read it yet."""
    (late,) = completed(database, worker_id, [old_id(1)], at=None)
    completed(database, worker_id, [old_id(2)])
    assert any("kept 1 of them" in step for step in run(database, retention_days=30))
    for days, left in ((29, 1), (31, 0)):
        finish(database, [late], datetime.now(UTC) - timedelta(days=days))
        run(database, retention_days=30)
        assert count(database, "executions") == count(database, "audit_events", "seq = 1") == left


def test_more_than_a_thousand_unsettled_keep_their_period(database: Database, worker_id: UUID) -> None:
    database.run(
        lambda c: c.execute(
            text("""INSERT INTO dspex.executions (id, program, version, status, priority, attempt, max_attempts,
                timeout_seconds, created_at, run_at, inputs, audit_seq, audit_hash)
                SELECT (left(CAST(CAST(:low AS uuid) AS text), 24) || lpad(to_hex(n), 12, '0'))::uuid, 'qa', 'v',
                'queued', 5, 0, 3, 60, now(), now(), '{}', 1, '' FROM generate_series(1, 1001) n"""),
            {"low": old_id(0)},
        )
    )
    (waits,) = run(database, retention_days=30)[-1:]
    assert waits.startswith(f"waits: executions of {NAME}: more than 1,000 of its executions are not settled")
    assert count(database, "executions") == 1001


def test_trails_kept_longer_verify_without_their_executions(database: Database, worker_id: UUID) -> None:
    completed(database, worker_id, [old_id(n) for n in range(4)])
    submit(database, id=old_id(9))
    assert any("kept 1 of them" in step for step in run(database, **KEEP_AUDIT))
    assert count(database, "audit_events", "seq = 1") == 5
    assert faults(database) == {}
    with database.transaction() as connection:
        connection.execute(text("ALTER TABLE dspex.audit_events DISABLE TRIGGER USER"))
        connection.execute(
            text("DELETE FROM dspex.audit_events WHERE execution_id = :id AND seq = 3"), {"id": old_id(2)}
        )
        connection.execute(text("ALTER TABLE dspex.audit_events ENABLE TRIGGER USER"))
    ((_, (fault,)),) = faults(database).items()
    assert fault.startswith(f"the trails of the period {NAME} do not match its digest")


def test_trails_go_only_once_they_are_exported(database: Database, worker_id: UUID, tmp_path: Path) -> None:
    completed(database, worker_id, [old_id(n) for n in range(3)])
    missing = tmp_path / "archive"
    steps = run(database, retention_days=30, retention_export=missing)
    assert any(s.startswith("waits: ") and "cannot be written" in s for s in steps)
    assert count(database, "audit_events", "seq = 1") == 3
    missing.mkdir()
    run(database, retention_days=30, retention_export=missing)
    assert count(database, "audit_events") == 0
    held, broken = audit_export.verify_file(missing / f"dspex-audit-{NAME}.jsonl.gz")
    assert (held.executions, held.entries, broken) == (3, 9, {})
    (period,) = (p for p in database.run(retention.periods) if p.name == NAME)
    assert period.digest is not None
    assert held.digest == period.digest.hex()
    assert period.audit_export is not None
    assert [file.name for file in missing.iterdir()] == [f"dspex-audit-{NAME}.jsonl.gz"]


def test_trails_that_were_tampered_with_are_not_removed(database: Database, worker_id: UUID, tmp_path: Path) -> None:
    completed(database, worker_id, [old_id(n) for n in range(3)])
    run(database, **KEEP_AUDIT)
    with database.transaction() as connection:
        connection.execute(text("ALTER TABLE dspex.audit_events DISABLE TRIGGER USER"))
        connection.execute(text("DELETE FROM dspex.audit_events WHERE execution_id = :id"), {"id": old_id(1)})
        connection.execute(text("ALTER TABLE dspex.audit_events ENABLE TRIGGER USER"))
    steps = run(database, retention_days=30, retention_export=tmp_path)
    assert any(s.startswith("waits: ") and "their digest is not the recorded one" in s for s in steps)
    assert count(database, "audit_events", "seq = 1") == 2


def test_a_lock_held_elsewhere_is_not_waited_for(database: Database, worker_id: UUID) -> None:
    completed(database, worker_id, [old_id(1)])
    with database.transaction() as reading:
        reading.execute(text("SELECT count(*) FROM dspex.executions"))  # as pg_dump does, for hours
        steps = run(database, retention_days=30)
    refused = "canceling statement due to lock timeout (SQLSTATE 55P03); the next upkeep tries again"
    assert f"waits: executions of {NAME}: {refused}" in steps
    assert f"removed the executions of {NAME}" in run(database, retention_days=30)


def test_an_upkeep_that_was_cut_short_goes_on(database: Database, worker_id: UUID) -> None:
    completed(database, worker_id, [old_id(n) for n in range(2)])
    retire = partial(retention.retire_executions, period=NAME, settled_before=datetime.now(UTC))
    database.run(retire)  # and its worker was killed
    steps = run(database, retention_days=30)
    assert f"removed the audit trails of {NAME}" in steps
    (period,) = (p for p in database.run(retention.periods) if p.name == NAME)
    assert (period.executions, period.leftovers) == (2, False)


def test_audit_entries_are_still_refused_to_everybody_else(database: Database, worker_id: UUID) -> None:
    completed(database, worker_id, [old_id(1), partitions.first_id(datetime.now(UTC))])
    run(database, retention_days=30)
    with pytest.raises(DBAPIError, match="append-only"):
        database.run(lambda c: c.execute(text("DELETE FROM dspex.audit_events")))
    name = f"{datetime.now(UTC):%Y_%m}_01"
    with pytest.raises(DBAPIError, match="is not over"):
        database.run(partial(retention.retire_executions, period=name, settled_before=datetime.now(UTC)))


def test_the_client_says_that_retention_removed_it(client: Client, database: Database, worker_id: UUID) -> None:
    completed(database, worker_id, [old_id(1)])
    run(database, **KEEP_AUDIT)
    for ask in (client.get, client.cancel, client.retry, client.audit_trail):
        with pytest.raises(
            ExecutionNotFound, match=r"retention removed settled executions submitted before 2026-02-01.*trail is kept"
        ):
            ask(old_id(1))
    with pytest.raises(ExecutionNotFound, match="dspex list"):
        client.get(partitions.first_id(datetime.now(UTC)))


def test_a_key_is_free_once_its_execution_is_gone(client: Client, database: Database, worker_id: UUID) -> None:
    inputs = {"question": "?"}
    first = client.submit("qa", inputs, idempotency_key="k")
    completed(database, worker_id, [old_id(1)])
    database.run(lambda c: c.execute(text("UPDATE dspex.idempotency_keys SET execution_id = :id"), {"id": old_id(1)}))
    database.run(partial(retention.retire_executions, period=NAME, settled_before=datetime.now(UTC)))
    with pytest.raises(ExecutionNotFound, match="the next upkeep frees the key") as refused:
        client.submit("qa", inputs, idempotency_key="k")
    assert refused.value.retryable
    assert "removed 1 idempotency keys" in run(database, retention_days=30)
    assert client.submit("qa", inputs, idempotency_key="k").id != first.id


def test_two_upkeeps_at_once_do_it_once(database: Database, worker_id: UUID, tmp_path: Path) -> None:
    completed(database, worker_id, [old_id(n) for n in range(50)])
    submit(database, id=old_id(60))
    with ThreadPoolExecutor(4) as pool:
        settings = {"retention_days": 30, "retention_export": tmp_path}
        found = [
            steps for future in [pool.submit(run, database, **settings) for _ in range(4)] for steps in future.result()
        ]
    assert any(step.startswith("removed the executions") for step in found)
    run(database, **settings)
    held, broken = audit_export.verify_file(tmp_path / f"dspex-audit-{NAME}.jsonl.gz")
    assert (held.executions, broken, count(database, "executions")) == (50, {}, 1)
    assert faults(database) == {}


def test_rows_of_other_tables_go_with_time(database: Database, worker_id: UUID) -> None:
    completed(database, worker_id, [old_id(1)])
    statements = [
        f"INSERT INTO dspex.idempotency_keys VALUES ('qa', 'gone', '{old_id(1)}', ''), "
        f"('qa', 'kept', '{partitions.first_id(datetime.now(UTC))}', '')",
        "INSERT INTO dspex.health_checks (at, overall, report) VALUES (now() - interval '31 days', 'healthy', '{}')",
        "UPDATE dspex.workers SET stopped_at = now() - interval '31 days'",
        "INSERT INTO dspex.backups (at, ok, host, path) VALUES (now() - interval '2 years', true, 'h', 'p')",
    ]
    for statement in statements:
        database.run(lambda c: c.execute(text(statement)))  # noqa: B023
    before = database.run(retention.prunable)
    assert before["health checks"] == before["workers"] == before["backups"] == 1
    steps = run(database, retention_days=30)
    assert {"removed 1 idempotency keys", "removed 1 health checks", "removed 1 workers", "removed 1 backups"} <= {
        *steps
    }
    assert count(database, "idempotency_keys") == 1


@pytest.mark.parametrize(("days", "longest"), [(7, 1), (30, 7), (365, 31), (None, 31)])
def test_periods_are_as_long_as_retention_asks_for(database: Database, days: int | None, longest: int) -> None:
    database.run(partial(partitions.ensure, keep_days=days))
    now = datetime.now(UTC)
    found = [(partitions.moment(p.low), partitions.moment(p.high)) for p in database.run(retention.periods)]
    assert all(one[1] == other[0] for one, other in pairwise(found))
    assert found[0][0] <= now
    assert found[-1][1] - now > timedelta(days=longest)
    assert all(end - begin <= timedelta(days=longest) for begin, end in found if begin > now)
    assert database.run(partial(partitions.ensure, keep_days=days)) == []


FAR = datetime(2950, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "low", "high", "why"),
    [
        ("2950_01_01", FAR, FAR + timedelta(days=31), "begins more than a year from now"),
        (NAME, PERIODS[0][1], PERIODS[0][0], "begins on the day in its name"),
        ("2026_02_02", datetime(2026, 2, 2, tzinfo=UTC), datetime(2026, 2, 2, tzinfo=UTC), "lasts 31 days at most"),
        ("2026_02_02", datetime(2026, 2, 2, tzinfo=UTC), FAR, "lasts 31 days at most"),
        ("2026_02_02", datetime(2026, 2, 3, tzinfo=UTC), datetime(2026, 2, 4, tzinfo=UTC), "begins on the day"),
        ("2026_02_30", datetime(2026, 2, 3, tzinfo=UTC), datetime(2026, 2, 4, tzinfo=UTC), "out of range"),
        ("tomorrow", datetime(2026, 2, 3, tzinfo=UTC), datetime(2026, 2, 4, tzinfo=UTC), "does not name a period"),
    ],
)
def test_a_period_with_other_dates_is_refused(
    database: Database, name: str, low: datetime, high: datetime, why: str
) -> None:
    given = {"name": name, "low": partitions.first_id(low), "high": partitions.first_id(high)}
    with pytest.raises(DBAPIError, match=why):
        database.run(lambda c: c.scalar(text("SELECT dspex.make_period(:name, :low, :high)"), given))


def test_a_period_in_the_way_does_not_stop_the_others(database: Database) -> None:
    """Gaps are filled; a period beyond all calendars, which older versions accepted, is removed."""
    before = database.run(retention.periods)
    far = {"low": partitions.first_id(FAR), "high": UUID(int=2**128 - 1)}
    with database.transaction() as connection:
        connection.execute(text("INSERT INTO dspex.periods (name, low, high) VALUES ('far', :low, :high)"), far)
        for table in partitions.TABLES:
            bounds = f"FOR VALUES FROM ('{far['low']}') TO ('{far['high']}')"
            connection.execute(text(f"CREATE TABLE dspex.{table}_far PARTITION OF dspex.{table} {bounds}"))
        gone = before[1].name
        assert connection.scalar(text("SELECT dspex.unmake_period(:name)"), {"name": gone})
    assert migrate.upgrade(database.engine)[1] == migrate.head()
    assert [period.name for period in database.run(retention.periods)] == [period.name for period in before]
    begins = partitions.moment(before[1].low)
    overlapping = {"name": gone, "low": before[1].low, "high": partitions.first_id(begins + timedelta(days=1))}
    statement = text("SELECT dspex.make_period(:name, :low, :high)")
    assert database.run(lambda c: c.scalar(statement, overlapping)) is False


def test_a_plan_says_when_each_period_goes(database: Database, worker_id: UUID) -> None:
    planned = next(p for p in plan(database, StorageSettings(**KEEP_AUDIT)) if p.period.name == NAME)
    assert planned.executions_go_at == datetime(2026, 3, 3, tzinfo=UTC)


# ------------------------------------------------------------------------------------------------------ exported files


@pytest.mark.parametrize("name", ["audit.jsonl", "audit.jsonl.gz", "audit.parquet"])
def test_a_file_is_verified_without_the_database(
    database: Database, worker_id: UUID, tmp_path: Path, name: str
) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="pyarrow is not installed: dspex[parquet]")
    completed(database, worker_id, [old_id(n) for n in range(5)])
    path = tmp_path / name
    written = audit_export.export(path, audit_export.chains(database, None, None), about={})
    assert audit_export.verify_file(path) == (written, {})
    assert (written.executions, written.entries) == (5, 15)
    some = audit_export.chains(database, LONG_AGO + timedelta(minutes=1), LONG_AGO + timedelta(minutes=3))
    assert audit_export.export(path, some, about={}).executions == 2


def test_a_file_that_was_changed_or_cut_is_found_out(database: Database, worker_id: UUID, tmp_path: Path) -> None:
    completed(database, worker_id, [old_id(n) for n in range(3)])
    path = tmp_path / "audit.jsonl"
    audit_export.export(path, audit_export.chains(database, None, None), about={})
    lines = path.read_text().splitlines(keepends=True)
    changed = json.loads(lines[2])
    changed["entries"][1]["events"] = "[]"
    path.write_text("".join([*lines[:2], json.dumps(changed) + "\n", *lines[3:]]))
    _, broken = audit_export.verify_file(path)
    assert [verdict.faults for verdict in broken.values()] == [
        ("entry 2 was changed: its hash does not match its content",)
    ]
    for damaged, why in [
        (lines[:-1], "truncated"),
        (lines[:2] + lines[3:], "it declares"),
        (lines[1:], "first line"),
    ]:
        path.write_text("".join(damaged))
        with pytest.raises(DspexError, match=why):
            audit_export.verify_file(path)


def test_settings_that_cannot_be_kept_are_refused() -> None:
    with pytest.raises(DspexError, match="AUDIT_RETENTION_DAYS"):
        Settings.load(audit_retention_days=7, retention_days=30)
    with pytest.raises(DspexError, match="REQUEST_RETENTION_DAYS"):
        Settings.load(request_retention_days=31, retention_days=30)
    with pytest.raises(DspexError, match="absolute path"):
        Settings.load(retention_export=Path("here"))


def test_a_step_that_fails_keeps_no_other_from_running(database: Database, worker_id: UUID) -> None:
    with database.transaction() as connection:
        connection.execute(text("INSERT INTO dspex.health_checks (at, overall, report) VALUES ('2001-1-1', 'x', '{}')"))
        connection.execute(text("UPDATE dspex.workers SET stopped_at = '2001-1-1', state = 'dead'"))
        connection.execute(text("CREATE FUNCTION dspex.refuse_all() RETURNS trigger LANGUAGE plpgsql AS "
                                "$$ BEGIN RAISE EXCEPTION 'not today'; END $$"))  # fmt: skip
        connection.execute(text("CREATE TRIGGER refused BEFORE DELETE ON dspex.health_checks "
                                "FOR EACH ROW EXECUTE FUNCTION dspex.refuse_all()"))  # fmt: skip
    assert run(database)[-2:] == [
        "waits: health checks: not today; the next upkeep tries again",
        "removed 1 workers",
    ]
