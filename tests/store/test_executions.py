"""The statements: transitions, fencing, the audit chain; against a real Postgres."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from psycopg.rows import class_row
from sqlalchemy import Row, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from uuid_utils.compat import uuid7

import dspex
from dspex.client.audit_trail import AuditTrail
from dspex.store import partitions, programs, workers
from dspex.store.array_text import id_array
from dspex.store.audit_chain import entry_hash, hash_of_values
from dspex.store.database import Database
from dspex.store.lifecycle import executions, recovery
from dspex.store.lifecycle.dispatch import dispatch, find_unclaimed, has_backlog, take_back
from dspex.store.lifecycle.executions import Claimed, Settlement, Submission
from dspex.store.lifecycle.recovery import Overdue
from dspex.store.lifecycle.status import TRANSITIONS, Status
from dspex.store.operations import audit_pages

PROGRAM = dspex.Program("qa", dspex.signature("question -> answer"), adapter="scripted")
CLAIMED = '[{"kind":"claimed"}]'
EVENTS = '[{"kind":"submitted","data":{"note":"Grüße, \\u0000 and 🐈"}}]'


@pytest.fixture(autouse=True)
def _deployed(database: Database) -> None:
    database.run(partial(programs.deploy, program=PROGRAM))


@pytest.fixture
def worker_id(database: Database) -> UUID:
    return register(database)


def register(database: Database) -> UUID:
    id: UUID = uuid7()
    options: dict[str, Any] = {"host": "h", "pid": 1, "version": "0", "concurrency": 100, "lease_seconds": 5}
    database.run(lambda connection: workers.register(connection, id=id, **options))
    return id


def submission(**values: Any) -> Submission:
    fields: dict[str, Any] = {
        "id": uuid7(), "program": "qa", "version": PROGRAM.version, "inputs": '{"question":"?"}', "events": EVENTS,
        "priority": 5, "max_attempts": 3, "timeout_seconds": 60.0,
    }  # fmt: skip
    return Submission(**{**fields, **values})


def submit(database: Database, **values: Any) -> UUID:
    made = submission(**values)
    assert database.run(partial(executions.insert, submission=made)) is not None
    return made.id


def claim(
    database: Database, worker_id: UUID, *ids: UUID, unrunnable: Sequence[str] = (), alone: bool = False
) -> list[Claimed]:
    def work(connection: Any) -> list[Claimed]:
        with connection.connection.driver_connection.cursor(row_factory=class_row(Claimed)) as cursor:
            parameters = executions.claim_parameters(
                ids, worker_id=worker_id, events=CLAIMED, unrunnable=unrunnable, alone=ids if alone else ()
            )
            rows: list[Claimed] = cursor.execute(executions.CLAIM, parameters).fetchall()
            return rows

    return database.run(work)


def settle(database: Database, claimed: Claimed, status: str = "completed", **values: Any) -> bool:
    kind = "retried" if status == "queued" else status
    values = {"metrics": "{}", "events": f'[{{"kind":"{kind}"}}]', **values}
    made = Settlement(claimed.id, claimed.attempt, claimed.worker_id, status, **values)

    def work(connection: Any) -> bool:
        statement = executions.settle_statement([made])
        rows = connection.exec_driver_sql(statement, executions.settle_parameters([made])).all()
        return [row.id for row in rows] == [claimed.id]

    return database.run(work)


def dispatch_due(database: Database, window: int = 10, *, suspects_most: int = 1) -> list[Row[Any]]:
    with database.transaction() as connection:
        has_some = has_backlog(connection)
        found = dispatch(connection, window, suspects_most=suspects_most)
    assert has_some or not found, "a leader does not look without a backlog"
    return found


def take_back_unclaimed(database: Database, older_than: float) -> list[UUID]:
    ids = database.run(partial(find_unclaimed, older_than=older_than, most=100))
    return database.run(partial(take_back, ids=ids))


def declare_dead(database: Database, id: UUID) -> None:
    beats = database.run(workers.heartbeats)
    silent = [beat for beat in beats if beat.worker_id == id]
    assert database.run(partial(workers.declare_dead, silent=silent)) == [id]


def recover(database: Database, overdue: Overdue | None = None) -> list[Row[Any]]:
    """What a leader recovers that has watched Postgres' clock for ever."""
    overdue = overdue or Overdue(10.0, datetime(2000, 1, 1, tzinfo=UTC), 1e9)
    ids = database.run(partial(recovery.find_lost, overdue=overdue))
    return database.run(partial(recovery.recover, worker_id=uuid7(), ids=ids, overdue=overdue)) if ids else []


