"""Backends that go away, and input that is rubbish."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import redis
from celery import Celery

import dspex
from dspex.client.client import Client
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.publish.broker import QUEUE, Broker
from dspex.settings import Backends
from tests.chaos.proxy import Proxy
from tests.conftest import fresh_backends
from tests.homes import migrated_servers
from tests.processes import WorkerProcess, command
from tests.waiting import wait_for

QA = dspex.Program("qa", dspex.signature("question -> answer"), adapter="scripted")


@pytest.fixture
def own_servers(tmp_path: Path, fork_server: None) -> Iterator[EmbeddedServers]:
    """Servers of this test's own, to be taken away."""
    with migrated_servers(tmp_path / "home") as running:
        yield running


@pytest.fixture
def backends(request: pytest.FixtureRequest) -> Iterator[Backends]:
    """Those of the test's own servers, where it has some."""
    if "own_servers" in request.fixturenames:
        own = request.getfixturevalue("own_servers")
        yield Backends((own.database_url, own.broker_url))
    else:
        with fresh_backends(request.getfixturevalue("servers")) as fresh:
            yield fresh


def test_redis_down_at_submit_stores_the_execution_and_it_runs_once_redis_is_back(
    own_servers: EmbeddedServers,
    client: Client,
    start_worker: Callable[..., WorkerProcess],
    caplog: pytest.LogCaptureFixture,
) -> None:
    worker = start_worker()
    client.deploy(QA)
    client.execute("qa", {"question": "before"}, timeout=60)
    own_servers.redis.stop()
    with caplog.at_level(logging.WARNING, "dspex"):
        executions = [client.submit("qa", {"question": f"number {n}"}) for n in range(3)]
    assert "Redis at redis://:***@127.0.0.1" in caplog.text
    assert "is stored and runs once Redis is back" in caplog.text
    assert all(execution.refresh().status is dspex.Status.QUEUED for execution in executions)
    own_servers.redis.begin()
    for execution in executions:
        execution.result(timeout=60)
        assert execution.attempts == 1
        assert execution.audit_trail.verify()
    assert worker.process.poll() is None


def test_an_emptied_redis_loses_nothing(
    backends: Backends, client: Client, start_worker: Callable[..., WorkerProcess]
) -> None:
    client.deploy(QA)
    executions = [client.submit("qa", {"question": f"number {n}"}) for n in range(20)]
    with redis.Redis.from_url(backends.broker_url) as connection:
        assert connection.llen(f"{QUEUE}\x06\x162") == 20
        connection.flushdb()
    start_worker()
    for execution in executions:
        execution.result(timeout=60)


def test_postgres_down_is_a_clear_error_and_nothing_half_made(
    own_servers: EmbeddedServers, client: Client, start_worker: Callable[..., WorkerProcess]
) -> None:
    worker = start_worker()
    client.deploy(QA)
    client.execute("qa", {"question": "before"}, timeout=60)
    own_servers.postgres.stop()
    with pytest.raises(dspex.BackendUnavailable) as error:
        client.submit("qa", {"question": "while it is down"})
    assert "nothing was saved" in str(error.value)
    assert error.value.retryable
    own_servers.postgres.begin()
    assert client.execute("qa", {"question": "after"}, timeout=60)
    assert len(client.list()) == 2
    assert worker.process.poll() is None


def test_what_beat_asks_for_is_put_off_in_a_line_while_postgres_is_away(backends: Backends, tmp_path: Path) -> None:
    beat = Celery(broker=backends.broker_url)
    with Proxy(backends.database_url) as proxy, beat.connection_for_write() as connection:
        worker = WorkerProcess(Backends((proxy.url, backends.broker_url)), tmp_path / "worker.log", {})
        try:
            worker.wait_until_ready()
            proxy.cut()
            for task in ("alerts", "upkeep"):
                beat.send_task(f"dspex.{task}", queue="dspex.maintenance", connection=connection)
            for line in ("alerts are not evaluated", "upkeep is not done"):
                wait_for(lambda line=line: line in worker.log.read_text(), line)  # type: ignore[misc]
            assert "Traceback" not in worker.log.read_text()
            proxy.restore()
            beat.send_task("dspex.alerts", queue="dspex.maintenance", connection=connection)
            wait_for(lambda: "0 sent" in worker.log.read_text(), "alerts to be evaluated")
        finally:
            worker.stop()


