"""What an execution that does nothing costs: executions per second, CPU by process, and idle latency.

    python -m tests.performance.bench_noop [--rows 5000] [--sleep-ms 0] [--calls 0] [--concurrency 200] [--repeats 3]

``batch``    submit_many until every row is settled, by the database's clock; CPU in microseconds an execution
``latency``  submit until ``result()`` returns, one at a time, on an idle worker

A worker process, Postgres and Redis of its own, on this machine. CPU is the figure to compare on a machine that is
shared: the rate falls with every neighbour.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import text

import dspex
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.settings import Backends
from dspex.store import migrate
from tests.processes import WorkerProcess

NAME = "noop"
WARM_UP = 500
GIVE_UP_SECONDS = 300
#: Looking for what is unfinished costs Postgres some milliseconds each time.
LOOK_SECONDS = 0.1


def program(sleep_ms: int, calls: int) -> dspex.Program:
    options = {"calls": calls, "sleep_ms": sleep_ms, "outputs": {"answer": "x"}}
    signature = dspex.signature("question -> answer")
    return dspex.Program(NAME, signature, adapter="scripted", module_options=options)


class Cpu:
    """CPU seconds used so far: of the worker, of Postgres and all its backends, of Redis, of this process."""

    def __init__(self, worker: WorkerProcess) -> None:
        self._worker = psutil.Process(worker.pid)
        children = psutil.Process().children()
        self._postgres = next(p for p in children if p.name() == "postgres")
        self._redis = next(p for p in children if p.name().startswith("redis"))

    def read(self) -> dict[str, float]:
        backends = sum(_used(process) for process in self._postgres.children())
        gone = self._postgres.cpu_times()
        return {
            "worker": _used(self._worker),
            "postgres": backends + _used(self._postgres) + gone.children_user + gone.children_system,
            "redis": _used(self._redis),
            "producer": _used(psutil.Process()),
        }


def _used(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:  # its parent has its CPU now
        return 0.0
    return float(times.user + times.system)


def batch(client: dspex.Client, cpu: Cpu, count: int) -> dict[str, Any]:
    before, began = cpu.read(), time.perf_counter()
    made = client.submit_many(NAME, ({"question": f"number {n}"} for n in range(count)))
    submitted = time.perf_counter() - began
    left = client._database.run
    unfinished = text("SELECT EXISTS (SELECT FROM dspex.executions WHERE batch_id = :id AND finished_at IS NULL)")
    while left(lambda c: c.scalar(unfinished, {"id": made.id})):
        if time.perf_counter() - began > GIVE_UP_SECONDS:
            raise SystemExit(f"not done after {GIVE_UP_SECONDS} s: {made.progress}")
        time.sleep(LOOK_SECONDS)
    seconds = time.perf_counter() - began
    after = cpu.read()
    assert made.progress.completed == count
    used = {f"{name}_us": (after[name] - before[name]) / count * 1e6 for name in after}
    return {"per_second": count / seconds, "submit_per_second": count / submitted, **used}


def latency(client: dspex.Client, count: int) -> dict[str, Any]:
    times = []
    for n in range(count):
        began = time.perf_counter()
        client.submit(NAME, {"question": f"number {n}"}).result(timeout=30)
        times.append((time.perf_counter() - began) * 1000)
    cuts = statistics.quantiles(times, n=100)
    return {"p50_ms": cuts[49], "p90_ms": cuts[89], "p99_ms": cuts[98]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--single", type=int, default=300, help="executions of the latency measurement")
    parser.add_argument("--sleep-ms", type=int, default=0)
    parser.add_argument("--calls", type=int, default=0)
    parser.add_argument("--concurrency", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = stack.enter_context(EmbeddedServers(home))
        backends = Backends((servers.database_url, servers.broker_url))
        client = stack.enter_context(dspex.Client(database_url=backends[0], broker_url=backends[1]))
        migrate.upgrade(client._database.engine)
        client.deploy(program(options.sleep_ms, options.calls))
        worker = WorkerProcess(backends, home / "worker.log", {"DSPEX_WORKER_CONCURRENCY": options.concurrency})
        stack.callback(worker.stop)
        worker.wait_until_ready()
        cpu = Cpu(worker)
        memory = psutil.Process(worker.pid).memory_info
        print(f"worker ready: {memory().rss / 2**20:.0f} MiB")
        batch(client, cpu, WARM_UP)
        for _ in range(options.repeats):
            _show("batch", batch(client, cpu, options.rows))
            print(f"worker: {memory().rss / 2**20:.0f} MiB")
        for _ in range(options.repeats if options.single else 0):
            _show("latency", latency(client, options.single))


def _show(name: str, figures: dict[str, Any]) -> None:
    print(f"{name:8} " + "  ".join(f"{key} {value:,.1f}" for key, value in figures.items()), flush=True)


if __name__ == "__main__":
    main()
