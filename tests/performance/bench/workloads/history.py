"""How throughput, latency and the console move with 0, 1 and 5 million finished executions in the database.

They are copies of one that was run, with its audit entries and its model call, under ids of their own in this month's
partitions, where the live ones are too. Copies have the chain of hashes of the original, so they do not verify.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from uuid import UUID

import httpx
from sqlalchemy import Connection, text

from dspex.client.client import Client
from dspex.store import tables
from tests.performance.bench.context import Context
from tests.performance.bench.figures import Figure, at_most, percentile
from tests.performance.bench.workloads.http import gateway
from tests.performance.bench.workloads.latency import latencies
from tests.performance.bench.workloads.noop import program, settle_rate, warm_up

AT_ONCE = 50_000
#: Pages of the console, and how often each is asked for.
PAGES = ("/", "/?program=noop", "/?status=failed", "/?q=rate_limited", "/failed", "/programs", "/programs/noop",
         "/programs/noop/versions", "/evaluations", "/evaluations?program=noop", "/optimizations", "/batches",
         "/schedules", "/workers", "/health", "/webhooks", "/alerts", "/docs")  # fmt: skip
#: The rows of each of two evaluations.
EVALUATED = 10_000
PAGE_LOADS = 20
#: On the disk, with its indexes, audit entries and model call; and once more for what Postgres writes ahead.
BYTES_EACH = 2 * 2_600
#: The table, and the column that holds the execution's id.
COPIED = ((tables.executions, "id"), (tables.lm_calls, "execution_id"), (tables.audit_events, "execution_id"))


def run(context: Context) -> list[Figure]:
    levels = (0, 20_000, 100_000) if context.quick else (0, 1_000_000, 5_000_000)
    figures: list[Figure] = []
    with context.deployment() as client:
        client.deploy(program(calls=1))
        with context.worker(client):
            warm_up(client)
            model = client.submit_many("noop", [{"question": "the one that is copied"}])
            settle_rate(client, 500)
            there = 0
            compared = evaluations(client, context.size(EVALUATED, 500))
            for level in levels:
                if shutil.disk_usage(context.directory).free < BYTES_EACH * level:
                    context.told(f"{level:,} finished executions do not fit on the disk: left out")
                    continue
                began = time.monotonic()
                fill(client, model.ids[0], there, level)
                there = level
                context.told(f"{level:,} finished executions, made in {time.monotonic() - began:.0f} s")
                figures += measured(context, client, level, compared)
    return figures


def evaluations(client: Client, rows: int) -> list[str]:
    """The pages of two evaluations that are over, and of both compared."""
    dataset = client.dataset("noop", [{"question": f"? {n}", "answer": "!"} for n in range(rows)], inputs=["question"])
    before, after = (client.evaluate("noop", dataset, metric="exact") for _ in range(2))
    before.wait(600)
    after.wait(600)
    compare = f"/evaluations/{after.id}/compare"
    return [f"/evaluations/{after.id}", f"{compare}?with={before.id}", f"{compare}/row?with={before.id}&row=1"]


def measured(context: Context, client: Client, level: int, compared: Sequence[str]) -> list[Figure]:
    count = context.size(5_000, 1_500)
    rates = [settle_rate(client, count) for _ in range(context.repeats)]
    waits = [percentile(latencies(client, context.size(200, 100)), 50) for _ in range(context.repeats)]
    system = f"{level:,} finished"
    slowest = [max(page_times(context, client, compared).values()) for _ in range(context.repeats)]
    return [
        Figure("no-op executions/s by history", system, "/s", rates, at=level),
        Figure("idle latency p50 by history", system, "ms", waits, at=level),
        Figure("slowest page of the console, p95, by history", system, "ms", slowest, at_most(150), at=level),
    ]


def page_times(context: Context, client: Client, compared: Sequence[str]) -> dict[str, float]:
    """The 95th percentile of the milliseconds that each page takes, asked one after the other."""
    latest = client.list(limit=1)[0]
    paths = [*PAGES, f"/executions/{latest.id}", *compared]
    with gateway(context, client) as (url, _), httpx.Client(base_url=url, headers={"Accept": "text/html"}) as browser:
        times = {path: [_milliseconds(browser, path) for _ in range(PAGE_LOADS)] for path in paths}
    found = {path: percentile(taken, 95) for path, taken in times.items()}
    context.told(", ".join(f"{path} {ms:.0f} ms" for path, ms in found.items()))
    return found


def _milliseconds(browser: httpx.Client, path: str) -> float:
    began = time.perf_counter()
    response = browser.get(path)
    assert response.status_code == 200, f"{path}: {response.status_code}"
    return (time.perf_counter() - began) * 1000


def fill(client: Client, model: UUID, begin: int, end: int) -> None:
    """Copy the execution ``model`` until there are ``end``, of which ``begin`` are there."""

    def some(first: int) -> None:
        with client._database.transaction() as connection:
            connection.execute(text("SET LOCAL synchronous_commit = off"))
            copy(connection, model, first, min(first + AT_ONCE, end))

    with without_triggers(client), ThreadPoolExecutor(max_workers=2) as threads:
        list(threads.map(some, range(begin, end, AT_ONCE)))
    if end > begin:
        analyze(client)


@contextmanager
def without_triggers(client: Client) -> Iterator[None]:
    """A copy is no transition, which is all that the triggers of these tables let pass."""

    def switch(how: str) -> None:
        with client._database.transaction() as connection:
            for table, _ in COPIED:
                connection.execute(text(f"ALTER TABLE {table.fullname} {how} TRIGGER USER"))

    switch("DISABLE")
    try:
        yield
    finally:
        switch("ENABLE")


def copy(connection: Connection, model: UUID, begin: int, end: int) -> None:
    """Ids are UUIDv7 of milliseconds one after the other, up to the model's own."""
    moment = int(model.hex[:12], 16) - 10_000_000
    new_id = "(lpad(to_hex(:moment + n), 12, '0') || '7' || substr(md5(n::text), 1, 3) || '8' "
    new_id += "|| substr(md5(n::text), 4, 15))::uuid"
    for table, key in COPIED:
        names = [column.name for column in table.columns if column.computed is None]
        taken = [
            new_id
            if name == key
            else "(('x' || substr(md5(n::text), 1, 7))::bit(28)::int)"
            if name == "batch_index"
            else f"t.{name}"
            for name in names
        ]
        connection.execute(
            text(
                f"INSERT INTO {table.fullname} ({', '.join(names)}) SELECT {', '.join(taken)} "
                f"FROM generate_series(CAST(:begin AS bigint), :end - 1) n, "
                f"(SELECT * FROM {table.fullname} WHERE {key} = :model) t"
            ),
            {"moment": moment, "begin": begin, "end": end, "model": model},
        )  # fmt: skip


def analyze(client: Client) -> None:
    """What autovacuum would do in the middle of a measurement."""
    with client._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table, _ in COPIED:
            connection.execute(text(f"VACUUM ANALYZE {table.fullname}"))
        connection.execute(text("CHECKPOINT"))
