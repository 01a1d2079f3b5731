"""The network between the processes and their backends: cut, slow, silent, half-closed; briefly, and for long."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import psutil
import pytest
from sqlalchemy import text

import dspex
from dspex.client.client import Client
from dspex.settings import Backends
from dspex.store.database import Database
from tests.chaos.guarantees import assert_guarantees, long, paid_calls
from tests.chaos.proxy import Proxy
from tests.processes import WorkerProcess
from tests.waiting import wait_for

StartWorker = Callable[..., WorkerProcess]

SIGNATURE = dspex.signature("question -> answer")
#: The part of a core that a process may use while a backend is away; an idle worker uses about a twentieth.
MOST_CPU = 0.4

SHORT, LONG = 7, 30


class Linked(Backends):
    """Backends behind proxies."""

    postgres: Proxy
    redis: Proxy
    direct: Backends


@pytest.fixture
def backends(backends: Backends) -> Iterator[Linked]:
    with Proxy(backends.database_url) as postgres, Proxy(backends.broker_url) as redis:
        linked = Linked((postgres.url, redis.url))
        linked.postgres, linked.redis, linked.direct = postgres, redis, backends
        yield linked
        postgres.restore()
        redis.restore()


@pytest.fixture
def observer(backends: Linked) -> Iterator[Client]:
    """A client that no proxy is in the way of."""
    with Client(database_url=backends.direct.database_url, broker_url=backends.direct.broker_url) as opened:
        yield opened


def program(sleep_ms: int = 0, calls: int = 1) -> dspex.Program:
    options = {"sleep_ms": sleep_ms, "calls": calls}
    return dspex.Program("qa", SIGNATURE, adapter="scripted", module_options=options)


def ask(number: int) -> dict[str, str]:
    return {"question": f"what is number {number}?"}


class Outage:
    """A stretch of ``seconds``; at its end each of the processes must have been about idle."""

    def __init__(self, seconds: float, *processes: WorkerProcess) -> None:
        self._seconds = seconds
        self._processes = [psutil.Process(process.pid) for process in processes]
        self._before = [self._used(process) for process in self._processes]
        self._over = threading.Timer(seconds, lambda: None)
        self._over.start()

    def endure(self) -> None:
        """Wait for its end."""
        self._over.join()
        for process, before in zip(self._processes, self._before, strict=True):
            share = (self._used(process) - before) / self._seconds
            assert share < MOST_CPU, f"process {process.pid} used {share:.0%} of a core while a backend was away"

    @staticmethod
    def _used(process: psutil.Process) -> float:
        times = process.cpu_times()
        return float(times.user + times.system)


@pytest.mark.parametrize(("fault", "seconds"), [("cut", SHORT), long("cut", LONG), long("swallow", LONG)])
def test_redis_out_of_reach(
    fault: str, seconds: float, backends: Linked, client: Client, start_worker: StartWorker
) -> None:
    worker = start_worker()
    client.deploy(program(sleep_ms=1000))
    running = [client.submit("qa", ask(n)).id for n in range(5)]
    wait_for(lambda: all(row["status"] == "running" for row in client._session.rows(running)), "five to run")
    getattr(backends.redis, fault)()
    outage = Outage(seconds, worker)
    stored = [client.submit("qa", ask(n)).id for n in range(5, 10)]
    assert_guarantees(client, running)  # what runs is settled without Redis
    outage.endure()
    backends.redis.restore()
    assert_guarantees(client, [*running, *stored])
    assert client.execute("qa", ask(11), timeout=60)
    assert worker.process.poll() is None
    assert [row["attempt"] for row in client._session.rows([*running, *stored])] == [1] * 10


@pytest.mark.parametrize("fault", ["half_close", long("slow")])
def test_redis_limping(fault: str, backends: Linked, client: Client, start_worker: StartWorker) -> None:
    worker = start_worker()
    client.deploy(program(sleep_ms=100))
    if fault == "slow":
        backends.redis.delay(0.05)  # kombu takes three round trips for each message
    ids = [client.submit("qa", ask(n)).id for n in range(10)]
    if fault == "half_close":
        backends.redis.half_close()
    ids += client.submit_many("qa", [ask(n) for n in range(10, 50)]).ids
    assert_guarantees(client, ids)
    assert worker.process.poll() is None


@pytest.mark.parametrize(("fault", "seconds"), [long("cut", LONG), long("swallow", LONG)])
def test_postgres_out_of_reach(
    fault: str, seconds: float, backends: Linked, client: Client, observer: Client, start_worker: StartWorker
) -> None:
    workers = [start_worker(), start_worker()]
    client.deploy(program(sleep_ms=500, calls=3))
    ids = [client.submit("qa", ask(n)).id for n in range(20)]
    wait_for(lambda: all(paid_calls(observer, ids)), "a first call of each")
    getattr(backends.postgres, fault)()
    outage = Outage(seconds, *workers)
    with ThreadPoolExecutor() as pool:
        refused = pool.submit(client.submit, "qa", ask(20))
        outage.endure()
        backends.postgres.restore()
        if fault == "cut":
            with pytest.raises(dspex.BackendUnavailable, match="whether it was saved is not known"):
                refused.result(timeout=60)
        else:
            ids.append(refused.result(timeout=60).id)  # what was only late is done
    assert_guarantees(client, ids)
    assert paid_calls(observer, ids) == [3] * len(ids)
    assert client.execute("qa", ask(21), timeout=60)
    assert all(worker.process.poll() is None for worker in workers)


@pytest.mark.parametrize("fault", ["terminated", long("half_close"), long("slow")])
def test_postgres_limping(
    fault: str, backends: Linked, client: Client, observer: Client, start_worker: StartWorker
) -> None:
    worker = start_worker()
    client.deploy(program(sleep_ms=200, calls=3))
    ids = [client.submit("qa", ask(n)).id for n in range(50)]

    def paid() -> int:
        return sum(paid_calls(observer, ids))

    for _ in range(3):
        goal = min(paid() + 1, 3 * len(ids))
        if fault == "terminated":
            terminate_connections(backends)
        elif fault == "half_close":
            backends.postgres.half_close()
        else:
            backends.postgres.delay(0.05)
        wait_for(partial(_reached, paid, goal), "more calls")
    assert_guarantees(client, ids)
    assert paid_calls(observer, ids) == [3] * len(ids)
    assert worker.process.poll() is None


def test_connections_to_a_demoted_postgres_are_left_for_its_successor(
    backends: Linked, client: Client, observer: Client, start_worker: StartWorker
) -> None:
    """After a failover the old primary answers, and refuses to write, on every connection that it still has."""
    worker = start_worker()
    client.deploy(program(sleep_ms=500, calls=3))
    ids = [client.submit("qa", ask(n)).id for n in range(10)]
    wait_for(lambda: all(paid_calls(observer, ids)), "a first call of each")
    refuse_writes(backends, True)
    terminate_connections(backends)
    outage = Outage(SHORT, worker)
    with pytest.raises(dspex.BackendUnavailable, match="nothing was saved"):
        client.submit("qa", ask(10))
    outage.endure()
    refuse_writes(backends, False)  # for new connections only: those there are stay as they are
    assert client.execute("qa", ask(11), timeout=60)
    assert_guarantees(client, ids)
    assert paid_calls(observer, ids) == [3] * len(ids)
    assert worker.process.poll() is None


def refuse_writes(backends: Linked, refuse: bool) -> None:
    """Have every connection from now on refuse to write, as a standby does, or no longer."""
    server, _, name = backends.direct.database_url.rpartition("/")
    database = Database(f"{server}/postgres", pool_size=1)
    database.run(
        lambda connection: connection.exec_driver_sql(
            f"ALTER DATABASE {name} SET default_transaction_read_only = {'on' if refuse else 'off'}"
        )
    )
    database.close()


def _reached(count: Callable[[], int], goal: int) -> bool:
    return count() >= goal


def terminate_connections(backends: Linked) -> None:
    """pg_terminate_backend on every connection of this test's database but the one that asks."""
    database = Database(backends.direct.database_url, pool_size=1)
    query = text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()"
    )
    database.run(lambda connection: connection.execute(query).all())
    database.close()
