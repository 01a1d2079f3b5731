"""Parked executions in Postgres: parking, answers, resuming, expiry, children, decisions; and their races."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, text
from uuid_utils.compat import uuid7

import dspex
from dspex.client.client import Client
from dspex.client.waits.approval import Approval, Approvals
from dspex.errors import AlreadyDecided, ApprovalNotFound
from dspex.sealing.keyring import Keyring
from dspex.sealing.values import Sealing
from dspex.settings.security_settings import new_key, read_keys
from dspex.store import programs, workers
from dspex.store.audit_chain import hash_of_values
from dspex.store.database import Database
from dspex.store.lifecycle import approvals, batches, bundles, control, executions, lm_calls, parked
from dspex.store.lifecycle.approvals import CallSelection, Place
from dspex.store.lifecycle.executions import Claimed
from dspex.store.lifecycle.lm_calls import LMCall
from dspex.store.lifecycle.parked import Park, ParkedCall, WaitingFor
from tests.store.test_dispatch import lose
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
)
from tests.waiting import wait_for
from workers.attempt.waiting.children import child_id
from workers.process.leader.parked_upkeep import ParkedUpkeep

R, S = (hashlib.sha256(name.encode()).digest() for name in ("R", "S"))
TARGET = json.dumps({"model": "openai/test"})


@pytest.fixture(autouse=True)
def _deployed(database: Database) -> None:
    database.run(partial(programs.deploy, program=PROGRAM))


@pytest.fixture
def worker_id(database: Database) -> UUID:
    return register(database)


def a_call(hashed: bytes = R, kind: WaitingFor = "batch", **values: Any) -> ParkedCall:
    target = {"target": TARGET} if kind == "batch" else {}
    given = {"request": '{"messages":[]}', **target, **values}
    return ParkedCall(hashed, 0, kind, "openai/test", **given)


def park(
    database: Database, claimed: Claimed, *calls: ParkedCall, expires: bool = False, attempt: int | None = None
) -> str | None:
    """The execution's status then; None when the attempt is not its worker's any more."""
    made = Park(
        claimed.id, attempt or claimed.attempt, claimed.worker_id, (calls or (a_call(),))[0].kind, calls or (a_call(),),
        events='[{"kind":"parked"}]', metrics='{"cost_usd":0.5}', expires=expires,
    )  # fmt: skip
    rows = database.run(lambda c: c.exec_driver_sql(parked.PARK, parked.park_parameters([made])).all())
    return rows[0].status if rows else None


def an_answer(id: UUID, request: bytes = R, text: str = "yes", attempt: int = 1) -> LMCall:
    return LMCall(
        id, request, 0, attempt, "openai/test", json.dumps({"text": text}), 10, 5, 0.1, 0.0, "req-1", list_cost_usd=0.2
    )


def answer(database: Database, *answers: LMCall) -> list[UUID]:
    """The executions that are resumed."""
    with database.transaction() as connection:
        return parked.answer(connection, answers)[1]


def claimed_again(database: Database, worker_id: UUID, id: UUID) -> Claimed:
    assert [row.id for row in dispatch_due(database, window=100) if row.id == id] == [id]
    (claimed,) = claim(database, worker_id, id)
    return claimed


def parked_execution(database: Database, worker_id: UUID, *calls: ParkedCall, **values: Any) -> Claimed:
    (claimed,) = claim(database, worker_id, submit(database, **values))
    assert park(database, claimed, *calls) == "waiting"
    return claimed


def waits_of(database: Database, id: UUID) -> Sequence[parked.KnownCall]:
    rows = database.run(lambda c: c.exec_driver_sql(parked.OF_EXECUTIONS, {"ids": [id]}).all())
    return [parked.KnownCall(bytes(row[1]), *row[2:]) for row in rows]


def missed(database: Database, waiting_for: WaitingFor) -> list[UUID]:
    """What the leader finds of those that wait for this, which it looks at two at a time."""
    found: list[UUID] = []
    last = None
    while some := database.run(partial(parked.waiters, waiting_for=waiting_for, after=last, most=2)):
        found += database.run(partial(parked.ready, ids=[each.id for each in some]))
        last = some[-1]
    return found


def resume_ready(database: Database, *ids: UUID) -> list[UUID]:
    with database.transaction() as connection:
        return parked.resume_ready(connection, ids)


# ------------------------------------------------------------------------------------------------ park, answer, resume


def test_a_parked_execution_waits_without_a_worker_and_goes_on_with_its_answer(
    database: Database, worker_id: UUID
) -> None:
    first = parked_execution(database, worker_id)
    row = database.run(partial(executions.find, id=first.id))
    assert row is not None
    assert (row["status"], row["waiting_for"], row["worker_id"]) == ("waiting", "batch", None)
    assert (row["waiting_since"] is not None, row["metrics"], row["finished_at"]) == (True, {"cost_usd": 0.5}, None)
    assert dispatch_due(database) == []
    assert answer(database, an_answer(first.id)) == [first.id]
    assert waits_of(database, first.id) == []
    again = claimed_again(database, worker_id, first.id)
    assert (again.attempt, again.max_attempts) == (2, first.max_attempts + 1), "a wait uses up no attempt"
    ((kept, _),) = database.run(partial(lm_calls.of_execution, execution_id=first.id))
    assert (json.loads(kept.response), kept.cost_usd, kept.list_cost_usd) == ({"text": "yes"}, 0.1, 0.2)
    assert settle(database, again)
    kinds = trail(database, first.id).kinds
    assert [kind for kind in kinds if kind in ("claimed", "parked", "resumed", "completed")] == [
        "claimed", "parked", "resumed", "claimed", "completed",
    ]  # fmt: skip
    assert trail(database, first.id).verify()


def test_an_attempt_that_comes_to_a_wait_ends_the_suspicion(database: Database, worker_id: UUID) -> None:
    id = submit(database)
    lose(database, id)
    lose(database, id)
    assert [row.suspect for row in dispatch_due(database)] == [True]
    (claimed,) = claim(database, worker_id, id, alone=True)
    assert park(database, claimed) == "waiting"
    assert answer(database, an_answer(id)) == [id]
    assert [row.suspect for row in dispatch_due(database)] == [False]


def test_attempts_that_are_lost_count_from_one_wait_to_the_next(database: Database, worker_id: UUID) -> None:
    id = submit(database, max_attempts=3)
    for step in range(10):
        lose(database, id)
        claimed = claimed_again(database, worker_id, id)
        request = hashlib.sha256(str(step).encode()).digest()
        assert park(database, claimed, a_call(request)) == "waiting"
        assert answer(database, an_answer(id, request, attempt=claimed.attempt)) == [id]
    claimed = claimed_again(database, worker_id, id)
    assert claimed.max_attempts - claimed.attempt == 2, "it has its three attempts at this step"
    assert settle(database, claimed, "queued"), "a failure counts, whatever it waits for later"
    parking = claimed_again(database, worker_id, id)
    assert park(database, parking, a_call(S)) == "waiting"
    assert answer(database, an_answer(id, S, attempt=parking.attempt)) == [id]
    lose(database, id)
    assert status(database, id) == "queued"
    lose(database, id)
    row = database.run(partial(executions.find, id=id))
    assert row is not None
    assert (row["status"], row["error"]["code"]) == ("failed", "poisoned")
    assert trail(database, id).verify()


def test_it_goes_on_once_all_that_it_waits_for_came(database: Database, worker_id: UUID) -> None:
    first = parked_execution(database, worker_id, a_call(R), a_call(S))
    assert answer(database, an_answer(first.id, R)) == []
    assert answer(database, an_answer(first.id, R, "again")) == [], "a second result changes nothing"
    assert answer(database, an_answer(first.id, S)) == [first.id]
    calls = database.run(partial(lm_calls.of_execution, execution_id=first.id))
    assert sorted(json.loads(call.response)["text"] for call, _ in calls) == ["yes", "yes"]


def test_answers_that_come_at_the_same_time_resume_once(database: Database, worker_id: UUID) -> None:
    waiting = [parked_execution(database, worker_id, a_call(R), a_call(S)) for _ in range(20)]
    with ThreadPoolExecutor(8) as threads:
        given = [
            threads.submit(answer, database, an_answer(each.id, request))
            for each in waiting
            for request in (R, S, R, S)
        ]
        resumed = [id for future in given for id in future.result()]
    assert sorted(resumed) == sorted(each.id for each in waiting)
    assert all(status(database, each.id) == "queued" and trail(database, each.id).verify() for each in waiting)


def test_only_the_attempt_that_runs_parks(database: Database, worker_id: UUID) -> None:
    (claimed,) = claim(database, worker_id, submit(database))
    assert park(database, claimed, attempt=2) is None
    database.run(partial(workers.stop, id=worker_id))
    assert park(database, claimed) is None
    assert waits_of(database, claimed.id) == []


def test_what_is_to_be_cancelled_does_not_wait(database: Database, worker_id: UUID) -> None:
    (claimed,) = claim(database, worker_id, submit(database))
    assert database.run(partial(control.cancel, ids=[claimed.id])).running == [claimed.id]
    assert park(database, claimed) == "cancelled"
    assert waits_of(database, claimed.id) == []
    assert trail(database, claimed.id).verify()


def test_a_waiting_execution_is_cancelled_at_once(database: Database, worker_id: UUID) -> None:
    claimed = parked_execution(database, worker_id)
    assert database.run(partial(control.cancel, ids=[claimed.id])).ended == [claimed.id]
    assert status(database, claimed.id) == "cancelled"
    assert waits_of(database, claimed.id) == [], "what is not asked yet is not asked any more"
    assert answer(database, an_answer(claimed.id)) == []
    assert trail(database, claimed.id).verify()


def test_a_second_run_that_asks_something_else_waits_for_that_alone(database: Database, worker_id: UUID) -> None:
    first = parked_execution(database, worker_id, a_call(R), a_call(S, "approval"))
    decide(database, first.id, approved=True)
    second = claimed_again(database, worker_id, first.id)
    other = hashlib.sha256(b"other").digest()
    assert park(database, second, a_call(other)) == "waiting"
    assert answer(database, an_answer(first.id, other, attempt=2)) == [first.id]
    assert answer(database, an_answer(first.id, R)) == [], "its answer is kept"
    assert len(database.run(partial(lm_calls.of_execution, execution_id=first.id))) == 2


def test_what_was_answered_while_the_attempt_ran_is_not_asked_again(database: Database, worker_id: UUID) -> None:
    first = parked_execution(database, worker_id, a_call(R), a_call(S, "approval"))
    decide(database, first.id, approved=True)
    second = claimed_again(database, worker_id, first.id)
    assert answer(database, an_answer(first.id, R)) == []
    assert park(database, second, a_call(R, again=True)) == "waiting"
    assert [wait.kind for wait in waits_of(database, first.id)] == ["approval"]
    assert resume_ready(database, first.id) == [first.id]
    assert missed(database, "approval") == []


def test_the_error_of_a_request_is_for_the_next_attempt_alone(database: Database, worker_id: UUID) -> None:
    first = parked_execution(database, worker_id)
    error = '{"type":"ModelError","code":"rate_limited","message":"busy","retryable":true}'
    with database.transaction() as connection:
        assert parked.give_up_calls(connection, [(first.id, R, 0, error)]) == [first.id]
    (wait,) = waits_of(database, first.id)
    assert wait.error is not None
    assert (wait.error["code"], wait.error_attempt) == ("rate_limited", 2)
    second = claimed_again(database, worker_id, first.id)
    assert park(database, second, a_call(again=True)) == "waiting"
    (wait,) = waits_of(database, first.id)
    assert (wait.error, wait.attempt) == (None, 2), "it is asked again"


# --------------------------------------------------------------------------------------------------------------- expiry


def test_a_wait_ends_at_the_deadline_if_the_timeout_goes_on(database: Database, worker_id: UUID) -> None:
    (lasting,) = claim(database, worker_id, submit(database, timeout_seconds=0.01))
    assert park(database, lasting) == "waiting"
    (ending,) = claim(database, worker_id, submit(database, timeout_seconds=0.01))
    assert park(database, ending, a_call(), expires=True) == "waiting"
    database.run(lambda c: c.execute(text("SELECT pg_sleep(0.02)")))
    assert database.run(parked.expire) == [ending.id]
    row = database.run(partial(executions.find, id=ending.id))
    assert row is not None
    assert (row["status"], row["error"]["code"], row["waiting_for"]) == ("failed", "deadline_exceeded", None)
    assert waits_of(database, ending.id) == []
    assert trail(database, ending.id).verify()
    assert status(database, lasting.id) == "waiting"


@pytest.mark.parametrize("ending", ["expired", "cancelled"])
def test_a_retry_after_a_wait_has_its_whole_time(database: Database, worker_id: UUID, ending: str) -> None:
    (first,) = claim(database, worker_id, submit(database, timeout_seconds=0.01))
    assert park(database, first, a_call(), expires=True) == "waiting"
    database.run(lambda c: c.execute(text("SELECT pg_sleep(0.02)")))
    if ending == "expired":
        assert database.run(parked.expire) == [first.id]
    else:
        assert database.run(partial(control.cancel, ids=[first.id])).ended == [first.id]
    assert database.run(partial(control.retry, ids=[first.id])) == [first.id]
    second = claimed_again(database, worker_id, first.id)
    assert second.allowed_seconds == pytest.approx(0.01)


def test_an_attempt_after_a_wait_has_the_time_that_is_left(database: Database, worker_id: UUID) -> None:
    (first,) = claim(database, worker_id, submit(database, timeout_seconds=60.0))
    assert first.allowed_seconds == pytest.approx(60.0)
    assert park(database, first, a_call(), expires=True) == "waiting"
    answer(database, an_answer(first.id))
    second = claimed_again(database, worker_id, first.id)
    assert second.deadline_at == first.deadline_at
    assert second.allowed_seconds < 60.0
    assert settle(database, second, "queued")
    third = claimed_again(database, worker_id, first.id)
    assert third.allowed_seconds == pytest.approx(60.0), "another attempt begins anew"


def test_waits_are_counted_by_what_is_waited_for(database: Database, worker_id: UUID) -> None:
    parked_execution(database, worker_id, a_call())
    parked_execution(database, worker_id, a_call(kind="approval"))
    batch, made = uuid7(), submission()
    with database.transaction() as connection:
        executions.copy(connection, [made._replace(batch_id=batch, batch_index=0)])
    assert park(database, claimed_again(database, worker_id, made.id)) == "waiting"
    found = {wait.waiting_for: wait.executions for wait in database.run(parked.waits)}
    assert found == {"batch": 2, "approval": 1}
    progress = database.run(partial(batches.progress, batch_id=batch))
    assert (progress["counts"], progress["bundled"], progress["cost_usd"]) == ({"waiting": 1}, 0, 0.5)
    saved = """UPDATE dspex.executions SET metrics = '{"cost_usd": 0.5, "saved_usd": 0.25}' WHERE id = :id"""
    database.run(lambda c: c.execute(text(saved), {"id": made.id}))
    with database.transaction() as connection:
        assert bundles.assemble(connection, uuid7(), TARGET, most=10, most_bytes=10**6) == 2
    progress = database.run(partial(batches.progress, batch_id=batch))
    assert (progress["bundled"], progress["cost_usd"], progress["saved_usd"]) == (1, 0.5, 0.25)
    assert list(database.run(partial(batches.unfinished_indexes, batch_id=batch, after=-1, most=5))) == [0]


def test_calls_of_final_executions_are_forgotten(database: Database, worker_id: UUID) -> None:
    first = parked_execution(database, worker_id, a_call(R), a_call(S, "approval"))
    decide(database, first.id, approved=True)
    assert settle(database, claimed_again(database, worker_id, first.id))
    others = [parked_execution(database, worker_id, a_call(R), a_call(S)).id for _ in range(3)]
    after, looks = parked.FIRST_CALL, 0
    while (last := database.run(partial(parked.forget, after=after, most=3))) is not None:
        after, looks = last, looks + 1
    assert looks == 3, "three calls at a time"
    assert [len(waits_of(database, id)) for id in others] == [2, 2, 2]
    assert waits_of(database, first.id) == []


# ------------------------------------------------------------------------------------------------------------ approvals


def decide(database: Database, id: UUID, *, approved: bool, by: str = "anna") -> bool:
    """Decide about the call that an execution waits for. Returns whether nobody had decided before."""
    name = approvals.call_id(S, 0)
    decision = {"approved": approved, "by": by, "at": datetime.now(UTC).isoformat()}
    with database.transaction() as connection:
        decided = approvals.decide(connection, id, name, decision)
    assert decided is not None
    return decided.first


def test_a_decision_lets_the_execution_go_on_and_is_in_its_trail(database: Database, worker_id: UUID) -> None:
    for approved, kind in ((True, "approved"), (False, "rejected")):
        waiting = parked_execution(database, worker_id, a_call(S, "approval"))
        assert decide(database, waiting.id, approved=approved)
        (wait,) = waits_of(database, waiting.id)
        assert wait.decision is not None
        assert wait.decision["approved"] is approved
        assert status(database, waiting.id) == "queued"
        events = {event.kind: event.data for event in trail(database, waiting.id)}
        assert events[kind]["by"] == "anna"
        assert trail(database, waiting.id).verify()


def test_nothing_is_decided_about_a_call_of_an_execution_that_is_over(
    database: Database, worker_id: UUID, client: Client
) -> None:
    waiting = parked_execution(database, worker_id, a_call(R, "approval"), a_call(S, "approval"))
    client.reject(waiting.id, approvals.call_id(R, 0))
    assert settle(database, claimed_again(database, worker_id, waiting.id), "failed", error="{}")
    with pytest.raises(ApprovalNotFound):
        client.approve(waiting.id, approvals.call_id(S, 0))


def test_of_two_people_one_decides_and_the_other_learns_it(database: Database, worker_id: UUID, client: Client) -> None:
    waiting = parked_execution(database, worker_id, a_call(S, "approval", request='{"cents": 5}'))
    (approval,) = client.approvals(program="qa")
    assert (approval.execution_id, approval.arguments) == (waiting.id, {"cents": 5})

    def one(by: str) -> str | None:
        try:
            client.reject(waiting.id, approval.call_id, by=by, note="no")
        except AlreadyDecided as error:
            return str(error.details["by"])
        return None

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(one, map(str, range(8))))
    assert found.count(None) == 1
    assert set(found) - {None} == {str(found.index(None))}, "each is told who decided"
    assert trail(database, waiting.id).kinds.count("rejected") == 1
    with pytest.raises(ApprovalNotFound):
        client.approve(waiting.id, "0" * 16 + "-0")
    assert client.approvals() == []


def test_who_comes_too_late_reads_who_decided_also_when_the_call_was_made_meanwhile(
    database: Database, worker_id: UUID, client: Client
) -> None:
    waiting = parked_execution(database, worker_id, a_call(S, "approval"))
    name = approvals.call_id(S, 0)
    client.approve(waiting.id, name, by="anna")
    database.run(lambda c: c.execute(text("DELETE FROM dspex.parked_calls")))
    with pytest.raises(AlreadyDecided) as late:
        client.reject(waiting.id, name, by="bert")
    assert (late.value.details["approved"], late.value.details["by"]) == (True, "anna")
    for unknown in ("\0", "x", "0" * 16 + "-0"):
        with pytest.raises(ApprovalNotFound):
            client.approve(waiting.id, unknown)


def test_approvals_are_listed_for_who_may_see_them_and_go_on_after_a_place(
    database: Database, worker_id: UUID, client: Client
) -> None:
    calls = [a_call(hashlib.sha256(bytes([n])).digest(), "approval") for n in range(3)]
    mine, theirs = (parked_execution(database, worker_id, *calls, tenant=tenant) for tenant in ("acme", "other"))
    pending = Approvals(client._session).pending
    assert {each.execution_id for each in pending(CallSelection(tenant="acme"), limit=9)} == {mine.id}
    assert pending(CallSelection(programs=["another"]), limit=9) == []
    assert pending(CallSelection(programs=["qa"], execution_id=theirs.id), limit=9)[0].tenant == "other"
    found: list[Approval] = []
    after = None
    while page := pending(CallSelection(after=after), limit=2):
        found += page
        after = Place(page[-1].requested_at, page[-1].execution_id, page[-1].call_id)
    assert found == pending(CallSelection(), limit=9)
    assert len(found) == 6
    count = partial(approvals.count, selection=CallSelection(tenant="acme"))
    assert (database.run(partial(count, most=9)), database.run(partial(count, most=2))) == (3, 2)


def test_arguments_that_are_sealed_are_shown_with_the_key_only(
    database: Database, worker_id: UUID, client: Client
) -> None:
    keyed = Sealing(Keyring(read_keys(new_key())))
    (claimed,) = claim(database, worker_id, submit(database))
    sealed = keyed.seal_call('{"iban": "DE1"}', claimed.id, parked.parked_place(S, 0))
    assert park(database, claimed, a_call(S, "approval", request=sealed)) == "waiting"
    for sealing, expected in ((keyed, {"iban": "DE1"}), (Sealing(), "<secret>")):
        (call,) = Approvals(client._session, sealing).pending(CallSelection(), limit=9)
        assert call.arguments == expected


def test_a_call_that_nobody_decided_about_in_time_is_found(database: Database, worker_id: UUID) -> None:
    waiting = parked_execution(database, worker_id, a_call(S, "approval", expires_seconds=0.01))
    database.run(lambda c: c.execute(text("SELECT pg_sleep(0.02)")))
    (late,) = database.run(partial(parked.late_calls, kind="approval", most=10))
    assert late.execution_id == waiting.id
    assert database.run(partial(parked.late_calls, kind="batch", most=10)) == []


def test_a_call_that_nobody_decided_about_in_time_is_rejected(database: Database, worker_id: UUID) -> None:
    late = parked_execution(database, worker_id, a_call(S, "approval", expires_seconds=0.01))
    waiting = parked_execution(database, worker_id, a_call(S, "approval", expires_seconds=3600))
    database.run(lambda c: c.execute(text("SELECT pg_sleep(0.02)")))
    ParkedUpkeep(database, lambda _ids: None).run()
    assert [status(database, each.id) for each in (late, waiting)] == ["queued", "waiting"]
    (wait,) = waits_of(database, late.id)
    assert wait.decision is not None
    assert (wait.decision["approved"], wait.decision["by"]) == (False, "expiry")
    events = {event.kind: event.data for event in trail(database, late.id)}
    assert events["rejected"]["by"] == "expiry"


# ------------------------------------------------------------------------------------------------------------- children


def submit_children(database: Database, parent: UUID, count: int, connection: Connection | None = None) -> list[UUID]:
    made = [submission(id=child_id(parent, R, number)) for number in range(count)]
    hashes = [hash_of_values(s.program, s.version, s.inputs, s.metadata) for s in made]
    given = parked.children_parameters(parent, list(zip(made, hashes, strict=True)))
    for _ in range(2):  # a second attempt that makes the same calls means the same children
        if connection is None:
            database.run(lambda c: c.exec_driver_sql(parked.SUBMIT_CHILDREN, given))
        else:
            connection.exec_driver_sql(parked.SUBMIT_CHILDREN, given)
    return [each.id for each in made]


def waits_for_a_lock(database: Database) -> bool:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return bool(database.run(lambda c: c.scalar(text(waiting))))


def parked_parent(database: Database, worker_id: UUID, count: int) -> tuple[Claimed, list[UUID]]:
    (parent,) = claim(database, worker_id, submit(database, priority=2))
    children = submit_children(database, parent.id, count)
    calls = [ParkedCall(R, number, "child", "qa", child_id=id) for number, id in enumerate(children)]
    assert park(database, parent, *calls) == "waiting"
    return parent, children


def test_a_parent_goes_on_with_the_outcomes_of_all_its_children(database: Database, worker_id: UUID) -> None:
    parent, children = parked_parent(database, worker_id, 3)
    assert {row.id for row in dispatch_due(database, window=100)} == set(children)
    claimed = {each.id: each for each in claim(database, worker_id, *children)}
    assert {(each.parent_id, each.depth) for each in claimed.values()} == {(parent.id, 1)}
    for number, id in enumerate(children):
        assert resume_ready(database, parent.id) == []
        if number == 0:
            error = '{"type":"ModelError","code":"billing","message":"no money"}'
            assert settle(database, claimed[id], "failed", error=error)
        else:
            assert settle(database, claimed[id], result='{"answer":"\\u0000 yes"}')
    assert missed(database, "child") == [parent.id]
    assert resume_ready(database, parent.id) == [parent.id]
    found = database.run(partial(lm_calls.of_execution, execution_id=parent.id))
    outcomes = {json.loads(call.response)["child"]: json.loads(call.response) for call, _ in found}
    assert outcomes[str(children[0])]["error"]["code"] == "billing"
    assert outcomes[str(children[1])]["result"] == {"answer": "\0 yes"}
    assert not any(call.is_of_model for call, _ in found)
    assert all(trail(database, id).verify() for id in (parent.id, *children))


def test_cancelling_a_parent_cancels_its_children(database: Database, worker_id: UUID) -> None:
    parent, (queued, running, over) = parked_parent(database, worker_id, 3)
    dispatch_due(database, window=100)
    claimed = {each.id: each for each in claim(database, worker_id, running, over)}
    assert settle(database, claimed[over])
    below = submit_children(database, running, 1)
    found = database.run(partial(control.cancel, ids=[parent.id]))
    assert (found.ended, found.running, found.running_children) == ([parent.id], [], [running])
    assert sorted(found.ended_children) == sorted([queued, *below])
    assert [status(database, id) for id in (queued, running, over)] == ["cancelled", "running", "completed"]


def test_a_parent_that_is_to_be_cancelled_or_is_over_gets_no_children(database: Database, worker_id: UUID) -> None:
    (parent,) = claim(database, worker_id, submit(database))
    assert database.run(partial(control.cancel, ids=[parent.id])).running == [parent.id]
    (late,) = submit_children(database, parent.id, 1)
    assert park(database, parent, ParkedCall(R, 0, "child", "qa", child_id=late)) == "cancelled"
    submit_children(database, parent.id, 1)
    assert database.run(partial(executions.find, id=late)) is None


def test_children_that_are_stored_while_their_parent_is_cancelled_are_cancelled_too(
    database: Database, worker_id: UUID
) -> None:
    (parent,) = claim(database, worker_id, submit(database))
    with ThreadPoolExecutor(1) as thread:
        with database.transaction() as connection:
            children = submit_children(database, parent.id, 2, connection)
            cancelling = thread.submit(database.run, partial(control.cancel, ids=[parent.id]))
            wait_for(lambda: cancelling.done() or waits_for_a_lock(database), "the cancel to wait for the children")
        found = cancelling.result()
    assert (found.running, sorted(found.ended_children)) == ([parent.id], sorted(children))


def test_children_end_with_a_parent_whose_time_is_over(database: Database, worker_id: UUID) -> None:
    (parent,) = claim(database, worker_id, submit(database, timeout_seconds=0.01))
    queued, running = submit_children(database, parent.id, 2)
    calls = [ParkedCall(R, number, "child", "qa", child_id=id) for number, id in enumerate((queued, running))]
    assert park(database, parent, *calls, expires=True) == "waiting"
    dispatch_due(database, window=100)
    claim(database, worker_id, running)
    database.run(lambda c: c.execute(text("SELECT pg_sleep(0.02)")))
    announced: list[UUID] = []
    ParkedUpkeep(database, announced.extend).run()
    assert [status(database, id) for id in (parent.id, queued, running)] == ["failed", "cancelled", "running"]
    assert announced == [parent.id, queued]
    row = database.run(partial(executions.find, id=running))
    assert row is not None
    assert row["cancel_requested_at"] is not None


def test_the_ids_of_children_are_of_version_7_and_of_the_time_of_their_parent() -> None:
    parent = uuid7()
    made = {child_id(parent, request, number) for request in (R, S) for number in range(3)}
    assert len(made) == 6
    assert {(id.version, id.bytes[:6]) for id in made} == {(7, parent.bytes[:6])}


def test_clients_show_what_an_execution_waits_for(database: Database, worker_id: UUID, client: Client) -> None:
    waiting = parked_execution(database, worker_id, a_call(S, "approval"))
    execution = client.get(waiting.id)
    assert execution.status is dspex.Status.WAITING
    assert execution.waiting is not None
    assert execution.waiting.reason == "approval"
    assert client.list(status="waiting")[0].id == waiting.id
