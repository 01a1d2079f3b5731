"""Rows per second of submit_many, beside COPY of the same rows.

Two COPYs: of the inputs, as JSON made beforehand, into a plain table of an id and a JSON; and of the finished rows of
``dspex.executions`` and ``dspex.audit_events`` with their indexes, which is the floor for all that keeps as much.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import Connection, text

from dspex.client.client import Client
from dspex.sealing.values import Sealing
from dspex.store.lifecycle import executions
from dspex.store.lifecycle.batch_ids import execution_id, new_batch_id
from dspex.submit.bulk import chunks
from dspex.submit.prepare import Preparer, prepare_row
from dspex.submit.size_limits import Bounds
from tests.performance.bench.context import Context
from tests.performance.bench.figures import Figure, at_least, ratio
from tests.performance.bench.workloads.noop import program
from tests.performance.bench_submit import copy_raw, rows

NAME = "submit_many"
INPUTS, FINISHED = "COPY of the inputs", "COPY of the finished rows"
ROW_BYTES = 1000


def run(context: Context) -> list[Figure]:
    count = context.size(50_000, 10_000)
    found: dict[str, list[float]] = {"DSPex": [], INPUTS: [], FINISHED: []}
    with context.deployment() as client:
        client.deploy(program())
        client.submit_many("noop", rows(1_000, ROW_BYTES))
        for _ in range(context.repeats):
            found[INPUTS].append(count / copy_inputs(client, count))
            found[FINISHED].append(count / copy_finished(client, count))
            found["DSPex"].append(count / timed(lambda: client.submit_many("noop", rows(count, ROW_BYTES))))
            context.told(", ".join(f"{name}: {rates[-1]:,.0f}/s" for name, rates in found.items()))
    return [
        Figure(NAME, "DSPex", "rows/s", found["DSPex"], at_least(10_000), f"rows of {ROW_BYTES} bytes"),
        *(Figure(NAME, name, "rows/s", found[name]) for name in (INPUTS, FINISHED)),
        ratio(f"{NAME}, to {INPUTS}", found["DSPex"], found[INPUTS], at_least(0.25)),
        ratio(f"{NAME}, to {FINISHED}", found["DSPex"], found[FINISHED]),
    ]


def copy_inputs(client: Client, count: int) -> float:
    """Seconds, with a thousand rows to a transaction, as submit_many does it."""
    texts = [program().signature.encode("inputs", row).decode() for row in rows(count, ROW_BYTES)]
    database = client._database
    with database.transaction() as connection:
        connection.execute(text("DROP TABLE IF EXISTS raw"))
        connection.execute(text("CREATE TABLE raw (id uuid PRIMARY KEY, inputs json NOT NULL)"))

    return copied(client, chunks(texts), copy_raw)


def copy_finished(client: Client, count: int) -> float:
    options, batch_id = Preparer(Bounds(), Sealing()).options(program()), new_batch_id()
    given = enumerate(rows(count, ROW_BYTES))
    made = [prepare_row(options, row, execution_id(batch_id, n), batch_id, n) for n, row in given]
    return copied(client, chunks(made), executions.copy)


def copied(client: Client, groups: Iterable[Any], copy: Callable[[Connection, Any], None]) -> float:
    def work() -> None:
        for group in groups:
            with client._database.transaction() as connection:
                copy(connection, group)

    return timed(work)


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
