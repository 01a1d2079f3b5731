"""Following executions: from the model through the worker and Redis to whoever reads, and without Redis."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest
import redis
from click.testing import CliRunner

import dspex
from dspex.cli.main import cli
from dspex.client.client import Client
from dspex.client.follow import StreamEvent
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.publish.channels import stream_key
from dspex.settings import Backends
from tests.homes import migrated_servers
from tests.model_server import ModelServer, Step, model_server
from tests.processes import WorkerProcess, interruptible
from tests.recording import MemoryJournal, a_run
from tests.waiting import wait_for
from workers.adapters.direct.direct_adapter import DirectAdapter
from workers.attempt.stream import ENTRIES_MOST, Streams
from workers.conformance.attempts import StreamRecord

__all__ = ["model_server"]

QA = dspex.signature(":string question -> :string answer, :list(:string) words, :optional(:string) note")
POEM = "\n".join(f"Line {number} of the “poem”, with ünïcödé 🐈‍⬛ and a \\ in it." for number in range(20))
GOOD = {"answer": POEM, "words": ["a", "b"], "note": "short"}
ALL_STATUSES = ["queued 0", "running 1", "queued 1", "running 2", "completed 2"]
Start = Callable[..., dspex.Execution]


class Place:
    """Servers and a worker of this module's own: Redis is taken away from them."""

    def __init__(self, servers: EmbeddedServers, logs: Path) -> None:
        self.servers = servers
        self.backends = Backends((servers.database_url, servers.broker_url))
        self.client = Client(database_url=servers.database_url, broker_url=servers.broker_url)
        self.worker = self.start_worker(logs / "worker.log")

    def start_worker(self, log: Path) -> WorkerProcess:
        worker = WorkerProcess(self.backends, log, {"DSPEX_LEASE_SECONDS": 1})
        worker.wait_until_ready()
        return worker

    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(self.servers.broker_url)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("stream")
    with migrated_servers(home / "home") as servers:
        opened = Place(servers, home)
        yield opened
        opened.worker.stop()
        opened.client.close()


@pytest.fixture
def start(place: Place, model_server: ModelServer, request: pytest.FixtureRequest) -> Start:
    """Submits a program with these settings, to be streamed."""

    def submit(stream: bool = True, **settings: Any) -> dspex.Execution:
        name = f"p{abs(hash(request.node.name))}"
        of = {"signature": QA, "model": "openai/test", "api_base": model_server.url, "timeout": 60, **settings}
        place.client.deploy(dspex.Program(name, **cast("Any", of)))
        return place.client.submit(name, {"question": "?"}, stream=stream)

    return submit


def scripted(**options: object) -> dict[str, Any]:
    return {"adapter": "scripted", "model": None, "api_base": None, "module_options": options}


class Heard:
    """What events amount to."""

    def __init__(self) -> None:
        self.events: list[StreamEvent] = []
        self.texts: defaultdict[str, str] = defaultdict(str)
        self.values: dict[str, Any] = {}
        self.resets = 0

    def take(self, event: StreamEvent) -> None:
        self.events.append(event)
        match event.kind, event.field:
            case "reset", _:
                self.resets += 1
                self.texts.clear()
                self.values.clear()
            case "partial", str(name):
                self.texts[name] += event.text or ""
            case "field", str(name):
                self.values[name] = event.value

    def all(self, events: Iterable[StreamEvent]) -> Heard:
        for event in events:
            self.take(event)
        return self

    def until(self, kind: str, events: Iterator[StreamEvent]) -> Heard:
        for event in events:
            self.take(event)
            if event.kind == kind:
                return self
        raise AssertionError(f"it ended without {kind}: {self.kinds}")

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    @property
    def statuses(self) -> list[str]:
        return [f"{event.status} {event.attempt}" for event in self.events if event.status]

    @property
    def told_whole(self) -> bool:
        """Whether each text came without a gap or a repeat, and is what was recorded in the end."""
        words = json.loads(self.texts["words"])
        last = self.events[-1]
        return {**self.texts, "words": words} == self.values == GOOD == dict(last.value) and last.kind == "done"


@pytest.mark.parametrize(
    "settings", [{"prompt": "chat"}, {"prompt": "json"}, {"prompt": "compact"}, {"adapter": "direct"}], ids=str
)
def test_fields_come_while_the_model_writes_them(
    model_server: ModelServer, start: Start, settings: dict[str, Any]
) -> None:
    model_server.script(Step(outputs=GOOD, hold_after=20))
    execution = start(**settings)
    events = execution.stream(timeout=60)
    heard = Heard().until("partial", events)
    assert execution.refresh().status is dspex.Status.RUNNING
    assert POEM.startswith(heard.texts["answer"])
    model_server.release()
    assert heard.all(events).told_whole
    assert heard.statuses[-2:] == ["running 1", "completed 1"]
    assert heard.resets == 0
    assert not any(event.validated for event in heard.events), "what was streamed was the output, and came again"
    assert model_server.calls()["total"] == execution.refresh().metrics.lm_calls == 1
    assert model_server.calls()["requests"][0]["stream"] is True
    assert execution.metrics.prompt_tokens > 0
    assert execution.metrics.completion_tokens > 0