def test_beat_reports_in_a_line_that_redis_is_away_and_goes_on(backends: Backends, tmp_path: Path) -> None:
    log = tmp_path / "beat.log"
    with Proxy(backends.broker_url) as proxy, redis.Redis.from_url(backends.broker_url) as connection:
        through = Backends((backends.database_url, proxy.url))
        with command(through, log, "beat", DSPEX_HEALTH_INTERVAL_SECONDS="1", DSPEX_ALERT_INTERVAL_SECONDS="3600"):
            wait_for(lambda: connection.llen("dspex.maintenance"), "a task to be sent")
            proxy.cut()
            wait_for(lambda: "the task dspex.health is not sent: Redis: " in log.read_text(), "it to be reported")
            proxy.restore()
            connection.delete("dspex.maintenance")
            wait_for(lambda: connection.llen("dspex.maintenance"), "a task to be sent again")
            connection.set("dspex.maintenance", "of another program")
            wait_for(lambda: "WRONGTYPE" in log.read_text(), "the refusal to be reported")
            connection.delete("dspex.maintenance")
            wait_for(lambda: connection.llen("dspex.maintenance"), "a task to be sent after it")
    assert "Traceback" not in log.read_text()


def test_beat_ends_by_a_signal_that_comes_while_it_sends_a_task(backends: Backends, tmp_path: Path) -> None:
    log = tmp_path / "beat.log"
    with (
        redis.Redis.from_url(backends.broker_url) as connection,
        command(backends, log, "beat", DSPEX_HEALTH_INTERVAL_SECONDS="1", DSPEX_ALERT_INTERVAL_SECONDS="3600") as beat,
    ):
        wait_for(lambda: connection.llen("dspex.maintenance"), "a first task")
        connection.client_pause(600_000, all=False)
        try:
            sent = partial(connection.llen, "dspex.maintenance")
            wait_for(lambda: log.read_text().count("sending") > sent(), "a task that Redis does not answer")
            beat.terminate()
            assert beat.wait(60) == 0
        finally:
            connection.client_unpause()
    assert "Traceback" not in log.read_text()


def test_a_worker_killed_in_the_middle_loses_nothing(
    client: Client, start_worker: Callable[..., WorkerProcess]
) -> None:
    client.deploy(
        dspex.Program(
            "slow",
            QA.signature,
            adapter="scripted",
            module_options={"sleep_ms": 700, "calls": 2, "outputs": {"answer": "!"}},
        )
    )
    doomed = start_worker(DSPEX_LEASE_SECONDS=2)
    executions = [client.submit("slow", {"question": f"number {n}"}) for n in range(10)]
    wait_for(lambda: all(e.refresh().status is dspex.Status.RUNNING for e in executions), "all ten to run")
    start_worker(DSPEX_LEASE_SECONDS=2)
    doomed.kill()
    for execution in executions:
        assert execution.result(timeout=60).answer == "!"
        trail = execution.audit_trail
        assert trail.verify()
        assert trail.kinds.count("completed") == 1
        assert execution.attempts in (1, 2)
        if execution.attempts == 2:
            assert "lease_expired" in trail.kinds
            assert "recovered" in trail.kinds
        assert execution.metrics.lm_calls == 2, "a finished call is not made again"


def test_a_stopping_worker_hands_back_what_it_cannot_finish(
    client: Client, start_worker: Callable[..., WorkerProcess]
) -> None:
    client.deploy(dspex.Program("slow", QA.signature, adapter="scripted", module_options={"sleep_ms": 2000}))
    first = start_worker(DSPEX_GRACE_SECONDS="0.2")
    execution = client.submit("slow", {"question": "?"})
    wait_for(lambda: execution.refresh().status is dspex.Status.RUNNING, "it to run")
    assert first.stop() == 0
    assert execution.refresh().status is dspex.Status.QUEUED
    start_worker()
    execution.result(timeout=60)
    assert execution.audit_trail["recovered"].data["reason"] == "its worker stopped before it was done"
    assert execution.audit_trail.verify()


