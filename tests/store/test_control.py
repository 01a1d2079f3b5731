"""Cancelling, pausing, retrying, submitting in the caller's transaction, verifying: the statements, and their races."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

import dspex
from dspex.client.client import Client
from dspex.operations.audit.verify_audit import verify_trails
from dspex.store import programs, workers
from dspex.store.database import Database
from dspex.store.lifecycle import control, executions, recovery
from dspex.store.lifecycle.recovery import Overdue
from dspex.store.operations.health import models_in_use
from tests.store.test_executions import (
    PROGRAM,
    claim,
    dispatch_due,
    register,
    settle,
    status,
    submission,
    submit,
    trail,
    triggers,
)
from tests.store.test_executions import recover as recover_all
from workers.attempt.settlement import stored_error


@pytest.fixture(autouse=True)
def _deployed(database: Database) -> None:
    database.run(partial(programs.deploy, program=PROGRAM))


@pytest.fixture
def worker_id(database: Database) -> UUID:
    return register(database)


def cancel(database: Database, *ids: UUID) -> control.Cancelled:
    return database.run(partial(control.cancel, ids=ids))


def retry(database: Database, *ids: UUID) -> list[UUID]:
    return database.run(partial(control.retry, ids=ids))


def dispatch(database: Database) -> list[UUID]:
    return [row.id for row in dispatch_due(database, window=100)]


def recover(database: Database) -> list[tuple[UUID, str]]:
    return [(row.id, row.status) for row in recover_all(database)]


def row_of(database: Database, id: UUID) -> dict[str, Any]:
    row = database.run(partial(executions.find, id=id))
    assert row is not None
    return dict(row)


def execute(database: Database, statement: str, **parameters: Any) -> None:
    database.run(lambda connection: connection.execute(text(statement), parameters))


# ------------------------------------------------------------------------------------------------------- cancel


def test_cancelling_ends_what_is_queued_and_asks_for_what_is_running(database: Database, worker_id: UUID) -> None:
    queued, running, completed = (submit(database) for _ in range(3))
    claims = {c.id: c for c in claim(database, worker_id, running, completed)}
    settle(database, claims[completed])
    found = cancel(database, queued, running, completed, uuid7())
    assert found == control.Cancelled([queued], [running], {completed: "completed"})
    assert status(database, queued) == "cancelled"
    assert status(database, running) == "running"
    assert trail(database, queued).kinds[-1] == "cancelled"
    assert claim(database, worker_id, queued) == []
    assert settle(database, claims[running]), "it was finished first: that is what happened"
    assert status(database, running) == "completed"
    assert all(trail(database, id).verify() for id in (queued, running, completed))


def test_what_is_to_be_cancelled_does_not_go_back_to_the_queue(database: Database) -> None:
    for lost in (False, True):
        worker_id, id = register(database), submit(database)
        (claimed,) = claim(database, worker_id, id)
        assert cancel(database, id).running == [id]
        if lost:
            database.run(partial(workers.stop, id=worker_id))
            assert recover(database) == [(id, "cancelled")]
        else:
            assert settle(database, claimed, "queued")
        assert status(database, id) == "cancelled"
        assert trail(database, id).kinds[-1] == "cancelled"
        assert trail(database, id).verify()
        assert dispatch(database) == []


def test_a_cancel_and_a_worker_race_to_one_outcome(database: Database, worker_id: UUID) -> None:
    """Claim, settle and cancel of the same executions at once, from three sides."""
    ids = [submit(database) for _ in range(60)]

    def work(id: UUID) -> bool:
        claimed = claim(database, worker_id, id)
        return bool(claimed) and settle(database, claimed[0], random.choice(["completed", "queued", "failed"]))

    with ThreadPoolExecutor(9) as threads:
        cancels = [threads.submit(cancel, database, id) for id in ids]
        works = [threads.submit(work, id) for id in ids]
        found = [future.result() for future in cancels]
        settled = [future.result() for future in works]
    for id, cancelled, was_settled in zip(ids, found, settled, strict=True):
        final = status(database, id)
        kinds = trail(database, id).kinds
        assert trail(database, id).verify()
        assert kinds.count("cancelled") == (final == "cancelled")
        if cancelled.ended and "claimed" not in kinds:
            assert final == "cancelled"
            assert not was_settled
        if cancelled.running and was_settled:
            assert final in ("completed", "failed", "cancelled"), "it is not queued again"


# ------------------------------------------------------------------------------------------------------ recovery


def test_what_is_past_its_deadline_is_taken_from_a_living_worker(database: Database, worker_id: UUID) -> None:
    id = submit(database, timeout_seconds=5.0, max_attempts=2)
    for expected in ("queued", "failed"):
        (claimed,) = claim(database, worker_id, id)
        assert recover(database) == []
        execute(database, "UPDATE dspex.executions SET deadline_at = now() - interval '11 s' WHERE id = :id", id=id)
        assert recover(database) == [(id, expected)]
        assert not settle(database, claimed), "it comes too late"
        dispatch(database)
    error = row_of(database, id)["error"]
    assert error["code"] == "attempts_exhausted"
    assert error["details"]["cause"]["code"] == "deadline_exceeded"
    assert "could not be interrupted" in error["message"]
    assert trail(database, id).kinds.count("deadline_exceeded") == 2
    assert trail(database, id).verify()


def test_poison_carries_its_evidence(database: Database) -> None:
    id = submit(database, max_attempts=3)
    (claimed,) = claim(database, first := register(database), id)
    settle(database, claimed, "queued")
    for _ in range(2):
        dispatch(database)
        claim(database, doomed := register(database), id)
        database.run(partial(workers.stop, id=doomed))
        recover(database)
    error = row_of(database, id)["error"]
    assert error["code"] == "poisoned"
    assert error["message"] == "2 of its 3 attempts ended with the death of its worker, the last on h (pid 1)"
    deaths = error["details"]["workers"]
    assert [death["attempt"] for death in deaths] == [2, 3]
    assert deaths[-1]["worker"] == str(doomed)
    assert deaths[0]["worker"] not in (str(first), str(doomed))
    assert all(datetime.fromisoformat(death[key]) for death in deaths for key in ("last_heartbeat_at", "found_at"))


def test_an_error_can_be_read_by_its_code_whatever_it_says(database: Database, worker_id: UUID) -> None:
    """Postgres refuses to read a JSON text's code while U+0000 stands anywhere in it."""
    (claimed,) = claim(database, worker_id, id := submit(database))
    error = dspex.ProgramError("it said \x00 and \\u0000 and \ud800", reason="\x00")
    settle(database, claimed, "failed", error=stored_error(error))
    execute(database, "SELECT error->>'code' FROM dspex.executions")
    assert row_of(database, id)["error"]["message"] == "it said \ufffd and \\u0000 and ?"