@pytest.mark.parametrize("model", ["openai/test", "anthropic/test", "gemini/test"])
async def test_a_streamed_call_is_journaled_like_any_other(model_server: ModelServer, model: str) -> None:
    model_server.script(default=Step(outputs=GOOD))
    adapter, told, plain, streamed = DirectAdapter(), StreamRecord(), MemoryJournal(), MemoryJournal()
    program = dspex.Program("qa", QA, model=model, api_base=model_server.url, adapter="direct")
    await adapter.execute(a_run(program, {"question": "?"}, plain))
    run = replace(a_run(program, {"question": "?"}, streamed), stream=told)
    assert await adapter.execute(run) == told.fields == GOOD
    assert told.texts["answer"] == POEM
    ((whole,), (pieces,)) = (plain.answers, streamed.answers)
    assert pieces.response["message"] == whole.response["message"]
    assert (pieces.prompt_tokens, pieces.completion_tokens) == (whole.prompt_tokens, whole.completion_tokens)
    assert pieces.request_id == whole.request_id
    assert streamed.hashes == plain.hashes
    await adapter.close()


def test_whoever_comes_back_goes_on_after_a_cursor(model_server: ModelServer, start: Start) -> None:
    model_server.script(Step(outputs=GOOD, hold_after=20))
    execution = start()
    heard = Heard().until("partial", execution.stream(timeout=60))
    model_server.release()
    execution.result(timeout=60)
    while heard.events[-1].kind != "done":
        heard.take(next(execution.stream(after=heard.events[-1].cursor, timeout=60)))
    assert heard.told_whole
    assert heard.resets == 0
    assert list(execution.stream(after=heard.events[-1].cursor)) == []
    assert Heard().all(execution.stream()).told_whole, "from the beginning, once more"


@pytest.mark.parametrize("fault", ["restarted", "emptied"])
def test_redis_is_lost_while_the_model_writes(
    place: Place, model_server: ModelServer, start: Start, fault: str
) -> None:
    model_server.script(Step(outputs=GOOD, hold_after=20))
    execution = start()
    events = execution.stream(timeout=60)
    heard = Heard().until("partial", events)
    if fault == "restarted":
        place.servers.redis.stop()
        place.servers.redis.begin()
    with place.redis() as connection:
        connection.flushall()
    model_server.release()
    assert heard.all(events).told_whole
    assert heard.resets == 0


def test_without_redis_the_outputs_come_from_postgres(place: Place, model_server: ModelServer, start: Start) -> None:
    model_server.script(Step(outputs=GOOD, hold_after=20))
    execution = start()
    heard = Heard().until("partial", execution.stream(timeout=60))
    place.servers.redis.stop()
    model_server.release()
    try:
        again = Heard().all(execution.stream(after=heard.events[-1].cursor, timeout=60))
    finally:
        place.servers.redis.begin()
    assert again.kinds == ["field", "field", "field", "status", "done"]
    assert again.values == dict(again.events[-1].value) == GOOD


def test_what_was_not_submitted_to_be_streamed_leaves_nothing_in_redis(place: Place, start: Start) -> None:
    execution = start(stream=False, **scripted(outputs=GOOD, sleep_ms=200))
    heard = Heard().all(execution.stream(timeout=60))
    assert heard.kinds[-5:] == ["field", "field", "field", "status", "done"]
    assert all(event.validated for event in heard.events if event.kind == "field")
    assert heard.values == GOOD
    with place.redis() as connection:
        assert not connection.exists(stream_key(execution.id))


def test_a_stream_without_a_reader_costs_nothing_and_expires(
    place: Place, model_server: ModelServer, start: Start
) -> None:
    model_server.script(default=Step(outputs={**GOOD, "answer": POEM * 50}, piece=4))
    execution = start()
    execution.result(timeout=60)
    with place.redis() as connection:
        key = stream_key(execution.id)
        wait_for(lambda: b'"completed"' in connection.xrevrange(key, count=1)[0][1][b"e"], "the last entry")
        assert connection.xlen(key) < len(POEM * 50) / 4 / 5, "deltas are not put together"
        assert 0 < connection.ttl(key) <= 600


def test_an_answer_that_is_sent_back_or_cut_off_begins_anew(model_server: ModelServer, start: Start) -> None:
    bad = Step(outputs={**GOOD, "words": 5})
    model_server.script(Step(outputs=GOOD, cut_after=30), bad, default=Step(outputs=GOOD))
    heard = Heard().all(start().stream(timeout=60))
    assert heard.told_whole
    assert 1 <= heard.resets <= 2, "the first may be over before anything of it was published"
    assert model_server.calls()["total"] == 3


