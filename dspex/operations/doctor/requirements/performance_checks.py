"""Performance: the floors that DSPex was specified with, measured on this deployment."""

from __future__ import annotations

import asyncio
import socket
import time

from dspex.client.async_client import AsyncClient
from dspex.operations.bench import load
from dspex.operations.bench.load import Shape
from dspex.operations.doctor.check import Finding, Need, check, met, not_applicable, not_met, warning
from dspex.operations.doctor.deployment import Deployment
from dspex.operations.doctor.probe_programs import ANSWERING
from dspex.signatures import signature
from dspex.signatures.compile import compile_uncached

BENCH = "see `dspex bench`: it names the bottleneck"
#: The floors.
COMPILED_PER_SECOND, COMPILE_MS = 100.0, 1.0
EXECUTED_PER_SECOND_AND_CORE, LATENCY_MS = 10.0, 5000.0
USERS, ERRORS = 50, 0.01
MEMORY_MB, GROWTH = 500.0, 0.5
#: Signatures compiled, requests of each user, and requests one after the other.
COMPILED, EACH, ALONE = 200, 4, 20
LOAD_SECONDS = 60.0


@check("Signatures compile fast", fix="use a faster machine, or run fewer programs on this one", seconds=LOAD_SECONDS)
def compilation(_deployment: Deployment) -> Finding:
    """More than 100 compilations a second, each under 1 ms on average; counted in CPU time of this thread."""
    sources = [f"signature made_{n}: :string q{n}, :integer(min={n}) i -> :string a{n}" for n in range(COMPILED)]
    began = time.thread_time()
    for source in sources:
        compile_uncached(source)
    mean_ms = (time.thread_time() - began) * 1000 / COMPILED
    evidence = f"{1000 / mean_ms:,.0f}/s, {mean_ms:.3f} ms each (floor {COMPILED_PER_SECOND:g}/s, {COMPILE_MS:g} ms)"
    good = mean_ms < COMPILE_MS and 1000 / mean_ms > COMPILED_PER_SECOND
    return (met if good else not_met)(evidence, mean_ms=mean_ms, per_second=1000 / mean_ms)


@check("Values are validated fast", fix="use a faster machine", seconds=LOAD_SECONDS)
def validation(_deployment: Deployment) -> Finding:
    """Validating the inputs of an execution takes under 10 ms."""
    compiled = signature(":string(max_length=100) question, :list(:integer) numbers -> :string answer")
    values = {"question": "how fast?", "numbers": list(range(20))}
    began = time.thread_time()
    for _ in range(COMPILED):
        compiled.validate_inputs(values)
    mean_ms = (time.thread_time() - began) * 1000 / COMPILED
    return (met if mean_ms < 10 else not_met)(f"{mean_ms * 1000:.1f} µs each (floor 10 ms)", mean_ms=mean_ms)


@check("Executions are fast", Need.WORKER, fix=BENCH, seconds=LOAD_SECONDS)
def latency(deployment: Deployment) -> Finding:
    """One user's executions, one after the other, take under 5 s on average from submit to result."""
    shape = _put(deployment, users=1, each=ALONE)
    evidence = f"{shape.mean_ms:.1f} ms on average, p99 {shape.percentile_ms(99):.1f} ms (floor {LATENCY_MS:,.0f} ms)"
    good = shape.mean_ms < LATENCY_MS and not shape.error_rate
    return (met if good else not_met)(evidence, mean_ms=shape.mean_ms, p99_ms=shape.percentile_ms(99))


@check("50 users at once are served", Need.WORKER, fix=BENCH, seconds=LOAD_SECONDS)
def concurrency(deployment: Deployment) -> Finding:
    """50 users at once: more than 10 executions a second for each worker process, which is one core, each under 5 s
    on average, and less than 1 % errors."""
    processes = len(deployment.live_workers)
    shape = _put(deployment, users=USERS, each=EACH)
    rate = shape.throughput / processes
    evidence = (
        f"{shape.throughput:,.0f}/s, {rate:,.0f}/s for each of {processes} (floor {EXECUTED_PER_SECOND_AND_CORE:g}), "
        f"{shape.mean_ms:.0f} ms on average, {shape.error_rate:.1%} errors"
    )
    good = rate > EXECUTED_PER_SECOND_AND_CORE and shape.mean_ms < LATENCY_MS and shape.error_rate < ERRORS
    verdict = met if good else not_met
    return verdict(evidence, per_second=shape.throughput, mean_ms=shape.mean_ms, error_rate=shape.error_rate)


@check(
    "Workers stay small under load",
    Need.WORKER,
    fix="set DSPEX_WORKER_MAX_MEMORY_MB; see `dspex workers` for the largest",
    seconds=LOAD_SECONDS,
)
def memory(deployment: Deployment) -> Finding:
    """A worker process holds less than 500 MB, and grows by less than half under load."""
    before = _memory(deployment)
    if not before:
        return not_applicable("no worker runs on this machine, or psutil is not installed here")
    _put(deployment, users=USERS, each=EACH)
    after = {pid: mb for pid, mb in _memory(deployment).items() if pid in before}
    growth = max((mb / before[pid] - 1 for pid, mb in after.items()), default=0.0)
    most = max(after.values(), default=0.0)
    evidence = f"{most:.0f} MB at most, grew by {max(0.0, growth):.0%} (floors {MEMORY_MB:g} MB, {GROWTH:.0%})"
    if growth >= GROWTH:
        return not_met(evidence, most_mb=most, growth=growth)
    # A worker may hold a program's own data, so a large one is only a warning.
    return (met if most < MEMORY_MB else warning)(evidence, most_mb=most, growth=growth)


def _put(deployment: Deployment, *, users: int, each: int) -> Shape:
    deployment.deploy(ANSWERING)

    async def work() -> Shape:
        async with AsyncClient(deployment.own_settings) as client:
            name = ANSWERING.name
            await load.users(client, name, _question, count=min(users, 5), each=1)  # warm-up
            return await load.users(client, name, _question, count=users, each=each)

    return asyncio.run(work())


def _question(number: int) -> dict[str, str]:
    return {"question": f"load {number}?"}


def _memory(deployment: Deployment) -> dict[int, float]:
    """Megabytes of each worker process on this machine."""
    try:
        import psutil
    except ImportError:
        return {}
    found = {}
    for worker in deployment.live_workers:
        if worker["host"] == socket.gethostname() and psutil.pid_exists(worker["pid"]):
            found[worker["pid"]] = psutil.Process(worker["pid"]).memory_info().rss / 1e6
    return found
