"""What the worker's statements read: what they are about, however much else is queued or running."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, TextClause, text
from sqlalchemy.dialects import postgresql
from uuid_utils.compat import uuid7

import dspex
from dspex.store import programs, workers
from dspex.store.database import Database
from dspex.store.improvement import evaluations, optimizations
from dspex.store.lifecycle import batches, budgets, bundles, executions, parked
from dspex.store.lifecycle.batch_ids import execution_id, new_batch_id
from dspex.store.lifecycle.executions import Settlement
from tests.store.test_dispatch import rows_read
from workers.attempt.batcher import SESSION

CLAIMED = '[{"kind":"claimed"}]'
COMPLETED = '[{"kind":"completed"}]'
PROGRAM = dspex.Program("qa", dspex.signature("question -> answer"), adapter="scripted")
SUBMISSION = partial(
    executions.Submission, program="qa", version=PROGRAM.version, inputs='{"question":"?"}', priority=5,
    events='[{"kind":"submitted"}]',
    max_attempts=3, timeout_seconds=60.0,
)  # fmt: skip


def read_at_most(connection: Connection, statement: str, parameters: Mapping[str, Any]) -> float:
    """The largest number of rows that a node of the plan looks at. The statement is carried out."""
    cursor = connection.connection.cursor()
    cursor.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + statement, parameters)
    ((plans,),) = cursor.fetchall()
    return max(rows_read(plans[0]["Plan"]))


def as_worker(connection: Connection) -> None:
    """Statements of the transaction are planned as those of a worker."""
    for name, value in SESSION.items():
        connection.execute(text(f"SET LOCAL {name} = {value}"))


def test_a_claim_and_a_settlement_read_their_own_rows(database: Database) -> None:
    database.run(partial(programs.deploy, program=PROGRAM))
    worker_id, others = uuid7(), [uuid7() for _ in range(5000)]  # so many that reading all of them is the dearer plan
    register: dict[str, Any] = {"host": "h", "pid": 1, "version": "0", "concurrency": 10, "lease_seconds": 5}
    database.run(lambda connection: workers.register(connection, id=worker_id, **register))
    ids = [uuid7() for _ in range(20)]
    with database.transaction() as connection:
        executions.copy(connection, [SUBMISSION(id=id) for id in (*others, *ids)])
        connection.execute(text("UPDATE dspex.executions SET dispatched_at = now()"))
        as_worker(connection)
        claiming = partial(executions.claim_parameters, worker_id=worker_id, events=CLAIMED)
        assert read_at_most(connection, executions.CLAIM, claiming(ids)) <= 100
        connection.exec_driver_sql(executions.CLAIM, claiming(others))
        settlements = [Settlement(id, 1, worker_id, "completed", COMPLETED, "{}", result="{}") for id in ids]
        assert read_at_most(connection, executions.SETTLE, executions.settle_parameters(settlements)) <= 400
        finished = "SELECT count(*) FROM dspex.executions WHERE finished_at IS NOT NULL"
        assert connection.scalar(text(finished)) == len(ids)


def test_plans_that_a_worker_makes_of_empty_tables_serve_full_ones(database: Database) -> None:
    """It makes each once, perhaps before there is anything: a table read from its beginning then would be for long."""
    ids = [uuid7() for _ in range(100)]
    settlements = [Settlement(id, 1, ids[0], "completed", COMPLETED, "{}", result="{}") for id in ids]
    claiming = executions.claim_parameters(ids, worker_id=ids[0], events=CLAIMED)
    statements: list[tuple[str, Mapping[str, Any]]] = [
        (executions.CLAIM, claiming),
        (executions.ADOPT, claiming),
        (executions.SETTLE, executions.settle_parameters(settlements)),
    ]
    with database.transaction() as connection:
        as_worker(connection)
        cursor = connection.connection.cursor()
        for statement, parameters in statements:
            cursor.execute("EXPLAIN (FORMAT JSON) " + statement, parameters)
            ((plans,),) = cursor.fetchall()
            read = {node["Relation Name"] for node in nodes(plans[0]["Plan"]) if node["Node Type"] == "Seq Scan"}
            assert not any(name.startswith("executions") for name in read), statement


def nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


def test_what_a_batch_tells_reads_its_own_rows(database: Database) -> None:
    database.run(partial(programs.deploy, program=PROGRAM))
    batch, big = new_batch_id(), new_batch_id()
    sizes = {batch: 30, big: 3000}
    with database.transaction() as connection:
        for id, size in sizes.items():
            rows = [SUBMISSION(id=execution_id(id, n), batch_id=id, batch_index=n) for n in range(size)]
            executions.copy(connection, rows)
        connection.execute(text("ANALYZE dspex.executions"))
        connection.execute(text("SET LOCAL plan_cache_mode = force_generic_plan"))
        for statement in batches.STATEMENTS:
            given = {"batch_id": batch, "begin": 0, "end": 1000, "after": -1, "most": 1000, "recent_seconds": 30}
            assert read_at_most(connection, *as_psycopg(statement, given)) <= 2 * sizes[batch], statement.text
        # Batches are found without a look at their rows.
        listing = {"program": None, "internal": False, "most": 20, "before": UUID(int=2**128 - 1)}
        assert read_at_most(connection, *as_psycopg(batches.LISTING, listing)) <= 20
        # Of a batch of any size, only so many rows as are asked for.
        given = {"batch_id": big, "after": 999, "most": 100}
        assert read_at_most(connection, *as_psycopg(batches.UNFINISHED, given)) <= 200


def test_lists_of_evaluations_jobs_and_versions_read_what_they_show(database: Database) -> None:
    """However many other executions, batches and versions there are."""
    job_program = dspex.Program("qa.optimizer", PROGRAM.signature, adapter="scripted")
    for program in (PROGRAM, job_program):
        database.run(partial(programs.deploy, program=program))
    scored = json.dumps({"metric": "exact", "dataset": str(uuid7()), "dataset_version": "0"})
    evaluation, job = new_batch_id(), "the job"
    with database.transaction() as connection:
        others = [SUBMISSION(id=uuid7()) for _ in range(3000)]
        batches_before = [(new_batch_id(), None) for _ in range(300)]
        rows = [
            SUBMISSION(id=execution_id(id, n), batch_id=id, batch_index=n, purpose=purpose)
            for id, purpose in (*batches_before, (evaluation, scored))
            for n in range(2)
        ]
        of_jobs = [SUBMISSION(id=uuid7(), purpose=json.dumps({"job": job})) for _ in range(5)]
        jobs = [SUBMISSION(id=uuid7(), program="qa.optimizer", version=job_program.version) for _ in range(60)]
        executions.copy(connection, [*others, *rows, *of_jobs, *jobs])
        connection.execute(text("ANALYZE dspex.executions"))
        given = {"before": None, "program": None, "programs": None, "dataset": None, "most": 20}
        assert read_at_most(connection, *as_psycopg(evaluations.LISTING, given)) <= 20
        assert read_at_most(connection, *as_psycopg(evaluations.LISTING, {**given, "program": "qa"})) <= 20
        assert read_at_most(connection, *as_psycopg(optimizations.LISTING, given)) <= 20
        of_job = {"program": "qa", "job": job, "since": UUID(int=0)}
        assert read_at_most(connection, *as_psycopg(optimizations.CANDIDATES, of_job)) <= 20


def test_what_waits_is_looked_at_some_at_a_time(database: Database) -> None:
    """However many wait: a parent of many children, and others of each reason."""
    database.run(partial(programs.deploy, program=PROGRAM))
    parent, ids = uuid7(), [uuid7() for _ in range(3000)]
    with database.transaction() as connection:
        executions.copy(connection, [SUBMISSION(id=id) for id in (parent, *ids)])
        connection.execute(text("ALTER TABLE dspex.executions DISABLE TRIGGER USER"))
        connection.execute(
            text("UPDATE dspex.executions SET status = 'waiting', waiting_since = now(), attempt = 1, waiting_for = "
                 "(ARRAY['batch', 'approval', 'child'])[1 + abs(hashtext(id::text)) % 3] WHERE id <> :parent"),
            {"parent": parent},
        )  # fmt: skip
        bundle = uuid7()
        connection.execute(text(PARKED_CALLS), {"parent": parent, "bundle": bundle})
        connection.execute(
            text("INSERT INTO dspex.bundles (id, target, state, requests, bytes, next_at) "
                 "VALUES (:id, '{}', 'running', 1, 1, now() + interval '1 day')"), {"id": bundle},
        )  # fmt: skip
        connection.execute(
            text("UPDATE dspex.executions SET parent_id = :parent, status = 'completed', finished_at = now(), "
                 "waiting_for = NULL, waiting_since = NULL WHERE id = ANY(:ids)"),
            {"parent": parent, "ids": ids[-1000:]},
        )  # fmt: skip
        connection.execute(
            text("UPDATE dspex.executions SET status = 'waiting', waiting_for = 'child', waiting_since = now(), "
                 "attempt = 1 WHERE id = :parent"), {"parent": parent},
        )  # fmt: skip
        connection.execute(text("ALTER TABLE dspex.executions ENABLE TRIGGER USER"))
        connection.execute(text("ANALYZE dspex.executions"))
        connection.execute(text("ANALYZE dspex.parked_calls"))
        nobody = {"since": datetime.min.replace(tzinfo=UTC), "id": UUID(int=0), "most": 50}
        first = {"execution_id": UUID(int=0), "request_hash": b"", "occurrence": -1, "most": 50}
        asked: list[tuple[str, Mapping[str, Any]]] = [
            (parked._WAITERS, {"waiting_for": "batch", **nobody}),
            (parked._GO_ON, {"ids": ids[:50]}),
            (parked._FORGET, first),
            (parked._LATE, {"kind": "batch", "most": 50}),
            (parked._EXPIRE, {"most": 50}),
            (parked.MAY_GO_ON, {"ids": [parent], "over": []}),
            (bundles._UNBUNDLED, {}),
            (bundles._HAS_WORK, {}),
            (budgets._RELEASE_WAITS, {"after": UUID(int=0), "most": 50}),
        ]
        for statement, given in asked:
            if statement in (bundles._UNBUNDLED, bundles._HAS_WORK):
                connection.execute(text("SET LOCAL enable_seqscan = off"))  # as in the leader's session for bundles
            assert read_at_most(connection, statement, given) <= 120, statement


#: Each waits for a call of its own; the parent waits for all of them, of which the last thousand are over.
PARKED_CALLS = """
INSERT INTO dspex.parked_calls
    (execution_id, request_hash, occurrence, attempt, kind, subject, target, child_id, bundle_id, parked_at, expires_at)
SELECT id, CAST('\\x01' AS bytea), 0, 1, waiting_for, 'm', CASE waiting_for WHEN 'batch' THEN '{}' END,
    CASE waiting_for WHEN 'child' THEN CAST(:parent AS uuid) END,
    CASE waiting_for WHEN 'batch' THEN CAST(:bundle AS uuid) END, now(), now() + interval '1 day'
FROM dspex.executions WHERE status = 'waiting'
UNION ALL
SELECT :parent, '\\x02', row_number() OVER (ORDER BY id), 1, 'child', 'm', NULL, id, NULL, now(), NULL
FROM dspex.executions WHERE id <> :parent
"""


def as_psycopg(statement: TextClause, parameters: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The statement as psycopg has it, with those of the parameters that it takes."""
    compiled = statement.bindparams().compile(dialect=postgresql.psycopg.dialect())  # type: ignore[no-untyped-call]
    return str(compiled), {name: parameters[name] for name in compiled.params}
