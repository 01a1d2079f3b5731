"""The pool as Celery's operators know it, and what code that blocks does to a worker: one real worker for each test."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from kombu import pools

import dspex
from dspex.client.client import Client
from dspex.publish.broker import QUEUE, TASK, queue_keys
from dspex.publish.envelope import pack
from dspex.settings import Backends
from tests.processes import WorkerProcess
from tests.waiting import wait_for

StartWorker = Callable[..., WorkerProcess]
QA = dspex.signature("question -> answer")
ENDLESS = {"calls": 2, "sleep_ms": 600_000}

BLOCKING = """
import asyncio, time
from pathlib import Path
from workers.attempt.sync_threads import run_sync

def wait_until(path):
    while not Path(path).exists():
        time.sleep(0.01)

async def block_the_loop(run, proceed):
    wait_until(run.options["path"])
    await proceed()

async def block_a_thread(run, proceed):
    await run_sync(wait_until, run.options["path"])
    await proceed()

async def leave(run, proceed):
    async def out():
        raise SystemExit(1)
    await asyncio.gather(out())

async def use_the_loops_own_threads(run, proceed):
    await asyncio.to_thread(time.sleep, 0)
    await proceed()
"""


#: Imported by a worker, it has a cold shutdown asked for once a warm one has closed the pool and not yet stopped it.
QUIT_WHILE_CLOSING = """
import os, signal
from celery.worker.consumer import Consumer

stop = Consumer.stop

def quit_and_stop(consumer):
    os.kill(os.getpid(), signal.SIGQUIT)
    stop(consumer)

Consumer.stop = quit_and_stop

async def note(run, proceed):
    await proceed()
"""


def scripted(name: str, **fields: Any) -> dspex.Program:
    return dspex.Program(name, QA, adapter="scripted", **{"timeout": 3600, **fields})


def is_running(execution: dspex.Execution) -> bool:
    return execution.refresh().status is dspex.Status.RUNNING


def submit(client: Client, program: str) -> dspex.Execution:
    return client.submit(program, {"question": "?"})


class Operator:
    """Celery's remote control, as ``celery -A workers.app inspect`` and ``control`` have it."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def inspect(self, what: str) -> Any:
        """What the one worker answers; asked again if it was not listening yet."""
        (answer,) = wait_for(getattr(self._app.control.inspect(timeout=5, limit=1), what), what).values()
        return answer

    def control(self, command: str, **arguments: Any) -> Mapping[str, str]:
        replies = self._app.control.broadcast(command, arguments=arguments, reply=True, timeout=30, limit=1)
        ((answer,),) = (reply.values() for reply in replies)
        found: Mapping[str, str] = answer
        return found

    @property
    def pool(self) -> Any:
        return self.inspect("stats")["pool"]

    def close(self) -> None:
        """Close the connections, and let go of the app: kombu closes a selector only when it is collected."""
        self._app.close()
        pools.reset()
        del self._app


@pytest.fixture
def operator(backends: Backends) -> Iterator[Operator]:
    opened = Operator(Celery("operator", broker=backends.broker_url, set_as_current=False))
    yield opened
    opened.close()


