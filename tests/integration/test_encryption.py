"""Secret fields: a canary goes through every path there is, and is found nowhere but where it may be."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import dspy
import pytest
import redis
from click.testing import CliRunner
from sqlalchemy import text

import dspex
from dspex.cli.main import cli
from dspex.cli.operate.component_details import DETAILS
from dspex.client.client import Client
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.errors import DspexError, EncryptionError, ExecutionFailed, IdempotencyConflict, ValidationError
from dspex.program.actions import Action
from dspex.program.program import Program, Retry
from dspex.sealing.keyring import Keyring
from dspex.sealing.rotation import rotate
from dspex.sealing.values import PLACEHOLDER, Sealing
from dspex.settings import Backends, Settings
from dspex.settings.security_settings import new_key, read_keys
from dspex.signatures import signature
from dspex.store.database import Database
from dspex.store.lifecycle import dispatch
from dspex.store.lifecycle.status import Status
from tests.conftest import fresh_backends
from tests.model_server import ModelServer, Step
from tests.processes import WorkerProcess
from tests.waiting import wait_for

CANARY = "canary-7f3a9c"
ANSWER = "sparrow-51be02"
QUESTION = "who may enter?"
SECRETIVE = (
    "signature secretive: :string question, :string(secret=true) password -> :string answer, :string(secret=true) token"
)
OLD, NEW = new_key(), new_key()


class Stack:
    """A worker that has the key, clients with and without it, and a model."""

    def __init__(self, backends: Backends, log: Path, model: ModelServer, holding: ExitStack) -> None:
        self.backends, self.log, self.model = backends, log, model
        self._holding = holding
        self.worker = WorkerProcess(backends, log, {"DSPEX_ENCRYPTION_KEY": f"{OLD},{NEW}", "OPENAI_API_KEY": "none"})
        holding.callback(self.worker.stop)
        self.worker.wait_until_ready()
        self.client = self.open(encryption_key=OLD)
        self.outsider = self.open()

    def open(self, **settings: Any) -> Client:
        return self._holding.enter_context(_client(self.backends, **settings))

    def deploy(self, name: str, **changes: Any) -> Program:
        given: dict[str, Any] = {
            "model": "openai/test",
            "api_base": self.model.api_base,
            "adapter": "direct",
            **changes,
        }
        program = Program(name, given.pop("signature", SECRETIVE), **given)
        self.client.deploy(program)
        return program


def _client(backends: Backends, **settings: Any) -> Client:
    urls = {"database_url": backends.database_url, "broker_url": backends.broker_url}
    return Client(Settings.load(**urls, **settings))


@pytest.fixture(scope="module")
def stack(servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    log = tmp_path_factory.mktemp("encryption") / "worker.log"
    with ExitStack() as holding:
        backends = holding.enter_context(fresh_backends(servers))
        yield Stack(backends, log, holding.enter_context(ModelServer()), holding)


@pytest.fixture(autouse=True)
def _answers(stack: Stack) -> None:
    stack.model.script(default=Step(outputs={"answer": "everybody", "token": ANSWER}))


def everything_stored(backends: Backends) -> str:
    """Every row of every table, as text, and every value in Redis."""
    database = Database(backends.database_url, pool_size=1)
    with database.engine.connect() as connection:
        tables = connection.exec_driver_sql(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'dspex'"
        ).scalars().all()  # fmt: skip
        rows = [
            str(row)
            for table in tables
            for row in connection.exec_driver_sql(f'SELECT t::text FROM dspex."{table}" t').scalars()
        ]
    database.close()
    with redis.Redis.from_url(backends.broker_url) as store:
        values = [repr(_value(store, key)) for key in store.scan_iter()]
    return "\n".join(rows + values)


def _value(store: Any, key: bytes) -> Any:
    read = {b"string": store.get, b"hash": store.hgetall, b"set": store.smembers}
    read |= {b"list": lambda k: store.lrange(k, 0, -1), b"zset": lambda k: store.zrange(k, 0, -1)}
    return read.get(store.type(key), store.xrange)(key)


def assert_nowhere(stack: Stack, *more: str) -> None:
    stored = everything_stored(stack.backends)
    assert QUESTION in stored  # what is not secret is found: the search works
    for place in (stored, stack.log.read_text(), *more):
        for secret in (CANARY, ANSWER, CANARY[:-1], ANSWER[:-1], CANARY.encode().hex(), ANSWER.encode().hex()):
            assert secret not in place


def shown(stack: Stack, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setenv("DSPEX_DATABASE_URL", stack.backends.database_url)
    monkeypatch.setenv("DSPEX_BROKER_URL", stack.backends.broker_url)
    monkeypatch.setenv("DSPEX_ENCRYPTION_KEY", OLD)
    return CliRunner().invoke(cli, list(arguments), catch_exceptions=False).output


def test_a_secret_goes_through_inputs_model_and_outputs_and_is_found_nowhere(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    stack.deploy("guarded", actions=["complex_validation"])
    execution = stack.client.submit("guarded", {"question": QUESTION, "password": CANARY}, stream=True)
    told = [event for event in execution.stream(timeout=60) if event.kind == "partial"]
    assert execution.result(60) == {"answer": "everybody", "token": ANSWER}
    assert CANARY in json.dumps(stack.model.calls())  # the model is told, of course
    assert {event.field for event in told} <= {"answer"}
    assert execution.inputs == {"question": QUESTION, "password": CANARY}
    assert execution.action_results["complex_validation"]["ok"]
    assert stack.outsider.get(execution.id).action_results == {}
    assert execution.audit_trail.verify()
    screens = [shown(stack, monkeypatch, "show", str(execution.id), *more) for more in ((), ("--json",))]
    assert all(PLACEHOLDER in screen and QUESTION in screen for screen in screens)
    assert_nowhere(stack, *screens, caplog.text)


@pytest.mark.parametrize(
    ("changes", "step", "code"),
    [
        ({}, Step(content=f"no JSON, but {ANSWER}"), "attempts_exhausted"),
        ({}, Step(outputs={"answer": "everybody", "token": [ANSWER]}), "attempts_exhausted"),
        ({}, Step(status=400, error={"message": f"bad: {CANARY}", "code": "invalid"}), "invalid_request"),
        ({"actions": [{"name": "complex_validation", "options": {"rules": ["token == password"]}}]}, None,
         "attempts_exhausted"),
    ],
    ids=["no answer", "bad output", "the provider quotes it", "a rule between secrets"],
)  # fmt: skip
def test_a_failure_may_quote_a_secret_and_tells_only_whom_it_may(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], step: Step | None, code: str
) -> None:
    changes = {**changes, "actions": [Action(**action) for action in changes.get("actions", ())]}
    stack.deploy("failing", retry=Retry(max_attempts=2, backoff=0.01), **changes)
    if step is not None:
        stack.model.script(default=step)
    execution = stack.client.submit("failing", {"question": QUESTION, "password": CANARY})
    with pytest.raises(ExecutionFailed) as failed:
        execution.result(60)
    assert failed.value.code == code
    assert "sealed" in str(failed.value)
    assert "sealed" not in str(execution.error)
    outside = stack.outsider.get(execution.id)
    assert outside.error is not None
    assert (outside.error.code, "sealed" in str(outside.error)) == (code, True)
    assert_nowhere(stack, shown(stack, monkeypatch, "show", str(execution.id)), str(failed.value))


def test_an_adapter_that_hashes_its_inputs(stack: Stack) -> None:
    stack.deploy("scripted", adapter="scripted", model=None, module_options={"outputs": {"answer": "x", "token": "y"}})
    execution = stack.client.submit("scripted", {"question": QUESTION, "password": CANARY})
    assert execution.result(60).token == "y"
    assert_nowhere(stack)


def test_a_client_without_the_key_sees_that_there_is_something(stack: Stack) -> None:
    stack.deploy("guarded")
    done = stack.client.submit("guarded", {"question": QUESTION, "password": CANARY})
    done.result(60)
    outside = stack.outsider.get(done.id)
    assert outside.inputs == {"question": QUESTION, "password": PLACEHOLDER}
    assert outside.result(0) == {"answer": "everybody", "token": PLACEHOLDER}
    assert [event.kind for event in outside.stream(timeout=10)][-1] == "done"
    with pytest.raises(EncryptionError, match="DSPEX_ENCRYPTION_KEY is not set") as refused:
        stack.outsider.submit("guarded", {"question": QUESTION, "password": CANARY})
    assert refused.value.code == "encryption_key_missing"
    with pytest.raises(EncryptionError):
        stack.outsider.deploy(Program("another", signature(SECRETIVE), adapter="scripted"))
    stranger = stack.open(encryption_key=new_key())
    with pytest.raises(EncryptionError, match="not among") as unknown:
        stranger.get(done.id).result(0)
    assert unknown.value.code == "encryption_key_unknown"


def test_a_bad_secret_is_not_repeated_to_the_submitter(stack: Stack) -> None:
    stack.deploy("guarded")
    with pytest.raises(ValidationError) as refused:
        stack.client.submit("guarded", {"question": QUESTION, "password": [CANARY]})
    assert CANARY not in str(refused.value.as_dict())


def test_a_key_of_idempotence_knows_the_inputs_without_keeping_a_hash_of_them(stack: Stack) -> None:
    stack.deploy("guarded")
    first = stack.client.submit("guarded", {"question": QUESTION, "password": "1234"}, idempotency_key="once")
    again = stack.client.submit("guarded", {"question": QUESTION, "password": "1234"}, idempotency_key="once")
    assert again.id == first.id
    with pytest.raises(IdempotencyConflict):
        stack.client.submit("guarded", {"question": QUESTION, "password": "1235"}, idempotency_key="once")
    database = Database(stack.backends.database_url, pool_size=1)
    kept = "SELECT DISTINCT length(inputs_hash) FROM dspex.idempotency_keys"
    assert database.run(lambda connection: connection.exec_driver_sql(kept).scalar_one()) == 0
    database.close()
    first.result(60)


def test_a_batch_is_sealed_as_well(stack: Stack) -> None:
    stack.deploy("guarded")
    rows = [{"question": QUESTION, "password": f"{CANARY}{n}"} for n in range(3)]
    assert [result.token for result in stack.client.map("guarded", rows, timeout=60)] == [ANSWER] * 3
    assert_nowhere(stack)


def test_what_was_moved_to_another_row_does_not_open(stack: Stack) -> None:
    stack.deploy("guarded")
    mine, other = (stack.client.submit("guarded", {"question": q, "password": CANARY}) for q in ("a", "b"))
    mine.result(60), other.result(60)
    database = Database(stack.backends.database_url, pool_size=1)
    move = "UPDATE dspex.executions SET result = (SELECT result FROM dspex.executions WHERE id = %s) WHERE id = %s"
    with database.transaction() as connection:
        connection.exec_driver_sql("ALTER TABLE dspex.executions DISABLE TRIGGER USER")
        connection.exec_driver_sql(move, (other.id, mine.id))
        connection.exec_driver_sql("ALTER TABLE dspex.executions ENABLE TRIGGER USER")
    database.close()
    with pytest.raises(EncryptionError) as damaged:
        stack.client.get(mine.id).result(0)
    assert damaged.value.code == "sealed_data_damaged"


def test_an_answer_is_replayed_after_the_key_was_rotated(stack: Stack) -> None:
    """The first call was answered, badly, and its repair hangs: the retry pays only for the repair."""
    stack.deploy("guarded")
    stack.model.forget()
    stack.model.script(Step(content="no JSON"), Step(fault="hang"), default=Step(outputs={"answer": "a", "token": "b"}))
    execution = stack.client.submit("guarded", {"question": QUESTION, "password": CANARY})
    wait_for(lambda: stack.model.calls()["total"] == 2, "the repair to be asked for")
    assert execution.cancel()
    wait_for(lambda: execution.refresh().status is Status.CANCELLED, "the execution to be cancelled")
    database = Database(stack.backends.database_url, pool_size=1)
    told: list[tuple[int, int]] = []
    ring = Keyring([*read_keys(NEW), *read_keys(OLD)])
    done = rotate(database, ring, group_rows=2, on_progress=lambda *progress: told.append(progress))
    assert done.rows > 2
    assert done.unreadable <= 1  # the one that another test damaged
    assert told[-1][0] == told[-1][1] == done.rows + done.unreadable
    assert rotate(database, ring).rows == 0
    database.close()
    renewed = stack.open(encryption_key=NEW)
    assert renewed.get(execution.id).inputs["password"] == CANARY
    retried = renewed.retry(execution.id)
    wait_for(lambda: retried.refresh().status.is_final, "the retry to end")
    assert stack.client.get(execution.id).result(0).token == "b"
    assert (retried.metrics.replayed_lm_calls, retried.metrics.lm_calls) == (1, 2)
    assert retried.audit_trail.verify()


def test_everything_is_sealed_if_that_is_asked_for(stack: Stack) -> None:
    stack.deploy("plain", signature="signature plain: :string question -> :string answer")
    stack.model.script(default=Step(outputs={"answer": ANSWER}))
    everything = stack.open(encryption_key=OLD, encrypt="all")
    execution = everything.submit("plain", {"question": CANARY})
    wait_for(lambda: execution.refresh().status.is_final, "the execution to end")
    assert execution.inputs == {"question": CANARY}
    row = everything._session.row(UUID(str(execution.id)))
    assert CANARY not in row["inputs"]
    assert stack.outsider.get(execution.id).inputs == {"question": PLACEHOLDER}


def test_a_worker_without_the_key_leaves_the_execution_to_others(stack: Stack) -> None:
    program = stack.deploy("guarded")
    submitted = stack.client.submit(program, {"question": QUESTION, "password": CANARY})
    stored = stack.client._session.row(submitted.id)["inputs"]
    for sealing, code in (
        (Sealing(), "encryption_key_missing"),
        (Sealing(Keyring(read_keys(new_key()))), "encryption_key_unknown"),
    ):
        with pytest.raises(DspexError) as refused:
            sealing.attempt(program, stored, submitted.id)
        assert (refused.value.code, refused.value.retryable) == (code, True)
    submitted.result(60)


def test_executions_wait_for_a_worker_that_has_their_key(
    backends: Backends, database: Database, start_worker: Callable[..., WorkerProcess]
) -> None:
    """The first worker has no key, the second one another: neither uses up the only attempt."""

    def trouble() -> str:
        return str(database.run(lambda c: c.scalar(text("SELECT string_agg(trouble, '') FROM dspex.workers"))))

    secretive = signature("signature s: :string question, :string(secret=true) password -> :string answer")
    outputs = {"outputs": {"answer": "!"}}
    once = Retry(max_attempts=1)
    program = Program("sealed", secretive, adapter="scripted", module_options=outputs, retry=once)
    with _client(backends, encryption_key=OLD) as client:
        client.deploy(program)
        keyless = start_worker(DSPEX_LEASE_SECONDS=1)
        submitted = client.submit("sealed", {"question": "?", "password": CANARY})
        wait_for(lambda: sum(each.executions for each in database.run(dispatch.held)) == 1, "it to be held back")
        assert "cannot run in any live worker" in DETAILS["programs"](client.health().components["programs"].details)
        keyless.stop()
        other = start_worker(DSPEX_LEASE_SECONDS=1, DSPEX_ENCRYPTION_KEY=NEW)
        wait_for(lambda: "wait for a worker that has their key" in trouble(), "the lacking key to be named")
        wait_for(lambda: submitted.refresh().error is not None, "the attempt to be settled")
        error = submitted.error
        assert error is not None
        assert (submitted.status, error.code) == (Status.QUEUED, "encryption_key_unknown")
        other.stop()
        start_worker(DSPEX_LEASE_SECONDS=1, DSPEX_ENCRYPTION_KEY=OLD)
        assert submitted.result(60).answer
        assert submitted.audit_trail.verify()


def test_what_an_optimiser_learns_is_not_stored_for_a_program_with_secret_fields(stack: Stack) -> None:
    program = stack.deploy("learning", adapter="dspy", module="predict")
    client, asked = stack.client, {"question": QUESTION, "password": CANARY}
    execution = client.submit("learning", asked)
    assert execution.result(60)["token"] == ANSWER
    client.dataset("learnt", executions=client.list(program="learning"))
    with pytest.raises(ValidationError, match="a program without secret fields"):
        client.optimize("learning", trainset="learnt", metric="exact", optimizer="labeled")
    remote = dspex.remote("learning", client)
    assert remote(**asked).token == ANSWER  # its state is the program's
    remote.demos = [dspy.Example(**asked, answer="everybody", token=ANSWER)]
    with pytest.raises(ValidationError, match="a program without secret fields"):
        remote(**asked)
    assert [each.version for each in client.versions("learning", candidates=True)] == [program.version]
