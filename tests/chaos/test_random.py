"""Everything at once, at random: workers killed, Redis emptied, Postgres restarted, while work comes in.

``CHAOS_SEED`` repeats a run's choices. The seed is printed: ``pytest -rP`` shows it for a run that passed.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import redis
from sqlalchemy import text

import dspex
from dspex.client.client import Client
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.settings import Backends
from dspex.store.database import Database
from dspex.testing.model_batches import BatchScript
from tests.chaos.guarantees import assert_guarantees, long
from tests.chaos.history.paid import digest
from tests.chaos.steps import body_of
from tests.model_server import ModelServer, Step, model_server
from tests.processes import WorkerProcess
from tests.waiting import wait_for

__all__ = ["model_server"]

DELAYS_MS = (50, 100, 200, 350, 500)
WORKERS = 3
#: The threads that submit at the same time; and so many threads, and tasks, call ``execute``.
SUBMITTERS = CALLERS = 20
KILL_SECONDS = 2.0
SETTINGS = {
    "DSPEX_LEASE_SECONDS": 3,
    "DSPEX_BATCH_FILL_SECONDS": "0.5",
    "DSPEX_BATCH_POLL_SECONDS": "0.2",
    "DSPEX_BATCH_SETTLE_SECONDS": "2",
}


@dataclass(frozen=True)
class Plan:
    """How long it lasts, how many executions come in meanwhile, and when the backends go (parts of the whole)."""

    seconds: float
    executions: int
    flushes: Sequence[float]
    restarts: Sequence[float]


LONG = Plan(seconds=60, executions=500, flushes=(0.3, 0.7), restarts=(0.5,))
SHORT = Plan(seconds=10, executions=80, flushes=(0.4,), restarts=())


class Fleet:
    """Workers of which one may be killed at any time; another takes its place at once."""

    def __init__(self, backends: Backends, logs: Path, chance: random.Random) -> None:
        self._backends = backends
        self._logs = logs
        self._chance = chance
        self._started = 0
        self.kills = 0
        self._workers = [self._start() for _ in range(WORKERS)]

    def kill_one(self) -> None:
        victim = self._chance.randrange(WORKERS)
        self._workers[victim].kill()
        self.kills += 1
        self._workers[victim] = self._start()

    def stop(self) -> None:
        for worker in self._workers:
            worker.stop()

    def _start(self) -> WorkerProcess:
        self._started += 1
        return WorkerProcess(self._backends, self._logs / f"worker-{self._started}.log", SETTINGS)


@pytest.fixture
def backends(own_servers: EmbeddedServers) -> Backends:
    return Backends((own_servers.database_url, own_servers.broker_url))


@pytest.fixture
def chance() -> random.Random:
    seed = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(10**6))
    print(f"CHAOS_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def fleet(backends: Backends, client: Client, tmp_path: Path, chance: random.Random) -> Iterator[Fleet]:
    started = Fleet(backends, tmp_path, chance)
    yield started
    started.stop()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("plan", [SHORT, long(LONG)], ids=["short", "long"])
def test_everything_at_once(
    plan: Plan,
    own_servers: EmbeddedServers,
    client: Client,
    model_server: ModelServer,
    fleet: Fleet,
    chance: random.Random,
) -> None:
    deploy(client, model_server)
    client.deploy(
        dspex.Program(
            "waits", dspex.signature(":string question, :integer calls -> :string answer"), adapter="direct",
            model="openai/test", api_base=model_server.api_base, route="batch",
            retry=dspex.Retry(max_attempts=100, backoff=0.05),
        )
    )  # fmt: skip
    model_server.script_batches(BatchScript(looks=3))
    rows = [question(number, chance) for number in range(plan.executions)]
    wait_for(lambda: len(client.workers()) == WORKERS, "the fleet")
    with Producer(client, rows, plan.seconds * 0.9) as producer:
        wreck(plan, own_servers, fleet)
    ids = producer.ids
    assert len(set(ids)) == plan.executions
    assert_guarantees(client, ids, timeout=240)
    assert {row["status"] for row in client._session.rows(ids)} == {"completed"}
    asked = dict(zip(ids, rows, strict=True))
    waited = {id: row for id, row in asked.items() if waits(row)}
    called = {id: row for id, row in asked.items() if id not in waited}
    needed = sum(row["calls"] for row in called.values())
    total, faults = payments(client, model_server, called, waited)
    assert not faults, "\n".join(faults[:20])
    print(
        f"{plan.executions} executions completed once each; {fleet.kills} workers killed; {needed} calls needed, "
        f"{total} made: {total - needed} were in flight at a kill; {len(waited)} calls through "
        f"{model_server.batches()['batches']} bundles; "
        f"{sum(row['attempt'] for row in client._session.rows(list(called))) - len(called)} attempts were lost"
    )


@pytest.mark.timeout(600)
@pytest.mark.parametrize("plan", [SHORT, long(LONG)], ids=["short", "long"])
async def test_those_who_wait_get_their_own_results(
    plan: Plan,
    own_servers: EmbeddedServers,
    client: Client,
    backends: Backends,
    model_server: ModelServer,
    fleet: Fleet,
    chance: random.Random,
) -> None:
    """Threads and tasks call ``execute`` again and again: each call is woken once, with its own result."""
    deploy(client, model_server)
    wait_for(lambda: len(client.workers()) == WORKERS, "the fleet")
    callers = [Caller(f"{kind} {number}", chance.random()) for kind in ("thread", "task") for number in range(CALLERS)]
    threads, tasks = callers[:CALLERS], callers[CALLERS:]
    with ThreadPoolExecutor(CALLERS) as pool:
        async with dspex.AsyncClient(database_url=backends.database_url, broker_url=backends.broker_url) as other:
            calling = [
                *(asyncio.wrap_future(pool.submit(caller.call, client)) for caller in threads),
                *(asyncio.ensure_future(caller.call_on_loop(other)) for caller in tasks),
            ]
            await asyncio.to_thread(wreck, plan, own_servers, fleet)
            for caller in callers:
                caller.is_over = True
            await asyncio.gather(*calling)
    given = {question: answer for caller in callers for question, answer in caller.given.items()}
    stored = client._database.run(lambda connection: connection.execute(STORED).all())
    assert_guarantees(client, [row.id for row in stored], timeout=240)
    recorded = {(row.question, row.answer) for row in client._database.run(lambda c: c.execute(STORED).all())}
    wrong = given.items() - recorded
    assert not wrong
    assert len(set(given.values())) > 0.99 * len(given)  # another one's result would be seen
    if not plan.restarts:  # a call that lost its connection may have stored its execution, and is made again
        assert len(stored) == len(given)
    print(f"{len(given)} calls by {len(callers)} callers had their own results; {fleet.kills} workers killed")


STORED = text(
    "SELECT id, inputs ->> 'question' AS question, result ->> 'answer' AS answer FROM dspex.executions "
    "WHERE program = 'qa'"
)


class Caller:
    """Calls ``execute`` again and again until it ``is_over``; ``given`` has the answers by question."""

    def __init__(self, name: str, seed: float) -> None:
        self._name = name
        self._chance = random.Random(seed)
        self.is_over = False
        self.given: dict[str, str] = {}

    def call(self, client: Client) -> None:
        for row in self._rows():
            with suppress(dspex.BackendUnavailable):
                self._note(row, client.execute("qa", row, timeout=240))

    async def call_on_loop(self, client: dspex.AsyncClient) -> None:
        for row in self._rows():
            with suppress(dspex.BackendUnavailable):
                self._note(row, await client.execute("qa", row, timeout=240))

    def _rows(self) -> Iterator[dict[str, Any]]:
        """Each row until it has an answer."""
        for number in itertools.count():
            row = {"question": f"{self._name} asks {number}, takes {self._chance.choice(DELAYS_MS)} ms", "calls": 1}
            while row["question"] not in self.given:
                if self.is_over:
                    return
                yield row

    def _note(self, row: dict[str, Any], result: dspex.Result) -> None:
        self.given[row["question"]] = result.answer


def deploy(client: Client, server: ModelServer) -> None:
    """Deploy the program ``qa``, which makes as many model calls as its inputs say."""
    server.script(*(Step(delay_ms=ms, match=f"takes {ms} ms", times=10**9) for ms in DELAYS_MS))
    client.deploy(
        dspex.Program(
            "qa",
            dspex.signature(":string question, :integer calls -> :string answer"),
            adapter="steps",
            module_options={"server": server.url},
            retry=dspex.Retry(max_attempts=100, backoff=0.05),
        )
    )


def question(number: int, chance: random.Random) -> dict[str, Any]:
    return {"question": f"number {number} takes {chance.choice(DELAYS_MS)} ms", "calls": chance.randint(0, 3)}


def waits(row: dict[str, Any]) -> bool:
    """Whether it goes to the program that waits for a provider's batches."""
    return bool(row["calls"] == 0)


