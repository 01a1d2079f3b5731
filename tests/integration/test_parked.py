"""Programs that wait, through real workers: batches of several steps, approvals, tools called once, children."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

import dspex
from dspex.client.client import Client
from dspex.client.execution import Execution
from dspex.client.waits.approval import decisions_in
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.store.database import Database
from dspex.testing.model_batches import BatchScript
from tests.chaos.guarantees import long
from tests.conftest import client_with_worker
from tests.model_server import ModelServer, Step, model_server
from tests.processes import WorkerProcess
from tests.waiting import wait_for

__all__ = ["model_server"]

QA = dspex.signature(":string question -> :string answer")
OWN = "tests.waiting_programs"
SETTINGS = {
    "DSPEX_PROGRAM_PACKAGES": OWN,
    "DSPEX_BATCH_FILL_SECONDS": "0.2",
    "DSPEX_BATCH_POLL_SECONDS": "0.1",
    "DSPEX_BATCH_SETTLE_SECONDS": "1",
    "DSPEX_LEASE_SECONDS": "2",
}


@pytest.fixture(scope="module")
def desk(servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client, and one worker for the tests of this module."""
    with client_with_worker(servers, tmp_path_factory, **SETTINGS) as client:
        yield client


def deploy(client: Client, server: ModelServer, name: str, **settings: Any) -> dspex.Program:
    program = dspex.Program(name, QA, model="openai/test", api_base=server.api_base, **settings)
    client.deploy(program)
    return program


def waits(execution: Execution, reason: str) -> bool:
    waiting = execution.refresh().waiting
    return waiting is not None and waiting.reason == reason


@pytest.mark.parametrize("module", ["Steps", long("SyncSteps"), long("Gathered"), "Threads", "CatchesAll"])
def test_programs_of_several_steps_go_through_batches(desk: Client, model_server: ModelServer, module: str) -> None:
    deploy(desk, model_server, module.lower(), module=f"{OWN}:{module}", route="batch")
    batch = desk.submit_many(module.lower(), [{"question": f"number {n}"} for n in range(4)])
    done = list(batch.as_completed(timeout=60))
    assert [each.status for each in done] == ["completed"] * 4, [str(each.error) for each in done]
    seen, calls = model_server.batches(), model_server.calls()
    assert (calls["total"], seen["asked_twice"]) == (seen["requests"], 0), "no call went the ordinary way"
    assert seen["requests"] == 12
    assert seen["batches"] <= 12
    for each in done:
        kinds = each.audit_trail.kinds
        assert kinds.count("parked") == kinds.count("resumed") >= 1
        assert each.audit_trail.verify()
        assert each.metrics.lm_calls == 3


def test_calls_that_are_made_at_once_wait_together(desk: Client, model_server: ModelServer) -> None:
    deploy(desk, model_server, "gathered", module=f"{OWN}:Gathered", route="batch")
    execution = desk.submit("gathered", {"question": "together"})
    execution.result(60)
    parked = [event.data for event in execution.audit_trail if event.kind == "parked"]
    assert [each["calls"] for each in parked] == [3]


def test_requests_that_went_through_a_batch_are_kept_with_their_answers(
    desk: Client, model_server: ModelServer
) -> None:
    made = []
    for record in ("full", "responses"):
        deploy(desk, model_server, f"kept-{record}", route="batch", record=record)
        made.append(desk.submit(f"kept-{record}", {"question": f"Is it {record}?"}))
    answers = [execution.result(60).answer for execution in made]
    assert model_server.batches()["requests"] == 2
    (full,), (plain,) = (execution.calls for execution in made)
    assert full.request is not None
    assert full.prompt is not None
    assert "Is it full?" in full.prompt
    assert "dspex:kept" not in full.request
    assert answers[0] in full.answer
    assert (plain.request, plain.prompt) == (None, None)
    assert answers[1] in plain.answer


def test_late_requests_are_made_the_ordinary_way_or_fail(desk: Client, model_server: ModelServer) -> None:
    model_server.script_batches(BatchScript(leave_out=1))
    deploy(desk, model_server, "late")
    falls_back = desk.submit("late", {"question": "a"}, route="batch")
    assert falls_back.result(60)
    assert model_server.calls()["total"] == 1
    fails = desk.submit("late", {"question": "b"}, route="batch", otherwise="fail")
    with pytest.raises(dspex.ExecutionFailed):
        fails.result(60)
    assert fails.cause_code == "batch_late"


