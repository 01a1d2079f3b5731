"""What a health check reads: what waits, who leads, how models do; in look-ups that do not grow with history."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy import text
from uuid_utils.compat import uuid7

import dspex
from dspex.cli.operate.component_details import DETAILS
from dspex.client.client import Client
from dspex.settings import Backends
from dspex.store import programs, workers
from dspex.store.database import Database
from dspex.store.lifecycle import executions
from dspex.store.lifecycle.executions import Settlement
from dspex.store.operations import health
from tests.store.test_executions import claim, register, settle, submit, triggers
from tests.store.test_plans import read_at_most

QA = dspex.signature("question -> answer")
REGISTER: dict[str, Any] = {"host": "h", "pid": 7, "version": "0", "concurrency": 10, "lease_seconds": 5}


def store(database: Database, program: dspex.Program, count: int) -> None:
    make = partial(
        executions.Submission, program=program.name, version=program.version, inputs="{}", priority=5,
        events='[{"kind":"submitted"}]',
        max_attempts=3, timeout_seconds=60.0,
    )  # fmt: skip
    with database.transaction() as connection:
        executions.copy(connection, [make(id=uuid7()) for _ in range(count)])


def finish(database: Database, outcome: Callable[[int], tuple[str, str | None]]) -> None:
    """Claim and settle all that is queued; the n-th of them with this status and error."""
    worker_id = uuid7()
    database.run(partial(workers.register, id=worker_id, **REGISTER))
    with database.transaction() as connection:
        connection.execute(text("UPDATE dspex.executions SET dispatched_at = now() WHERE status = 'queued'"))
        ids = list(connection.scalars(text("SELECT id FROM dspex.executions WHERE status = 'queued' ORDER BY id")))
        given = executions.claim_parameters(ids, worker_id=worker_id, events='[{"kind":"claimed"}]')
        connection.exec_driver_sql(executions.CLAIM, given)
        made = []
        for number, id in enumerate(ids):
            status, error = outcome(number)
            made.append(Settlement(id, 1, worker_id, status, f'[{{"kind":"{status}"}}]', "{}", error=error))
        connection.exec_driver_sql(executions.SETTLE, executions.settle_parameters(made))


def run(database: Database, statement: str, **parameters: Any) -> None:
    with database.transaction() as connection:
        connection.execute(text(statement), parameters)


def test_what_waits_is_counted_by_program(database: Database) -> None:
    # A program with a budget waits for workers as others do: it is paused once its budget is spent.
    plain = dspex.Program("plain", QA, adapter="scripted", limits=dspex.Limits(max_cost_usd=1.0))
    limited = dspex.Program("limited", QA, adapter="scripted", limits=dspex.Limits(concurrency=1))
    for program in (plain, limited, dspex.Program("idle", QA, adapter="scripted")):
        database.run(partial(programs.deploy, program=program))
    store(database, plain, 5)
    store(database, limited, 2)
    run(database, "UPDATE dspex.executions SET run_at = now() - interval '1 h' WHERE program = 'limited'")
    run(database, "UPDATE dspex.executions SET dispatched_at = now(), run_at = now() - interval '1 min' WHERE id = "
                  "(SELECT min(id::text)::uuid FROM dspex.executions WHERE program = 'plain')")  # fmt: skip
    run(database, "UPDATE dspex.executions SET run_at = now() + interval '1 h' WHERE id = "
                  "(SELECT max(id::text)::uuid FROM dspex.executions WHERE program = 'plain')")  # fmt: skip
    first, second = database.run(health.backlogs)
    assert (first.program, first.due, first.dispatched, first.held_back) == ("limited", 2, 0, True)
    assert (second.program, second.due, second.dispatched, second.held_back) == ("plain", 4, 1, False)
    assert 3600 <= first.undispatched_wait_seconds == first.oldest_wait_seconds < 7200
    assert 60 <= second.oldest_wait_seconds < 3600
    assert second.undispatched_wait_seconds < second.oldest_wait_seconds


def test_health_says_when_no_program_is_deployed(client: Client, backends: Backends) -> None:
    def shown(asked: Client) -> str:
        return DETAILS["programs"](asked.health().components["programs"].details)

    assert shown(client) == "none is deployed"
    client.deploy(dspex.Program("qa", QA, adapter="scripted"))
    with Client(database_url=backends.database_url, broker_url=backends.broker_url) as other:  # without a report yet
        assert shown(other) == "every worker can run the deployed versions"


def test_the_last_report_has_its_age(database: Database) -> None:
    assert database.run(health.latest) is None
    database.run(partial(health.record, overall="healthy", worker_id=None, report={"n": 1}))
    run(database, "UPDATE dspex.health_checks SET at = at - interval '1 day'")
    database.run(partial(health.record, overall="degraded", worker_id=None, report={"n": 2}))
    last = database.run(health.latest)
    assert last is not None
    assert (last["overall"], last["report"]) == ("degraded", {"n": 2})
    assert 0 <= last["age_seconds"] < 3600


def test_who_leads(database: Database) -> None:
    assert database.run(partial(health.leader, duty="pump")) is None
    worker_id = uuid7()
    database.run(partial(workers.register, id=worker_id, **REGISTER))
    lead = database.run(lambda connection: workers.lead(connection, "pump", worker_id, seconds=600))
    assert lead is not None
    assert lead.worker_id == worker_id
    leader = database.run(partial(health.leader, duty="pump"))
    assert leader is not None
    assert (leader["host"], leader["pid"]) == ("h", 7)
    assert leader["overdue_seconds"] < 0


def test_workers_have_served_since_the_last_stop(database: Database) -> None:
    assert database.run(workers.served_seconds) is None
    first, second = uuid7(), uuid7()
    database.run(partial(workers.register, id=first, **REGISTER))
    run(database, "UPDATE dspex.workers SET started_at = now() - interval '1 h'")
    served = database.run(workers.served_seconds)
    assert served is not None
    assert 3600 <= served < 7200
    database.run(partial(workers.register, id=second, **REGISTER))
    database.run(partial(workers.stop, id=first))
    assert database.run(workers.served_seconds) is None, "one took over from the other"
    # It was killed, and declared dead only by the worker that came minutes later.
    run(database, "UPDATE dspex.workers SET heartbeat_at = now() - interval '10 min' WHERE id = :id", id=first)
    served = database.run(workers.served_seconds)
    assert served is not None
    assert served < 600


def test_the_time_of_executions_is_that_of_the_users(database: Database) -> None:
    for name, ran in (("qa", "2 s"), ("dspex-doctor", "4 s")):
        program = dspex.Program(name, QA, adapter="scripted")
        database.run(partial(programs.deploy, program=program))
        store(database, program, 1)
        finish(database, lambda _: ("completed", None))
        with database.transaction() as connection:
            triggers(connection, "executions", "DISABLE")
            connection.execute(
                text(
                    "UPDATE dspex.executions SET started_at = finished_at - CAST(:ran AS interval) "
                    "WHERE program = :name"
                ),
                {"ran": ran, "name": name},
            )
            triggers(connection, "executions", "ENABLE")
    assert database.run(health.performance)["execution_ms"] == 2000


def test_forged_entries_of_trails_stop_no_health_check(database: Database) -> None:
    program = dspex.Program("qa", QA, adapter="scripted")
    database.run(partial(programs.deploy, program=program))
    worker = register(database)
    for duration in ("null", '"long"', "1e999", "{}", "250.5"):
        id = submit(database, version=program.version, events="null")
        (claimed,) = claim(database, worker, id)
        event = f'{{"kind":"adapter_execution","data":{{"duration_ms":{duration}}}}}'
        assert settle(database, claimed, events=f'["noted",{event},{{"kind":"completed"}}]')
    assert database.run(health.performance)["adapter_call_ms"] == 250.5


def test_models_are_those_of_programs_in_use_with_how_their_executions_ended(database: Database) -> None:
    models = {"used": "openai/a", "new": "openai/b", "old": "openai/c"}
    made = [dspex.Program(name, QA, model=model, adapter="direct") for name, model in models.items()]
    for program in (*made, dspex.Program("none", QA, adapter="scripted")):
        database.run(partial(programs.deploy, program=program))
    run(database, "UPDATE dspex.programs SET deployed_at = now() - interval '2 days' WHERE name IN ('used', 'old')")
    store(database, made[0], 3)
    error = {"code": "attempts_exhausted", "details": {"cause": {"code": "rate_limited"}}}
    finish(database, lambda number: ("completed", None) if number else ("failed", json.dumps(error)))
    with database.transaction() as connection:
        triggers(connection, "executions", "DISABLE")
        connection.execute(
            text("UPDATE dspex.executions SET finished_at = now() - interval '1 min' WHERE status = 'failed'")
        )
        triggers(connection, "executions", "ENABLE")
    new, used = database.run(health.models_in_use)
    assert (new.program, new.completed, new.failures) == ("new", 0, {})
    assert (used.program, used.completed, used.failures) == ("used", 2, {"rate_limited": 1})
    assert used.answered_seconds_ago is not None
    assert used.failed_seconds_ago is not None
    assert used.answered_seconds_ago < used.failed_seconds_ago


def test_what_a_check_reads_does_not_grow_with_what_is_finished(database: Database) -> None:
    program = dspex.Program("qa", QA, adapter="scripted")
    database.run(partial(programs.deploy, program=program))
    store(database, program, 5000)
    finish(database, lambda _: ("completed", None))
    store(database, program, 20)
    with database.transaction() as connection:
        connection.execute(text("ANALYZE dspex.executions"))
    for statement in (health.BACKLOGS, health.PERFORMANCE, health.OUTCOMES, health.CALLS):
        with database.transaction() as connection:
            assert read_at_most(connection, statement, {}) <= 1000, statement
    with database.transaction() as connection:
        statement = health.MODELS.replace(":seconds", "%(seconds)s").replace(":since", "%(since)s")
        assert read_at_most(connection, statement, {"seconds": 1.0, "since": uuid7()}) <= 1000