def trail(database: Database, id: UUID) -> AuditTrail:
    (chain,) = database.run(partial(audit_pages.of, ids=[id]))
    return AuditTrail(chain)


def status(database: Database, id: UUID) -> str:
    row = database.run(partial(executions.find, id=id))
    assert row is not None
    return str(row["status"])


def triggers(connection: Any, table: str, switch: str) -> None:
    """As the owner of the table may, and the application's roles may not."""
    connection.execute(text(f"ALTER TABLE dspex.{table} {switch} TRIGGER USER"))


def set_status(connection: Any, id: UUID, before: str, after: str) -> None:
    """Force a status past the triggers, then take the transition with them."""
    shape = """worker_id = CASE WHEN :status = 'running' THEN id END,
               waiting_for = CASE WHEN :status = 'waiting' THEN 'batch' END,
               waiting_since = CASE WHEN :status = 'waiting' THEN now() END,
               finished_at = CASE WHEN :status IN ('completed', 'failed', 'cancelled') THEN now() END"""
    triggers(connection, "executions", "DISABLE")
    connection.execute(
        text(f"UPDATE dspex.executions SET status = :status, {shape} WHERE id = :id"), {"status": before, "id": id}
    )
    triggers(connection, "executions", "ENABLE")
    connection.execute(
        text(f"""UPDATE dspex.executions SET status = :status, {shape}, audit_seq = audit_seq + 1,
                 audit_hash = sha256(audit_hash) WHERE id = :id"""),
        {"status": after, "id": id},
    )  # fmt: skip


ROLLOUT, NEXT_YEAR = uuid7(), datetime.now(UTC) + timedelta(days=365)
STATES = {
    "usual": "SELECT 1",
    "paused": "UPDATE dspex.programs SET paused_at = now()",
    "concurrency": "UPDATE dspex.programs SET concurrency = 1",
    "per_minute": "UPDATE dspex.programs SET per_minute = 1",
    "rollout": f"UPDATE dspex.programs SET rollout_id = '{ROLLOUT}', rollout_version = 'next'",
    "full": "UPDATE dspex.executions SET dispatched_at = now()",
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("values", [
    {},
    {"publish": False},
    {"run_at": NEXT_YEAR},
    {"version": "next"},
    {"version": "next", "rollout_id": ROLLOUT},
    {"program": "unknown"},
    {"rollout_id": ROLLOUT, "stream": True, "metadata": '{"a":1}', "traceparent": "00-1-2-01", "route": '"direct"',
     "purpose": '{"job":"j"}', "priority": 0, "max_attempts": 40_000, "timeout_seconds": 1.5},
])  # fmt: skip
def test_one_submission_is_stored_as_it_would_be_among_others(
    database: Database, state: str, values: dict[str, Any]
) -> None:
    with database.transaction() as connection:
        if state == "full":
            executions.copy(connection, [submission() for _ in range(executions.UNSERVED_MOST)])
        connection.execute(text(STATES[state]))
    single, twin, other, shared = (submission(**values) for _ in range(4))
    company = [submission(key="k", publish=False), shared, submission(tenant="t", publish=False)]
    stored = [
        database.run_in_batch(partial(executions.insert, submission=single)),
        database.run_in_batch(partial(executions.insert_all, submissions=[other, twin])).get(twin.id),
        database.run(partial(executions.insert_all, submissions=company)).get(shared.id),
    ]
    assert len({row is None for row in stored}) == 1
    found = [row for row in stored if row is not None]
    if not found:
        return
    assert len({row.dispatched_at is None for row in found}) == 1
    assert len({(row.workers, row.smallest) for row in found}) == 1
    differing = {"id", "created_at", "run_at", "dispatched_at", "audit_hash"}
    with database.transaction() as connection:
        rows = [
            connection.execute(text("SELECT * FROM dspex.executions WHERE id = :id"), {"id": each.id}).mappings().one()
            for each in found
        ]
    one, *others = ({name: value for name, value in row.items() if name not in differing} for row in rows)
    assert others == [one, one]
    assert [row["run_at"] == row["created_at"] for row in rows] == [single.run_at is None] * 3
    for row in found:
        assert trail(database, row.id).verify()


def test_of_submissions_that_are_alike_only_as_many_as_have_room_are_published(database: Database) -> None:
    alike = [submission(inputs=f'{{"question":"{number}"}}') for number in range(executions.UNSERVED_MOST + 3)]
    rows = database.run_in_batch(partial(executions.insert_all, submissions=alike))
    assert [rows[each.id].dispatched_at is None for each in alike] == [False] * executions.UNSERVED_MOST + [True] * 3
    stored = database.run(partial(executions.find_many, ids=[each.id for each in alike]))
    assert {row["id"]: row["inputs"] for row in stored} == {each.id: each.inputs for each in alike}


def test_what_is_stored_already_is_not_stored_again(database: Database) -> None:
    first, second, third = (submission() for _ in range(3))

    def store(*submissions: Submission) -> set[UUID]:
        return set(database.run_in_batch(partial(executions.insert_all, submissions=submissions)))

    assert store(first) == {first.id}
    assert store(first) == set()
    assert store(first, second) == {second.id}
    assert store(third, second) == {third.id}


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(Status, 2)))
def test_the_database_allows_the_transitions_of_the_table_and_no_others(
    database: Database, before: Status, after: Status
) -> None:
    id = submit(database)
    admin = database.engine
    with admin.connect() as connection, connection.begin() as transaction:
        if (before, after) in TRANSITIONS:
            set_status(connection, id, before, after)
        else:
            with pytest.raises(DBAPIError, match="is not a transition"):
                set_status(connection, id, before, after)
        transaction.rollback()


