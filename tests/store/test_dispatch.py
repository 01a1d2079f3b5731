"""Dispatch: programs share the window, and their limits on executions are exact."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from psycopg import sql
from sqlalchemy import Connection, text
from uuid_utils.compat import uuid7

import dspex
from dspex.store import programs, workers
from dspex.store.database import Database
from dspex.store.facts.program_facts import refused_versions
from dspex.store.lifecycle import control, executions
from dspex.store.lifecycle.dispatch import (
    BACKLOGS,
    DISPATCH,
    FIND_HELD,
    HAS_BACKLOG,
    KEEP_PLANS,
    RESERVE,
    DispatchBacklog,
    dispatch,
    find_held,
    forget_starts,
    has_backlog,
    held,
    release,
    shares,
)
from dspex.store.lifecycle.executions import UNSERVED_MOST
from dspex.store.operations.health import backlogs
from dspex.store.workers import UnrunnableVersion
from tests.store.test_executions import (
    PROGRAM,
    claim,
    declare_dead,
    dispatch_due,
    recover,
    register,
    settle,
    submission,
    submit,
    take_back_unclaimed,
)

SMALL = dspex.Program("small", PROGRAM.signature, adapter="scripted")


@pytest.fixture(autouse=True)
def _deployed(database: Database) -> None:
    for program in (PROGRAM, SMALL):
        database.run(partial(programs.deploy, program=program))


def deploy(database: Database, **limits: Any) -> dspex.Program:
    program = dspex.Program("limited", PROGRAM.signature, adapter="scripted", limits=dspex.Limits(**limits))
    database.run(partial(programs.deploy, program=program))
    return program


def backlog(database: Database, program: dspex.Program, count: int, **values: Any) -> list[UUID]:
    made = [submission(program=program.name, version=program.version, **values) for _ in range(count)]
    with database.transaction() as connection:
        executions.copy(connection, made)
    return [s.id for s in made]


def dispatched(database: Database, window: int) -> Counter[str]:
    return Counter(row.program for row in dispatch_due(database, window))


# ------------------------------------------------------------------------------------------------------ fairness


def test_programs_take_turns_and_a_full_window_delays_no_other_program(database: Database) -> None:
    backlog(database, PROGRAM, 500)
    assert dispatched(database, 100) == {"qa": 100}
    backlog(database, SMALL, 60)
    assert dispatched(database, 100) == {"small": 50}, "its share, although the window is full"
    assert dispatched(database, 100) == {}
    assert dispatched(database, 165) == {"small": 10, "qa": 5}, "who has less in Redis comes first"


def test_a_tenant_with_a_long_backlog_delays_no_other_tenant_of_the_program(database: Database) -> None:
    large = backlog(database, PROGRAM, 3000, tenant="large")
    assert dispatched(database, 40) == {"qa": 40}
    (single,) = backlog(database, PROGRAM, 1, tenant="small")
    assert dispatched(database, 40) == {}, "the window is full"
    rows = [row.id for row in dispatch_due(database, 44)]
    assert len(rows) == 4
    assert set(rows) - set(large) == {single}


def test_the_few_executions_of_a_tenant_come_first_in_redis(database: Database) -> None:
    """Whoever submits them, and whichever way: of a batch, left to the pump; by themselves, published at once."""
    backlog(database, PROGRAM, UNSERVED_MOST + 50, tenant="large")
    large = dispatch_due(database, 1000)
    assert max(row.turn for row in large) == UNSERVED_MOST + 50
    single = database.run(partial(executions.insert, submission=submission(tenant="small")))
    other = database.run(partial(executions.insert, submission=submission(tenant="large")))
    nobodys = database.run(partial(executions.insert, submission=submission()))
    assert [row is not None and row.dispatched_at is not None for row in (single, other, nobodys)] == [
        True, False, False,
    ]  # fmt: skip
    few = backlog(database, PROGRAM, 6, tenant="small")
    turns = {row.id: row.turn for row in dispatch_due(database, 1000)}
    assert sorted(turns[id] for id in few)[:4] == [2, 3, 4, 5], "with the one that is there"
    assert len([id for id in turns if turns[id] > RESERVE]) == len(turns) - 4


def test_the_urgent_come_before_the_turns(database: Database) -> None:
    backlog(database, PROGRAM, 50)
    urgent = backlog(database, PROGRAM, 20, priority=0)
    backlog(database, SMALL, 50)
    rows = dispatch_due(database, 30)
    assert {row.id for row in rows[:20]} == set(urgent)
    assert Counter(row.program for row in rows[20:]) == {"qa": 5, "small": 5}


def test_a_round_looks_at_two_windows_however_many_programs_have_long_backlogs() -> None:
    many = [DispatchBacklog(f"p{n}", dispatched=0) for n in range(10)]
    assert sum(share.most for share in shares(many, window=400, waiting=0)) == 800
    assert {share.most for share in shares(many * 100, window=400, waiting=0)} == {20}


def test_what_a_round_reads_does_not_grow_with_the_backlog(database: Database) -> None:
    submit(database, publish=False)
    with database.transaction() as connection:
        connection.execute(
            text("""INSERT INTO dspex.executions (id, program, version, status, priority, attempt, max_attempts,
                    timeout_seconds, created_at, run_at, inputs, audit_seq, audit_hash, tenant)
                    SELECT (left(e.id::text, 24) || lpad(to_hex(n), 12, '0'))::uuid, program, version, status, 5, 0,
                    3, 60, created_at, run_at + make_interval(hours => n % 2), inputs, 1, audit_hash,
                    CASE WHEN n % 3 > 0 THEN 'large' END
                    FROM dspex.executions e, generate_series(1, 50000) n""")
        )
    submit(database, program="small", version=SMALL.version, publish=False)
    # However little Postgres knows of the table.
    assert max(rows_read_by_a_round(database)) <= 1000
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE dspex.executions"))
    assert max(rows_read_by_a_round(database)) <= 1000
    assert dispatched(database, 400) == {"qa": 399, "small": 1}


def rows_read_by_a_round(database: Database) -> list[float]:
    """What each node of its plans reads: those of a prepared statement, as the pump's are. It is rolled back."""
    given = {"programs": ["qa", "small"], "most": [400, 400], "dispatched": [0, 0], "reserves": [0, 0], "room": 400,
             "aside": [], "unrunnable": [], "suspects": 1, "tenants_most": 100, "each_tenant": 5,
             "tenant_reserve": 5}  # fmt: skip
    found: list[float] = []
    with database.engine.connect() as connection:  # in one transaction, as the pump does
        connection.execute(KEEP_PLANS)
        for statement, parameters in ((HAS_BACKLOG, {}), (BACKLOGS, {"limited": ["qa"]}), (DISPATCH, given)):
            (plan,) = explained(connection, statement.text, parameters)
            found += rows_read(plan["Plan"])
    return found


