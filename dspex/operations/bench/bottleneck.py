"""Where a deployment is bound: it is looked at while it is under load, and what was seen is weighed.

Nothing here is guessed from the load alone. Each finding names its evidence: slots that were taken, round trips that
were timed, CPU that was used, the part of the work that was the model's.
"""

from __future__ import annotations

import os
import socket
import statistics
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from sqlalchemy import Connection, text

from dspex.client.client import Client
from dspex.operations.bench.load import Shape, mean

__all__ = ["Finding", "Look", "Observer", "findings", "model_share"]

#: How often it is looked, in seconds.
INTERVAL_SECONDS = 0.5
#: A share of slots, of a core or of the time from which on it counts as all of it.
NEARLY_ALL = 0.85
#: A commit and a round trip that take longer than this, in milliseconds, are slow.
SLOW_COMMIT_MS, SLOW_REDIS_MS = 10.0, 5.0
#: So many executions are asked how much of their time was the model's.
ASKED = 50

_RUNNING = text("SELECT count(*) FROM dspex.executions WHERE status = 'running'")
# It is written to the log as any commit is, and leaves no row behind.
_COMMIT = text("SELECT pg_logical_emit_message(true, 'dspex-bench', '')")


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen at one moment. Shares of CPU are of one core; those of workers on other hosts are not known."""

    workers: int
    concurrency: int
    running: int
    commit_ms: float
    redis_ms: float
    own_cpu: float
    machine_cpu: float | None
    worker_cpu: Mapping[int, float] = field(default_factory=dict)
    worker_mb: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that bounds the deployment: what, how it is known, and what to do about it."""

    what: str
    evidence: str
    advice: str


class Observer:
    """Looks at a deployment from a thread of its own while the block lasts."""

    def __init__(self, client: Client) -> None:
        self.looks: list[Look] = []
        self._client = client
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="dspex-observer", daemon=True)
        self._processes: dict[int, Any] = {}
        self._own = (time.perf_counter(), time.process_time())
        self._failure: Exception | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._failure is not None and kind is None:
            raise self._failure

    def _watch(self) -> None:
        try:
            self._look()  # CPU is counted from here on
            while not self._over.wait(INTERVAL_SECONDS):
                self.looks.append(self._look())
            if not self.looks:
                self.looks.append(self._look())
        except Exception as error:  # told to whoever asked for the observation
            self._failure = error

    def _look(self) -> Look:
        client = self._client
        workers = client.workers()
        cpu, memory, machine = self._local([row["pid"] for row in workers if row["host"] == socket.gethostname()])
        return Look(
            workers=len(workers),
            concurrency=sum(row["concurrency"] for row in workers),
            running=client._database.run(_running),
            commit_ms=_timed(lambda: client._database.run(_commit)),
            redis_ms=self._redis_ms(),
            own_cpu=self._own_cpu(),
            machine_cpu=machine,
            worker_cpu=cpu,
            worker_mb=memory,
        )

    def _redis_ms(self) -> float:
        with self._client._broker.client() as redis:
            redis.ping()  # connects
            return _timed(redis.ping)

    def _own_cpu(self) -> float:
        """Of a core, since it was asked last."""
        (wall, cpu), self._own = self._own, (time.perf_counter(), time.process_time())
        return (self._own[1] - cpu) / max(1e-6, self._own[0] - wall)

    def _local(self, pids: Sequence[int]) -> tuple[dict[int, float], dict[int, float], float | None]:
        """CPU and megabytes of the workers on this host, and the share of all its CPU that is used."""
        try:
            import psutil
        except ImportError:
            return {}, {}, None
        cpu, memory = {}, {}
        for pid in pids:
            try:
                process = self._processes.setdefault(pid, psutil.Process(pid))
                cpu[pid] = process.cpu_percent() / 100
                memory[pid] = process.memory_info().rss / 1e6
            except psutil.Error:  # it has ended, or is another's
                self._processes.pop(pid, None)
        return cpu, memory, psutil.cpu_percent() / 100


