"""Many users who each submit a no-op and wait, one producer process and one worker process; and submits alone."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg
import redis
from uuid_utils.compat import uuid7

from dspex.client.client import Client
from tests.performance.bench.context import ROOT, Context
from tests.performance.bench.figures import Figure, Goal, at_least, at_most, percentile, ratio
from tests.performance.bench.queues import QUEUES, Queue
from tests.performance.bench.workloads.noop import program, warm_up
from tests.processes import mortal

TASKS, THREADS = "DSPex, tasks", "DSPex, threads"
PEERS = ("taskiq", "DBOS", "Celery", "dramatiq")
#: They lose queued work with Redis.
FORGETFUL = ("taskiq", "Celery", "dramatiq")
USERS = (1, 10, 50, 200)
SECONDS = 5.0
RATE = "results/s of users who wait"
THROWN_AWAY = "connections opened and thrown away while 200 users wait"
#: After this time the pools of the users' process have grown.
SETTLED_SECONDS = 8.0
OPENED_SINCE = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend' AND backend_start > %s"""

Waits = Mapping[str, Any]


def run(context: Context) -> list[Figure]:
    counts = (1, 50) if context.quick else USERS
    found: dict[tuple[str, int], list[Waits]] = {}
    alone: dict[str, list[float]] = {}
    for _ in range(context.repeats):
        for name, measure in contenders(context).items():
            for users, waits in measure(counts).items():
                found.setdefault((name, users), []).append(waits)
                context.told(f"{name}, {users} users: {_rate(waits):,.0f}/s, p50 {_ms(waits, 50):.1f} ms")
        for name, rate in submits_alone(context).items():
            alone.setdefault(name, []).append(rate)
            context.told(f"{name}: {rate:,.0f}/s")
    return [*_curve(found), *_compared(found), *_submits(alone), *connections(context)]


def contenders(context: Context) -> Mapping[str, Callable[[Sequence[int]], Mapping[int, Waits]]]:
    return {
        TASKS: partial(dspex_waits, context, "tasks"),
        THREADS: partial(dspex_waits, context, "threads"),
        **{name: partial(peer_waits, context, QUEUES[name]) for name in PEERS},
    }


def dspex_waits(context: Context, kind: str, counts: Sequence[int]) -> dict[int, Waits]:
    with context.deployment() as client:
        client.deploy(program())
        with context.worker(client):
            _warm_up(client)
            return {users: _dspex(kind, users, _urls(client)) for users in counts}


def _warm_up(client: Client) -> None:
    """By a client of its own, which is closed: one that has waited listens on, and each result wakes this process."""
    with Client(client.settings) as other:
        warm_up(other)


def _urls(client: Client) -> Mapping[str, str]:
    backends = client.settings.backends()
    return {"DSPEX_DATABASE_URL": backends.database_url, "DSPEX_BROKER_URL": backends.broker_url}


def _users(kind: str, users: int, seconds: float, urls: Mapping[str, str]) -> tuple[Sequence[str], Mapping[str, str]]:
    """The command that runs the users, and its environment."""
    command = [*mortal("-m", "tests.performance.bench.users"), kind, str(users), str(seconds)]
    return command, {**os.environ, **urls}


def _dspex(kind: str, users: int, urls: Mapping[str, str]) -> Waits:
    command, environment = _users(kind, users, SECONDS, urls)
    done = subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    waits: Waits = json.loads(done.stdout.splitlines()[-1])
    return waits


def connections(context: Context) -> list[Figure]:
    """How many connections are opened and thrown away while 200 users wait for a minute."""
    seconds = context.size(60, 10)
    with context.deployment() as client:
        client.deploy(program())
        with context.worker(client):
            _warm_up(client)
            command, environment = _users("tasks", 200, SETTLED_SECONDS + seconds + 5, _urls(client))
            with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL) as users:
                time.sleep(SETTLED_SECONDS)
                found = thrown_away(client, seconds)
                assert users.poll() is None, "the users ended before they were counted"
    note = f"in {seconds} s"
    return [Figure(THROWN_AWAY, server, "", [count], at_most(0), note) for server, count in found.items()]


def thrown_away(client: Client, seconds: float) -> Mapping[str, int]:
    """How many connections are opened from now on, and are not there at the end. A pool may still grow.

    Postgres counts the sessions of an idle connection late, so they are looked at, a hundred times a second.
    """
    backends = client.settings.backends()
    ends = time.monotonic() + seconds
    seen: set[int] = set()
    with (
        psycopg.connect(backends.database_url, autocommit=True) as connection,
        redis.Redis.from_url(backends.broker_url) as broker,
    ):
        began, received, before = connection.execute("SELECT now()").fetchone(), _received(broker), _clients(broker)
        while time.monotonic() < ends:
            seen.update(now := {pid for (pid,) in connection.execute(OPENED_SINCE, began)})
            time.sleep(0.01)
        kept = len(_clients(broker) - before)
        return {"Postgres": len(seen - now), "Redis": _received(broker) - received - kept}


def _clients(broker: redis.Redis) -> set[str]:
    return {client["id"] for client in broker.client_list()}


def _received(broker: redis.Redis) -> int:
    return int(broker.info("stats")["total_connections_received"])