def wreck(plan: Plan, servers: EmbeddedServers, fleet: Fleet) -> None:
    """Kill a worker every two seconds; empty Redis and restart Postgres when the plan says so."""
    deeds: list[tuple[float, Callable[[], None]]] = [
        *((at * KILL_SECONDS, fleet.kill_one) for at in range(1, int(plan.seconds / KILL_SECONDS) + 1)),
        *((part * plan.seconds, lambda: flush(servers)) for part in plan.flushes),
        *((part * plan.seconds, lambda: restart(servers)) for part in plan.restarts),
    ]
    began = time.monotonic()
    for at, deed in sorted(deeds, key=lambda deed: deed[0]):
        time.sleep(max(0.0, began + at - time.monotonic()))
        deed()


def flush(servers: EmbeddedServers) -> None:
    with redis.Redis.from_url(servers.broker_url) as connection:
        connection.flushall()


def restart(servers: EmbeddedServers) -> None:
    servers.postgres.stop()
    servers.postgres.begin()


class Producer:
    """Submits the rows over ``seconds``, so many threads at once; what a backend refuses is submitted again under the
    same key. ``ids`` are in the order of the rows."""

    def __init__(self, client: Client, rows: Sequence[dict[str, Any]], seconds: float) -> None:
        self._client = client
        self._rows = rows
        self._pause = seconds / len(rows) * SUBMITTERS
        self._thread = threading.Thread(target=self._run, name="producer")
        self.ids: list[UUID] = []

    def __enter__(self) -> Producer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    def _run(self) -> None:
        numbers = range(len(self._rows))
        with ThreadPoolExecutor(SUBMITTERS) as threads:
            for begin in numbers[::SUBMITTERS]:
                self.ids += threads.map(self._submit, numbers[begin : begin + SUBMITTERS])
                time.sleep(self._pause)

    def _submit(self, number: int) -> UUID:
        row, stored = self._rows[number], list[UUID]()

        def submit() -> bool:
            with suppress(dspex.BackendUnavailable):
                name = "waits" if waits(row) else "qa"
                stored.append(self._client.submit(name, row, idempotency_key=f"row {number}").id)
            return bool(stored)

        wait_for(submit, "Postgres to be back")
        return stored[0]


