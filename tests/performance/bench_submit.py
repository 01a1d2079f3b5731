"""Rows per second of submit_many beside COPY of the same rows, and what a batch of them holds in memory.

    python -m tests.performance.bench_submit [--rows 50000] [--bytes 1000] [--repeats 3] [--profile]

``raw``    COPY of the inputs alone, as JSON text made beforehand, into a plain table (id uuid, inputs json)
``table``  COPY of the finished rows into dspex.executions and dspex.audit_events, with their indexes: the floor
           for anything that keeps what DSPex keeps
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import Connection, text
from uuid_utils.compat import uuid7

import dspex
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.sealing.values import Sealing
from dspex.store import migrate
from dspex.store.lifecycle import executions
from dspex.store.lifecycle.batch_ids import execution_id, new_batch_id
from dspex.submit.bulk import chunks
from dspex.submit.prepare import Preparer, prepare_row
from dspex.submit.size_limits import Bounds

PROGRAM = dspex.Program("bench", dspex.signature("question -> answer"), adapter="scripted")


def rows(count: int, size: int) -> Iterator[dict[str, str]]:
    filler = "x" * max(size - 40, 0)
    return ({"question": f"number {n}: {filler}"} for n in range(count))


def raw(client: dspex.Client, count: int, size: int) -> None:
    texts = [PROGRAM.signature.encode("inputs", row).decode() for row in rows(count, size)]
    client._database.run(lambda c: c.execute(text("DROP TABLE IF EXISTS raw")))
    client._database.run(lambda c: c.execute(text("CREATE TABLE raw (id uuid PRIMARY KEY, inputs json NOT NULL)")))
    timed("raw", count, lambda: transact(client, copy_raw, chunks(texts)))


def copy_raw(connection: Connection, texts: list[str]) -> None:
    with connection.connection.cursor().copy("COPY raw (id, inputs) FROM STDIN") as copy:
        for inputs in texts:
            copy.write_row((uuid7(), inputs))


def table(client: dspex.Client, count: int, size: int) -> None:
    options, batch_id = Preparer(Bounds(), Sealing()).options(PROGRAM), new_batch_id()
    made = [
        prepare_row(options, row, execution_id(batch_id, n), batch_id, n) for n, row in enumerate(rows(count, size))
    ]
    timed(
        "table",
        count,
        lambda: transact(client, executions.copy, chunks(made)),
    )


def submit_many(client: dspex.Client, count: int, size: int) -> dspex.Batch:
    batch: dspex.Batch = timed("submit_many", count, lambda: client.submit_many("bench", rows(count, size)))
    return batch


def transact(client: dspex.Client, work: Callable[[Connection, Any], None], groups: Iterator[Any]) -> None:
    for group in groups:
        with client._database.transaction() as connection:
            work(connection, group)


results: dict[str, list[float]] = {}
cpu_us: dict[str, list[float]] = {}


def timed(name: str, count: int, work: Callable[[], Any]) -> Any:
    began, cpu_began = time.perf_counter(), time.process_time()
    value = work()
    cpu_us.setdefault(name, []).append((time.process_time() - cpu_began) / count * 1e6)
    results.setdefault(name, []).append(count / (time.perf_counter() - began))
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--bytes", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    with ExitStack() as stack:
        servers = stack.enter_context(EmbeddedServers(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
        client = dspex.Client(database_url=servers.database_url, broker_url=servers.broker_url)
        stack.enter_context(client)
        migrate.upgrade(client._database.engine)
        client.deploy(PROGRAM)
        client.submit_many("bench", rows(1000, options.bytes))
        if options.profile:
            profile = cProfile.Profile()
            profile.runcall(client.submit_many, "bench", rows(options.rows, options.bytes))
            pstats.Stats(profile).sort_stats("tottime").print_stats(25)
            return
        process = psutil.Process()
        for _ in range(options.repeats):
            raw(client, options.rows, options.bytes)
            table(client, options.rows, options.bytes)
            before = process.memory_info().rss
            batch = submit_many(client, options.rows, options.bytes)
            grown = (process.memory_info().rss - before) / 2**20
        began = time.perf_counter()
        progress = batch.progress
        print(f"RSS grown over submit_many of {len(batch)} rows: {grown:.1f} MiB")
        print(f"progress of {progress.total} rows: {(time.perf_counter() - began) * 1000:.0f} ms")
    base = statistics.median(results["raw"])
    for name, rates in results.items():
        median = statistics.median(rates)
        print(
            f"{name:12} {median:9,.0f} rows/s  ({min(rates):,.0f} to {max(rates):,.0f})  {median / base:.2f} of raw, "
            f"{min(cpu_us[name]):.0f} µs of this process's CPU each"
        )


if __name__ == "__main__":
    main()
