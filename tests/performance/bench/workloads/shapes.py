"""The load shapes and floors that DSPex was specified with: 1 to 50 users at once, the most users, a steady rate."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable

from dspex.client.async_client import AsyncClient
from dspex.operations.bench import load
from dspex.operations.bench.load import Floor, Shape
from dspex.settings import Settings
from tests.performance.bench.context import Context
from tests.performance.bench.figures import Figure, at_least, at_most
from tests.performance.bench.workloads.memory import megabytes
from tests.performance.bench.workloads.noop import program, warm_up

USERS = (1, 5, 10, 20, 50)
EACH = 50
PER_SECOND = 10.0


def run(context: Context) -> list[Figure]:
    seconds = context.size(300, 15)
    with context.deployment() as client:
        client.deploy(program(calls=1))
        with context.worker(client) as worker:
            warm_up(client, at_once=500)
            settings = client.settings
            shapes = [asyncio.run(_shapes(settings, context.told)) for _ in range(context.repeats)]
            most = asyncio.run(_most(settings, context.told))
            before = megabytes(worker.pid)
            steady = asyncio.run(_steady(settings, seconds))
            growth = abs(megabytes(worker.pid) / before - 1) * 100
    return [
        *(figure for at, count in enumerate(USERS) for figure in _of_users(count, [found[at] for found in shapes])),
        Figure("most users served at once, by bisection up to 200", "DSPex", "users", [most], at_least(50)),
        *_of_steady(steady, seconds),
        Figure(f"{PER_SECOND:g}/s for {seconds} s, memory moved", "DSPex", "%", [growth], at_most(20)),
    ]


async def _shapes(settings: Settings, told: Callable[[str], None]) -> list[Shape]:
    async with AsyncClient(settings) as client:
        found = []
        for count in USERS:
            found.append(await load.users(client, "noop", _inputs, count=count, each=EACH))
            told(f"{count} users: {found[-1].throughput:,.0f}/s, {found[-1].mean_ms:,.1f} ms")
        return found


async def _most(settings: Settings, told: Callable[[str], None]) -> int:
    async with AsyncClient(settings) as client:

        async def trial(count: int) -> Shape:
            return await load.users(client, "noop", _inputs, count=count, each=5)

        most = await load.most_users(trial)
        told(f"{most} users are served")
        return most


async def _steady(settings: Settings, seconds: float) -> Shape:
    async with AsyncClient(settings) as client:
        return await load.steady(client, "noop", _inputs, per_second=PER_SECOND, seconds=seconds)


def _inputs(number: int) -> dict[str, str]:
    return {"question": f"request {number}"}


def _of_users(count: int, shapes: list[Shape]) -> Iterable[Figure]:
    users = "1 user" if count == 1 else f"{count} users"
    rates = [shape.throughput for shape in shapes]
    yield Figure("results/s by users", users, "/s", rates, at_least(count * 0.5), at=count)
    yield Figure("mean wait by users", users, "ms", [shape.mean_ms for shape in shapes], at_most(5_000), at=count)
    yield Figure("errors by users", users, "%", [shape.error_rate * 100 for shape in shapes], at_most(1), at=count)
    factors = [min(floor.factor for floor in load.floors(shape)) for shape in shapes]
    yield Figure("nearest floor by users", users, "× met", factors, at_least(1), at=count)


def _of_steady(shape: Shape, seconds: float) -> Iterable[Figure]:
    name = f"{PER_SECOND:g}/s for {seconds:g} s"
    for floor in load.steady_floors(shape, round(PER_SECOND * seconds)):
        yield _figure(f"{name}, {floor.what}", floor)


def _figure(name: str, floor: Floor) -> Figure:
    factor = "" if math.isinf(floor.factor) else f"met {floor.factor:.3g} times over"
    goal = at_least(floor.bound) if floor.at_least else at_most(floor.bound)
    return Figure(name, "DSPex", "", [floor.value], goal, factor)