def test_equal_rows_of_a_batch_are_asked_once(desk: Client, model_server: ModelServer) -> None:
    deploy(desk, model_server, "equal")
    rows = [{"question": "same"}] * 4 + [{"question": "other"}]
    batch = desk.submit_many("equal", rows, dedup=True)
    done = {each.id: each for each in batch.as_completed(timeout=60)}
    answers = [done[id].result().answer for id in batch.ids]
    assert model_server.calls()["total"] == len(set(answers)) == 2
    assert [done[id].deduplicated for id in batch.ids] == [False, True, True, True, False]
    assert sum(each.metrics.lm_calls for each in done.values()) == 2
    taken = done[batch.ids[1]].audit_trail
    assert [event.data for event in taken if event.kind == "deduplicated"] == [{"execution": str(batch.ids[0])}]
    assert taken.verify()


def test_a_row_runs_itself_when_the_one_that_it_waits_for_fails(desk: Client, model_server: ModelServer) -> None:
    model_server.script(Step(status=400, error={"code": "bad"}))
    deploy(desk, model_server, "unlucky")
    batch = desk.submit_many("unlucky", [{"question": "same"}] * 2, dedup=True)
    done = {each.id: each.status for each in batch.as_completed(timeout=60)}
    assert [done[id] for id in batch.ids] == ["failed", "completed"]


def test_cancelling_a_batch_cancels_its_bundles(desk: Client, model_server: ModelServer) -> None:
    model_server.script_batches(BatchScript(looks=None))
    deploy(desk, model_server, "cancelled", route="batch")
    batch = desk.submit_many("cancelled", [{"question": "a"}, {"question": "b"}])
    wait_for(lambda: model_server.batches()["batches"] == 1, "the provider to have them")
    assert batch.cancel() == 2
    assert [desk.get(id).status for id in batch.ids] == ["cancelled", "cancelled"]
    wait_for(lambda: model_server.batches()["cancelled"] == 1, "the provider to cancel its batch")


def test_a_program_that_asks_something_else_each_time(desk: Client, model_server: ModelServer, tmp_path: Path) -> None:
    """What it asked before is kept, and the trail says so; one that never asks the same again ends."""
    deploy(desk, model_server, "fickle", module=f"{OWN}:Fickle", route="batch")
    (settles, never) = (tmp_path / name for name in ("settles", "never"))
    execution = desk.submit("fickle", {"question": f"{settles} 2"})
    execution.result(60)
    parked = [event.data for event in execution.audit_trail if event.kind == "parked"]
    assert [each.get("unused_answers") for each in parked] == [None, 1]
    assert (execution.metrics.lm_calls, len(execution.calls)) == (2, 2)
    endless = desk.submit("fickle", {"question": f"{never} 1000"})
    with pytest.raises(dspex.ExecutionFailed):
        endless.result(60)
    assert endless.cause_code == "program_not_repeatable"
    assert len(endless.calls) == 10
    assert endless.audit_trail.verify()


# ----------------------------------------------------------------------------------------------------- tools, approvals


def react(*tools: tuple[str, str]) -> list[Step]:
    """An agent's steps: it calls these tools, and answers."""
    steps = [
        Step(outputs={"next_thought": "t", "next_tool_name": name, "next_tool_args": arguments})
        for name, arguments in tools
    ]
    finish = Step(outputs={"next_thought": "t", "next_tool_name": "finish", "next_tool_args": "{}"})
    return [*steps, finish, Step(outputs={"reasoning": "r", "answer": "done"})]


@pytest.mark.parametrize("approved", [True, False])
def test_a_tool_waits_for_an_approval(desk: Client, model_server: ModelServer, tmp_path: Path, approved: bool) -> None:
    made = tmp_path / "made"
    model_server.script(*react(("refund", f'{{"order": "{made}"}}')))
    deploy(desk, model_server, f"agent_{approved}".lower(), module="react", tools=[f"{OWN}:refund"])
    execution = desk.submit(f"agent_{approved}".lower(), {"question": "refund it"})
    wait_for(lambda: waits(execution, "approval"), "it to wait")
    (approval,) = desk.approvals(execution_id=execution.id)
    assert (approval.tool, approval.arguments) == ("refund", {"order": str(made)})
    assert not made.exists()
    (desk.approve if approved else desk.reject)(execution.id, approval.call_id, note="as agreed", by="anna")
    assert execution.result(60).answer == "done"
    assert made.exists() is approved
    observed = str(model_server.calls()["requests"][-1])
    assert ("rejected by anna: as agreed" in observed) is not approved
    assert execution.audit_trail.verify()