def test_a_transition_without_an_audit_entry_is_refused(database: Database) -> None:
    id = submit(database)
    with pytest.raises(DBAPIError, match="without an audit entry"):
        database.run(
            lambda connection: connection.execute(
                text("UPDATE dspex.executions SET status = 'cancelled', finished_at = now() WHERE id = :id"), {"id": id}
            )
        )


def test_a_claim_succeeds_once(database: Database, worker_id: UUID) -> None:
    id = submit(database)
    assert [c.id for c in claim(database, worker_id, id)] == [id]
    assert claim(database, register(database), id) == []
    assert claim(database, worker_id, id) == []


def test_a_worker_declared_dead_claims_nothing(database: Database, worker_id: UUID) -> None:
    id = submit(database)
    database.run(partial(workers.stop, id=worker_id))
    assert claim(database, worker_id, id) == []


def test_what_the_pump_has_not_dispatched_is_not_claimed(database: Database, worker_id: UUID) -> None:
    id = submit(database, publish=False)
    assert claim(database, worker_id, id) == []
    assert [row.id for row in dispatch_due(database)] == [id]
    assert [c.id for c in claim(database, worker_id, id)] == [id]


def test_dispatch_takes_the_urgent_first_and_keeps_to_its_window(database: Database) -> None:
    ids = {priority: submit(database, publish=False, priority=priority) for priority in (7, 0, 3)}
    first = dispatch_due(database, window=2)
    assert [row.id for row in first] == [ids[0], ids[3]]
    assert dispatch_due(database, window=2) == []
    later = submit(database, publish=False, run_at=datetime(2999, 1, 1, tzinfo=UTC))
    assert later not in {row.id for row in dispatch_due(database)}


def test_only_the_attempt_that_is_running_settles_and_only_once(database: Database, worker_id: UUID) -> None:
    id = submit(database)
    (first,) = claim(database, worker_id, id)
    assert settle(database, first, "queued", delay_seconds=0.0)
    assert not settle(database, first), "the attempt is over"
    dispatch_due(database)
    (second,) = claim(database, register(database), id)
    assert second.attempt == 2
    assert not settle(database, first), "a worker that comes back finds no row"
    assert settle(database, second, result='{"answer":"!"}')
    assert not settle(database, second, result='{"answer":"?"}')
    assert trail(database, id).verify()


def test_a_worker_declared_dead_settles_nothing_even_before_its_work_is_taken(
    database: Database, worker_id: UUID
) -> None:
    id = submit(database)
    (claimed,) = claim(database, worker_id, id)
    database.run(partial(workers.stop, id=worker_id))
    assert not settle(database, claimed)
    assert status(database, id) == "running"