def test_an_operator_sees_and_changes_what_a_worker_runs(
    client: Client, start_worker: StartWorker, operator: Operator, backends: Backends
) -> None:
    start_worker(DSPEX_WORKER_CONCURRENCY=2)
    client.deploy(scripted("endless", module_options=ENDLESS))
    client.deploy(scripted("quick", module_options={"sleep_ms": 300}))

    def concurrency() -> int:
        (row,) = client.workers()
        return int(row["concurrency"])

    # What is there.
    assert {queue["name"] for queue in operator.inspect("active_queues")} == {"dspex", "dspex.maintenance"}
    assert TASK in operator.inspect("registered")
    pool = operator.pool
    assert pool["max-concurrency"] == 2
    assert pool["worker-id"] == str(client.workers()[0]["id"])

    # It grows and shrinks: its slots, Celery's prefetch, and the row that the pump goes by.
    first, second, third = (submit(client, "endless") for _ in range(3))
    wait_for(lambda: is_running(first) and is_running(second), "two to run")
    both = {str(first.id), str(second.id)}
    wait_for(lambda: {task["id"] for task in operator.inspect("active")} == both, "Celery to have both as active")
    assert third.refresh().status is dspex.Status.QUEUED
    assert operator.control("pool_grow", n=1) == {"ok": "pool will grow"}
    wait_for(lambda: is_running(third), "the third to run")
    wait_for(lambda: concurrency() == 3, "the row to tell")
    assert "error" in operator.control("pool_shrink", n=3)
    assert operator.control("pool_shrink", n=2) == {"ok": "pool will shrink"}
    wait_for(lambda: concurrency() == 1, "the row to tell")
    assert all(is_running(execution) for execution in (first, second, third)), "what runs goes on"
    assert operator.pool["max-concurrency"] == 1

    # Revoking cancels the row: one that is queued at once, one that runs if that is wanted too.
    waiting = submit(client, "endless")
    assert "ok" in operator.control("revoke", task_id=[str(waiting.id), str(first.id)])
    assert waiting.refresh().status is dspex.Status.CANCELLED
    assert waiting.audit_trail.kinds[-1] == "cancelled"
    assert waiting.audit_trail.verify()
    assert is_running(first)
    assert str(waiting.id) in operator.inspect("revoked")
    assert "ok" in operator.control("revoke", task_id=str(first.id), terminate=True)
    assert "ok" in operator.control("terminate", task_id=[str(second.id)], signal="KILL")
    for ended in (first, second):
        with pytest.raises(dspex.ExecutionCancelled):
            ended.result(timeout=60)

    # With one slot left, held by the third, what comes next waits for it. A revoked one can be retried.
    again = client.retry(waiting.id)
    third.cancel()
    wait_for(lambda: is_running(again), "the revoked one to run")
    third.refresh()
    assert third.finished_at is not None
    assert again.started_at is not None
    assert again.started_at >= third.finished_at
    again.cancel()

    # Not consuming is what the operator wants. A message's time limits are not looked at.
    assert "ok" in operator.control("cancel_consumer", queue=QUEUE)
    wait_for(lambda: QUEUE not in {queue["name"] for queue in operator.inspect("active_queues")}, "it to be cancelled")
    limited = submit(client, "quick")
    with redis.Redis.from_url(backends.broker_url) as connection:
        wait_for(lambda: connection.delete(*queue_keys()), "its message to wait")
    operator._app.send_task(
        TASK, [pack([limited.id])], queue=QUEUE, time_limit=0.01, soft_time_limit=0.01, ignore_result=True
    )
    assert "ok" in operator.control("add_consumer", queue=QUEUE)
    limited.result(timeout=60)
    # A queue of which it knows nothing could be one that its user of Redis may not read.
    assert "dspex.maintenance only" in operator.control("add_consumer", queue="typo")["error"]
    assert {queue["name"] for queue in operator.inspect("active_queues")} == {"dspex", "dspex.maintenance"}
    assert "own deadline" in operator.control("time_limit", task_name=TASK, hard=1)["error"]
    assert "Limits(per_minute" in operator.control("rate_limit", task_name=TASK, rate_limit="1/s")["error"]


def test_a_cold_shutdown_hands_back_at_once_what_runs(client: Client, start_worker: StartWorker) -> None:
    quit, twice = (start_worker(DSPEX_GRACE_SECONDS=600, DSPEX_WORKER_CONCURRENCY=1) for _ in range(2))
    client.deploy(scripted("endless", module_options=ENDLESS))
    both = [submit(client, "endless") for _ in range(2)]
    wait_for(lambda: all(map(is_running, both)), "both to run")
    twice.signal(signal.SIGTERM)
    wait_for(lambda: {row["state"] for row in client.workers()} == {"running", "stopping"}, "it to begin to stop")
    assert all(map(is_running, both)), "a warm shutdown waits"
    twice.signal(signal.SIGTERM)
    assert twice.process.wait(60) == 0
    quit.signal(signal.SIGQUIT)
    quit.process.wait(60)
    for execution in both:
        assert execution.refresh().status is dspex.Status.QUEUED
        assert execution.audit_trail.kinds[-1] == "recovered"
        assert "lease_expired" not in execution.audit_trail.kinds
        assert execution.audit_trail.verify()
    assert client.workers() == []


