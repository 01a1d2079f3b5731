"""Whoever can write to Redis can put anything there: a worker refuses it, counts it, changes nothing and lives on."""

from __future__ import annotations

import asyncio
import base64
import json
import pickle
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis
from uuid_utils.compat import uuid7

import dspex
from dspex.client.client import Client
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.publish.broker import MAINTENANCE_QUEUE, QUEUE, Broker, lane, queue_keys
from dspex.publish.channels import CANCEL_CHANNEL, DONE_CHANNEL, stream_key
from dspex.publish.envelope import pack
from dspex.settings import Backends
from dspex.store.database import Database
from dspex.store.lifecycle.status import Status
from dspex.store.operations import refused_messages
from tests.conftest import fresh_backends
from tests.processes import WorkerProcess
from tests.waiting import wait_for

CANARY = "canary-in-a-message"
PIDBOX = "celery.pidbox"
EVENTS = "celeryev"


class Bomb:
    """What unpickling would do: leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


class Victim:
    """A worker with its backends, and something to write to them with."""

    def __init__(self, backends: Backends, log: Path, holding: ExitStack) -> None:
        self.backends = backends
        self.log, self.bomb = log, log.with_name("bombed")
        self.worker = WorkerProcess(backends, log, {})
        holding.callback(self.worker.stop)
        self.worker.wait_until_ready()
        self.client = holding.enter_context(Client(database_url=backends.database_url, broker_url=backends.broker_url))
        self.client.deploy(dspex.Program("qa", dspex.signature("question -> answer"), adapter="scripted"))
        self.client.deploy(dspex.Program("other", dspex.signature("question -> answer"), adapter="scripted"))
        self.redis = holding.enter_context(redis.Redis.from_url(backends.broker_url))
        self.database = Database(backends.database_url, pool_size=1)
        holding.callback(self.database.close)
        self.broker = Broker(backends.broker_url)
        holding.callback(self.broker.close)
        self.channel = f"/{self.redis.connection_pool.connection_kwargs.get('db', 0)}.{PIDBOX}"

    def refused(self, reason: str) -> int:
        return sum(row["count"] for row in self.database.run(refused_messages.listing) if row["reason"] == reason)

    def push(self, raw: bytes | str) -> None:
        self.redis.lpush(QUEUE, raw)

    def message(self, ids: list[UUID] | None = None, program: str = "qa") -> dict[str, Any]:
        """A message as the broker writes it, to be spoiled."""
        message: dict[str, Any] = json.loads(self.broker._message(ids or [uuid7()], program, lane(5, bulk=False)))
        return message

    def with_body(self, body: Any, **changes: Any) -> str:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return json.dumps({**self.message(), "body": base64.b64encode(raw).decode(), **changes})


@pytest.fixture(scope="module")
def victim(servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    with ExitStack() as holding:
        backends = holding.enter_context(fresh_backends(servers))
        yield Victim(backends, tmp_path_factory.mktemp("hostile") / "worker.log", holding)


@pytest.fixture(autouse=True)
def _lives_on(victim: Victim) -> Iterator[None]:
    """After each of these tests the same worker works as before."""
    yield
    assert victim.worker.process.poll() is None, victim.log.read_text()[-3000:]
    assert victim.client.execute("qa", {"question": "still there?"}, timeout=60)
    assert not victim.bomb.exists()
    assert CANARY not in victim.log.read_text()


def envelope_body(envelope: Any) -> list[Any]:
    return [[envelope], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]


def spoiled(**changes: Any) -> Any:
    return envelope_body({**pack([uuid7()]), **changes})


def deep(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


BODIES: dict[str, tuple[str, Callable[[Victim], Any]]] = {
    "not JSON": ("body", lambda _: CANARY.encode()),
    "truncated": ("body", lambda _: json.dumps(spoiled()).encode()[:-20]),
    "binary": ("body", lambda _: bytes(range(256))),
    "nested a hundred thousand deep": ("body", lambda _: deep(100_000)),
    "no arguments": ("body", lambda _: [[], {}, {}]),
    "a number": ("malformed", lambda _: 5),
    "an envelope that is text": ("shape", lambda _: envelope_body(CANARY)),
    "a future version": ("version", lambda _: spoiled(v=2)),
    "a version that is a text": ("version", lambda _: spoiled(v=CANARY * 2)),
    "no ids": ("size", lambda _: spoiled(ids=[])),
    "too many ids": ("size", lambda _: spoiled(ids=["a"] * 1001)),
    "ids that are numbers": ("checksum", lambda _: spoiled(ids=[1, 2])),
    "another checksum": ("checksum", lambda _: spoiled(sum=1)),
    "a body of a megabyte": ("size", lambda _: spoiled(more="x" * 300_000)),
    "SQL for an id": ("ids", lambda _: envelope_body(forged("'; DROP TABLE dspex.executions; --"))),
}


def forged(text: str) -> dict[str, Any]:
    from dspex.publish.envelope import VERSION, _checksum

    return {"v": VERSION, "ids": [text], "sum": _checksum([text])}


HEADERS: dict[str, tuple[str, Callable[[Victim], str]]] = {
    "pickle": ("content_type", lambda v: v.with_body(
        pickle.dumps(Bomb(v.bomb)), **{"content-type": "application/x-python-serialize"})),
    "pickle of an older protocol": ("content_type", lambda v: v.with_body(
        pickle.dumps(Bomb(v.bomb)), headers={}, **{"content-type": "application/x-python-serialize"})),
    "YAML": ("content_type", lambda v: v.with_body(b"!!python/object", **{"content-type": "application/x-yaml"})),
    "an unknown task": ("task", lambda v: json.dumps(
        v.message() | {"headers": v.message()["headers"] | {"task": f"os.system {CANARY}"}})),
    "another package's task": ("task", lambda v: json.dumps(
        v.message() | {"headers": v.message()["headers"] | {"task": "celery.backend_cleanup.not"}})),
    "to run in a year": ("malformed", lambda v: json.dumps(
        v.message() | {"headers": v.message()["headers"] | {"eta": "2099-01-01T00:00:00"}})),
    "headers that are no mapping": ("not_a_message", lambda v: json.dumps(v.message() | {"headers": [CANARY]})),
    "an id that is a mapping": ("malformed", lambda v: json.dumps(
        v.message() | {"headers": v.message()["headers"] | {"id": {"a": CANARY}}})),
    "limits that are texts": ("malformed", lambda v: json.dumps(
        v.message() | {"headers": v.message()["headers"] | {"timelimit": "never", "retries": CANARY, "eta": CANARY}})),
    "not JSON": ("not_a_message", lambda _: CANARY),
    "a list": ("not_a_message", lambda _: json.dumps([CANARY])),
    "no properties": ("not_a_message", lambda v: json.dumps(
        {n: part for n, part in v.message().items() if n != "properties"})),
    "an unknown encoding": ("not_a_message", lambda v: json.dumps(
        v.message() | {"properties": v.message()["properties"] | {"body_encoding": "rot13"}})),
    "deep": ("not_a_message", lambda _: deep(200_000).decode()),
    "a megabyte": ("not_a_message", lambda v: v.with_body(b"[" + b"1," * 400_000 + b"1]")),
}  # fmt: skip


def around(make: Callable[[Victim], Any], victim: Victim) -> str:
    return victim.with_body(make(victim))


SPOILED: dict[str, tuple[str, Callable[[Victim], Any]]] = {
    **{f"body: {name}": (why, partial(around, make)) for name, (why, make) in BODIES.items()},
    **HEADERS,
}


def test_everything_that_is_spoiled_is_refused_for_its_reason(victim: Victim) -> None:
    """One after the other, so that each is refused for what it is; a message of ours goes behind each."""
    for name, (reason, make) in SPOILED.items():
        told = len(victim.log.read_text())
        victim.push(make(victim))
        victim.client.execute("qa", {"question": name}, timeout=60)
        assert re.findall(r"refused a message \((\w+)\)", victim.log.read_text()[told:]) == [reason], name
    kept = {reason: sum(why == reason for why, _ in SPOILED.values()) for reason, _ in SPOILED.values()}
    wait_for(lambda: all(victim.refused(reason) >= n for reason, n in kept.items()), "the counts to be kept")


def test_ids_that_no_execution_has_are_counted(victim: Victim) -> None:
    before = victim.refused("unknown_id")
    victim.push(json.dumps(victim.message([uuid7(), uuid7(), uuid4()])))
    wait_for(lambda: victim.refused("unknown_id") == before + 3, "them to be counted")


def test_a_message_for_another_program_runs_what_the_row_says(victim: Victim) -> None:
    victim.client.pause("other")
    execution = victim.client.submit("other", {"question": "which?"})
    before = victim.refused("wrong_program")
    victim.push(json.dumps(victim.message([execution.id], program="qa")))
    victim.client.execute("qa", {"question": "behind it"}, timeout=60)
    assert execution.refresh().status is Status.QUEUED  # a message is no way around a pause
    victim.client.resume("other")
    execution.result(60)
    late = victim.client.submit("other", {"question": "late"}, run_at=None)
    late.result(60)
    assert victim.refused("wrong_program") >= before


def test_a_replayed_message_changes_nothing(victim: Victim) -> None:
    execution = victim.client.submit("qa", {"question": "once"})
    execution.result(60)
    before = (execution.refresh()._row, execution.audit_trail.kinds)
    for _ in range(20):
        victim.push(json.dumps(victim.message([execution.id])))
    victim.client.execute("qa", {"question": "behind them"}, timeout=60)
    assert (execution.refresh()._row, execution.audit_trail.kinds) == before
    assert execution.audit_trail.verify()


def test_a_forged_message_has_no_execution_run_alone(victim: Victim) -> None:
    victim.client.pause("other")
    held = victim.client.submit("other", {"question": "alone?"})
    before = victim.refused("unknown_id")
    for ids in ([held.id], [uuid7()]):
        message = victim.message(ids)
        victim.push(json.dumps(message | {"headers": message["headers"] | {"alone": True}}))
    wait_for(lambda: victim.refused("unknown_id") == before + 1, "the unknown one to be counted")
    assert held.refresh().status is Status.QUEUED
    victim.client.resume("other")
    held.result(60)
    assert "it runs alone now" not in victim.log.read_text()


RUBBISH = [CANARY.encode(), b"[]", b"5", b'{"a": 1}', deep(200_000), b"\xff\xfe", b"null"]
COMMANDS: list[Any] = [
    5, [], {"method": "no_such"}, {"method": {"a": 1}}, {"method": "revoke", "arguments": {"task_id": {"x": 1}}},
    {"method": "pool_grow", "arguments": {"n": "many"}}, {"method": "ping", "reply_to": CANARY},
]  # fmt: skip


def test_rubbish_for_remote_control_does_not_end_the_worker(victim: Victim) -> None:
    for raw in (*RUBBISH, *(victim.with_body(body, headers={"clock": 1}) for body in COMMANDS)):
        assert victim.redis.publish(victim.channel, raw) >= 1, raw[:40]
        victim.client.execute("qa", {"question": "and now?"}, timeout=60)


def test_pickle_for_remote_control_is_not_opened(victim: Victim) -> None:
    before = victim.refused("content_type")
    message = victim.with_body(pickle.dumps(Bomb(victim.bomb)), **{"content-type": "application/x-python-serialize"})
    assert victim.redis.publish(victim.channel, message) == 1
    wait_for(lambda: victim.refused("content_type") == before + 1, "it to be refused")


def test_a_flood_is_a_few_rows(victim: Victim) -> None:
    before = victim.refused("body")
    with victim.redis.pipeline() as flood:
        for _ in range(900):  # fewer than what the leader of the pump takes for a flood, and removes
            flood.lpush(QUEUE, victim.with_body(CANARY.encode()))
        flood.execute()
    wait_for(lambda: victim.refused("body") == before + 900, "all of them to be refused")
    assert len(victim.database.run(partial(refused_messages.listing, days=1))) <= 15


NOT_IDS = [b"\xff\xfe", b"not an id", b"5", deep(10_000), b"x" * 100_000]
NOT_ENTRIES: list[dict[Any, Any]] = [
    {"x": "1"}, {"e": b"\xff"}, {"e": "[]"}, {"e": "null"}, {"e": deep(100_000)}, {"e": '{"status": "over"}'},
    {"e": '{"answer": {}, "field": 1, "at": "x", "text": []}'}, {"e": '{"answer": 1, "field": "a"}'},
]  # fmt: skip


def test_rubbish_on_channels_and_streams_disturbs_no_waiting_client(victim: Victim) -> None:
    """A blocking and an asynchronous client wait and stream; none of them ends before the execution does."""
    victim.client.pause("qa")
    execution = victim.client.submit("qa", {"question": "streamed"}, stream=True)
    waits: list[Callable[[], Any]] = [
        partial(execution.result, timeout=60),
        lambda: [*execution.stream(timeout=60)][-1].value,
        lambda: asyncio.run(in_a_loop(victim.backends, execution.id)),
    ]
    with ThreadPoolExecutor() as threads:
        waiting = [threads.submit(wait) for wait in waits]
        wait_for(lambda: victim.redis.pubsub_numsub(DONE_CHANNEL)[0][1] == 2, "the clients to subscribe")
        for rubbish in NOT_IDS:
            victim.redis.publish(DONE_CHANNEL, rubbish)
            victim.redis.publish(CANCEL_CHANNEL, rubbish)
        for number, entry in enumerate(NOT_ENTRIES, start=1):
            victim.redis.xadd(stream_key(execution.id), entry, id=f"1-{number}")
        victim.redis.xadd(stream_key(execution.id), {"e": '{"status": "running"}'}, id=f"{2**64 - 1}-1")
        waiter = victim.client._session.connections.waiter
        wait_for(lambda: waiter.refused.count == len(NOT_IDS), "the client to have read them")
        victim.client.resume("qa")
        results = [future.result(60) for future in waiting]
    assert len(set(map(str, results))) == 1
    wait_for(lambda: victim.refused("cancel_channel") >= len(NOT_IDS), "the worker to have counted them")


async def in_a_loop(backends: Backends, id: UUID) -> Any:
    async with dspex.AsyncClient(database_url=backends.database_url, broker_url=backends.broker_url) as client:
        execution = await client.get(id)
        events = [event async for event in execution.stream(timeout=60)]
        assert events[-1].value == await execution.result(timeout=60)
        return events[-1].value


def test_keys_of_another_type_are_set_aside_and_work_goes_on(victim: Victim) -> None:
    keys = [*queue_keys(), *queue_keys(MAINTENANCE_QUEUE), f"_kombu.binding.{QUEUE}"]
    before = victim.refused("wrong_key_type")
    with victim.redis.pipeline() as pipeline:
        for key in keys:
            pipeline.delete(key).set(key, CANARY)
        pipeline.execute()
    for priority in (0, 4, 6, 9):
        victim.client.execute("qa", {"question": "through which lane?"}, priority=priority, timeout=60)
    wait_for(lambda: victim.refused("wrong_key_type") == before + len(keys), "them to be counted")
    assert victim.redis.mget(f"dspex:set-aside:{key}" for key in keys) == [CANARY.encode()] * len(keys)
