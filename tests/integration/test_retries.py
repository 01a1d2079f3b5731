"""Calls that are made again, and bad answers that are sent back, over real HTTP: inside an attempt, and as new ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from typing import Any

import dspy
import pytest

import dspex
from dspex.client.client import Client
from dspex.errors import ModelError
from dspex.program.program import Program
from dspex.signatures import signature
from tests.chaos.conftest import steps_adapter
from tests.model_server import ModelServer, Step, model_server
from tests.processes import WorkerProcess
from tests.recording import MemoryJournal, MemoryTrail, a_run, until
from tests.waiting import wait_for
from workers.adapters.contract import Run
from workers.adapters.dspy.answer_repair import RepairingChat
from workers.adapters.dspy.dspy_adapter import DspyAdapter
from workers.adapters.dspy.engine_bridge import run_lm
from workers.lm.connect.endpoint import Endpoints
from workers.lm.engine import RunEngine

__all__ = ["model_server", "steps_adapter"]

StartWorker = Callable[..., WorkerProcess]

TRIAGE = signature(
    'signature triage "Route a support ticket": :string ticket -> '
    ':enum("billing", "bug") queue, :string(max_length=160) summary, :optional(:string) note'
)
TICKET = {"ticket": "The invoice is wrong."}
GOOD = {"queue": "billing", "summary": "A wrong invoice.", "note": "urgent"}
INVALID = {"queue": "sales", "summary": "x" * 161, "note": "urgent"}
RUBBISH = "I would rather not say."
BUSY = Step(status=503)


@pytest.fixture
async def adapter() -> AsyncIterator[DspyAdapter]:
    made = DspyAdapter()
    yield made
    await made.close()


def program(server: ModelServer, name: str = "triage", **changes: Any) -> Program:
    settings = {"model": "openai/test", "api_base": server.url, **changes}
    return Program(name, TRIAGE, **settings)


def recorded(run: Run, kind: str) -> list[dict[str, Any]]:
    assert isinstance(run.trail, MemoryTrail)
    return [data for recorded, data in run.trail.events if recorded == kind]


def memory(run: Run) -> MemoryJournal:
    assert isinstance(run.journal, MemoryJournal)
    return run.journal


# ------------------------------------------------------------------------------------------- again, in the attempt


async def test_a_moments_failures_are_tried_again_and_journaled_as_one_call(
    model_server: ModelServer, adapter: DspyAdapter
) -> None:
    model_server.script(Step(status=429, retry_after=0.1), Step(fault="reset"))
    run = a_run(program(model_server), TICKET)
    assert await adapter.execute(run)
    assert model_server.calls()["total"] == 3
    assert len(memory(run).hashes) == len(memory(run).answers) == 1


async def test_what_does_not_pass_ends_the_attempt_after_a_few_tries(
    model_server: ModelServer, adapter: DspyAdapter
) -> None:
    model_server.script(default=BUSY)
    with pytest.raises(ModelError) as caught:
        await adapter.execute(a_run(program(model_server), TICKET))
    assert (caught.value.code, caught.value.retryable) == ("provider_unavailable", True)
    assert model_server.calls()["total"] == 3


@pytest.mark.parametrize(
    ("step", "seconds_left", "code"),
    [
        (Step(status=429, retry_after=5.1), 60.0, "rate_limited"),
        (Step(status=429, retry_after=2), 1.0, "rate_limited"),
        (Step(status=401), 60.0, "authentication"),
        (Step(status=429, error={"code": "insufficient_quota"}), 60.0, "billing"),
        (Step(status=400), 60.0, "invalid_request"),
    ],
    ids=["asked to wait long", "no time to wait", "bad key", "no credit", "bad request"],
)
async def test_what_is_not_tried_again_in_the_attempt(
    model_server: ModelServer, adapter: DspyAdapter, step: Step, seconds_left: float, code: str
) -> None:
    model_server.script(default=step)
    run = replace(a_run(program(model_server), TICKET), deadline=time.monotonic() + seconds_left)
    with pytest.raises(ModelError) as caught:
        await adapter.execute(run)
    assert caught.value.code == code
    assert caught.value.retry_after == step.retry_after
    assert model_server.calls()["total"] == 1


async def test_a_run_cancelled_while_it_waits_asks_no_more(model_server: ModelServer, adapter: DspyAdapter) -> None:
    model_server.script(default=Step(status=503, retry_after=4.5))
    run = a_run(program(model_server), TICKET)
    task = asyncio.create_task(adapter.execute(run))
    await until(lambda: model_server.calls()["answered"] == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert model_server.calls()["total"] == 1


# ---------------------------------------------------------------------------------------------------- the repair


@pytest.mark.parametrize("module", ["predict", "chain_of_thought"])
@pytest.mark.parametrize("prompt", ["chat", "json", "compact"])
@pytest.mark.parametrize(
    ("bad", "fields", "words"),
    [
        (Step(content=RUBBISH), {"queue", "summary"}, "queue: expected one of billing, bug, got nothing"),
        (
            Step(outputs={**INVALID, "reasoning": "So."}),
            {"queue", "summary"},
            "summary: expected at most 160 characters, got 'xxx",
        ),
    ],
    ids=["unparseable", "invalid"],
)
async def test_a_bad_answer_is_sent_back_once_with_what_is_wrong(
    model_server: ModelServer, adapter: DspyAdapter, prompt: str, module: str, bad: Step, fields: set[str], words: str
) -> None:
    model_server.script(bad, default=Step(outputs={**GOOD, "reasoning": "So."}))
    run = a_run(program(model_server, prompt=prompt, module=module), TICKET)
    assert TRIAGE.validate_outputs(await adapter.execute(run)) == GOOD
    journal = memory(run)
    assert (len(journal.answers), journal.repairs, journal.rejected) == (2, 1, [])
    (judged,) = recorded(run, "output_validation")
    assert (judged["valid"], judged["repair"]) == (False, True)
    assert fields <= set(judged["fields"])
    first, second = model_server.calls()["requests"]
    assert second["messages"][:-2] == first["messages"]
    answer, asked = second["messages"][-2:]
    assert (answer["role"], asked["role"]) == ("assistant", "user")
    assert bad.content is None or answer["content"] == bad.content
    assert words in asked["content"]
    assert {key: value for key, value in second.items() if key != "messages"} == {
        key: value for key, value in first.items() if key != "messages"
    }


async def test_an_answer_that_is_repaired_without_loss_is_not_sent_back(
    model_server: ModelServer, adapter: DspyAdapter
) -> None:
    model_server.script(default=Step(outputs={**GOOD, "queue": "BILLING."}))
    run = a_run(program(model_server), TICKET)
    checked = TRIAGE.check_outputs(await adapter.execute(run))
    assert checked.values["queue"] == "billing"
    assert model_server.calls()["total"] == 1


async def test_two_unparseable_answers_fail_the_attempt_and_both_are_at_fault(
    model_server: ModelServer, adapter: DspyAdapter
) -> None:
    model_server.script(default=Step(content=RUBBISH))
    run = a_run(program(model_server), TICKET)
    with pytest.raises(ModelError) as caught:
        await adapter.execute(run)
    assert (caught.value.code, caught.value.retryable) == ("output_unparseable", True)
    assert RUBBISH not in str(caught.value.as_dict())
    assert model_server.calls()["total"] == 2
    assert memory(run).rejected == memory(run).hashes


async def test_two_invalid_answers_are_for_the_caller_to_refuse(
    model_server: ModelServer, adapter: DspyAdapter
) -> None:
    model_server.script(default=Step(outputs=INVALID))
    run = a_run(program(model_server), TICKET)
    outputs = await adapter.execute(run)
    assert (outputs["queue"], len(outputs["summary"])) == ("sales", 161)
    assert memory(run).rejected == memory(run).hashes
    assert len(memory(run).hashes) == 2


async def test_no_answer_at_all_is_asked_for_again(model_server: ModelServer, adapter: DspyAdapter) -> None:
    model_server.script(Step(content=""), default=Step(outputs=GOOD))
    assert await adapter.execute(a_run(program(model_server), TICKET))
    assert all(message["content"] for message in model_server.calls()["requests"][1]["messages"])


@pytest.mark.parametrize(("bad", "code"), [(Step(content=RUBBISH), "output_unparseable"),
                                           (Step(outputs=INVALID), "output_invalid")])  # fmt: skip
async def test_a_repair_that_outgrows_the_context_window_leaves_the_first_fault(
    model_server: ModelServer, adapter: DspyAdapter, bad: Step, code: str
) -> None:
    model_server.script(bad, Step(status=400, error={"code": "context_length_exceeded"}))
    run = a_run(program(model_server), TICKET)
    with pytest.raises(dspex.DspexError) as caught:
        await adapter.execute(run)
    assert (caught.value.code, caught.value.retryable) == (code, True)
    assert memory(run).rejected == memory(run).hashes


async def test_an_answer_cut_short_is_asked_for_more_briefly(model_server: ModelServer, adapter: DspyAdapter) -> None:
    model_server.script(Step(content=RUBBISH, fault="length"), default=Step(outputs=GOOD))
    await adapter.execute(a_run(program(model_server), TICKET))
    assert "more briefly" in model_server.calls()["requests"][1]["messages"][-1]["content"]


async def test_a_module_in_a_thread_has_its_repair(model_server: ModelServer) -> None:
    model_server.script(Step(content=RUBBISH))
    endpoints = Endpoints(lambda: "")
    run = a_run(program(model_server), TICKET)
    engine = RunEngine(run, await endpoints.of(run.program))
    prompt = RepairingChat(engine)

    def ask(lm: dspy.LM) -> Any:
        with dspy.context(lm=lm, adapter=prompt, disable_history=True):
            return dspy.Predict("question -> answer")(question="in a thread")

    with run_lm(engine) as lm:
        assert (await asyncio.to_thread(ask, lm)).answer
    assert memory(run).repairs == 1
    (judged,) = recorded(run, "output_validation")
    assert judged["fields"] == ["answer"]
    await endpoints.aclose()


# -------------------------------------------------------------------------------------------- through a real worker


@pytest.fixture
def serve() -> Iterator[Callable[..., ModelServer]]:
    """Starts model servers: one for each program, so that each program's calls are counted by themselves."""
    with ExitStack() as stack:

        def start(*steps: Step, default: Step | None = None) -> ModelServer:
            server = stack.enter_context(ModelServer())
            server.script(*steps, default=default)
            return server

        yield start