def test_two_calls_are_decided_one_right_after_the_other_and_both_are_in_the_trail(
    desk: Client, model_server: ModelServer, tmp_path: Path
) -> None:
    deploy(desk, model_server, "refunds", module=f"{OWN}:RefundsAll")
    orders = [tmp_path / "one", tmp_path / "two"]
    execution = desk.submit("refunds", {"question": " ".join(map(str, orders))})
    wait_for(lambda: len(desk.approvals(execution_id=execution.id)) == 2, "both calls to wait")
    first, second = desk.approvals(execution_id=execution.id)
    desk.pause("refunds")  # it does not go on between the two decisions
    desk.approve(execution.id, first.call_id, by="anna")
    desk.reject(execution.id, second.call_id, by="bert")
    desk.resume("refunds")
    execution.result(60)
    assert [order.exists() for order in orders].count(True) == 1
    decided = {each.call_id: (each.approved, each.by) for each in decisions_in(execution.audit_trail)}
    assert decided == {first.call_id: (True, "anna"), second.call_id: (False, "bert")}
    with pytest.raises(dspex.AlreadyDecided) as late:
        desk.approve(execution.id, second.call_id)
    assert late.value.details["by"] == "bert"


def test_an_attempt_whose_time_was_over_before_it_began_says_so(
    desk: Client, model_server: ModelServer, tmp_path: Path
) -> None:
    once = dspex.Retry(max_attempts=1)
    deploy(desk, model_server, "late", module=f"{OWN}:Refunds", timeout=1, timeout_includes_waiting=True, retry=once)
    execution = desk.submit("late", {"question": str(tmp_path / "made")})
    wait_for(lambda: waits(execution, "approval"), "it to wait")
    desk.pause("late")
    (approval,) = desk.approvals(execution_id=execution.id)
    desk.approve(execution.id, approval.call_id)
    over = "SELECT deadline_at < clock_timestamp() FROM dspex.executions WHERE id = :id"
    wait_for(lambda: desk._database.run(lambda c: c.scalar(text(over), {"id": execution.id})), "its time to be over")
    desk.resume("late")
    with pytest.raises(dspex.ExecutionFailed, match=r"attempt 2 failed .* its time was over before"):
        execution.result(60)


def test_a_tool_that_is_called_once_is_not_called_again(
    model_server: ModelServer, tmp_path: Path, start_worker: Callable[..., WorkerProcess], client: Client
) -> None:
    """Its worker dies between the intention and the call: what became of the call is not known."""
    made = tmp_path / "made"
    model_server.script(*react(("charge", f'{{"order": "{made}"}}')))
    deploy(client, model_server, "charging", module="react", tools=[f"{OWN}:charge"])
    dying = start_worker(**SETTINGS, DSPEX_FAILPOINTS="after_intention=kill")
    execution = client.submit("charging", {"question": "charge it"})
    assert dying.process.wait(60) == -signal.SIGKILL
    start_worker(**SETTINGS)
    with pytest.raises(dspex.ExecutionFailed):
        execution.result(60)
    assert execution.cause_code == "tool_outcome_unknown"
    assert not made.exists()


def test_an_attempt_that_is_begun_again_finds_what_it_did_itself(
    model_server: ModelServer, tmp_path: Path, start_worker: Callable[..., WorkerProcess], client: Client,
    database: Database,
) -> None:  # fmt: skip
    """Its worker claims it and does not run it, as after a claim whose answer was lost, and begins the attempt again.
    The entries of its journal are those of another execution that asked the same, without the result of its tool."""
    made = tmp_path / "made"
    model_server.script(*react(("charge", f'{{"order": "{made}"}}')))
    deploy(client, model_server, "charging", module="react", tools=[f"{OWN}:charge"])
    start_worker(**SETTINGS, DSPEX_FAILPOINTS="after_claim=error@2")
    first = client.submit("charging", {"question": "charge it"})
    assert first.result(60).answer == "done"
    assert made.exists()
    made.unlink()
    client.pause("charging")
    execution = client.submit("charging", {"question": "charge it"})
    copied = {"id": execution.id, "of": first.id}
    with database.transaction() as connection:
        connection.execute(text(
            "CREATE TEMPORARY TABLE kept ON COMMIT DROP AS SELECT * FROM dspex.lm_calls "
            "WHERE execution_id = :of AND model NOT LIKE 'tool:%'"), copied)  # fmt: skip
        connection.execute(text("UPDATE kept SET execution_id = :id"), copied)
        connection.execute(text("INSERT INTO dspex.lm_calls SELECT * FROM kept"))
    client.resume("charging")
    asked = len(model_server.calls()["requests"])
    with pytest.raises(dspex.ExecutionFailed):
        execution.result(60)
    assert (execution.cause_code, execution.audit_trail.kinds.count("claimed")) == ("tool_outcome_unknown", 1)
    assert len(model_server.calls()["requests"]) == asked
    assert not made.exists()


