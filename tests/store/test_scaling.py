"""The query by which KEDA scales workers: what it counts, and that finished executions cost it nothing."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import yaml
from sqlalchemy import text

import dspex
from dspex.store import programs
from dspex.store.database import Database
from dspex.store.lifecycle import executions
from tests.store.test_dispatch import SMALL, backlog
from tests.store.test_executions import PROGRAM, claim, dispatch_due, register, settle, submission, submit
from tests.store.test_plans import read_at_most

MANIFEST = Path(__file__).parents[2] / "deploy/kubernetes/scaling.yaml"


def query() -> str:
    (scaled,) = (each for each in yaml.safe_load_all(MANIFEST.read_text()) if each["kind"] == "ScaledObject")
    return str(scaled["spec"]["triggers"][0]["metadata"]["query"])


def wanted(database: Database) -> int:
    return int(database.run(lambda connection: connection.exec_driver_sql(query()).scalar_one()))


def test_due_and_running_count_and_what_is_paused_or_later_does_not(database: Database) -> None:
    for program in (PROGRAM, SMALL):
        database.run(partial(programs.deploy, program=program))
    assert wanted(database) == 0
    running, _dispatched = submit(database), submit(database)
    claim(database, register(database), running)
    backlog(database, SMALL, 3)
    later = submit(database)
    database.run(
        lambda connection: connection.execute(
            text("UPDATE dspex.executions SET dispatched_at = NULL, run_at = now() + interval '1 day' WHERE id = :id"),
            {"id": later},
        )
    )
    assert wanted(database) == 5
    database.run(
        lambda connection: connection.execute(
            text("UPDATE dspex.programs SET paused_at = now() WHERE name = :name"), {"name": SMALL.name}
        )
    )
    assert wanted(database) == 2


def test_what_limits_hold_back_needs_no_worker(database: Database) -> None:
    at_once, by_rate = (
        dspex.Program(name, SMALL.signature, adapter="scripted", limits=dspex.Limits(**limits))
        for name, limits in (("at_once", {"concurrency": 3}), ("by_rate", {"per_minute": 3}))
    )
    for program in (at_once, by_rate):
        database.run(partial(programs.deploy, program=program))
        backlog(database, program, 10)
    assert wanted(database) == 6
    ids = [row.id for row in dispatch_due(database, window=100)]
    assert (len(ids), wanted(database)) == (6, 6), "what is dispatched counts once"
    claimed = claim(database, register(database), *ids)
    assert (len(claimed), wanted(database)) == (6, 6), "so does what runs"
    assert all(settle(database, each) for each in claimed)
    assert wanted(database) == 3, "the rate is used up for a minute"


def test_it_reads_no_finished_execution(database: Database) -> None:
    database.run(partial(programs.deploy, program=PROGRAM))
    with database.transaction() as connection:
        executions.copy(connection, [submission() for _ in range(5000)])
        # Finished behind the back of the table's own rules: all that matters here is that they are many.
        connection.execute(text("ALTER TABLE dspex.executions DISABLE TRIGGER USER"))
        connection.execute(text("UPDATE dspex.executions SET status = 'completed', finished_at = now()"))
        connection.execute(text("ALTER TABLE dspex.executions ENABLE TRIGGER USER"))
    submit(database)
    with database.transaction() as connection:
        connection.execute(text("ANALYZE dspex.executions"))
        assert read_at_most(connection, query(), {}) <= 10