def findings(looks: Sequence[Look], shape: Shape, model: float | None) -> list[Finding]:
    """What bounds the deployment under this load, what weighs most first; ``model`` is the model's share of the work.

    When nothing was found to be full, the load itself is the bound.
    """
    if not any(look.workers for look in looks):
        return [Finding("no worker is alive", "none has a lease", "start one: `dspex worker`")]
    found = [*_slots(looks, model), *_processors(looks), *_backends(looks)]
    if not found and model is not None and model >= NEARLY_ALL:
        found.append(_waits_for_model(shape, model))
    return found or [_nothing(shape, looks)]


def model_share(client: Client, shape: Shape) -> float | None:
    """The share of the executions' time that was spent in model calls; None when none was made."""
    ids = [sample.id for sample in shape.samples if sample.id and sample.error is None][-ASKED:]
    spent = total = 0.0
    for execution in map(client.get, ids):
        events = [event for event in execution.audit_trail if event.kind == "lm_call"]
        spent += sum(event.duration_ms or 0.0 for event in events)
        total += execution.metrics.execution_time_ms
    return min(1.0, spent / total) if spent and total else None


def _slots(looks: Sequence[Look], model: float | None) -> Iterator[Finding]:
    slots = max(look.concurrency for look in looks)
    taken = statistics.median(look.running for look in looks)
    if taken >= NEARLY_ALL * slots:
        waiting = f"; {model:.0%} of an execution's time is the model's" if model is not None else ""
        yield Finding(
            "the workers' slots are full",
            f"{taken:.0f} of {slots} executions at once were running{waiting}",
            "raise DSPEX_WORKER_CONCURRENCY where they wait for models, start more workers where they compute",
        )


def _processors(looks: Sequence[Look]) -> Iterator[Finding]:
    own = mean([look.own_cpu for look in looks])
    if own >= NEARLY_ALL:
        yield Finding(
            "the producer's CPU is used up",
            f"this process used {own:.0%} of a core to submit and wait",
            "submit from several processes, or with submit_many",
        )
    busy = {pid: mean([look.worker_cpu.get(pid, 0.0) for look in looks]) for pid in looks[-1].worker_cpu}
    full = [pid for pid, used in busy.items() if used >= NEARLY_ALL]
    if full:
        yield Finding(
            "the workers' CPU is used up",
            f"{len(full)} of {len(busy)} worker processes on this host used {busy[full[0]]:.0%} of a core",
            "start more worker processes, one for each core",
        )
    machine = mean([look.machine_cpu for look in looks if look.machine_cpu is not None])
    if machine >= NEARLY_ALL:
        yield Finding(
            "this machine's CPU is used up",
            f"{machine:.0%} of its {os.cpu_count()} cores were busy",
            "run workers, Postgres and Redis on machines of their own",
        )


def _backends(looks: Sequence[Look]) -> Iterator[Finding]:
    commit = statistics.median(look.commit_ms for look in looks)
    if commit >= SLOW_COMMIT_MS:
        yield Finding(
            "Postgres is slow",
            f"a commit of nothing took {commit:.1f} ms (median)",
            "look at its disk, its CPU and the network to it",
        )
    ping = statistics.median(look.redis_ms for look in looks)
    if ping >= SLOW_REDIS_MS:
        yield Finding("Redis is slow", f"a PING took {ping:.1f} ms (median)", "look at its CPU and the network to it")


def _waits_for_model(shape: Shape, model: float) -> Finding:
    return Finding(
        "the model",
        f"{model:.0%} of an execution's {shape.execution_ms:.0f} ms is the model's",
        "more users at once give more results; a faster model gives earlier ones",
    )


def _nothing(shape: Shape, looks: Sequence[Look]) -> Finding:
    slots = max(look.concurrency for look in looks)
    taken = statistics.median(look.running for look in looks)
    return Finding(
        "the load",
        f"nothing was full: {taken:.0f} of {slots} slots were taken, and a request waited {shape.mean_ms:.0f} ms",
        "put more users on it",
    )


def _running(connection: Connection) -> int:
    return int(connection.execute(_RUNNING).scalar_one())


def _commit(connection: Connection) -> None:
    connection.execute(_COMMIT)


def _timed(work: Any) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000