def test_attempts_and_what_happens_inside_them(
    client: Client, start_worker: StartWorker, serve: Callable[..., ModelServer]
) -> None:
    """One worker, everything at once: an execution that waits for its next attempt holds up nobody."""
    soon = dspex.Retry(max_attempts=2, backoff=0.2)
    long = Step(status=429, retry_after=6)
    servers = {
        "limited": serve(Step(status=429, retry_after=1)),
        "away": serve(default=BUSY),
        "refused": serve(default=Step(status=401)),
        "broke": serve(default=Step(status=429, error={"code": "insufficient_quota"})),
        "mended": serve(Step(content=RUBBISH)),
        "rubbish": serve(Step(content=RUBBISH, times=2)),
        "invalid": serve(default=Step(outputs=INVALID)),
        "later": serve(long),
        "hasty": serve(Step(status=503, retry_after=3)),
    }
    for name, server in servers.items():
        client.deploy(program(server, name, retry=soon, module="chain_of_thought"))
    start_worker(DSPEX_WORKER_CONCURRENCY=4)
    executions = {name: client.submit(name, TICKET, timeout=2 if name == "hasty" else None) for name in servers}
    wait_for(lambda: "retried" in executions["later"].audit_trail.kinds, "the attempt to be given up")
    assert executions["later"].refresh().status is dspex.Status.QUEUED
    finals = client.wait_any([execution.id for execution in executions.values()], 120)
    outcomes = {row["program"]: row for row in finals}
    assert set(outcomes) == set(servers)
    told = {name: (row["status"], row["attempt"], servers[name].calls()["total"]) for name, row in outcomes.items()}
    assert told == {
        "limited": ("completed", 1, 2),
        "away": ("failed", 2, 6),
        "refused": ("failed", 1, 1),
        "broke": ("failed", 1, 1),
        "mended": ("completed", 1, 2),
        "rubbish": ("completed", 2, 3),
        "invalid": ("failed", 2, 4),
        "later": ("completed", 2, 2),
        "hasty": ("completed", 2, 2),
    }
    for execution in executions.values():
        execution.refresh()
        assert execution.audit_trail.verify()

    def calls_of(name: str) -> list[dspex.AuditEvent]:
        return [event for event in executions[name].audit_trail if event.kind == "lm_call"]

    codes = {name: execution.error.code for name, execution in executions.items() if execution.error}
    assert codes == {
        "away": "attempts_exhausted",
        "refused": "authentication",
        "broke": "billing",
        "invalid": "attempts_exhausted",
    }
    spent = executions["invalid"].error
    assert isinstance(spent, dspex.ExecutionFailed)
    assert spent.cause.code == "output_invalid"
    calls = {name: (e.metrics.lm_calls, e.metrics.replayed_lm_calls) for name, e in executions.items()}
    assert calls == {
        **dict.fromkeys(("limited", "later", "hasty"), (1, 0)),
        **dict.fromkeys(("away", "refused", "broke"), (0, 0)),
        "mended": (2, 0),
        "rubbish": (3, 0),  # two bad ones and a good one: nothing bad is replayed
        "invalid": (4, 0),
    }
    trail = executions["later"].audit_trail
    assert trail["retried"].data["code"] == "rate_limited"
    assert trail["retried"].data["delay_seconds"] >= 6
    assert executions["hasty"].audit_trail["retried"].data["code"] == "provider_unavailable", "not the deadline"
    assert [event.data["error"] for event in calls_of("away")] == ["provider_unavailable"] * 6
    refused, answered = calls_of("limited")
    assert (refused.data["error"], answered.data.get("error")) == ("rate_limited", None)
    assert answered.at - refused.at >= timedelta(seconds=1), "not before the provider says"
    mended = executions["mended"].audit_trail
    assert [e.data["valid"] for e in mended if e.kind == "output_validation"] == [False, True]
    assert [event.data.get("repair") for event in calls_of("mended")] == [None, True]