def test_an_attempt_that_is_handed_back_does_not_count(database: Database, worker_id: UUID) -> None:
    id = submit(database, max_attempts=1)
    (claimed,) = claim(database, worker_id, id)
    assert settle(database, claimed, "queued", counts=False)
    assert row_of(database, id)["max_attempts"] == 2


# --------------------------------------------------------------------------------------------- pause and retry


def test_a_paused_program_is_neither_dispatched_nor_claimed(database: Database, worker_id: UUID) -> None:
    published, left, other = submit(database), submit(database, publish=False), uuid7()
    database.run(partial(programs.deploy, program=dspex.Program("other", PROGRAM.signature, adapter="scripted")))
    assert database.run(partial(programs.set_pause, name="qa", paused=True))
    assert claim(database, worker_id, published) == [], "it is taken back"
    assert dispatch(database) == []
    # A submit that did not see the pause yet has put its id on the queue.
    execute(database, "UPDATE dspex.executions SET dispatched_at = now() WHERE id = :id", id=left)
    assert claim(database, worker_id, left) == []
    newer = dspex.Program("qa", PROGRAM.signature, adapter="scripted", timeout=9)
    database.run(partial(programs.deploy, program=newer))
    assert database.run(programs.paused) == {"qa": "by an operator"}, "deploying does not end a pause"
    assert database.run(partial(programs.set_pause, name="qa", paused=False))
    assert sorted(dispatch(database)) == sorted([published, left])
    assert len(claim(database, worker_id, published, left)) == 2
    assert not database.run(partial(programs.set_pause, name=str(other), paused=True))


def test_an_operator_retries_what_failed_or_was_cancelled(database: Database, worker_id: UUID) -> None:
    failed, cancelled, queued, completed = (submit(database, max_attempts=3) for _ in range(4))
    claims = {c.id: c for c in claim(database, worker_id, failed, completed)}
    settle(database, claims[failed], "failed", error='{"code":"attempts_exhausted"}')
    settle(database, claims[completed])
    cancel(database, cancelled)
    assert sorted(retry(database, failed, cancelled, queued, completed)) == sorted([failed, cancelled])
    row = row_of(database, failed)
    assert (row["status"], row["attempt"], row["max_attempts"], row["finished_at"]) == ("queued", 1, 4, None)
    assert row["error"]["code"] == "attempts_exhausted", "why the last attempt failed"
    assert sorted(dispatch(database)) == sorted([failed, cancelled])
    assert {c.id: c.attempt for c in claim(database, worker_id, failed, cancelled)} == {failed: 2, cancelled: 1}
    assert trail(database, failed)["retried"].data == {"by": "operator"}
    assert all(trail(database, id).verify() for id in (failed, cancelled))