def payments(
    client: Client, server: ModelServer, rows: dict[UUID, dict[str, Any]], waited: dict[UUID, dict[str, Any]]
) -> tuple[int, list[str]]:
    """How many calls the server saw of those that do not wait, and what is wrong with all of them.

    A lost attempt can take with it the one call that was in flight. Every other call is in the journal, and made once;
    so is each that went through a batch.
    """
    seen: dict[str, int] = server.calls()["by_hash"]
    total = sum(seen.values()) - len(waited)
    attempts = {row["id"]: row["attempt"] for row in client._session.rows(list(rows))}
    answers = journal(client, rows)
    faults = []
    for id, row in rows.items():
        if len(answers[id]) != row["calls"]:
            faults.append(f"{id}: {row['calls']} calls needed, {len(answers[id])} in the journal")
        made = [seen.pop(digest(body), 0) for body in bodies(row["question"], answers[id])]
        if min(made) < 1 or sum(made) - len(made) > attempts[id] - 1:
            faults.append(f"{id}: its calls were made {made} times in {attempts[id]} attempts")
    batches = server.batches()
    if len(seen) != len(waited) or set(seen.values()) - {1}:
        faults.append(f"{len(seen)} requests that no journal knows, with {len(waited)} in batches: {seen.values()}")
    if (batches["requests"], batches["asked_twice"], batches["answered"]) != (len(waited), 0, len(waited)):
        faults.append(f"{len(waited)} requests wait, and the provider counts {batches}")
    return total, faults


def journal(client: Client, ids: Collection[UUID]) -> dict[UUID, list[str]]:
    """The answers in the journal of each execution, in order."""
    database = Database(client.settings.backends().database_url, pool_size=1)
    query = text(
        "SELECT execution_id, response FROM dspex.lm_calls WHERE execution_id = ANY(:ids) "
        "ORDER BY execution_id, created_at"
    )
    found: dict[UUID, list[str]] = {}
    for row in database.run(lambda connection: connection.execute(query, {"ids": list(ids)}).all()):
        found.setdefault(row.execution_id, []).append(row.response["choices"][0]["message"]["content"])
    database.close()
    return found


def bodies(asked: str, answers: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The requests that got these answers."""
    for number, previous in enumerate(["", *answers[:-1]]):
        yield body_of(asked, number, previous)