def test_a_cold_shutdown_while_a_warm_one_closes_the_pool(
    client: Client, start_worker: StartWorker, tmp_path: Path
) -> None:
    (tmp_path / "quit_while_closing.py").write_text(QUIT_WHILE_CLOSING)
    client.deploy(scripted("endless", module_options=ENDLESS, actions=["quit_while_closing:note"]))
    worker = start_worker(
        DSPEX_GRACE_SECONDS=600, DSPEX_PROGRAM_PACKAGES="quit_while_closing", PYTHONPATH=tmp_path
    )  # fmt: skip
    execution = submit(client, "endless")
    wait_for(lambda: is_running(execution), "it to run")
    worker.signal(signal.SIGTERM)
    assert worker.process.wait(30) == 0
    assert execution.refresh().status is dspex.Status.QUEUED
    assert execution.audit_trail.kinds[-1] == "recovered"
    assert client.workers() == []


def test_code_that_blocks_is_named_and_others_continue(
    client: Client, start_worker: StartWorker, operator: Operator, tmp_path: Path
) -> None:
    (tmp_path / "slow_actions.py").write_text(BLOCKING)
    worker = start_worker(DSPEX_PROGRAM_PACKAGES="slow_actions", PYTHONPATH=tmp_path, DSPEX_WORKER_THREADS=2)
    release_loop, release_threads = tmp_path / "loop", tmp_path / "threads"

    def program(name: str, action: str, **options: str) -> dspex.Program:
        return scripted(name, actions=[dspex.Action(f"slow_actions:{action}", options=options)])

    client.deploy(program("stuck_loop", "block_the_loop", path=str(release_loop)))
    client.deploy(program("stuck_thread", "block_a_thread", path=str(release_threads)))
    client.deploy(program("leaves", "leave"))
    client.deploy(program("hops", "use_the_loops_own_threads"))

    def trouble() -> str:
        (row,) = client.workers()
        return row["trouble"] or ""

    # A blocked loop: who, where, since when. The worker keeps its lease meanwhile.
    (id,) = [row["id"] for row in client.workers()]
    culprit = submit(client, "stuck_loop")
    wait_for(lambda: str(culprit.id) in trouble(), "the blocked loop to be named")
    found = trouble()
    assert f" s by {culprit.id} of stuck_loop, in {tmp_path}/slow_actions.py:" in found
    assert " wait_until < " in found
    assert " block_the_loop" in found
    release_loop.touch()
    culprit.result(timeout=60)
    wait_for(lambda: not trouble(), "the trouble to be over")
    assert [row["id"] for row in client.workers()] == [id]
    assert "the loop turns again" in worker.log.read_text()

    # Threads that are all taken: neither the loop nor its own threads are any worse off.
    stuck = [submit(client, "stuck_thread") for _ in range(3)]
    wait_for(lambda: operator.pool["threads"]["waiting"] == 1, "two to hold the threads and one to wait")
    client.execute("hops", {"question": "?"}, timeout=60)
    stuck[0].cancel()
    wait_for(lambda: "are lost" in trouble(), "the lost thread to be counted")
    assert (
        f"1 of 2 threads for synchronous code are lost: wait_until, called by {stuck[0].id} of stuck_thread"
        in trouble()
    )
    release_threads.touch()
    for execution in stuck[1:]:
        execution.result(timeout=60)
    wait_for(lambda: not trouble(), "the thread to be free again")

    # A program that leaves the interpreter, in a task of its own: it fails, and its worker stays.
    with pytest.raises(dspex.ExecutionFailed, match="SystemExit"):
        client.execute("leaves", {"question": "?"}, timeout=60)
    client.execute("hops", {"question": "?"}, timeout=60)
    assert [row["id"] for row in client.workers()] == [id]


def test_workers_of_tests_are_forks(start_worker: Callable[..., WorkerProcess]) -> None:
    """Each worker that imported its libraries anew would add more than a second to the tests."""
    worker = start_worker()
    assert b"tests.fork_server" in Path(f"/proc/{worker.pid}/cmdline").read_bytes()