def test_forged_messages_change_nothing(
    backends: Backends, client: Client, start_worker: Callable[..., WorkerProcess]
) -> None:
    worker = start_worker()
    client.deploy(QA)
    broker = Broker(backends.broker_url)
    broker.publish([uuid.uuid4(), uuid.uuid4()], program="nobody", priority=5)
    broker.close()
    finished = client.submit("qa", {"question": "real"})
    finished.result(timeout=60)
    repeat = Broker(backends.broker_url)
    repeat.publish([finished.id], program="qa", priority=5)
    repeat.close()
    with redis.Redis.from_url(backends.broker_url) as connection:
        for rubbish in (b"rubbish", b"{}", os.urandom(100)):
            connection.lpush(QUEUE, rubbish)
    assert client.execute("qa", {"question": "after the rubbish"}, timeout=60)
    assert finished.refresh().attempts == 1
    assert finished.audit_trail.verify()
    assert worker.process.poll() is None


@pytest.mark.parametrize(
    ("inputs", "error"),
    [
        ({}, dspex.ValidationError),
        ({"question": 5}, dspex.ValidationError),
        ({"question": "x", "extra": 1}, dspex.ValidationError),
        ({"question": "x" * 20_000_000}, dspex.ValidationError),
        ("question", dspex.ValidationError),
    ],
)
def test_bad_input_is_refused_before_it_is_stored(client: Client, inputs: object, error: type[Exception]) -> None:
    client.deploy(QA)
    with pytest.raises(error):
        client.submit("qa", inputs)  # type: ignore[arg-type]
    assert client.list() == []


def test_every_wrong_option_is_reported(client: Client) -> None:
    client.deploy(QA)
    with pytest.raises(dspex.ValidationError) as wrong:
        client.submit("qa", {"question": "?"}, priority=10, timeout=-1, idempotency_key="", run_at="now")  # type: ignore[arg-type]
    assert {e.path for e in wrong.value.errors} == {"priority", "timeout", "idempotency_key", "run_at"}


def test_an_unknown_program_is_named_with_the_nearest(client: Client) -> None:
    client.deploy(dspex.Program("question_answering", QA.signature, adapter="scripted"))
    with pytest.raises(dspex.ProgramNotFound, match="did you mean 'question_answering'"):
        client.submit("question_answer", {"question": "?"})


def test_another_version_in_hand_is_a_mismatch(client: Client) -> None:
    client.deploy(QA)
    other = dspex.Program("qa", QA.signature, adapter="scripted", timeout=5)
    with pytest.raises(dspex.ProgramVersionMismatch):
        client.submit(other, {"question": "?"})


def test_text_survives_as_it_is(client: Client, start_worker: Callable[..., WorkerProcess]) -> None:
    messy = "<b>\"Ünï\" & 'cödé'</b> \u0000 \x1b[31m 🐈‍⬛ \r\n\t ' OR 1=1; -- " + "x" * 20_000
    start_worker()
    client.deploy(
        dspex.Program("echo", QA.signature, adapter="scripted", module_options={"outputs": {"answer": messy}})
    )
    execution = client.submit("echo", {"question": messy})
    assert execution.result(timeout=60).answer == messy
    assert client.get(execution.id).inputs == {"question": messy}


def test_an_idempotency_key_stands_for_one_execution(client: Client) -> None:
    client.deploy(QA)
    first = client.submit("qa", {"question": "?"}, idempotency_key="order-17")
    assert client.submit("qa", {"question": "?"}, idempotency_key="order-17").id == first.id
    with pytest.raises(dspex.IdempotencyConflict):
        client.submit("qa", {"question": "!"}, idempotency_key="order-17")
    assert len(client.list()) == 1


def test_a_database_without_the_schema_says_so(servers: EmbeddedServers) -> None:
    bare = f"{servers.database_url.rsplit('/', 1)[0]}/postgres"
    with Client(database_url=bare, broker_url=servers.broker_url) as client:
        for call in (partial(client.submit, "qa", {}), client.list, client._session.check_schema):
            with pytest.raises(dspex.SchemaOutdated, match="dspex migrate"):
                call()
