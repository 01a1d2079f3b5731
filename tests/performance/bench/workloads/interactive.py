"""Many users who each submit one no-op and wait for it, one producer process and one worker process."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from tests.performance.bench.context import ROOT, Context
from tests.performance.bench.figures import Figure, Goal, at_least, at_most, percentile, ratio
from tests.performance.bench.queues import QUEUES, Queue
from tests.performance.bench.workloads.noop import program, warm_up
from tests.processes import mortal

TASKS, THREADS = "DSPex, tasks", "DSPex, threads"
PEERS = ("taskiq", "DBOS", "Celery", "dramatiq")
USERS = (1, 10, 50, 200)
SECONDS = 5.0
RATE = "results/s of users who wait"

Waits = Mapping[str, Any]


def run(context: Context) -> list[Figure]:
    counts = (1, 50) if context.quick else USERS
    found: dict[tuple[str, int], list[Waits]] = {}
    for _ in range(context.repeats):
        for name, measure in contenders(context).items():
            for users, waits in measure(counts).items():
                found.setdefault((name, users), []).append(waits)
                context.told(f"{name}, {users} users: {_rate(waits):,.0f}/s, p50 {_ms(waits, 50):.1f} ms")
    return [*_curve(found), *_compared(found)]


def contenders(context: Context) -> Mapping[str, Callable[[Sequence[int]], Mapping[int, Waits]]]:
    return {
        TASKS: partial(dspex_waits, context, "tasks"),
        THREADS: partial(dspex_waits, context, "threads"),
        **{name: partial(peer_waits, context, QUEUES[name]) for name in PEERS},
    }


def dspex_waits(context: Context, kind: str, counts: Sequence[int]) -> dict[int, Waits]:
    with context.deployment() as client:
        client.deploy(program())
        with context.worker(client):
            warm_up(client)
            backends = client.settings.backends()
            urls = {"DSPEX_DATABASE_URL": backends.database_url, "DSPEX_BROKER_URL": backends.broker_url}
            return {users: _dspex(kind, users, urls) for users in counts}


def _dspex(kind: str, users: int, urls: Mapping[str, str]) -> Waits:
    command = [*mortal("-m", "tests.performance.bench.users"), kind, str(users), str(SECONDS)]
    done = subprocess.run(command, env={**os.environ, **urls}, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    waits: Waits = json.loads(done.stdout.splitlines()[-1])
    return waits


def peer_waits(context: Context, queue: Queue, counts: Sequence[int]) -> dict[int, Waits]:
    with queue.running(context) as producer:
        return {users: producer.ask("users", users) for users in counts}


def _rate(waits: Waits) -> float:
    return len(waits["ms"]) / float(waits["seconds"])


def _ms(waits: Waits, percent: int) -> float:
    return percentile(waits["ms"], percent)


def _cpu(waits: Waits) -> float:
    """Milliseconds of CPU of the producer for each result."""
    return 1000 * float(waits["cpu"]) / max(len(waits["ms"]), 1)


def _curve(found: Mapping[tuple[str, int], Sequence[Waits]]) -> list[Figure]:
    return [
        Figure(f"{what}, {users} user{'s' * (users > 1)}", name, unit, [value(waits) for waits in runs], at=users)
        for what, unit, value in (
            (RATE, "/s", _rate),
            ("p50 of users who wait", "ms", partial(_ms, percent=50)),
            ("p99 of users who wait", "ms", partial(_ms, percent=99)),
            ("client CPU of users who wait", "ms", _cpu),
        )
        for (name, users), runs in found.items()
    ]


def _compared(found: Mapping[tuple[str, int], Sequence[Waits]]) -> list[Figure]:
    """The goals: results of users who wait, beside the fastest that forgets and beside DBOS."""
    figures = []
    for ours, users in [key for key in found if key[0] in (TASKS, THREADS) and key[1] >= 50]:
        mine = [_rate(waits) for waits in found[ours, users]]
        others: Sequence[str] = ("taskiq", "Celery", "dramatiq") if ours == TASKS else ("DBOS", "dramatiq")
        rates = [[_rate(waits) for waits in found[name, users]] for name in others]
        fastest = [max(each) for each in zip(*rates, strict=True)]
        figures.append(ratio(f"{RATE}, {ours}, {users}, to the fastest of {', '.join(others)}", mine, fastest, _TWICE))
        if ours == TASKS:
            durable = [_rate(waits) for waits in found["DBOS", users]]
            figures.append(ratio(f"{RATE}, {ours}, {users}, to DBOS", mine, durable, at_least(4)))
    if (TASKS, 50) in found:
        cpu = [_cpu(waits) for waits in found[TASKS, 50]]
        figures.append(Figure("client CPU of a result at 50 users", TASKS, "ms", cpu, at_most(1)))
    return figures


_TWICE: Goal = at_least(2)