def explained(connection: Connection, statement: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The plan of the statement as a prepared one, and what came of it."""
    names = list(parameters)
    numbered = re.sub(r":(\w+)", lambda found: f"${names.index(found[1]) + 1}", statement)
    values = ", ".join(sql.Literal(parameters[name]).as_string() for name in names)
    cursor = connection.connection.cursor()
    cursor.execute(f"PREPARE explained AS {numbered}".encode())
    cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE explained{f'({values})' if names else ''}".encode())
    ((plans,),) = cursor.fetchall()
    cursor.execute("DEALLOCATE explained")
    found: list[dict[str, Any]] = plans
    return found


def rows_read(plan: dict[str, Any]) -> Iterator[float]:
    """Of each node: the rows it gave and those it looked at in vain."""
    yield (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"]
    for inner in plan.get("Plans", ()):
        yield from rows_read(inner)


def test_a_round_is_not_planned_again_each_time_and_leaves_the_connection_as_it_was(database: Database) -> None:
    planned = "SELECT sum(custom_plans), sum(generic_plans) FROM pg_prepared_statements WHERE statement LIKE :like"
    with database.engine.connect() as connection:
        for _ in range(20):
            submit(database, publish=False)
            with connection.begin():
                assert len(dispatch(connection, 100)) == 1
        custom, generic = connection.execute(text(planned), {"like": "%WITH share AS%"}).one()
        assert (custom, generic > 10) == (0, True)
        assert connection.scalar(text("SHOW plan_cache_mode")) == "auto"
        assert connection.scalar(text("SHOW enable_seqscan")) == "on"


def test_many_direct_submits_of_one_program_are_left_to_the_pump(database: Database) -> None:
    rows = [database.run(partial(executions.insert, submission=submission())) for _ in range(UNSERVED_MOST + 5)]
    direct = [row is not None and row.dispatched_at is not None for row in rows]
    assert direct == [True] * UNSERVED_MOST + [False] * 5
    other = database.run(partial(executions.insert, submission=submission(program="small", version=SMALL.version)))
    assert other is not None
    assert other.dispatched_at is not None


# -------------------------------------------------------------------------------------------------------- limits


def test_concurrency_counts_what_runs_and_what_waits_in_redis(database: Database) -> None:
    limited = deploy(database, concurrency=3)
    backlog(database, limited, 10)
    first = [row.id for row in dispatch_due(database, 100)]
    assert len(first) == 3
    worker_id = register(database)
    claims = claim(database, worker_id, *first)
    assert dispatch_due(database, 100) == []
    settle(database, claims[0])
    settle(database, claims[1], "queued", delay_seconds=3600.0)
    assert len(dispatch_due(database, 100)) == 2
    take_back_unclaimed(database, -1.0)
    assert len(dispatch_due(database, 100)) == 2, "what was taken back counts no more"
    raised = deploy(database, concurrency=5)
    assert raised.version != limited.version
    assert len(dispatch_due(database, 100)) == 4, "the limit in force is that of the current version"


def test_a_submit_to_a_limited_program_is_left_to_the_pump(database: Database) -> None:
    for limits in ({"concurrency": 1}, {"per_minute": 1}):
        limited = deploy(database, **limits)
        row = database.run(
            partial(executions.insert, submission=submission(program="limited", version=limited.version))
        )
        assert row is not None
        assert row.dispatched_at is None
    free = dspex.Program("limited", PROGRAM.signature, adapter="scripted")
    database.run(partial(programs.deploy, program=free))
    submit(database, program="limited", version=free.version)
    deploy(database, concurrency=1)
    assert len(dispatch_due(database, 100)) == 1, "what was on the queue before the limit was is counted too"


def test_no_more_begin_within_a_minute_also_when_they_are_retried(database: Database) -> None:
    limited = deploy(database, per_minute=4)
    backlog(database, limited, 10)
    worker_id = register(database)
    begun = 0
    for _ in range(10):  # an attempt that is retried at once begins anew
        rows = dispatch_due(database, 3)
        for claimed in claim(database, worker_id, *(row.id for row in rows)):
            begun += 1
            settle(database, claimed, "queued")
    assert begun == 4
    with database.transaction() as connection:
        connection.execute(text("UPDATE dspex.program_starts SET at = at - interval '61 s'"))
    assert len(dispatch_due(database, 100)) == 4
    with database.transaction() as connection:
        connection.execute(text("UPDATE dspex.program_starts SET at = at - interval '1 hour'"))
        forget_starts(connection)
        assert connection.scalar(text("SELECT count(*) FROM dspex.program_starts")) == 0


def test_two_leaders_at_once_keep_to_the_limits(database: Database) -> None:
    limited = deploy(database, concurrency=7, per_minute=9)
    backlog(database, limited, 100)

    def lead(_: int) -> int:
        with database.transaction() as connection:
            return len(dispatch(connection, 100))

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(lead, range(20))) == 7


def test_a_leader_that_stands_still_does_not_keep_the_limited_from_the_next(database: Database) -> None:
    limited = deploy(database, concurrency=7)
    backlog(database, limited, 100)
    still = database.engine.connect()
    still.begin()
    assert len(dispatch(still, 100)) == 7
    assert dispatch_due(database, 100) == [], "it may yet commit"
    deadline = time.monotonic() + 30
    while not dispatch_due(database, 100):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    still.invalidate()
    still.close()


def test_a_backlog_is_what_no_pause_and_no_dispatch_takes_out(database: Database) -> None:
    assert not database.run(has_backlog)
    backlog(database, PROGRAM, 2)
    assert database.run(has_backlog)
    database.run(partial(programs.set_pause, name="qa", paused=True))
    assert not database.run(has_backlog)
    database.run(partial(programs.set_pause, name="qa", paused=False))
    assert len(dispatch_due(database)) == 2
    assert not database.run(has_backlog)


def test_what_is_scheduled_for_later_waits(database: Database) -> None:
    backlog(database, PROGRAM, 3, run_at=datetime(2999, 1, 1, tzinfo=UTC))
    assert dispatch_due(database, 100) == []


# ----------------------------------------------------------------------------- versions that no live worker can run


def beat(database: Database, worker_id: UUID, *unrunnable: UnrunnableVersion) -> None:
    vitals = workers.Vitals(0, 10, unrunnable=[each.encode() for each in unrunnable])
    assert database.run(partial(workers.beat, id=worker_id, vitals=vitals))


def refused(program: dspex.Program, reason: str = "no such type") -> UnrunnableVersion:
    return UnrunnableVersion(program.name, program.version, reason)


def held_back(database: Database) -> dict[str, int]:
    return {each.program: each.executions for each in database.run(held)}


def test_a_version_is_held_back_only_while_no_live_worker_can_run_it(database: Database) -> None:
    first, second = register(database), register(database)
    beat(database, first, refused(PROGRAM), refused(SMALL))
    assert database.run(workers.fleet).unrunnable == frozenset()
    beat(database, second, refused(PROGRAM, "another reason"))
    assert database.run(workers.fleet).unrunnable == {refused(PROGRAM).key}
    database.run(partial(workers.stop, id=first))
    beat(database, second)
    assert database.run(workers.fleet).unrunnable == frozenset()


def test_what_is_held_back_costs_nothing_and_keeps_no_other_from_its_turn(database: Database) -> None:
    """Twice a window of an old version that no worker can run, before executions of the current one."""
    newer = dspex.Program("qa", PROGRAM.signature, adapter="scripted", timeout=7)
    backlog(database, PROGRAM, 40)
    backlog(database, newer, 5)
    backlog(database, SMALL, 5)
    unrunnable = [refused(PROGRAM).key]
    dispatched: Counter[str] = Counter()
    for _ in range(4):
        with database.transaction() as connection:
            dispatched.update(row.program for row in dispatch(connection, 20, unrunnable) if not row.held)
    assert dispatched == {"qa": 5, "small": 5}
    assert held_back(database) == {"qa": 40}
    with database.transaction() as connection:
        assert dispatch(connection, 20, unrunnable) == [], "they are not read again"
        assert find_held(connection, unrunnable, most=100) == []
    assert sum(each.due for each in database.run(backlogs)) == 10, "they are not due work that the pump is late with"


def test_what_was_held_back_is_dispatched_once_a_worker_can_run_it(database: Database) -> None:
    ids = backlog(database, PROGRAM, 30)
    with database.transaction() as connection:
        assert [row.held for row in dispatch(connection, 100, [refused(PROGRAM).key])] == [True] * 30
    assert database.run(partial(control.cancel, ids=ids[:3])).ended == ids[:3]
    assert held_back(database) == {"qa": 27}
    waiting = database.run(programs.waiting)
    assert {(stored.name, stored.version) for stored in waiting} == {
        (program.name, program.version) for program in (PROGRAM, SMALL)
    }
    with database.transaction() as connection:
        found = find_held(connection, [], most=100, aside=ids[3:5])
        assert set(release(connection, found)) == set(ids[5:])
        assert set(release(connection, ids)) == set(ids[3:5])
    assert {row.id for row in dispatch_due(database, 100)} == set(ids[3:])


def test_a_worker_starts_with_the_old_versions_that_others_left_waiting(database: Database) -> None:
    backlog(database, PROGRAM, 1)
    with database.transaction() as connection:
        dispatch(connection, 10, [refused(PROGRAM).key])
    newer = dspex.Program("qa", PROGRAM.signature, adapter="scripted", timeout=7)
    database.run(partial(programs.deploy, program=newer))
    versions = {stored.version for stored in database.run(programs.waiting) if stored.name == "qa"}
    assert versions == {PROGRAM.version, newer.version}


def test_a_worker_does_not_claim_what_it_cannot_run(database: Database) -> None:
    ids = [submit(database), submit(database, program="small", version=SMALL.version)]
    worker_id = register(database)
    claimed = claim(database, worker_id, *ids, unrunnable=[refused(PROGRAM).key])
    assert [each.program for each in claimed] == ["small"]
    other = register(database)
    (left,) = claim(database, other, *ids)
    assert (left.program, left.attempt) == ("qa", 1)


def test_versions_that_workers_cannot_run_are_named_while_they_matter(database: Database) -> None:
    first, second = register(database), register(database)
    old = dspex.Program("qa", PROGRAM.signature, adapter="scripted", timeout=7)
    beat(database, first, refused(SMALL, "no type :isbn"), refused(old))
    beat(database, second, refused(old))
    (found,) = database.run(refused_versions)
    assert (found.program, found.reason, found.by_all, found.held) == ("small", "no type :isbn", False, 0)
    backlog(database, old, 2)
    with database.transaction() as connection:
        dispatch(connection, 10, [refused(old).key])
    by_name = {each.program: each for each in database.run(refused_versions)}
    assert (by_name["qa"].by_all, by_name["qa"].current, by_name["qa"].held) == (True, False, 2)


def test_the_held_of_many_versions_are_found_by_the_index(database: Database) -> None:
    backlog(database, PROGRAM, 5000)
    others = [dspex.Program("qa", PROGRAM.signature, adapter="scripted", timeout=n) for n in (1, 2, 3)]
    for each in others:
        backlog(database, each, 1)
    with database.transaction() as connection:
        connection.execute(text("UPDATE dspex.executions SET held_at = now()"))
        connection.execute(text("ANALYZE dspex.executions"))
        explain = text(f"EXPLAIN (ANALYZE, FORMAT JSON) {FIND_HELD.text}")
        every = [refused(each).key for each in (PROGRAM, *others)]
        (plan,) = connection.scalar(explain, {"unrunnable": every, "most": 10_000, "aside": []})
    assert max(rows_read(plan["Plan"])) <= 50


# ------------------------------------------------------------------------------------------------------ suspects


def lose(database: Database, *ids: UUID, alone: bool = False) -> None:
    """Have a worker claim these executions and die."""
    doomed = register(database)
    dispatch_due(database, 100)
    assert len(claim(database, doomed, *ids, alone=alone)) == len(ids)
    declare_dead(database, doomed)
    assert len(recover(database)) == len(ids)


def test_an_execution_that_lost_two_workers_is_claimed_alone(database: Database) -> None:
    suspect = submit(database)
    lose(database, suspect)
    lose(database, suspect)
    (row,) = dispatch_due(database)
    assert (row.id, row.suspect) == (suspect, True)
    worker_id = register(database)
    assert claim(database, worker_id, suspect) == [], "beside other executions"
    (claimed,) = claim(database, worker_id, suspect, alone=True)
    assert settle(database, claimed)


def test_only_so_many_suspects_are_dispatched_at_a_time_and_others_do_not_wait_for_them(database: Database) -> None:
    suspects = backlog(database, PROGRAM, 4)
    lose(database, *suspects)
    lose(database, *suspects)
    backlog(database, PROGRAM, 30)
    rows = dispatch_due(database, 100, suspects_most=2)
    assert Counter(row.suspect for row in rows) == {False: 30, True: 2}
    assert dispatch_due(database, 100, suspects_most=2) == []
    (first, second) = (row.id for row in rows if row.suspect)
    (running,) = claim(database, register(database), first, alone=True)
    assert dispatch_due(database, 100, suspects_most=2) == [], "one runs, and one waits in Redis"
    settle(database, running)
    assert [row.suspect for row in dispatch_due(database, 100, suspects_most=2)] == [True]
    lose(database, second, alone=True)
    row = database.run(partial(executions.find, id=second))
    assert row is not None
    assert row["error"]["code"] == "poisoned"


def test_the_pump_leaves_a_suspect_to_the_worker_that_holds_it(database: Database) -> None:
    def hold(id: UUID) -> bool:
        given = {"id": id, "worker_id": uuid7()}
        return bool(database.run(lambda c: c.exec_driver_sql(executions.HOLD_SUSPECT, given).all()))

    suspect, other = submit(database), submit(database)
    lose(database, suspect)
    lose(database, suspect)
    assert not hold(suspect), "it is not dispatched"
    dispatch_due(database, 100)
    with database.transaction() as connection:
        connection.execute(text("UPDATE dspex.executions SET dispatched_at = now() - interval '5 s'"))
    assert hold(suspect)
    assert not hold(other), "it is no suspect"
    assert take_back_unclaimed(database, 2.0) == [other]
