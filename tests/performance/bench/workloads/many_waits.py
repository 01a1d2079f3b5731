"""What executions that wait cost: rows in Postgres, and nothing of a worker.

They are copies of three that were parked by the store's own statements: a third each waits for a provider's batch, for
a decision and for a child. The children never run, and the provider is never asked.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from uuid import UUID

import psutil
from psycopg.rows import class_row
from sqlalchemy import Connection, text
from uuid_utils.compat import uuid7

from dspex.client.client import Client
from dspex.store import tables, workers
from dspex.store.database import Database
from dspex.store.lifecycle import bundles, dispatch, executions, parked
from dspex.store.lifecycle.executions import Claimed, Submission
from dspex.store.lifecycle.parked import Park, ParkedCall, WaitingFor
from tests.performance.bench.context import Context
from tests.performance.bench.figures import Figure, at_most, percentile
from tests.performance.bench.workloads.latency import latencies
from tests.performance.bench.workloads.memory import megabytes
from tests.performance.bench.workloads.noop import program, warm_up
from tests.processes import WorkerProcess
from workers.process.leader.parked_upkeep import ParkedUpkeep

NAME = "while executions wait"
AT_ONCE = 50_000
REASONS: tuple[WaitingFor, ...] = ("batch", "approval", "child")
#: How often each duty is measured, and the seconds in which the worker's own duties come by.
ROUNDS, SECONDS = 10, 10
#: Far from now, so that nothing of it is due.
LATER = "clock_timestamp() + interval '1 day'"
COPIED = ((tables.executions, "id"), (tables.audit_events, "execution_id"), (tables.parked_calls, "execution_id"))


def run(context: Context) -> list[Figure]:
    most = context.size(1_000_000, 50_000)
    figures: list[Figure] = []
    with context.deployment() as client:
        client.deploy(program())
        models = {reason: parked_model(client._database, reason) for reason in REASONS}
        there = 0
        for level in (0, most // 10, most):
            began = time.monotonic()
            fill(client, models, there, level)
            there = level
            context.told(f"{level:,} wait, made in {time.monotonic() - began:.0f} s")
            figures += measured(context, client, level)
    return figures


def measured(context: Context, client: Client, level: int) -> list[Figure]:
    system = f"{level:,} wait"
    with context.worker(client, DSPEX_HEALTH_INTERVAL_SECONDS=1) as worker:
        warm_up(client)
        taken = latencies(client, context.size(500, 150))
        time.sleep(SECONDS)
        memory, threads, connections = megabytes(worker.pid), _threads(worker), _connections(client)
    duties = {name: max(_milliseconds(duty) for _ in range(ROUNDS)) for name, duty in duties_of(client)}
    context.told(f"{system}: p50 {percentile(taken, 50):.1f} ms, {memory:.0f} MiB, {duties}")
    return [
        *(Figure(f"idle latency p{p} {NAME}", system, "ms", [percentile(taken, p)], goal, at=level)
          for p, goal in ((50, at_most(10)), (99, at_most(30)))),
        Figure(f"memory of a worker {NAME}", system, "MiB", [memory], at=level),
        Figure(f"threads of a worker {NAME}", system, "", [threads], at=level),
        Figure(f"connections of a worker {NAME}", system, "", [connections], at=level),
        *(Figure(f"{name} {NAME}, longest of {ROUNDS}", system, "ms", [ms], at_most(500), at=level)
          for name, ms in duties.items()),
    ]  # fmt: skip


def duties_of(client: Client) -> Iterator[tuple[str, Callable[[], object]]]:
    """What the leader, health, the doctor and metrics ask about what waits."""
    database = client._database
    upkeep = ParkedUpkeep(database, lambda _ids: None)

    def look_after_waits() -> None:
        upkeep._sweep_at = 0.0
        upkeep.run()

    def look_at_bundles() -> None:
        for look in (bundles.has_work, bundles.unneeded, bundles.unneeded_unsent, bundles.unbundled, bundles.due):
            database.run(look)

    def dispatch_nothing() -> None:
        with database.transaction() as connection:
            dispatch.dispatch(connection, 100)

    yield "the leader looks after waits", look_after_waits
    yield "the leader looks at bundles", look_at_bundles
    yield "the leader dispatches", dispatch_nothing
    yield "waits are counted for health, doctor and metrics", lambda: database.run(parked.waits)
    yield "a report of health", client.health


def _milliseconds(duty: Callable[[], object]) -> float:
    began = time.perf_counter()
    duty()
    return (time.perf_counter() - began) * 1000


def _threads(worker: WorkerProcess) -> float:
    return psutil.Process(worker.pid).num_threads()


def _connections(client: Client) -> float:
    asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name ~ 'worker'"
    return float(client._database.run(lambda connection: connection.scalar(text(asked))))


# -------------------------------------------------------------------------------------------------- what waits


def parked_model(database: Database, reason: WaitingFor) -> UUID:
    """An execution that waits, parked by a worker that does not exist any more."""
    with _registered(database) as worker_id:
        id: UUID = uuid7()
        made = Submission(id, '{"question":"?"}', '[{"kind":"submitted"}]', "noop", program().version, 5, 3, 60.0)
        database.run(partial(executions.insert, submission=made))
        database.run(lambda connection: connection.execute(
            text("UPDATE dspex.executions SET dispatched_at = now() WHERE id = :id"), {"id": id}))  # fmt: skip
        (claimed,) = database.run(partial(_claim, worker_id=worker_id, id=id))
        park = Park(id, claimed.attempt, worker_id, reason, [_call(reason, id)], '[{"kind":"parked"}]', "{}")
        (row,) = database.run(lambda c: c.exec_driver_sql(parked.PARK, parked.park_parameters([park])).all())
        assert row.status == "waiting"
    with database.transaction() as connection:
        sent = text("UPDATE dspex.parked_calls SET bundle_id = :bundle WHERE execution_id = :id AND kind = 'batch'")
        connection.execute(sent, {"id": id, "bundle": _bundle(connection)})
    return id


@contextmanager
def _registered(database: Database) -> Iterator[UUID]:
    id: UUID = uuid7()
    register: dict[str, Any] = {"host": "h", "pid": 1, "version": "0", "concurrency": 1, "lease_seconds": 60}
    database.run(partial(workers.register, id=id, **register))
    yield id
    database.run(partial(workers.stop, id=id))


def _claim(connection: Connection, *, worker_id: UUID, id: UUID) -> Sequence[Claimed]:
    given = {"ids": [id], "alone": [], "worker_id": worker_id, "events": '[{"kind":"claimed"}]', "unrunnable": []}
    driver: Any = connection.connection.driver_connection
    with driver.cursor(row_factory=class_row(Claimed)) as cursor:
        claimed: Sequence[Claimed] = cursor.execute(executions.CLAIM, given).fetchall()
        return claimed


def _call(reason: WaitingFor, id: UUID) -> ParkedCall:
    hashed = hashlib.sha256(reason.encode()).digest()
    if reason == "child":
        return ParkedCall(hashed, 0, reason, "noop", child_id=id)  # it waits for itself: for ever
    target = '{"model": "openai/test"}' if reason == "batch" else None
    return ParkedCall(hashed, 0, reason, "openai/test", target, '{"messages": []}', expires_seconds=86_400)


def fill(client: Client, models: Mapping[WaitingFor, UUID], begin: int, end: int) -> None:
    """Copy the models until ``end`` wait, of which ``begin`` do; those that wait for a batch are in running bundles."""
    for first in range(begin, end, AT_ONCE):
        with client._database.transaction() as connection:
            connection.execute(text("SET LOCAL synchronous_commit = off"))
            connection.execute(text("SET LOCAL dspex.appending = 'on'"))  # entries that were transitions of the model
            bundle = _bundle(connection)
            for number, reason in enumerate(REASONS):
                count = (min(AT_ONCE, end - first) + number) // len(REASONS)
                _copy(connection, models[reason], first * len(REASONS) + number * AT_ONCE, count, bundle)
    if end > begin:
        with client._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for table, _ in COPIED:
                connection.execute(text(f"VACUUM ANALYZE {table.fullname}"))


def _bundle(connection: Connection) -> UUID:
    """A bundle that is at the provider."""
    id: UUID = uuid7()
    connection.execute(
        text(
            "INSERT INTO dspex.bundles (id, target, state, requests, bytes, provider_id, next_at) "
            f"VALUES (:id, '{{}}', 'running', 1, 1, :id, {LATER})"
        ),
        {"id": id},
    )
    return id


def _copy(connection: Connection, model: UUID, begin: int, count: int, bundle: UUID) -> None:
    """Ids are UUIDv7 of milliseconds one after the other."""
    new_id = "(lpad(to_hex(:moment + n), 12, '0') || '7' || substr(md5(n::text), 1, 3) || '8' "
    new_id += "|| substr(md5(n::text), 4, 15))::uuid"
    of_batch = "CASE WHEN t.kind = 'batch' THEN CAST(:bundle AS uuid) END"
    for table, key in COPIED:
        names = [column.name for column in table.columns if column.computed is None]
        taken = [new_id if name == key else of_batch if name == "bundle_id" else f"t.{name}" for name in names]
        connection.execute(
            text(
                f"INSERT INTO {table.fullname} ({', '.join(names)}) SELECT {', '.join(taken)} "
                f"FROM generate_series(CAST(:begin AS bigint), :end) n, "
                f"(SELECT * FROM {table.fullname} WHERE {key} = :model) t"
            ),
            {"moment": int(model.hex[:12], 16) - 10_000_000, "begin": begin, "end": begin + count - 1, "model": model,
             "bundle": bundle},
        )  # fmt: skip
