"""Which executions, batches and programs a listing, a retry and a report have."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import pytest

import dspex
from dspex.client.client import Client
from dspex.errors import ValidationError
from dspex.store import programs
from dspex.store.database import Database
from dspex.store.lifecycle import batches, executions
from dspex.store.lifecycle.batch_ids import execution_id, new_batch_id
from dspex.store.lifecycle.selection import Selection
from tests.store.test_executions import PROGRAM, claim, dispatch_due, register, settle, submission, submit

SPENT = '{"code": "attempts_exhausted", "message": "", "details": {"cause": {"code": "rate_limited"}}}'
DIRECT = '{"code": "authentication", "message": "", "details": {}}'
NAIVE = datetime(2026, 1, 31)
PROBE = dspex.Program("dspex-doctor", dspex.signature("question -> answer"), adapter="scripted")


@pytest.fixture(autouse=True)
def _deployed(database: Database) -> None:
    for program in (PROGRAM, PROBE):
        database.run(partial(programs.deploy, program=program))


def probe(database: Database, **values: Any) -> UUID:
    return submit(database, program=PROBE.name, version=PROBE.version, **values)


def fail(database: Database, *errors: str, **values: Any) -> list[UUID]:
    """Executions that failed with these errors, of a batch if ``batch_id`` is given."""
    ids = []
    for index in range(len(errors)):
        row = {"id": execution_id(values["batch_id"], index), "batch_index": index} if "batch_id" in values else {}
        made = submission(**values, **row)
        with database.transaction() as connection:
            executions.copy(connection, [made])
        ids.append(made.id)
    dispatch_due(database)
    for claimed, error in zip(sorted(claim(database, register(database), *ids)), errors, strict=True):
        settle(database, claimed, "failed", error=error)
    return ids


def listed(client: Client, **selection: Any) -> set[UUID]:
    return {execution.id for execution in client.list(**selection)}


def test_dspex_own_executions_are_left_out_unless_they_are_asked_for(client: Client, database: Database) -> None:
    own, batch = submit(database), new_batch_id()
    row = submission(
        program=PROBE.name, version=PROBE.version, id=execution_id(batch, 0), batch_id=batch, batch_index=0
    )
    with database.transaction() as connection:
        executions.copy(connection, [row])
    single = probe(database)
    assert listed(client) == {own}
    assert listed(client, internal=True) == {own, single, row.id}
    assert listed(client, program="dspex-doctor") == {single, row.id}
    assert listed(client, batch=batch) == {row.id}
    assert [client.get(id).internal for id in (own, single)] == [False, True]
    assert client.batches() == []
    assert [each.id for each in client.batches(internal=True)] == [batch]
    assert [each.name for each in client.programs()] == ["qa"]
    assert [each.name for each in client.programs(internal=True)] == ["dspex-doctor", "qa"]


def test_a_program_is_not_deployed_under_a_name_whose_executions_are_left_out(client: Client) -> None:
    with pytest.raises(ValidationError, match="dspex-doctor"):
        client.deploy(PROBE)


def test_failures_are_found_by_their_code_and_by_their_cause(client: Client, database: Database) -> None:
    spent, direct = fail(database, SPENT, DIRECT)
    waiting = submit(database)
    assert listed(client, error="rate_limited") == listed(client, error="attempts_exhausted") == {spent}
    assert listed(client, error="authentication") == {direct}
    assert listed(client, error="authentication", status="queued") == set()
    causes = {id: client.get(id).cause_code for id in (spent, direct, waiting)}
    assert causes == {spent: "rate_limited", direct: "authentication", waiting: None}


@pytest.mark.parametrize(
    ("stored", "wanted", "found"),
    [
        ('{"customer": "42", "note": "a \\u0000 and half a \\ud800"}', {"customer": "42"}, True),
        ('{"customer": 42}', {"customer": 42}, True),
        ('{"customer": true}', {"customer": True}, True),
        ('{"customer": "42", "day": "1"}', {"customer": "42", "day": "2"}, False),
        (None, {"customer": "42"}, False),
    ],
)
def test_executions_are_found_by_members_of_their_metadata(
    client: Client, database: Database, stored: str | None, wanted: dict[str, Any], found: bool
) -> None:
    id = submit(database, metadata=stored)
    assert listed(client, metadata=wanted) == ({id} if found else set())


@pytest.mark.parametrize(
    ("method", "arguments", "faults"),
    [
        ("list", {"status": "lost"}, {"status"}), ("list", {"limit": -1, "since": NAIVE}, {"limit", "since"}),
        ("list", {"limit": 2**63}, {"limit"}), ("list", {"limit": True}, {"limit"}),
        ("list", {"since": "2026-01-01"}, {"since"}), ("list", {"metadata": {"order": object()}}, {"metadata"}),
        ("list", {"program": 5, "error": 5, "tenant": 5}, {"program", "error", "tenant"}),
        ("batches", {"limit": -1}, {"limit"}), ("evaluations", {"limit": -1}, {"limit"}),
        ("approvals", {"limit": -1}, {"limit"}), ("bundles", {"limit": -1}, {"limit"}),
        ("program_changes", {"name": PROGRAM.name, "limit": -1}, {"limit"}),
        ("retry_failed", {"error": 5}, {"error"}), ("verify_audit", {"since": NAIVE}, {"since"}),
        ("report", {"since": NAIVE}, {"since"}), ("report", {"since": "1d"}, {"since"}),
        ("replay", {"program": PROGRAM.name, "version": PROGRAM.version, "status": "lost", "since": NAIVE},
         {"status", "since"}),
    ],
)  # fmt: skip
def test_arguments_that_select_nothing_are_refused_together(
    client: Client, method: str, arguments: dict[str, Any], faults: set[str]
) -> None:
    with pytest.raises(ValidationError, match=f"^{method}: ") as refused:
        getattr(client, method)(**arguments)
    assert {fault.path for fault in refused.value.errors} == faults


def test_the_failures_of_a_batch_are_counted_by_cause_and_retried(client: Client, database: Database) -> None:
    batch = new_batch_id()
    failed = fail(database, SPENT, SPENT, DIRECT, batch_id=batch)
    (elsewhere,) = fail(database, SPENT)
    assert client.batch(batch).failures == {"rate_limited": 2, "authentication": 1}
    assert listed(client, batch=batch, status="failed") == set(failed)
    assert client.retry_failed(batch=batch, error="rate_limited") == 2
    assert client.batch(batch).failures == {"authentication": 1}
    assert client.retry_failed(batch=batch) == 1
    assert client.batch(batch).failures == {}
    assert client.get(elsewhere).status == "failed"


def test_a_batch_counts_executions_whose_cost_is_known_in_part_or_not(client: Client, database: Database) -> None:
    batch = new_batch_id()
    known = '{"cost_usd": 0.25, "unpriced_lm_calls": 0}'
    part = '{"cost_usd": 0.5, "unpriced_lm_calls": 1}'
    rows = [submission(id=execution_id(batch, n), batch_id=batch, batch_index=n) for n in range(4)]
    with database.transaction() as connection:
        executions.copy(connection, rows)
    dispatch_due(database)
    claimed = sorted(claim(database, register(database), *(row.id for row in rows[:3])))
    for each, metrics in zip(claimed, (known, part, None), strict=True):
        settle(database, each, metrics=metrics)
    client.cancel(rows[3].id)
    progress = client.batch(batch).progress
    assert (progress.finished, progress.cost_usd, progress.unpriced) == (4, 0.75, 2), "what never began cost nothing"


def test_failed_probes_are_not_retried_with_the_dead_letters(client: Client, database: Database) -> None:
    (own,) = fail(database, SPENT)
    (probed,) = fail(database, SPENT, program=PROBE.name, version=PROBE.version)
    assert client.retry_failed() == 1
    assert [client.get(id).status for id in (own, probed)] == ["queued", "failed"]
    assert client.retry_failed("dspex-doctor") == 1


def test_a_search_that_no_index_helps_looks_at_so_many_at_a_time(database: Database) -> None:
    ids = [submit(database, metadata=text) for text in ('{"customer": 42}', *[None] * 4)]
    oldest, third = ids[0], ids[2]

    def search(**values: Any) -> tuple[list[UUID], UUID | None]:
        ask = partial(executions.listing_within, selection=Selection(**values), limit=10, most=3)
        rows, last = database.run(ask)
        return [row["id"] for row in rows], last

    wanted = {"metadata": {"customer": "42"}}
    assert search(**wanted) == ([], third)
    assert search(**wanted, before=third) == ([oldest], None)
    found, last = search(program=PROGRAM.name)
    assert (len(found), last) == (5, None), "an index finds these"


def test_batches_are_listed_newest_first(client: Client, database: Database) -> None:
    ids = [new_batch_id() for _ in range(3)]
    with database.transaction() as connection:
        for id in ids:
            rows = (submission(id=execution_id(id, n), batch_id=id, batch_index=n) for n in range(2))
            executions.copy(connection, list(rows))
    first, second = client.batches(limit=2)
    assert (first.id, second.id) == (ids[2], ids[1])
    assert (first.program, first.progress.total, first.progress.queued) == ("qa", 2, 2)
    assert abs((first.begun_at - client.get(execution_id(ids[2], 0)).created_at).total_seconds()) < 60
    assert client.batches(program="another") == []
    listing = partial(batches.listing, program=None, internal=False, most=9)
    assert database.run(listing) == [(id, "qa", 2) for id in reversed(ids)]
    assert [each.id for each in database.run(partial(listing, before=ids[2]))] == [ids[1], ids[0]]


def test_programs_are_listed_with_their_executions_and_their_budget(client: Client, database: Database) -> None:
    budget = dspex.Limits(max_cost_usd=2.5)
    limited = dspex.Program("limited", PROGRAM.signature, adapter="scripted", limits=budget)
    client.deploy(limited)
    client.pause("limited")
    running, dispatched = submit(database), submit(database)
    dispatch_due(database)
    claim(database, register(database), running)
    waiting = list(_waiting(database))
    found = {each.name: each for each in client.programs()}
    assert (found["qa"].queued, found["qa"].running) == (1 + len(waiting), 1)
    assert (found["qa"].spent_usd, found["qa"].paused_at) == (None, None)
    assert (found["limited"].spent_usd, found["limited"].paused_reason) == (0.0, "by an operator")
    assert found["limited"].program == limited
    assert client.get(dispatched).status == "queued"


def _waiting(database: Database) -> Iterator[UUID]:
    """Executions that no worker can run, that are due, and that are for later."""
    for column in ("held_at = now(), dispatched_at = NULL", "dispatched_at = NULL", "run_at = now() + interval '1 h'"):
        id = submit(database)
        with database.transaction() as connection:
            connection.exec_driver_sql(f"UPDATE dspex.executions SET {column} WHERE id = %s", (id,))
        yield id
