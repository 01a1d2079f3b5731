"""Evaluating a dataset beside a plain batch of the same rows, on a model of 200 ms; and loading a dataset.

    python -m tests.performance.bench_evaluate [--rows 5000] [--sleep-ms 200] [--load 100000] [--bytes 2000]

Goals: an evaluation at 0.8 of the plain batch's rate; 100,000 rows of 2 kB loaded in 20 s and 200 MB.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

import dspex
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.settings import Backends
from dspex.store import migrate
from tests.processes import WorkerProcess


def program(sleep_ms: int) -> dspex.Program:
    signature = dspex.signature(':string ticket -> :enum("bug", "other") queue')
    options = {"outputs": {"queue": "bug"}, "sleep_ms": sleep_ms}
    return dspex.Program("bench", signature, adapter="scripted", module_options=options)


def tickets(count: int, size: int = 40) -> Iterator[dict[str, str]]:
    filler = "x" * max(size - 40, 0)
    return ({"ticket": f"number {n}: {filler}", "queue": "bug" if n % 2 else "other"} for n in range(count))


def rate(count: int, work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


def evaluate(client: dspex.Client, count: int, sleep_ms: int) -> None:
    client.deploy(program(sleep_ms))
    dataset = client.dataset("bench", tickets(count), inputs=["ticket"])

    def batch() -> None:
        submitted = client.submit_many("bench", ({"ticket": row["ticket"]} for row in tickets(count)), priority=7)
        for _ in submitted.as_completed():
            pass

    plain = rate(count, batch)
    scored = rate(count, lambda: client.evaluate("bench", dataset, metric="exact").wait())
    print(f"plain batch {plain:,.0f}/s, evaluation {scored:,.0f}/s: {scored / plain:.2f}")


def load(client: dspex.Client, count: int, size: int) -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    began = time.perf_counter()
    client.dataset("loaded", tickets(count, size), inputs=["ticket"])
    took, grown = time.perf_counter() - began, process.memory_info().rss - before
    print(f"{count:,} rows of {size} bytes loaded in {took:.1f} s, {grown / 1e6:,.0f} MB more")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--sleep-ms", type=int, default=200)
    parser.add_argument("--load", type=int, default=100_000)
    parser.add_argument("--bytes", type=int, default=2000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dspex-bench-") as home, EmbeddedServers(Path(home)) as servers:
        migrate.upgrade(dspex_engine(servers.database_url))
        backends = Backends((servers.database_url, servers.broker_url))
        worker = WorkerProcess(backends, Path(home) / "worker.log", {"DSPEX_WORKER_CONCURRENCY": 500})
        try:
            worker.wait_until_ready()
            with dspex.Client(database_url=servers.database_url, broker_url=servers.broker_url) as client:
                load(client, given.load, given.bytes)
                evaluate(client, given.rows, given.sleep_ms)
        finally:
            worker.stop()


def dspex_engine(url: str) -> Any:
    """The engine of a database, for its schema."""
    from dspex.store.database import Database

    return Database(url, pool_size=1).engine


if __name__ == "__main__":
    main()