def test_all_dead_letters_are_retried_once_each(client: Client, database: Database, worker_id: UUID) -> None:
    made = [submission() for _ in range(1100)]
    with database.transaction() as connection:
        executions.copy(connection, made)
        triggers(connection, "executions", "DISABLE")
        connection.execute(
            text("UPDATE dspex.executions SET status = 'failed', finished_at = now(), attempt = max_attempts")
        )
        triggers(connection, "executions", "ENABLE")
    client.deploy(dspex.Program("another", dspex.signature("question -> answer"), adapter="scripted"))
    assert client.retry_failed("another") == 0
    with pytest.raises(dspex.ProgramNotFound):
        client.retry_failed("other")
    assert client.retry_failed("qa") == 1100
    assert client.retry_failed() == 0


# ------------------------------------------------------------------------------------- in the caller's transaction


def test_a_submit_is_part_of_the_callers_transaction(client: Client, database: Database) -> None:
    with database.engine.begin() as connection:
        first = client.submit("qa", {"question": "1"}, connection=connection, idempotency_key="k")
        assert client.submit("qa", {"question": "1"}, connection=connection, idempotency_key="k").id == first.id
        with pytest.raises(dspex.ExecutionNotFound):
            client.get(first.id)
        assert dispatch(database) == []
    assert first.refresh().status is dspex.Status.QUEUED
    assert dispatch(database) == [first.id], "the pump finds it once it is committed"
    with database.engine.connect() as connection:
        lost = client.submit("qa", {"question": "2"}, connection=connection, idempotency_key="other")
        connection.rollback()
    assert [execution.id for execution in client.list()] == [first.id]
    assert client.submit("qa", {"question": "3"}, idempotency_key="other").id != lost.id, "the key was given back too"
    with Session(database.engine) as session, session.begin():
        client.submit("qa", {"question": "4"}, connection=session.connection())
    assert len(client.list()) == 3


async def test_an_asynchronous_connection_lends_itself(client: Client, database: Database) -> None:
    pytest.importorskip("greenlet", reason="SQLAlchemy's asyncio needs it, DSPex does not")
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(make_url(database.url).set(drivername="postgresql+psycopg"))
    async with engine.begin() as connection:
        made = await connection.run_sync(lambda c: client.submit("qa", {"question": "?"}, connection=c))
        with pytest.raises(dspex.ValidationError, match="AsyncConnection"):
            client.submit("qa", {"question": "?"}, connection=connection)  # type: ignore[arg-type]
    await engine.dispose()
    assert client.get(made.id).audit_trail.verify()


def test_a_wrong_connection_is_refused(client: Client, database: Database) -> None:
    elsewhere = create_engine(make_url(database.url).set(drivername="postgresql+psycopg", database="postgres"))
    sqlite = create_engine("sqlite://")
    with sqlite.connect() as wrong, Session(database.engine) as session, elsewhere.connect() as other:
        for connection in (wrong, session, database.engine, "postgresql://"):
            with pytest.raises(dspex.ValidationError, match=r"connection: expected a SQLAlchemy Connection"):
                client.submit("qa", {"question": "?"}, connection=connection)  # type: ignore[arg-type]
        with pytest.raises(dspex.SchemaOutdated):
            client.submit("qa", {"question": "?"}, connection=other)
    elsewhere.dispose()
    sqlite.dispose()


def test_fifty_submits_with_one_key_are_one_execution(client: Client) -> None:
    def once(number: int) -> UUID:
        return client.submit("qa", {"question": "?"}, idempotency_key="one").id

    with ThreadPoolExecutor(50) as threads:
        ids = set(threads.map(once, range(50)))
    assert len(ids) == 1
    assert len(client.list()) == 1


# -------------------------------------------------------------------------------------------------------- audit


