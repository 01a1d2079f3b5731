"""Shapes of load for a deployment, and their results.

A *user* submits, waits for the result, and submits again. The shapes and their floors are from DSPex's specification:
1 to 50 users with 50 requests each, the most concurrent users that are still served, and a steady rate for minutes.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dspex.client.async_client import AsyncClient
from dspex.errors import BackendUnavailable, DspexError
from dspex.store.lifecycle.status import Status

__all__ = [
    "Floor",
    "Sample",
    "Shape",
    "floors",
    "mean",
    "most_users",
    "percentile",
    "steady",
    "steady_floors",
    "users",
]

#: How long a user waits for one result, in seconds.
REQUEST_SECONDS = 120.0
#: Users count as served up to this mean wait and this share of errors.
SERVED_MS, SERVED_ERRORS = 10_000.0, 0.05


@dataclass(frozen=True, slots=True)
class Sample:
    """One request: ``waited_ms`` is from submit to result; ``error`` is the code of its failure."""

    id: str | None
    waited_ms: float
    queue_ms: float = 0.0
    execution_ms: float = 0.0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """The result of a shape that took ``seconds``; the samples are in the order in which they ended."""

    users: int
    seconds: float
    samples: Sequence[Sample]

    @property
    def throughput(self) -> float:
        """Results a second."""
        return sum(sample.error is None for sample in self.samples) / self.seconds

    @property
    def error_rate(self) -> float:
        return sum(sample.error is not None for sample in self.samples) / max(1, len(self.samples))

    @property
    def mean_ms(self) -> float:
        return mean([sample.waited_ms for sample in self.samples])

    @property
    def queue_ms(self) -> float:
        """The mean time from due to claimed."""
        return mean([sample.queue_ms for sample in self.samples if sample.error is None])

    @property
    def execution_ms(self) -> float:
        """The mean time of an attempt."""
        return mean([sample.execution_ms for sample in self.samples if sample.error is None])

    @property
    def drift(self) -> float:
        """By what share the last requests waited longer than the first; a quarter of all, at most 100, are compared."""
        few = min(100, len(self.samples) // 4)
        waited = [sample.waited_ms for sample in self.samples]
        return mean(waited[-few:]) / mean(waited[:few]) - 1 if few else 0.0

    def percentile_ms(self, percent: float) -> float:
        """The longest wait of so many percent of the requests, the fastest ones."""
        return percentile([sample.waited_ms for sample in self.samples], percent)


@dataclass(frozen=True, slots=True)
class Floor:
    """A bound that a shape must meet; ``factor`` is how many times over it is met, from 1 on."""

    what: str
    value: float
    bound: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    @property
    def factor(self) -> float:
        """Infinite for a zero that has to be small."""
        above, below = (self.value, self.bound) if self.at_least else (self.bound, self.value)
        return above / below if below > 0 else math.inf


async def users(
    client: AsyncClient, program: str, inputs: Callable[[int], Mapping[str, Any]], *, count: int, each: int
) -> Shape:
    """``count`` concurrent users with ``each`` requests one after the other; ``inputs(n)`` are the n-th inputs.

    Raises BackendUnavailable. Any other failure is recorded in its sample.
    """
    samples: list[Sample] = []

    async def user(number: int) -> None:
        for request in range(each):
            samples.append(await _ask(client, program, inputs(number * each + request)))

    began = time.perf_counter()
    await _all([asyncio.create_task(user(number)) for number in range(count)])
    return Shape(count, time.perf_counter() - began, samples)


async def steady(
    client: AsyncClient,
    program: str,
    inputs: Callable[[int], Mapping[str, Any]],
    *,
    per_second: float,
    seconds: float,
    on_progress: Callable[[float], None] = lambda _: None,
) -> Shape:
    """Requests at a steady rate, whether or not earlier ones have ended; ``on_progress`` gets the elapsed seconds."""
    samples: list[Sample] = []

    async def one(number: int) -> None:
        samples.append(await _ask(client, program, inputs(number)))

    began = time.perf_counter()
    requests = []
    for number in range(round(per_second * seconds)):
        gone = time.perf_counter() - began
        await asyncio.sleep(max(0.0, number / per_second - gone))
        requests.append(asyncio.create_task(one(number)))
        on_progress(gone)
    await _all(requests)
    return Shape(0, time.perf_counter() - began, samples)


async def most_users(trial: Callable[[int], Awaitable[Shape]], *, low: int = 10, high: int = 200) -> int:
    """The most users that are served, found by bisection; 0 when not even ``low`` are."""
    best = 0
    while low <= high:
        middle = (low + high) // 2
        shape = await trial(middle)
        if shape.mean_ms < SERVED_MS and shape.error_rate < SERVED_ERRORS:
            best, low = middle, middle + 1
        else:
            high = middle - 1
    return best


def floors(shape: Shape) -> Iterator[Floor]:
    """The floors of a shape of concurrent users."""
    yield Floor("results/s", shape.throughput, shape.users * 0.5, at_least=True)
    yield Floor("mean wait, ms", shape.mean_ms, 5_000)
    yield Floor("errors", shape.error_rate, 0.01)


def steady_floors(shape: Shape, wanted: int) -> Iterator[Floor]:
    """The floors of a steady rate, of which ``wanted`` requests were expected."""
    yield Floor("requests", len(shape.samples), wanted * 0.95, at_least=True)
    yield Floor("mean wait, ms", shape.mean_ms, 3_000)
    yield Floor("errors", shape.error_rate, 0.02)
    yield Floor("drift", max(0.0, shape.drift), 0.1)


async def _all(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait until all are done, or one has failed."""
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _ask(client: AsyncClient, program: str, inputs: Mapping[str, Any]) -> Sample:
    began = time.perf_counter()
    id = None
    try:
        execution = await client.submit(program, inputs)
        id = str(execution.id)
        await execution.result(REQUEST_SECONDS)
    except BackendUnavailable:
        raise
    except DspexError as error:
        return Sample(id, (time.perf_counter() - began) * 1000, error=error.code)
    waited_ms = (time.perf_counter() - began) * 1000
    metrics = execution.metrics
    assert execution.status is Status.COMPLETED
    return Sample(id, waited_ms, metrics.queue_time_ms, metrics.execution_time_ms)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of the values do not exceed; NaN for no values."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else math.nan


def mean(values: Sequence[float]) -> float:
    """The mean; NaN for no values."""
    return sum(values) / len(values) if values else math.nan
