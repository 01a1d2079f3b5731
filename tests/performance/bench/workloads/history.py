"""How throughput, latency and the console move with 0, 1 and 5 million finished executions in the database.

They are copies of one that was run, with its audit entries and its model call, as the rows of batches that were begun
in the hours before, in this month's partitions, where the live ones are too. One in fifty failed. Copies have the chain
of hashes of the original, so they do not verify.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
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
#: The rows of each of the batches that the copies belong to, and how many seconds before the model the first one is.
BATCH_ROWS, SPAN_SECONDS = 10_000, 10_000
# Copy n in SQL: its batch, its row, its id as dspex/store/lifecycle/batch_ids.py makes it, and what differs otherwise.
_BATCH_MS = f"CAST(:moment AS bigint) - {SPAN_SECONDS} * 1000 + n / {BATCH_ROWS} * 10000"
_BATCH = f"lpad(to_hex({_BATCH_MS}), 12, '0') || '700080000000'"
_ID = f"({_BATCH} || lpad(to_hex(1 + n % {BATCH_ROWS}), 8, '0'))::uuid"
_AT = f"to_timestamp(({_BATCH_MS}) / 1000.0)"
_FAILED = "n % 50 = 7"
_ERROR = """'{"code": "model_refused", "message": "the model refused to answer", "retryable": false, "details": {}}'"""
_OF_EXECUTIONS = {
    "batch_id": f"({_BATCH} || '00000000')::uuid",
    "batch_index": f"n % {BATCH_ROWS}",
    **dict.fromkeys(("created_at", "run_at", "started_at"), _AT),
    "finished_at": f"{_AT} + n % {BATCH_ROWS} * interval '1 ms'",
    "status": f"CASE WHEN {_FAILED} THEN 'failed' ELSE t.status END",
    "result": f"CASE WHEN NOT {_FAILED} THEN t.result END",
    "error": f"CASE WHEN {_FAILED} THEN {_ERROR}::json END",
}


def run(context: Context) -> list[Figure]:
    levels = (0, 20_000, 100_000) if context.quick else (0, 1_000_000, 5_000_000)
    figures: list[Figure] = []
    with context.deployment() as client:
        client.deploy(program(calls=1))
        with context.worker(client):
            warm_up(client)
            model = client.submit_many("noop", [{"question": "the one that is copied"}])
            settle_rate(client, 500)
            compared = evaluations(client, context.size(EVALUATED, 500))
        there = 0
        for level in levels:
            if shutil.disk_usage(context.directory).free < BYTES_EACH * level:
                context.told(f"{level:,} finished executions do not fit on the disk: left out")
                continue
            began = time.monotonic()
            fill(client, model.ids[0], there, level)
            there = level
            context.told(f"{level:,} finished executions, made in {time.monotonic() - began:.0f} s")
            with context.worker(client):
                warm_up(client)
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
    """Copy the execution ``model`` until there are ``end``, of which ``begin`` are there. No worker may run: without
    the indexes, its pump would read all rows again and again."""
    if end == begin:
        return

    def some(first: int) -> None:
        with client._database.transaction() as connection:
            connection.execute(text("SET LOCAL synchronous_commit = off"))
            copy(connection, model, first, min(first + AT_ONCE, end))

    with for_loading(client), ThreadPoolExecutor(max_workers=2) as threads:
        list(threads.map(some, range(begin, end, AT_ONCE)))
    analyze(client)


@contextmanager
def for_loading(client: Client) -> Iterator[None]:
    """Meanwhile the tables have no triggers, as a copy is no transition, and only the index of their primary key: the
    others are made once all rows are there, in a fifth of the time."""
    run = client._database.run
    indexes = [row for table, _ in COPIED for row in run(partial(_indexes, table=table.fullname))]
    triggers = "ALTER TABLE {} {} TRIGGER USER"
    _execute(client, [triggers.format(table.fullname, "DISABLE") for table, _ in COPIED])
    _execute(client, [f"DROP INDEX {name}" for name, _ in indexes])
    try:
        yield
    finally:
        _execute(client, ["SET LOCAL maintenance_work_mem = '512MB'", *(made for _, made in indexes)])
        _execute(client, [triggers.format(table.fullname, "ENABLE") for table, _ in COPIED])


def _indexes(connection: Connection, table: str) -> list[tuple[str, str]]:
    """The indexes of a table that serve no constraint: their names, and the statements that make them."""
    found = connection.execute(
        text("""
            SELECT i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid) FROM pg_index i
            WHERE i.indrelid = CAST(:table AS regclass)
                AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid)"""),
        {"table": table},
    )
    return [(name, made.replace(" ON ONLY ", " ON ")) for name, made in found]


def _execute(client: Client, statements: Sequence[str]) -> None:
    with client._database.transaction() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def copy(connection: Connection, model: UUID, begin: int, end: int) -> None:
    """Copies are the rows of batches that were begun one after the other before the model; some of them failed."""
    for table, key in COPIED:
        changed = {key: _ID, **(_OF_EXECUTIONS if table is tables.executions else {})}
        names = [column.name for column in table.columns if column.computed is None]
        taken = ", ".join(changed.get(name, f"t.{name}") for name in names)
        connection.execute(
            text(
                f"INSERT INTO {table.fullname} ({', '.join(names)}) SELECT {taken} FROM generate_series("
                f"CAST(:begin AS bigint), :end - 1) n, (SELECT * FROM {table.fullname} WHERE {key} = :model) t"
            ),
            {"moment": int(model.hex[:12], 16), "begin": begin, "end": end, "model": model},
        )


def analyze(client: Client) -> None:
    """What autovacuum would do in the middle of a measurement."""
    with client._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table, _ in COPIED:
            connection.execute(text(f"VACUUM ANALYZE {table.fullname}"))
        connection.execute(text("CHECKPOINT"))