def test_the_work_of_a_dead_worker_is_requeued_and_poison_ends(database: Database) -> None:
    id = submit(database, max_attempts=2)
    for expected in ("queued", "failed"):
        doomed = register(database)
        dispatch_due(database)
        assert len(claim(database, doomed, id)) == 1
        declare_dead(database, doomed)
        assert [(row.id, row.status) for row in recover(database)] == [(id, expected)]
    events = trail(database, id)
    assert events.verify()
    assert events.kinds.count("lease_expired") == 2
    assert events["failed"].data["code"] == "poisoned"
    row = database.run(partial(executions.find, id=id))
    assert row is not None
    assert row["error"]["code"] == "poisoned"


def test_an_attempt_of_a_job_that_was_lost_with_a_rollout_does_not_count(database: Database) -> None:
    job = submit(database, max_attempts=1, purpose='{"job_of":"j"}')
    rollout = submit(database, purpose='{"job":"j"}')
    for _ in range(2):
        doomed = register(database)
        dispatch_due(database)
        assert len(claim(database, doomed, job, rollout)) == 2
        declare_dead(database, doomed)
        assert {row.status for row in recover(database)} == {"queued"}
    assert {row.id: row.suspect for row in dispatch_due(database)} == {job: False, rollout: True}
    other = submit(database, purpose='{"job":"another"}')
    doomed = register(database)
    assert len(claim(database, doomed, job, other)) == 2
    declare_dead(database, doomed)
    assert {row.id: row.status for row in recover(database)} == {job: "failed", other: "queued"}
    events = trail(database, job)
    assert events.verify()
    assert events["failed"].data["code"] == "poisoned"


def test_a_living_worker_keeps_its_work(database: Database, worker_id: UUID) -> None:
    id = submit(database)
    claim(database, worker_id, id)
    assert recover(database) == []
    assert status(database, id) == "running"


def test_what_was_dispatched_and_never_claimed_is_taken_back(database: Database) -> None:
    id = submit(database)
    assert take_back_unclaimed(database, 60.0) == []
    assert take_back_unclaimed(database, -1.0) == [id]
    assert [row.id for row in dispatch_due(database)] == [id]


def test_python_and_the_database_compute_the_same_hash(database: Database) -> None:
    id, at = uuid7(), datetime(2026, 11, 22, 10, 11, 12, 345678, UTC)
    for hashes in ({"submission": b"\x03\xff", "outcome": None}, {"submission": None, "outcome": b"\x04"}):
        parameters = {"previous": b"\x01\x02", "id": id, "at": at, "events": EVENTS, **hashes}
        statement = text("SELECT dspex.audit_hash(:previous, :id, 3, 2, :at, :submission, :outcome, :events)")
        stored = database.run(lambda c: c.execute(statement, parameters).scalar_one())  # noqa: B023
        named = {f"{name}_hash": value for name, value in hashes.items()}
        assert stored == entry_hash(b"\x01\x02", id, 3, 2, at, EVENTS, **named)


@pytest.mark.parametrize("values", [("qa", "v", EVENTS, None), ("qa", "", None, "漢"), ("a", "b", "c", "d")])
def test_python_and_the_database_compute_the_same_hashes_of_values(
    database: Database, values: tuple[str | None, ...]
) -> None:
    for name, given in (("submission", values), ("outcome", (*values, "e"))):
        columns = ", ".join(f":v{n}" for n in range(len(given)))
        statement = text(f"SELECT dspex.{name}_hash({columns})")
        parameters = {f"v{n}": value for n, value in enumerate(given)}
        assert database.run(lambda c: c.execute(statement, parameters).scalar_one()) == hash_of_values(*given)  # noqa: B023


def test_copied_executions_have_the_same_chain(database: Database, worker_id: UUID) -> None:
    made = [submission(batch_id=uuid7(), batch_index=n) for n in range(3)]
    with database.transaction() as connection:
        executions.copy(connection, made)
    assert len(dispatch_due(database)) == 3
    assert len(claim(database, worker_id, *[s.id for s in made])) == 3
    assert all(trail(database, s.id).verify() for s in made)


