"""Fairness: how long single executions wait while another program, or another tenant of the same program, has 100,000
queued and holds every slot.

``python -m tests.performance.bench_fairness`` prints the figures; ``measure`` and ``measure_tenants`` return them. Idle
and busy take turns in one run, on one worker process: the bulk program is paused and resumed between them. Of tenants,
idle comes first, while the backlog is not due.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import dspex
from dspex.client.client import Client
from tests.performance.bench.context import Context
from tests.performance.bench.figures import percentile
from tests.waiting import wait_for

SIGNATURE = dspex.signature("question -> answer")
#: The pace of the single ones: rare enough not to wait for each other.
PACE_SECONDS = 0.05
#: Rows are stored at this rate at least.
ROWS_A_SECOND = 2000


def measure(
    context: Context,
    *,
    backlog: int = 100_000,
    singles: int = 100,
    rounds: int = 3,
    sleep_ms: tuple[int, int] = (1000, 3000),
) -> dict[str, Any]:
    """Milliseconds from submit to claim, by Postgres' clock, and the ratio of busy to idle.

    Each bulk execution takes between the two ``sleep_ms``.
    """
    waits: dict[str, list[float]] = {"idle": [], "busy": []}
    with context.deployment() as client:
        options = {"sleep_ms": list(sleep_ms), "outputs": {"answer": "!"}}
        client.deploy(dspex.Program("bulk", SIGNATURE, adapter="scripted", module_options=options))
        client.deploy(dspex.Program("single", SIGNATURE, adapter="scripted", module_options={"calls": 0}))
        with context.worker(client):
            client.execute("single", {"question": "warm"}, timeout=60)
            client.pause("bulk")
            client.submit_many("bulk", ({"question": f"number {n}"} for n in range(backlog)))
            tidy(client)
            for _ in range(rounds):
                wait_for(lambda: running(client) == 0, "the worker to be idle", timeout=60)
                waits["idle"] += claim_waits(client, singles)
                client.resume("bulk")
                wait_for(lambda: running(client) >= client.workers()[0]["concurrency"], "every slot to be taken")
                waits["busy"] += claim_waits(client, singles)
                client.pause("bulk")
                context.told(f"busy p95 {percentile(waits['busy'], 95):.1f} ms")
    return _figures(backlog, waits)


def measure_tenants(
    context: Context, *, backlog: int = 100_000, singles: int = 100, sleep_ms: tuple[int, int] = (1000, 3000)
) -> dict[str, Any]:
    """The same for the executions of one tenant, while another tenant of the program has the backlog.

    The backlog is stored before either is measured, to be run once idle was: what Postgres writes for its rows would
    otherwise be measured as a wait for them.
    """
    waits: dict[str, list[float]] = {}
    with context.deployment() as client:
        options = {"sleep_ms": list(sleep_ms), "outputs": {"answer": "!"}}
        client.deploy(dspex.Program("shared", SIGNATURE, adapter="scripted", module_options=options))
        with context.worker(client):
            client.execute("shared", {"question": "warm"}, timeout=60)
            due = datetime.now(UTC) + timedelta(seconds=20 + backlog / ROWS_A_SECOND)
            rows = ({"question": f"number {n}"} for n in range(backlog))
            client.submit_many("shared", rows, tenant="large", run_at=due)
            tidy(client)
            waits["idle"] = one_by_one(client, singles)
            assert datetime.now(UTC) < due, "the backlog became due before idle was measured"
            slots = client.workers()[0]["concurrency"]
            wait_for(lambda: completed(client) >= 3 * slots, "slots to be taken and left one by one", timeout=240)
            waits["busy"] = one_by_one(client, singles)
            context.told(f"tenants: busy p95 {percentile(waits['busy'], 95):.1f} ms")
    return _figures(backlog, waits)


def tidy(client: Client) -> None:
    """Have Postgres do now what it would do for many new rows in the middle of a measurement."""
    with client._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE dspex.executions, dspex.audit_events")
        connection.exec_driver_sql("CHECKPOINT")


def _figures(backlog: int, waits: dict[str, list[float]]) -> dict[str, Any]:
    figures = {
        f"{name}_p{percent}_ms": round(percentile(found, percent), 2)
        for name, found in waits.items()
        for percent in (50, 95, 99)
    }
    ratio = figures["busy_p95_ms"] / figures["idle_p95_ms"]
    return {"backlog": backlog, "singles": len(waits["busy"]), **figures, "p95_ratio": round(ratio, 2)}


def running(client: Client) -> int:
    return _count(client, "running")


def completed(client: Client) -> int:
    return _count(client, "completed")


def _count(client: Client, status: str) -> int:
    count = "SELECT count(*) FROM dspex.executions WHERE status = %(status)s"
    return int(client._database.run(lambda c: c.exec_driver_sql(count, {"status": status}).scalar_one()))


def one_by_one(client: Client, count: int) -> list[float]:
    """The same for executions of a tenant, each of which is submitted once the one before has begun."""
    made = []
    for number in range(count):
        single = client.submit("shared", {"question": str(number)}, tenant="small")
        wait_for(partial(_has_begun, client, single.id), "it to begin", timeout=60)
        made.append(single)
        time.sleep(PACE_SECONDS)
    for execution in made:
        execution.result(timeout=60)
    return [execution.metrics.queue_time_ms for execution in made]


def _has_begun(client: Client, id: UUID) -> bool:
    return client.get(id).status != "queued"


def claim_waits(client: Client, count: int) -> list[float]:
    """Milliseconds that each of so many single executions waited for its claim."""
    made = []
    for number in range(count):
        made.append(client.submit("single", {"question": str(number)}))
        time.sleep(PACE_SECONDS)
    for execution in made:
        execution.result(timeout=60)
    return [execution.metrics.queue_time_ms for execution in made]


def main(told: Callable[[str], None] = print) -> None:
    with Context(quick=False, repeats=1, told=told) as context:
        print(json.dumps([measure(context), measure_tenants(context)], indent=2))


if __name__ == "__main__":
    main()
