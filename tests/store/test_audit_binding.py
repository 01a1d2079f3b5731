"""Trails bind what was submitted and what came out: neither is rewritten, and no entry is forged, without a trace."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from uuid_utils.compat import uuid7

from dspex.operations.audit.verify_audit import verify_trails
from dspex.store import programs
from dspex.store.audit_chain import verify_chain
from dspex.store.database import Database
from dspex.store.lifecycle import control
from dspex.store.operations import audit_pages, resealing
from tests.store.test_executions import (
    PROGRAM,
    claim,
    dispatch_due,
    register,
    settle,
    submit,
    trail,
    triggers,
)


@pytest.fixture
def worker_id(database: Database) -> UUID:
    database.run(partial(programs.deploy, program=PROGRAM))
    return register(database)


@pytest.fixture
def completed(database: Database, worker_id: UUID) -> UUID:
    id = submit(database, metadata='{"user":"a"}')
    (claimed,) = claim(database, worker_id, id)
    values = {"result": '{"answer":"!"}', "adapter_used": "scripted", "action_results": '{"a":1}'}
    assert settle(database, claimed, **values)
    assert trail(database, id).verify()
    return id


def execute(database: Database, statement: str, **parameters: Any) -> None:
    database.run(lambda connection: connection.execute(text(statement), parameters))


def faults(database: Database, id: UUID) -> Sequence[str]:
    return trail(database, id).verify().faults


# ------------------------------------------------------------------------------------------ a rewritten row is found

SUBMITTED = "the program, version, inputs or metadata are not those that were submitted"
OUTCOME = "the result, error, metrics, adapter or action results are not those that were recorded"


REWRITES = {
    'inputs = \'{"question":"other"}\'': SUBMITTED,
    "metadata = NULL": SUBMITTED,
    "program = 'other'": SUBMITTED,
    "version = 'other'": SUBMITTED,
    'result = \'{"answer":"?"}\'': OUTCOME,
    "result = NULL, error = result": OUTCOME,
    "error = '{}'": OUTCOME,
    "metrics = '{\"cost_usd\": 0}'": OUTCOME,
    "adapter_used = NULL": OUTCOME,
    "action_results = '{}'": OUTCOME,
    "status = 'cancelled'": "the trail ends completed at attempt 1; the execution is cancelled at attempt 1",
    "attempt = 2": "the trail ends completed at attempt 1; the execution is completed at attempt 2",
}


def test_a_row_rewritten_past_the_triggers_is_found(database: Database, completed: UUID) -> None:
    for change, fault in REWRITES.items():
        with database.engine.connect() as connection:  # closed without a commit: rolled back
            triggers(connection, "executions", "DISABLE")
            connection.execute(text(f"UPDATE dspex.executions SET {change} WHERE id = :id"), {"id": completed})
            (chain,) = audit_pages.of(connection, [completed])
            assert verify_chain(chain).faults == (fault,), change


def test_an_outcome_before_its_settlement_is_found(database: Database, worker_id: UUID) -> None:
    id = submit(database)
    claim(database, worker_id, id)
    execute(database, "UPDATE dspex.executions SET result = '{}' WHERE id = :id", id=id)
    assert list(faults(database, id)) == [OUTCOME]


def test_the_last_settlement_counts(database: Database, worker_id: UUID) -> None:
    id = submit(database)
    for outcome in ("queued", "failed"):
        (claimed,) = claim(database, worker_id, id)
        assert settle(database, claimed, outcome, error=f'{{"code":"{outcome}"}}')
        assert trail(database, id).verify()
        dispatch_due(database)
    assert database.run(partial(control.retry, ids=[id])) == [id]
    assert trail(database, id).verify(), "the error of the last attempt is still there"
    assert database.run(partial(control.cancel, ids=[id])).ended == [id]
    assert trail(database, id).verify()
    assert trail(database, id).kinds[-2:] == ["retried", "cancelled"]


# --------------------------------------------------------------------------------------------- a rewrite is refused

APPEND = """INSERT INTO dspex.audit_events (execution_id, seq, attempt, at, events, hash)
    SELECT id, {seq}, attempt, now(), '[{{"kind":"cancelled"}}]', {hash} FROM dspex.executions WHERE id = :id"""


ADVANCE = text("UPDATE dspex.executions SET audit_seq = audit_seq + 1, audit_hash = sha256('') WHERE id = :id")


@contextmanager
def acting_as(database: Database, role: str) -> Iterator[Connection]:
    with database.engine.begin() as connection:
        connection.execute(text(f"SET LOCAL ROLE {role}"))
        yield connection


@pytest.fixture
def role(database: Database) -> Iterator[str]:
    """A role with more rights than producers and workers have, which is not the owner of the tables."""
    name = f"app_{uuid7().hex}"
    for statement in (
        f"CREATE ROLE {name}", f"GRANT {name} TO CURRENT_USER", f"GRANT USAGE ON SCHEMA dspex TO {name}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA dspex TO {name}",
    ):  # fmt: skip
        execute(database, statement)
    yield name
    execute(database, f"DROP OWNED BY {name}")
    execute(database, f"DROP ROLE {name}")


def test_a_final_row_does_not_change(database: Database, completed: UUID, role: str) -> None:
    for change in ("result = '{}'", "error = '{}'", "metrics = '{}'", "finished_at = now()", "status = status"):
        statement = text(f"UPDATE dspex.executions SET {change} WHERE id = :id")
        for begin in (partial(acting_as, database, role), database.engine.begin):  # the owner, too
            with pytest.raises(DBAPIError, match="do not change without a transition"), begin() as connection:
                connection.execute(statement, {"id": completed})


def test_an_entry_without_a_transition_is_refused(
    database: Database, worker_id: UUID, completed: UUID, role: str
) -> None:
    running, queued = submit(database), submit(database)
    claim(database, worker_id, running)
    for id, seq, hash in itertools.product(
        (completed, running, queued), ("audit_seq", "audit_seq + 1"), ("audit_hash", "'\\x00'")
    ):
        with pytest.raises(DBAPIError, match=r"does not belong to a transition|duplicate key"):
            execute(database, APPEND.format(seq=seq, hash=hash), id=id)
        with pytest.raises(DBAPIError, match="do not change without"), acting_as(database, role) as connection:
            connection.execute(ADVANCE, {"id": id})


def test_only_the_function_of_transitions_appends_unchecked(
    database: Database, worker_id: UUID, completed: UUID, role: str
) -> None:
    """Its setting is no right, and a call of it without a transition finds the entry there already."""
    append = text(APPEND.format(seq="audit_seq + 1", hash="audit_hash"))
    with acting_as(database, role) as connection:
        connection.execute(text("SET LOCAL dspex.appending = 'on'"))
        with pytest.raises(DBAPIError, match="does not belong to a transition"):
            connection.execute(append, {"id": completed})
    call = "SELECT dspex.append_entries(ARRAY[CAST(:id AS uuid)], NULL, ARRAY['[]'])"
    with pytest.raises(DBAPIError, match="permission denied"), acting_as(database, role) as connection:
        connection.execute(text(call), {"id": completed})
    with pytest.raises(DBAPIError, match="duplicate key"):
        execute(database, call, id=completed)


def test_legal_transitions_call_no_function_for_each_row(database: Database, worker_id: UUID) -> None:
    """Such a call costs as much as the rest of the change."""
    for name in ("check_entry", "refuse_rewrite"):
        execute(
            database,
            f"""CREATE OR REPLACE FUNCTION dspex.{name}() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE EXCEPTION '{name} was called'; END $$""",
        )
    id = submit(database)
    (claimed,) = claim(database, worker_id, id)
    assert settle(database, claimed)
    assert trail(database, id).verify()


def test_a_later_entry_for_no_execution_is_refused(database: Database, worker_id: UUID, completed: UUID) -> None:
    with pytest.raises(DBAPIError, match="does not belong to a transition"):
        execute(
            database,
            """INSERT INTO dspex.audit_events SELECT gen_random_uuid(), seq, attempt, at, submission_hash, outcome_hash,
               events, hash FROM dspex.audit_events WHERE execution_id = :id AND seq = 2""",
            id=completed,
        )


def test_a_transition_that_is_recorded_as_another_is_found(database: Database, worker_id: UUID) -> None:
    """The events of a cancel, as a producer could write them."""
    statement = control._CANCEL.replace("%(running)s", "false")
    for events in ('[{"kind":"completed"}]', "[]", '[{"kind":"cancelled"},{"kind":"noted"}]'):
        id = submit(database)
        with database.transaction() as connection:
            connection.exec_driver_sql(statement, {"ids": [id], "events": events})
        (fault,) = faults(database, id)
        assert fault.startswith("entry 2 is not legal")


FORGED = [
    ("infinity", "[]"), ("-infinity", "[]"), ("20000-01-01", "[]"), ("0100-01-01 BC", "[]"), ("now", "null"),
    ("now", "7"),
    ("now", '["submitted"]'), ("now", '{"kind":"submitted"}'), ("now", '[{"at":"now"}]'), ("now", '[{"kind":7}]'),
    ("now", '[{"kind":"submitted","at":"never","data":[]}]'), ("now", '[{"kind":"submitted","at":"2026-01-01"}]'),
    ("now", '[{"kind":"claimed","data":{"duration_ms":"long"}}]'),
    ("now", '[{"kind":"claimed","data":{"duration_ms":1e99}}]'),
    ("now", r'[{"kind":"\ud800"}]'), ("now", "[" * 300 + "]" * 300),
]  # fmt: skip


def test_a_forged_entry_that_cannot_be_read_is_found_and_stops_no_verification(
    database: Database, completed: UUID, role: str
) -> None:
    """A first entry, as any role may insert it that may submit."""
    forged = [uuid7() for _ in FORGED]
    with acting_as(database, role) as connection:
        for id, (at, events) in zip(forged, FORGED, strict=True):
            connection.execute(
                text("""INSERT INTO dspex.executions (id, program, version, status, priority, attempt, max_attempts,
                    timeout_seconds, created_at, run_at, inputs, audit_seq, audit_hash)
                    SELECT :id, program, version, 'queued', 5, 0, 1, 1, now(), now(), '{}', 1, ''
                    FROM dspex.executions WHERE id = :of"""),
                {"id": id, "of": completed},
            )
            connection.execute(
                text("""INSERT INTO dspex.audit_events (execution_id, seq, attempt, at, events, hash)
                    VALUES (:id, 1, 0, CAST(:at AS timestamptz), CAST(:events AS json), '')"""),
                {"id": id, "at": at, "events": events},
            )
    assert [id for id, _ in verify_trails(database)] == sorted(forged)
    for id in forged:
        shown = trail(database, id)
        assert shown.verify().faults == ("entry 1 was changed: its hash does not match its content",)
        assert all(event.at.tzinfo and event.duration_ms is None for event in shown)


def test_a_trail_that_ends_with_another_entry_than_the_row_is_found(database: Database, completed: UUID) -> None:
    with database.engine.connect() as connection:  # closed without a commit: rolled back
        triggers(connection, "executions", "DISABLE")
        connection.execute(text("UPDATE dspex.executions SET audit_hash = '' WHERE id = :id"), {"id": completed})
        (chain,) = audit_pages.of(connection, [completed])
    assert verify_chain(chain).faults == ("the trail does not end with the entry that the execution recorded",)


def test_only_the_owner_seals_again_and_leaves_an_entry(database: Database, completed: UUID, role: str) -> None:
    names = ("id", *resealing.EXECUTION_COLUMNS)
    row = dict.fromkeys(names) | {"id": completed, "inputs": '{"q":"again"}', "result": '{"answer":"again"}'}
    reseal = partial(resealing.write_executions, rows=[row], key="k2")
    with pytest.raises(DBAPIError, match="do not change without a transition"), acting_as(database, role) as connection:
        reseal(connection)
    database.run(reseal)
    events = trail(database, completed)
    assert events.verify()
    assert events["resealed"].data == {"key": "k2"}
    assert [entry.submission_hash is None for entry in events.entries] == [False, True, True, False]


def test_no_partition_of_the_trail_is_truncated(database: Database, completed: UUID) -> None:
    statement = text(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'dspex.audit_events'::regclass"
    )
    partitions = database.run(lambda connection: list(connection.scalars(statement)))
    assert len(partitions) > 2
    for partition in partitions:
        with pytest.raises(DBAPIError, match="append-only"):
            execute(database, f"TRUNCATE {partition}")