def test_what_is_copied_is_stored_as_it_is(database: Database) -> None:
    nasty = json.dumps(
        {"question": 'tab\tline\nreturn\r "quoted" \\N \\. \\x41 déjà 漢字 \U0001f600'}, ensure_ascii=False
    )
    indented = json.dumps(json.loads(nasty), indent=2)  # real ends of lines
    batch, later = uuid7(), datetime.now(UTC) + timedelta(days=1)
    made = [
        submission(inputs=nasty, metadata=nasty, batch_id=batch, batch_index=0, traceparent="00-1-2-01"),
        submission(inputs=indented, run_at=later, priority=9, timeout_seconds=0.25, max_attempts=7),
        submission(events=f'[{{"kind":"submitted","data":{nasty}}}]', batch_id=batch, batch_index=2),
    ]
    with database.transaction() as connection:
        executions.copy(connection, made)
    rows = [database.run(partial(executions.find, id=each.id)) for each in made]
    for each, row in zip(made, rows, strict=True):
        assert row is not None
        stored = {name: row[name] for name in each._fields if name in row and name not in ("metadata", "run_at")}
        assert stored == {name: value for name, value in each._asdict().items() if name in stored}
        assert row["run_at"] == (each.run_at or row["created_at"])
        assert row["metadata"] == (each.metadata and json.loads(each.metadata))
        assert trail(database, each.id).verify()
    assert trail(database, made[2].id)[0].data == json.loads(nasty)


@pytest.mark.parametrize(
    "statement",
    ["UPDATE dspex.audit_events SET attempt = 9", "DELETE FROM dspex.audit_events", "TRUNCATE dspex.audit_events"],
)
def test_the_audit_table_is_append_only(database: Database, statement: str) -> None:
    submit(database)
    with pytest.raises(DBAPIError, match="append-only"):
        database.run(lambda connection: connection.execute(text(statement)))


@pytest.mark.parametrize(
    ("tamper", "fault"),
    [
        ("UPDATE dspex.audit_events SET events = '[]' WHERE execution_id = :id AND seq = 1", "entry 1 was changed"),
        ("DELETE FROM dspex.audit_events WHERE execution_id = :id AND seq = 1", "entry 1 is missing"),
        (
            "DELETE FROM dspex.audit_events WHERE execution_id = :id AND seq = 3",
            "has 2 entries; the execution recorded 3",
        ),
        (
            "INSERT INTO dspex.audit_events (execution_id, seq, attempt, at, events, hash) "
            "SELECT execution_id, 4, attempt, at, events, hash FROM dspex.audit_events "
            "WHERE execution_id = :id AND seq = 3",
            "entry 4 was changed",
        ),
    ],
)
def test_tampering_past_the_triggers_is_found(database: Database, worker_id: UUID, tamper: str, fault: str) -> None:
    id = submit(database)
    (claimed,) = claim(database, worker_id, id)
    settle(database, claimed)
    assert trail(database, id).verify()
    with database.transaction() as connection:
        triggers(connection, "audit_events", "DISABLE")
        connection.execute(text(tamper), {"id": id})
        triggers(connection, "audit_events", "ENABLE")
    verdict = trail(database, id).verify()
    assert not verdict
    assert fault in verdict.faults[0]


def test_rows_go_to_the_partition_of_their_month(database: Database) -> None:
    id = submit(database)
    table = database.run(
        lambda c: c.execute(
            text("SELECT tableoid::regclass::text FROM dspex.executions WHERE id = :id"), {"id": id}
        ).scalar_one()
    )
    assert table.split(".")[-1] == f"executions_{datetime.now(UTC):%Y_%m}_01"
    old = partitions.first_id(datetime(2001, 1, 1, tzinfo=UTC))
    submit(database, id=old)
    assert status(database, old) == "queued"


@pytest.mark.parametrize(
    ("index", "query"),
    [
        ("executions_due", "SELECT id FROM dspex.executions WHERE program = 'qa' AND priority = 5 "
                           "AND status = 'queued' AND dispatched_at IS NULL AND held_at IS NULL AND run_at <= now() "
                           "ORDER BY run_at LIMIT 10"),
        ("executions_running", "SELECT id FROM dspex.executions WHERE status = 'running' "
                               "AND worker_id = gen_random_uuid()"),
        ("executions_dispatched", "SELECT program, count(*) FROM dspex.executions WHERE status = 'queued' "
                                  "AND dispatched_at IS NOT NULL GROUP BY program"),
    ],
)  # fmt: skip
def test_what_is_hot_is_found_by_its_own_index(database: Database, index: str, query: str) -> None:
    with database.transaction() as connection:
        executions.copy(connection, [submission() for _ in range(2000)])
        triggers(connection, "executions", "DISABLE")
        connection.execute(text("UPDATE dspex.executions SET status = 'completed', finished_at = now()"))
        connection.execute(text("ANALYZE dspex.executions"))
        plan = "\n".join(connection.scalars(text(f"EXPLAIN {query}")))
    # An index of a partition is named for the partition; its columns tell which it is.
    assert any(f"{kind} Scan" in plan for kind in ("Index", "Index Only", "Bitmap Index")), plan
    month = f"executions_{datetime.now(UTC):%Y_%m}_01"
    columns = {
        "executions_due": "program_priority_run_at",
        "executions_running": "worker_id",
        "executions_dispatched": "program_dispatched_at",
    }
    assert f"{month}_{columns[index]}_idx" in plan, plan