def peer_waits(context: Context, queue: Queue, counts: Sequence[int]) -> dict[int, Waits]:
    with queue.running(context) as producer:
        return {users: producer.ask("users", users) for users in counts}


def _rate(waits: Waits) -> float:
    return len(waits["ms"]) / float(waits["seconds"])


def _ms(waits: Waits, percent: int) -> float:
    return percentile(waits["ms"], percent)


def _cpu(waits: Waits) -> float:
    """Milliseconds of CPU of the producer for each result."""
    return 1000 * float(waits["cpu"]) / max(len(waits["ms"]), 1)


def _curve(found: Mapping[tuple[str, int], Sequence[Waits]]) -> list[Figure]:
    return [
        Figure(f"{what}, {users} user{'s' * (users > 1)}", name, unit, [value(waits) for waits in runs], at=users)
        for what, unit, value in (
            (RATE, "/s", _rate),
            ("p50 of users who wait", "ms", partial(_ms, percent=50)),
            ("p99 of users who wait", "ms", partial(_ms, percent=99)),
            ("client CPU of users who wait", "ms", _cpu),
        )
        for (name, users), runs in found.items()
    ]


def _compared(found: Mapping[tuple[str, int], Sequence[Waits]]) -> list[Figure]:
    """The goals: users who wait, beside the fastest that forgets, beside DBOS and beside taskiq."""

    def values(of: Callable[[Waits], float], name: str, users: int) -> list[float]:
        return [of(waits) for waits in found[name, users]]

    def best(of: Callable[[Waits], float], choose: Callable[..., float], names: Sequence[str], at: int) -> list[float]:
        return [choose(each) for each in zip(*(values(of, name, at) for name in names), strict=True)]

    def beside(
        what: str, of: Callable[[Waits], float], ours: str, at: int, names: Sequence[str], choose: Callable[..., float],
        goal: Goal,
    ) -> Figure:  # fmt: skip
        name = f"{what}, {ours}, {at}, to {'the best of ' if len(names) > 1 else ''}{', '.join(names)}"
        return ratio(name, values(of, ours, at), best(of, choose, names, at), goal)

    p50, p99 = partial(_ms, percent=50), partial(_ms, percent=99)
    figures = []
    for at in sorted({users for _, users in found if users >= 50}):
        figures.append(beside(RATE, _rate, TASKS, at, FORGETFUL, max, at_least(2)))
        figures.append(beside(RATE, _rate, TASKS, at, ("DBOS",), max, at_least(4)))
    figures += [
        beside("p50", p50, TASKS, 50, PEERS, min, at_most(1)),
        beside("p99", p99, TASKS, 50, PEERS, min, at_most(1)),
        beside("p50", p50, TASKS, 1, ("taskiq",), min, at_most(1.5)),
        Figure("client CPU of a result at 50 users", TASKS, "ms", values(_cpu, TASKS, 50), at_most(1)),
        beside("client CPU of a result", _cpu, TASKS, 50, ("taskiq",), min, at_most(1)),
        beside(RATE, _rate, THREADS, 50, ("DBOS", "dramatiq"), max, at_least(2)),
    ]
    return figures


# --------------------------------------------------------------------------------------------- submits by themselves

RAW, ONE, MANY = "INSERT, commit and LPUSH", "submit, one by one", "submit, 50 threads"


def submits_alone(context: Context) -> dict[str, float]:
    """Submits a second without a worker, beside what a producer without any promise does in the same process."""
    seconds = context.size(3, 1)
    with context.deployment() as client:
        client.deploy(program())

        def submit() -> None:
            client.submit("noop", {"question": "?"})

        with raw(client) as insert_and_push:
            return {
                RAW: rate(insert_and_push, seconds, threads=1),
                ONE: rate(submit, seconds, threads=1),
                MANY: rate(submit, seconds, threads=50),
            }


@contextmanager
def raw(client: Client) -> Iterator[Callable[[], None]]:
    backends = client.settings.backends()
    url, broker_url = backends.database_url, backends.broker_url
    with psycopg.connect(url, autocommit=True) as connection, redis.Redis.from_url(broker_url) as queue:
        connection.execute("CREATE TABLE raw (id uuid PRIMARY KEY, inputs json NOT NULL)")

        def insert_and_push() -> None:
            id = uuid7()
            connection.execute("INSERT INTO raw VALUES (%s, %s)", (id, '{"question": "?"}'))
            queue.lpush("raw", str(id))

        yield insert_and_push


def rate(work: Callable[[], None], seconds: float, *, threads: int) -> float:
    """How often a second the threads do the work."""
    work()
    ends = time.perf_counter() + seconds

    def repeat() -> int:
        count = 0
        while time.perf_counter() < ends:
            work()
            count += 1
        return count

    with ThreadPoolExecutor(threads) as pool:
        return sum(each.result() for each in [pool.submit(repeat) for _ in range(threads)]) / seconds


def _submits(alone: Mapping[str, Sequence[float]]) -> list[Figure]:
    return [
        *(Figure("submits alone", name, "/s", rates) for name, rates in alone.items()),
        ratio(f"{ONE}, to {RAW}", alone[ONE], alone[RAW], at_least(0.6)),
        ratio(f"{MANY}, to {RAW}", alone[MANY], alone[RAW], at_least(3)),
    ]