@pytest.mark.parametrize("journal", [True, False])
def test_five_steps_killed_in_the_fourth(
    client: Client, model_server: ModelServer, start_worker: StartWorker, journal: bool
) -> None:
    flow = signature(":string question, :optional(:integer) calls -> :string answer")
    client.deploy(Program("steps", flow, adapter="steps", module_options={"server": model_server.url}, journal=journal))
    victim = start_worker(DSPEX_LEASE_SECONDS=2, DSPEX_FAILPOINTS="after_answer=kill@4")
    execution = client.submit("steps", {"question": "five", "calls": 5})
    victim.process.wait(60)
    start_worker(DSPEX_LEASE_SECONDS=2)
    execution.result(timeout=60)
    metrics = execution.metrics
    times_asked = sorted(model_server.calls()["by_hash"].values())
    # With the journal only the fourth, whose answer died with the worker, is asked for again.
    assert times_asked == ([1, 1, 1, 1, 2] if journal else [1, 2, 2, 2, 2])
    assert (metrics.lm_calls, metrics.replayed_lm_calls) == ((5, 3) if journal else (5, 0))
    assert execution.attempts == 2
    assert execution.audit_trail.verify()


def test_a_worker_killed_between_a_bad_answer_and_its_repair_pays_for_each_once(
    client: Client, model_server: ModelServer, start_worker: StartWorker
) -> None:
    model_server.script(Step(content=RUBBISH))
    client.deploy(program(model_server, module="chain_of_thought"))
    victim = start_worker(DSPEX_LEASE_SECONDS=2, DSPEX_FAILPOINTS="after_journal=kill@1")
    execution = client.submit("triage", TICKET)
    victim.process.wait(60)
    assert model_server.calls()["total"] == 1
    start_worker(DSPEX_LEASE_SECONDS=2)
    execution.result(timeout=60)
    assert sorted(model_server.calls()["by_hash"].values()) == [1, 1]
    assert (execution.metrics.lm_calls, execution.metrics.replayed_lm_calls) == (2, 1)
    answers = [event.data for event in execution.audit_trail if event.kind == "lm_call"]
    assert [(bool(data.get("replayed")), bool(data.get("repair"))) for data in answers] == [
        (True, False),
        (False, True),
    ]