def test_an_attempt_that_fails_is_followed_by_the_next(start: Start) -> None:
    retry = dspex.Retry(max_attempts=2, backoff=0.05)
    execution = start(retry=retry, **scripted(fail={"code": "provider_unavailable", "times": 1}, outputs=GOOD))
    heard = Heard().all(execution.stream(timeout=60))
    # A status that lasts for a moment only may be missed.
    assert heard.statuses == [s for s in ALL_STATUSES if s in heard.statuses]
    assert heard.statuses[-1] == "completed 2"
    assert heard.told_whole


def test_a_failure_and_a_cancellation_are_the_last_event(start: Start) -> None:
    fails = start(retry=dspex.Retry(max_attempts=1), **scripted(fail={"code": "billing", "times": 9}))
    *_, status, last = fails.stream(timeout=60)
    assert (status.status, last.kind) == (dspex.Status.FAILED, "error")
    assert isinstance(last.error, dspex.ExecutionFailed)
    endless = start(**scripted(sleep_ms=600_000))
    events = endless.stream(timeout=60)
    heard = Heard()
    while "running 1" not in heard.statuses:
        heard.take(next(events))
    with pytest.raises(dspex.ExecutionTimedOut):
        list(endless.stream(timeout=0.1))
    endless.cancel()
    *_, last = events
    assert isinstance(last.error, dspex.ExecutionCancelled)


def test_many_are_followed_at_once_on_one_loop(place: Place, model_server: ModelServer, start: Start) -> None:
    model_server.script(default=Step(outputs=GOOD))
    name = start(stream=False).program

    async def follow(client: dspex.AsyncClient) -> Heard:
        heard = Heard()
        execution = await client.submit(name, {"question": "?"}, stream=True)
        async for event in execution.stream(timeout=60):
            heard.take(event)
        return heard

    async def follow_all() -> list[Heard]:
        database_url, broker_url = place.backends
        async with dspex.AsyncClient(database_url=database_url, broker_url=broker_url) as client:
            return await asyncio.gather(*(follow(client) for _ in range(30)))

    for heard in asyncio.run(follow_all()):
        # Whoever sees the end in Postgres first is told the outputs from there.
        assert heard.kinds[-1] == "done"
        assert heard.values == dict(heard.events[-1].value) == GOOD
        assert POEM.startswith(heard.texts["answer"])


def test_a_killed_workers_answer_is_void(place: Place, model_server: ModelServer, start: Start, tmp_path: Path) -> None:
    model_server.script(Step(outputs=GOOD, hold_after=20), default=Step(outputs=GOOD))
    execution = start()
    events = execution.stream(timeout=60)
    heard = Heard().until("partial", events)
    place.worker.kill()
    place.worker = place.start_worker(tmp_path / "worker.log")
    assert heard.all(events).told_whole
    assert heard.resets == 1
    assert heard.statuses[-1] == "completed 2"


def test_a_streams_length_is_bounded(place: Place) -> None:
    id = uuid4()

    async def publish() -> None:
        streams = Streams(place.servers.broker_url)
        stream = streams.open(id, 1)
        answer = stream.answer()
        for number in range(ENTRIES_MOST * 2):
            answer.field(str(number), number)
        streams.start()
        await streams.close()

    asyncio.run(publish())
    with place.redis() as connection:
        assert ENTRIES_MOST <= connection.xlen(stream_key(id)) < ENTRIES_MOST * 1.1


# ------------------------------------------------------------------------------------------------- the command line


def typed(place: Place, *arguments: str) -> str:
    """What a command prints to stdout; in this process, as starting one takes seconds."""
    names = ("DSPEX_DATABASE_URL", "DSPEX_BROKER_URL")
    done = CliRunner().invoke(cli, arguments, env=dict(zip(names, place.backends, strict=True)), catch_exceptions=False)
    return done.stdout


def test_run_prints_fields_as_they_come_and_stream_attaches(
    place: Place, model_server: ModelServer, start: Start
) -> None:
    model_server.script(default=Step(outputs=GOOD, hold_after=20))
    name = start(stream=False).program
    with interruptible("run", name, "question=?", "--stream", backends=place.backends) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        assert run.stdout.readline().startswith("answer: Line 0"), "nothing comes while the model is held"
        run.send_signal(signal.SIGINT)
        said = run.stderr.read()
    assert run.returncode == 130, said
    assert "running" in said
    id = said.split("`dspex stream ")[1].split("`")[0]
    model_server.release()
    assert typed(place, "stream", id) == f'answer: {POEM}\nwords: ["a", "b"]\nnote: short\n'
    events = [json.loads(line) for line in typed(place, "stream", id, "--json").splitlines()]
    assert events[-1] == {"kind": "done", "cursor": events[-1]["cursor"], "attempt": 1, "value": GOOD}
    rest = typed(place, "stream", id, "--json", "--after", events[-3]["cursor"])
    assert [json.loads(line) for line in rest.splitlines()] == events[-2:]
