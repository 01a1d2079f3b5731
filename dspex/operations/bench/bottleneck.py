"""The bottlenecks of a deployment: it is observed while it is under load, and the observations are compared.

Each bottleneck names its evidence: slots taken, round trips timed, CPU used, the model's share of the time.
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

from dspex.client.client import Client
from dspex.operations.bench.load import Shape, mean
from dspex.store.facts import server_facts, work_facts

__all__ = ["Bottleneck", "Look", "Observer", "bottlenecks", "model_share"]

#: The interval between observations, in seconds.
INTERVAL_SECONDS = 0.5
#: From this share on, slots, cores and time count as used up.
NEARLY_ALL = 0.85
#: A commit and a round trip that take longer are slow, in milliseconds.
SLOW_COMMIT_MS, SLOW_REDIS_MS = 10.0, 5.0
#: Executions whose audit trails are read for the model's share of their time.
MOST_TRAILS = 50


@dataclass(frozen=True, slots=True)
class Look:
    """One observation. Shares of CPU are of one core; the CPU of workers on other hosts is not known."""

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
class Bottleneck:
    """Something that limits the deployment: what, the evidence, and the fix."""

    what: str
    evidence: str
    fix: str


class Observer:
    """Observes a deployment from its own thread while the block runs."""

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
            self._look()  # the CPU counters start here
            while not self._over.wait(INTERVAL_SECONDS):
                self.looks.append(self._look())
            if not self.looks:
                self.looks.append(self._look())
        except Exception as error:  # raised again at the end of the block
            self._failure = error

    def _look(self) -> Look:
        client = self._client
        workers = client.workers()
        cpu, memory, machine = self._local([row["pid"] for row in workers if row["host"] == socket.gethostname()])
        return Look(
            workers=len(workers),
            concurrency=sum(row["concurrency"] for row in workers),
            running=client._database.run(work_facts.count_running),
            commit_ms=_timed(lambda: client._database.run(server_facts.commit_nothing)),
            redis_ms=self._redis_ms(),
            own_cpu=self._own_cpu(),
            machine_cpu=machine,
            worker_cpu=cpu,
            worker_mb=memory,
        )

    def _redis_ms(self) -> float:
        with self._client._session.broker.client() as redis:
            redis.ping()  # connects
            return _timed(redis.ping)

    def _own_cpu(self) -> float:
        """The share of a core that this process used since the last call."""
        (wall, cpu), self._own = self._own, (time.perf_counter(), time.process_time())
        return (self._own[1] - cpu) / max(1e-6, self._own[0] - wall)

    def _local(self, pids: Sequence[int]) -> tuple[dict[int, float], dict[int, float], float | None]:
        """CPU and megabytes of the workers on this host, and the used share of all its CPU."""
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
            except psutil.Error:  # it ended, or belongs to another user
                self._processes.pop(pid, None)
        return cpu, memory, psutil.cpu_percent() / 100


def bottlenecks(looks: Sequence[Look], shape: Shape, model: float | None) -> list[Bottleneck]:
    """What limits the deployment under this load, the most important first; ``model`` is the model's share of the time.

    When nothing is used up, the load itself is the limit.
    """
    if not any(look.workers for look in looks):
        return [Bottleneck("no worker is alive", "none has a lease", "start one: `dspex worker`")]
    found = [*_slots(looks, model), *_processors(looks), *_backends(looks)]
    if not found and model is not None and model >= NEARLY_ALL:
        found.append(_waits_for_model(shape, model))
    return found or [_nothing(shape, looks)]


def model_share(client: Client, shape: Shape) -> float | None:
    """The model calls' share of the executions' time; None when no call was made."""
    ids = [sample.id for sample in shape.samples if sample.id and sample.error is None][-MOST_TRAILS:]
    spent = total = 0.0
    for execution in map(client.get, ids):
        events = [event for event in execution.audit_trail if event.kind == "lm_call"]
        spent += sum(event.duration_ms or 0.0 for event in events)
        total += execution.metrics.execution_time_ms
    return min(1.0, spent / total) if spent and total else None


def _slots(looks: Sequence[Look], model: float | None) -> Iterator[Bottleneck]:
    slots = max(look.concurrency for look in looks)
    taken = statistics.median(look.running for look in looks)
    if taken >= NEARLY_ALL * slots:
        waiting = f"; model calls take {model:.0%} of an execution's time" if model is not None else ""
        yield Bottleneck(
            "the workers' slots are full",
            f"{taken:.0f} of {slots} executions at once were running{waiting}",
            "raise DSPEX_WORKER_CONCURRENCY if they wait for models, start more workers if they compute",
        )


def _processors(looks: Sequence[Look]) -> Iterator[Bottleneck]:
    own = mean([look.own_cpu for look in looks])
    if own >= NEARLY_ALL:
        yield Bottleneck(
            "the producer's CPU is used up",
            f"this process used {own:.0%} of a core to submit and wait",
            "submit from several processes, or with submit_many",
        )
    busy = {pid: mean([look.worker_cpu.get(pid, 0.0) for look in looks]) for pid in looks[-1].worker_cpu}
    full = [pid for pid, used in busy.items() if used >= NEARLY_ALL]
    if full:
        yield Bottleneck(
            "the workers' CPU is used up",
            f"{len(full)} of {len(busy)} worker processes on this host used {busy[full[0]]:.0%} of a core",
            "start more worker processes, one for each core",
        )
    machine = mean([look.machine_cpu for look in looks if look.machine_cpu is not None])
    if machine >= NEARLY_ALL:
        yield Bottleneck(
            "this machine's CPU is used up",
            f"{machine:.0%} of its {os.cpu_count()} cores were busy",
            "run workers, Postgres and Redis on separate machines",
        )


def _backends(looks: Sequence[Look]) -> Iterator[Bottleneck]:
    commit = statistics.median(look.commit_ms for look in looks)
    if commit >= SLOW_COMMIT_MS:
        yield Bottleneck(
            "Postgres is slow",
            f"a commit of nothing took {commit:.1f} ms (median)",
            "check its disk, its CPU and the network to it",
        )
    ping = statistics.median(look.redis_ms for look in looks)
    if ping >= SLOW_REDIS_MS:
        yield Bottleneck("Redis is slow", f"a PING took {ping:.1f} ms (median)", "check its CPU and the network to it")


def _waits_for_model(shape: Shape, model: float) -> Bottleneck:
    return Bottleneck(
        "the model",
        f"model calls take {model:.0%} of an execution's {shape.execution_ms:.0f} ms",
        "more concurrent users give more results; a faster model gives earlier ones",
    )


def _nothing(shape: Shape, looks: Sequence[Look]) -> Bottleneck:
    slots = max(look.concurrency for look in looks)
    taken = statistics.median(look.running for look in looks)
    return Bottleneck(
        "the load",
        f"nothing was full: {taken:.0f} of {slots} slots were taken, and a request waited {shape.mean_ms:.0f} ms",
        "use more users",
    )


def _timed(work: Any) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000
