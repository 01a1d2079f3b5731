"""No-op durable executions per second, from submit_many until all are settled, beside other queues."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from sqlalchemy import text

import dspex
from dspex.client.client import Client
from tests.performance.bench.context import Context
from tests.performance.bench.figures import Figure, alternate, at_least, ratio
from tests.performance.bench.queues import QUEUES, Queue
from tests.waiting import wait_for

NAME = "no-op executions/s"
SIGNATURE = dspex.signature("question -> answer")
UNFINISHED = """
SELECT EXISTS (SELECT FROM dspex.executions WHERE status = 'queued' AND dispatched_at IS NULL AND held_at IS NULL)
    OR EXISTS (SELECT FROM dspex.executions WHERE status = 'queued' AND dispatched_at IS NOT NULL)
    OR EXISTS (SELECT FROM dspex.executions WHERE status = 'running')
"""


def run(context: Context) -> list[Figure]:
    ours = context.size(10_000, 3_000)
    contenders: dict[str, Callable[[], float]] = {
        "DSPex": partial(dspex_rate, context, ours, calls=0),
        "DSPex, one journaled call": partial(dspex_rate, context, ours, calls=1),
        **{name: partial(peer_rate, context, queue, context.size(3_000, 1_000)) for name, queue in QUEUES.items()},
    }
    found = alternate(contenders, context.repeats, context.told)
    fastest = [max(rates) for rates in zip(*(found[name] for name in QUEUES if name != "DBOS"), strict=True)]
    return [
        *(Figure(NAME, name, "/s", values) for name, values in found.items()),
        ratio(f"{NAME}, to DBOS", found["DSPex"], found["DBOS"], at_least(6)),
        ratio(f"{NAME}, to the fastest that is not durable", found["DSPex"], fastest, at_least(2)),
    ]


def dspex_rate(context: Context, count: int, *, calls: int) -> float:
    with context.deployment() as client:
        client.deploy(program(calls))
        with context.worker(client):
            warm_up(client)
            return settle_rate(client, count)


def program(calls: int = 0, sleep_ms: float = 0) -> dspex.Program:
    options = {"calls": calls, "sleep_ms": sleep_ms, "outputs": {"answer": "done"}}
    return dspex.Program("noop", SIGNATURE, adapter="scripted", module_options=options)


def warm_up(client: Client, *, at_once: int = 0) -> None:
    """Fifty no-ops one after the other; then a batch, for connections to be there."""
    for number in range(50):
        client.execute("noop", {"question": f"warm-up {number}"}, timeout=60)
    if at_once:
        settle_rate(client, at_once)


def settle_rate(client: Client, count: int) -> float:
    """Executions per second from the first row submitted to the last one settled, by the database's clock.

    The end is looked for in the indexes of what is not finished, so that looking does not slow down what is measured.
    """
    ask = client._database.run
    began = ask(lambda connection: connection.scalar(text("SELECT clock_timestamp()")))
    batch = client.submit_many("noop", ({"question": str(number)} for number in range(count)))
    wait_for(
        lambda: not ask(lambda connection: connection.scalar(text(UNFINISHED))),
        f"{count} executions to settle",
        timeout=300,
        every=0.25,
    )
    assert batch.progress.finished == count
    last = text("SELECT max(finished_at) FROM dspex.executions WHERE batch_id = :id")
    ended = ask(lambda connection: connection.scalar(last, {"id": batch.id}))
    return count / float((ended - began).total_seconds())


def peer_rate(context: Context, queue: Queue, count: int) -> float:
    with queue.running(context) as producer:
        return count / float(producer.ask("noop", count)["seconds"])