def test_no_row_holds_what_a_worker_cannot_read_or_compute_with(database: Database) -> None:
    id = submit(database)
    for change in (
        "timeout_seconds = 'NaN'", "timeout_seconds = 'Infinity'", "timeout_seconds = 0", "attempt = 2147483647",
        "max_attempts = 2147483647", "run_at = '-infinity'", "run_at = 'infinity'", "created_at = '0044-03-15 BC'",
    ):  # fmt: skip
        with pytest.raises(IntegrityError, match="check constraint"), database.transaction() as connection:
            connection.execute(text(f"UPDATE dspex.executions SET {change} WHERE id = :id"), {"id": id})


@pytest.mark.parametrize("name", ["\ud800", "a\x00b"])
def test_text_that_cannot_be_sent_is_a_validation_error_and_the_connection_stays_usable(
    client: dspex.Client, name: str
) -> None:
    requests: list[Callable[[], object]] = [
        lambda: client.list(program=name),
        lambda: client.program("qa", name),
        lambda: client.pause(name),
        lambda: client.retry_failed(name),
    ]
    for request in requests:
        with pytest.raises(dspex.ValidationError, match="text without NUL characters and lone surrogates"):
            request()
    with client._database.engine.begin() as connection:
        with pytest.raises(dspex.ValidationError):
            client._database.within(connection, partial(executions.known_key, program="qa", key=name))
        assert client.submit("qa", {"question": "?"}, connection=connection)
    assert len(client.list(program="qa")) == 1


def test_a_row_read_past_sqlalchemy_has_the_same_values_of_the_same_types(database: Database, worker_id: UUID) -> None:
    id = submit(
        database, metadata='{"n": [1, 2.5, 1e400, null, true, "\\u0000 \\ud800 Grüße"]}', tenant="t",
        run_at=datetime(2026, 1, 2, 3, 4, 5, 6, UTC), traceparent="00-1-2-01", purpose='  {"job": "j"} ',
    )  # fmt: skip
    dispatch_due(database)
    (claimed,) = claim(database, worker_id, id)
    metrics = '{"execution_time_ms": 0.25, "cost_usd": 1e-7, "calls": 12345678901234567890}'
    assert settle(database, claimed, metrics=metrics, result=" 1 ", adapter_used="a", action_results="[]")
    read = partial(executions.find_many, ids=[id], final=True)
    (row,), (bare,) = database.run(read), database.run_in_batch(read)
    assert row["metrics"] == json.loads(metrics)
    assert {name: repr(value) for name, value in bare.items()} == {name: repr(value) for name, value in row.items()}


def test_ids_are_found_whatever_their_digits(database: Database) -> None:
    ids = [UUID(int=0), UUID(int=10), UUID(int=2**128 - 1), uuid7()]
    with database.transaction() as connection:
        found = connection.exec_driver_sql("SELECT %(ids)s::uuid[]", {"ids": id_array(ids)}).scalar_one()
    assert found == ids


def test_rows_are_read_by_the_index_however_few_there_were_for_the_first_read(database: Database) -> None:
    """A plan that is kept was perhaps made for an empty table, of which Postgres would read all."""
    scans = text("SELECT sum(seq_scan) FROM pg_stat_xact_user_tables WHERE relname LIKE 'executions%'")
    ids = [submit(database) for _ in range(3)]
    with database.transaction() as connection:
        for wanted in (ids, ids[:1]):
            assert {row["id"] for row in executions.find_many(connection, wanted)} == {*wanted}
        assert executions.find_many(connection, ids, final=True) == []
        assert connection.scalar(scans) == 0
        connection.execute(text("SELECT * FROM dspex.executions WHERE id = ANY(:ids)"), {"ids": ids})
        assert connection.scalar(scans) > 0, "Postgres would read such small tables as a whole"
