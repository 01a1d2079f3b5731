"""Cancelling, deadlines, pausing, retrying, the watchdog and rolling restarts, through real workers."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial

import pytest

import dspex
from dspex.client.client import Client
from dspex.publish.channels import CANCEL_CHANNEL
from dspex.store.lifecycle import control
from tests.processes import WorkerProcess
from tests.waiting import wait_for

StartWorker = Callable[..., WorkerProcess]
QA = dspex.signature("question -> answer")


def scripted(name: str, **fields: object) -> dspex.Program:
    return dspex.Program(name, QA, adapter="scripted", **fields)  # type: ignore[arg-type]


def is_running(execution: dspex.Execution) -> bool:
    return execution.refresh().status is dspex.Status.RUNNING


def paid(execution: dspex.Execution, calls: int) -> Callable[[], bool]:
    """Whether this many of its model calls are journaled."""
    count = "SELECT count(*) FROM dspex.lm_calls WHERE execution_id = %(id)s"

    def check() -> bool:
        found = execution._session.database.run(lambda c: c.exec_driver_sql(count, {"id": execution.id}).scalar_one())
        return bool(found >= calls)

    return check


def test_executions_are_cancelled_paused_and_retried(client: Client, start_worker: StartWorker) -> None:
    start_worker()
    client.deploy(scripted("endless", module_options={"calls": 2, "sleep_ms": 600_000}, timeout=3600))
    client.deploy(scripted("steps", module_options={"calls": 40, "sleep_ms": 100, "outputs": {"answer": "!"}}))
    client.deploy(scripted("quick"))

    # A running one, within a moment of its asking; whoever waits for it is told.
    endless = client.submit("endless", {"question": "?"})
    wait_for(lambda: is_running(endless), "it to run")
    assert endless.cancel()
    with pytest.raises(dspex.ExecutionCancelled):
        endless.result(timeout=60)
    assert "cancel_requested" in endless.audit_trail.kinds
    assert endless.audit_trail.kinds[-1] == "cancelled"
    assert endless.audit_trail.verify()
    assert endless.cancel(), "cancelling twice is the same as once"

    # The same when Redis lost the word: the wish is in Postgres. A forged word without a wish does nothing.
    unheard, other = (client.submit("endless", {"question": word}) for word in ("unheard", "other"))
    wait_for(lambda: is_running(unheard) and is_running(other), "both to run")
    client._session.broker.publish_hint(CANCEL_CHANNEL, [other.id])
    client._database.run(partial(control.cancel, ids=[unheard.id]))
    with pytest.raises(dspex.ExecutionCancelled):
        unheard.result(timeout=60)
    assert is_running(other)
    other.cancel()

    # What a cancelled execution paid for is replayed when an operator retries it.
    steps = client.submit("steps", {"question": "?"})
    wait_for(paid(steps, 3), "three calls to be journaled")
    assert steps.cancel()
    wait_for(lambda: steps.refresh().status is dspex.Status.CANCELLED, "it to be cancelled")
    again = client.retry(steps.id)
    assert again.result(timeout=60).answer == "!"
    assert again.attempts == 2
    assert again.metrics.lm_calls == 40
    assert again.metrics.replayed_lm_calls >= 3
    assert again.audit_trail["retried"].data == {"by": "operator"}
    assert again.audit_trail.verify()
    assert not again.cancel(), "it has completed"
    with pytest.raises(dspex.TransitionRefused, match="is completed"):
        client.retry(again.id)

    # A paused program: nothing of it begins, what was published is taken back, a new version does not end the pause.
    client.pause("quick")
    paused = [client.submit("quick", {"question": f"number {n}"}) for n in range(5)]
    client.deploy(scripted("quick", timeout=77))
    assert list(client.paused()) == ["quick"]
    assert client.submit("steps", {"question": "meanwhile"}).result(timeout=60), "others go on"
    assert all(execution.refresh().status is dspex.Status.QUEUED for execution in paused)
    with pytest.raises(dspex.ExecutionTimedOut, match=r"paused .by an operator.: `dspex resume quick`"):
        paused[0].result(timeout=0.1)
    assert paused[4].cancel()
    client.resume("quick")
    for execution in paused[:4]:
        execution.result(timeout=60)
    assert paused[4].refresh().status is dspex.Status.CANCELLED
    assert paused[4].audit_trail.kinds[-2:] == ["submitted", "cancelled"]
    assert not client.verify_audit()


def test_a_deadline_ends_an_attempt_and_dead_letters_are_retried(client: Client, start_worker: StartWorker) -> None:
    start_worker()
    retry = dspex.Retry(max_attempts=2, backoff=0.05)
    client.deploy(scripted("slow", retry=retry, timeout=0.5, module_options={"sleep_ms": 600_000}))
    client.deploy(scripted("flaky", retry=retry, module_options={"fail": {"code": "rate_limited", "times": 3}}))
    slow = client.submit("slow", {"question": "?"})
    flaky = client.submit("flaky", {"question": "?"})
    for execution, cause in ((slow, "deadline_exceeded"), (flaky, "rate_limited")):
        with pytest.raises(dspex.ExecutionFailed) as failure:
            execution.result(timeout=60)
        assert failure.value.code == "attempts_exhausted"
        assert failure.value.cause.details["cause"]["code"] == cause
    assert client.retry_failed("flaky") == 1
    assert client.get(flaky.id).result(timeout=60)
    flaky = client.get(flaky.id)
    assert flaky.attempts == 4, "two anew, after the two it had"
    assert flaky.audit_trail.verify()
    assert client.get(slow.id).status is dspex.Status.FAILED


def test_an_attempt_that_blocks_its_worker_is_fenced_off(client: Client, start_worker: StartWorker) -> None:
    client.deploy(scripted("qa", timeout=1))
    blocked = start_worker(DSPEX_FAILPOINTS="after_claim=hang", DSPEX_WATCHDOG_SECONDS=3600)
    execution = client.submit("qa", {"question": "?"})
    wait_for(lambda: is_running(execution), "it to run")
    start_worker()
    execution.result(timeout=120)
    assert execution.audit_trail["deadline_exceeded"].data["pid"] == blocked.pid
    assert "recovered" in execution.audit_trail.kinds
    assert execution.audit_trail.verify()
    blocked.kill()


def test_the_watchdog_ends_a_worker_whose_loop_is_blocked(client: Client, start_worker: StartWorker) -> None:
    client.deploy(scripted("qa"))
    blocked = start_worker(DSPEX_FAILPOINTS="after_claim=hang", DSPEX_WATCHDOG_SECONDS=2)
    execution = client.submit("qa", {"question": "?"})
    assert blocked.process.wait(60) == 70
    assert "the loop is blocked for 2 s by" in blocked.log.read_text()
    assert "failpoints.py" in blocked.log.read_text(), "it says where"
    start_worker()
    execution.result(timeout=60)
    assert execution.attempts == 2


def test_the_watchdog_ends_a_worker_that_receives_nothing_while_work_waits(
    client: Client, start_worker: StartWorker
) -> None:
    client.deploy(scripted("qa"))
    client.deploy(scripted("long", module_options={"sleep_ms": 600_000}, timeout=3600))
    deaf = start_worker(DSPEX_WATCHDOG_SECONDS=2, DSPEX_GRACE_SECONDS=0.1, CELERY_RDBSIG=1)
    client.execute("qa", {"question": "before"}, timeout=60)
    long = client.submit("long", {"question": "?"})
    wait_for(lambda: is_running(long), "it to run")
    deaf.signal(signal.SIGUSR2)  # its main thread, which consumes, stands still in Celery's debugger
    wait_for(lambda: "Ready to connect" in deaf.log.read_text(), "the debugger")
    execution = client.submit("qa", {"question": "nobody listens"})
    assert deaf.process.wait(60) == 70
    assert "nothing was received" in deaf.log.read_text()
    assert long.refresh().status is dspex.Status.QUEUED, "what it ran is handed back"
    long.cancel()
    start_worker()
    execution.result(timeout=60)
    assert execution.attempts == 1


def test_a_rolling_restart_under_load_loses_nothing_and_pays_for_nothing_twice(
    client: Client, start_worker: StartWorker
) -> None:
    options = {"calls": 3, "sleep_ms": 400, "outputs": {"answer": "!"}}
    client.deploy(scripted("qa", retry=dspex.Retry(max_attempts=1), module_options=options))
    start = partial(start_worker, DSPEX_GRACE_SECONDS=0.5, DSPEX_WORKER_CONCURRENCY=20)
    old = [start(), start()]
    batch = client.submit_many("qa", ({"question": f"number {n}"} for n in range(300)))
    for worker in old:
        done = batch.progress.finished
        wait_for(lambda done=done: batch.progress.finished > done, "work to be under way")  # type: ignore[misc]
        worker.signal(signal.SIGTERM)
        start()
        assert worker.process.wait(60) == 0
    finished = list(batch.as_completed(timeout=120))
    assert {e.status for e in finished} == {dspex.Status.COMPLETED}, "although they have only one attempt"
    assert len(finished) == 300
    assert any(e.attempts > 1 for e in finished), "something was handed back"
    assert all(e.metrics.lm_calls == 3 for e in finished)
    assert not client.verify_audit()