def test_the_whole_database_is_verified(database: Database, worker_id: UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dspex.operations.audit.verify_audit.PAGE_ROWS", 3)
    began = datetime.now(UTC)
    ids = [submit(database, publish=True) for _ in range(10)]
    claim(database, worker_id, *ids)
    told: list[tuple[int, int]] = []
    assert list(verify_trails(database, on_progress=lambda *figures: told.append(figures))) == []
    assert told[-1] == (10, 10)
    with database.transaction() as connection:
        for table in ("audit_events", "executions"):
            triggers(connection, table, "DISABLE")
        for statement, id in (
            ("UPDATE dspex.audit_events SET attempt = 7 WHERE execution_id = :id AND seq = 2", ids[2]),
            ("DELETE FROM dspex.audit_events WHERE execution_id = :id", ids[3]),
            ("DELETE FROM dspex.executions WHERE id = :id", ids[8]),
        ):
            connection.execute(text(statement), {"id": id})
        for table in ("audit_events", "executions"):
            triggers(connection, table, "ENABLE")
    found = {id: verdict.faults for id, verdict in verify_trails(database)}
    assert found == {
        ids[2]: ("entry 2 was changed: its hash does not match its content",),
        ids[3]: ("the trail has 0 entries; the execution recorded 2",),
        ids[8]: ("the trail exists, but its execution does not",),
    }
    assert {id for id, _ in verify_trails(database, program="qa")} == {ids[2], ids[3]}
    assert list(verify_trails(database, program="other")) == []
    assert len(list(verify_trails(database, since=began - timedelta(seconds=1)))) == 3
    assert list(verify_trails(database, since=datetime.now(UTC) + timedelta(hours=1))) == []


def test_a_role_that_may_only_append_to_the_trail_is_enough(database: Database) -> None:
    """What a role of least rights builds on: no statement of ours changes or removes an audit entry."""
    role = f"app_{uuid7().hex}"
    for grant in (
        f"CREATE ROLE {role}", f"GRANT {role} TO CURRENT_USER", f"GRANT USAGE ON SCHEMA dspex TO {role}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA dspex TO {role}",
        f"REVOKE UPDATE, DELETE, TRUNCATE ON dspex.audit_events FROM {role}",
        f"GRANT EXECUTE ON FUNCTION dspex.append_entries TO {role}",
    ):  # fmt: skip
        execute(database, grant)
    own = Database(database.url)
    with own.engine.connect() as connection:
        connection.exec_driver_sql(f"SET ROLE {role}")
        connection.commit()
        id, worker_id = uuid7(), uuid7()
        workers.register(connection, id=worker_id, host="h", pid=1, version="0", concurrency=1, lease_seconds=5)
        assert executions.insert(connection, submission(id=id)) is not None
        parameters = executions.claim_parameters([id], worker_id=worker_id, events='[{"kind":"claimed"}]')
        assert connection.exec_driver_sql(executions.CLAIM, parameters).one().id == id
        workers.stop(connection, worker_id)
        overdue = Overdue(10, datetime.now(UTC), 0)
        assert recovery.find_lost(connection, overdue) == [id]
        assert len(recovery.recover(connection, worker_id, [id], overdue)) == 1
        assert control.cancel(connection, [id]).ended == [id]
        assert control.retry(connection, [id]) == [id]
        connection.commit()
        with pytest.raises(DBAPIError, match="permission denied"):
            connection.exec_driver_sql("DELETE FROM dspex.audit_events")
    own.close()
    assert trail(database, id).verify()
    execute(database, f"DROP OWNED BY {role}")
    execute(database, f"DROP ROLE {role}")


#: Content of programs, and how many attempts a retry gives their executions.
ODD_CONTENT = {
    "{}": 1,
    "null": 1,
    "[1]": 1,
    '{"retry":5}': 1,
    '{"retry":{"max_attempts":99999999999}}': 1,
    '{"retry":{"max_attempts":"x"}}': 1,
    '{"state":"\\u0000","retry":{"max_attempts":7}}': 7,
    '{"state":"\\ud800 \\\\u0000","retry":{"max_attempts":7}}': 7,
}


def test_stored_content_of_one_program_keeps_nothing_else_from_a_retry_or_a_check(database: Database) -> None:
    """Postgres reads no member of JSON that contains U+0000, a number may be none, and content may be no object."""
    wanted = {submit(database): 3}
    for number, (content, attempts) in enumerate(ODD_CONTENT.items()):
        odd = {"name": f"odd_{number}", "content": content}
        execute(database, "INSERT INTO dspex.program_versions VALUES (:name, '0', CAST(:content AS json))", **odd)
        execute(database, "INSERT INTO dspex.programs (name, version) VALUES (:name, '0')", name=odd["name"])
        wanted[submit(database, program=odd["name"], version="0")] = attempts
    model = dspex.Program("asked", PROGRAM.signature, model="openai/test")
    database.run(partial(programs.deploy, program=model))
    database.run(partial(control.cancel, ids=[*wanted]))
    assert set(database.run(partial(control.retry, ids=[*wanted]))) == set(wanted)
    found = database.run(partial(executions.find_many, ids=[*wanted]))
    assert {row["id"]: row["max_attempts"] for row in found} == wanted
    assert [used.model for used in database.run(models_in_use)] == ["openai/test"]