def test_the_code_of_a_program_calls_tools_itself(desk: Client, model_server: ModelServer, tmp_path: Path) -> None:
    made = tmp_path / "made"
    deploy(desk, model_server, "charges", module=f"{OWN}:Charges")
    execution = desk.submit("charges", {"question": str(made)})
    assert execution.result(60).answer.endswith(": charged")
    assert made.exists()
    assert "tool_call" in execution.audit_trail.kinds


# ------------------------------------------------------------------------------------------------------------- children


def test_a_program_calls_others_as_children(desk: Client, model_server: ModelServer) -> None:
    deploy(desk, model_server, "answering")
    deploy(desk, model_server, "asking", module=f"{OWN}:Asks", module_options={"program": "answering", "count": 20})
    parent = desk.submit("asking", {"question": "what"})
    result = parent.result(60)
    assert result.answer.count("|") == 19
    children = [each for each in desk.list(program="answering") if each.parent_id == parent.id]
    assert len(children) == 20
    assert all(each.status is dspex.Status.COMPLETED for each in children)
    named = {event.data["child"] for event in parent.audit_trail if event.kind == "child"}
    assert named == {str(each.id) for each in children}
    assert parent.audit_trail.verify()


def test_children_have_limits_and_fail_their_parent(desk: Client, model_server: ModelServer) -> None:
    deploy(desk, model_server, "deep", module=f"{OWN}:Asks", module_options={"program": "deep", "count": 1})
    parent = desk.submit("deep", {"question": "what"})
    with pytest.raises(dspex.ExecutionFailed):
        parent.result(60)
    assert parent.cause_code == "child_failed"
    codes = {each.cause_code for each in desk.list(program="deep")}
    assert codes == {"child_failed", "child_limit"}


def family(client: Client, parent: Execution) -> dict[str, list[Execution]]:
    """The executions below a parent, by program."""
    middle = [each for each in client.list(program="middle") if each.parent_id == parent.id]
    above = {each.id for each in middle}
    return {"middle": middle, "flaky": [each for each in client.list(program="flaky") if each.parent_id in above]}


def test_a_retry_of_a_parent_runs_its_failed_children_again_and_no_other(
    desk: Client, model_server: ModelServer
) -> None:
    once = dspex.Retry(max_attempts=1)
    fails = {"fail": {"code": "provider_unavailable", "times": 1}}
    desk.deploy(dspex.Program("flaky", QA, retry=once, adapter="scripted", module_options=fails))
    deploy(desk, model_server, "middle", module=f"{OWN}:Asks", module_options={"program": "flaky", "count": 2})
    deploy(desk, model_server, "above", module=f"{OWN}:Asks", module_options={"program": "middle", "count": 1})
    parent = desk.submit("above", {"question": "what"})
    with pytest.raises(dspex.ExecutionFailed):
        parent.result(60)
    below = family(desk, parent)
    desk.retry(below["flaky"][0].id).result(60)
    parent = desk.retry(parent.id)
    assert " | " in parent.result(60).answer
    again = family(desk, parent)
    assert {name: {each.id for each in found} for name, found in again.items()} == {
        name: {each.id for each in found} for name, found in below.items()
    }
    assert [each.status for each in again["flaky"]] == ["completed"] * 2
    assert [each.attempts for each in again["flaky"]] == [2, 2], "what completed was not run again"
    assert parent.audit_trail.verify()


def test_a_retry_of_a_cancelled_parent_runs_its_cancelled_children_again(
    desk: Client, model_server: ModelServer
) -> None:
    desk.deploy(dspex.Program("steady", QA, adapter="scripted"))
    deploy(desk, model_server, "between", module=f"{OWN}:Asks", module_options={"program": "steady", "count": 2})
    desk.pause("steady")
    parent = desk.submit("between", {"question": "what"})
    wait_for(lambda: waits(parent, "child"), "the parent to wait")
    assert parent.cancel()
    desk.resume("steady")
    parent = desk.retry(parent.id)
    assert " | " in parent.result(60).answer
