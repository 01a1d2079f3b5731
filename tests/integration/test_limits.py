"""Limits hold across workers: of a model's calls, of a program's executions, and of what it may spend."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import redis

import dspex
from dspex.client.client import Client
from dspex.settings import Backends
from dspex.store.lifecycle import budgets
from tests.model_server import ModelServer, Step, model_server
from tests.processes import WorkerProcess
from tests.waiting import wait_for
from workers.lm.limits.buckets import MARKER

__all__ = ["model_server"]

StartWorker = Callable[..., WorkerProcess]
QA = dspex.signature("question -> answer")


def asking(name: str, server: ModelServer, model: str = "openai/test", **fields: Any) -> dspex.Program:
    """A program that makes one call to the model."""
    return dspex.Program(name, QA, model=model, api_base=server.api_base, adapter="direct", **fields)


def submit(client: Client, program: str, count: int, word: str = "q") -> list[dspex.Execution]:
    return [client.submit(program, {"question": f"{word} {n}"}) for n in range(count)]


def is_final(executions: Sequence[dspex.Execution]) -> Callable[[], bool]:
    return lambda: all(execution.refresh().status.is_final for execution in executions)


def completed(executions: Sequence[dspex.Execution]) -> int:
    return sum(execution.refresh().status is dspex.Status.COMPLETED for execution in executions)


def deferred(execution: dspex.Execution) -> bool:
    """Whether a limit had an attempt of it handed back."""
    return any(e.kind == "retried" and e.data["code"] == "rate_limited_locally" for e in execution.audit_trail)


def test_two_workers_keep_to_the_limits_of_models_and_programs(
    backends: Backends, client: Client, start_worker: StartWorker, model_server: ModelServer
) -> None:
    limits = {model_server.api_base: {"concurrency": 3}, "openai/rated": {"per_minute": 12}}
    client.deploy(asking("free", model_server))
    client.deploy(asking("rated", model_server, "openai/rated", retry=dspex.Retry(max_attempts=1)))
    client.deploy(asking("two", model_server, limits=dspex.Limits(concurrency=2)))
    client.deploy(asking("five", model_server, limits=dspex.Limits(per_minute=5)))
    with redis.Redis.from_url(backends.broker_url) as raw:
        raw.set(MARKER, 1)  # as if it had been counting for long
        start = partial(start_worker, DSPEX_MODEL_LIMITS=json.dumps(limits), DSPEX_GRACE_SECONDS=0)
        doomed = start()

        # A killed worker's permits come back with their lease.
        model_server.script(Step(match="stuck", fault="hang", times=3), default=Step(delay_ms=50))
        client.deploy(asking("stuck", model_server))
        stuck = submit(client, "stuck", 3, "stuck")
        wait_for(lambda: model_server.calls()["running"] == 3, "three calls to be under way")
        late = client.submit("free", {"question": "late"})
        wait_for(lambda: deferred(late), "the fourth to be handed back")
        other = start()
        doomed.kill()
        wait_for(is_final([*stuck, late]), "all of them to be over")
        assert completed([*stuck, late]) == 4
        assert late.audit_trail.verify()

        # Of the model's calls, from two workers, also when Redis is emptied meanwhile.
        start()
        model_server.forget()
        model_server.script(default=Step(delay_ms=50))
        many = submit(client, "free", 40)
        wait_for(lambda: completed(many) > 10, "some of them to be done")
        raw.flushdb()
        wait_for(is_final(many), "the others to be done as well")
        assert completed(many) == 40
        assert model_server.calls()["most_at_once"] == 3
        raw.set(MARKER, 1)

        # Of its calls within a minute; the rest is handed back.
        model_server.forget()
        rated = submit(client, "rated", 16)
        wait_for(lambda: sum(map(deferred, rated)) >= 1 and completed(rated) == 12, "twelve to be done")
        assert model_server.calls()["total"] == 12
        for execution in rated:
            execution.cancel()

        # Of a program's executions, at once and within a minute: the others are not even begun.
        model_server.forget()
        model_server.script(default=Step(delay_ms=100))
        wait_for(is_final(two := submit(client, "two", 10)), "all to be done")
        assert completed(two) == 10
        assert model_server.calls()["most_at_once"] <= 2
        five = submit(client, "five", 8)
        wait_for(lambda: completed(five) == 5, "five to be done")
        assert sorted(execution.refresh().attempts for execution in five) == [0] * 3 + [1] * 5
        assert other.process.poll() is None


@pytest.mark.parametrize("module", ["Hides", "Threads"])
def test_an_attempt_that_a_limit_handed_back_is_made_again_also_if_its_program_hides_errors(
    backends: Backends, client: Client, start_worker: StartWorker, model_server: ModelServer, module: str
) -> None:
    with redis.Redis.from_url(backends.broker_url) as raw:
        raw.set(MARKER, 1)  # as if it had been counting for long
    limits = {model_server.api_base: {"concurrency": 1}}
    start_worker(DSPEX_MODEL_LIMITS=json.dumps(limits), DSPEX_PROGRAM_PACKAGES="tests.waiting_programs")
    model_server.script(Step(match="slow", delay_ms=4000), default=Step(outputs={"answer": "from the model"}))
    client.deploy(asking("slow", model_server))
    client.deploy(dspex.Program("hides", QA, module=f"tests.waiting_programs:{module}", model="openai/test",
                                api_base=model_server.api_base, timeout=2))  # fmt: skip
    slow = client.submit("slow", {"question": "slow"})
    wait_for(lambda: model_server.calls()["running"] == 1, "the only call that is allowed to be under way")
    hiding = client.submit("hides", {"question": "what"})
    assert hiding.result(60).answer == "from the model"
    assert deferred(hiding)
    slow.result(60)
    assert hiding.audit_trail.verify()


def test_a_budget_pauses_its_program_until_it_is_raised(client: Client, start_worker: StartWorker) -> None:
    def deploy(usd: float) -> None:
        limits, retry = dspex.Limits(max_cost_usd=usd), dspex.Retry(max_attempts=1)
        options = {"cost_usd": 0.01}
        client.deploy(dspex.Program("dear", QA, adapter="scripted", module_options=options, limits=limits, retry=retry))

    start_worker()
    start_worker()
    deploy(0.05)
    batch = client.submit_many("dear", ({"question": f"number {n}"} for n in range(20)))
    wait_for(client.paused, "the program to be paused")
    assert "its budget of $0.05 is spent: $0.05" in client.paused()["dear"]
    wait_for(lambda: batch.progress.completed == 5 and batch.progress.running == 0, "the rest to be handed back")
    held_up = [e for e in client.list(program="dear") if e.attempts and not e.status.is_final]
    assert {e.audit_trail["retried"].data["code"] for e in held_up} <= {"budget_exceeded", "budget_reserved"}
    with pytest.raises(dspex.ExecutionTimedOut, match="its budget of"):
        client.submit("dear", {"question": "?"}).result(timeout=0.1)
    client.resume("dear")
    wait_for(client.paused, "it to be paused again: nothing was raised")
    deploy(1.0)
    client.resume("dear")
    finished = list(batch.as_completed(timeout=120))
    assert {e.status for e in finished} == {dspex.Status.COMPLETED}
    assert not client.paused()

    def spent() -> float | None:
        budget = client._database.run(partial(budgets.find, program="dear"))
        return budget.spent_usd if budget and not budget.reserved_usd else None

    assert wait_for(lambda: spent() if completed(client.list(program="dear")) == 21 else None, "it to be settled") == (
        pytest.approx(0.21)
    )
    assert not client.verify_audit()
