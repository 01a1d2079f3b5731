"""A model call's way through its limits, in one worker, against a real Redis."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
import redis

import dspex
from dspex.errors import ModelError
from dspex.settings import Backends, ModelLimits
from tests.unit.test_journal import Table
from workers.adapters.contract import Answer, Estimate
from workers.attempt.attempt_trail import AttemptTrail
from workers.attempt.retry_policy import Deferred
from workers.lm.journal import AttemptJournal
from workers.lm.limits.buckets import MARKER, Buckets
from workers.lm.limits.budget import Budgets
from workers.lm.limits.permits import WAITING_MOST, CallLimits, Permits
from workers.lm.model_calls import ModelCalls

QA = dspex.signature("question -> answer")


class Model:
    """Counts the calls under way; each takes as long as the test says."""

    def __init__(self) -> None:
        self.running = self.most_at_once = self.total = 0
        self.order: list[int] = []
        self._called = asyncio.Condition()

    async def reached(self, total: int) -> None:
        async with self._called:
            await self._called.wait_for(lambda: self.total >= total)

    async def call(self, number: int, seconds: float = 0.01) -> Answer:
        self.order.append(number)
        self.running += 1
        async with self._called:
            self.total += 1
            self._called.notify_all()
        self.most_at_once = max(self.most_at_once, self.running)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.running -= 1
        return Answer({}, prompt_tokens=10, completion_tokens=5)


async def during(
    limits: CallLimits,
    name: str,
    model: Model,
    number: int,
    seconds: float = 0.01,
    estimate: Callable[[], Estimate] | None = None,
) -> None:
    """Make a call within the limits."""
    async with limits.permit(name, estimate) as permitted:
        permitted.answered(await model.call(number, seconds))


def program(**fields: Any) -> dspex.Program:
    return dspex.Program("qa", QA, adapter="scripted", **fields)


def permits_of(backends: Backends, broker_url: str, limits: Mapping[str, ModelLimits]) -> Permits:
    budgets = Budgets(backends.database_url, uuid4)
    return Permits(Buckets(broker_url), budgets, limits)


@pytest.fixture
async def permits(backends: Backends) -> AsyncIterator[Permits]:
    with redis.Redis.from_url(backends.broker_url) as client:
        client.set(MARKER, 1)
    limits = {"two": ModelLimits(concurrency=2), "three": ModelLimits(per_minute=3), "http://x": ModelLimits()}
    made = permits_of(backends, backends.broker_url, limits)
    made.start()
    yield made
    await made.close()


async def test_calls_stand_in_line_and_no_more_executions_begin_meanwhile(permits: Permits) -> None:
    limits, model = permits.of(program()), Model()
    assert limits is not None
    calls = [asyncio.create_task(during(limits, "two", model, n)) for n in range(20)]
    await model.reached(1)
    assert permits.throttled("qa")
    assert not permits.throttled("another")
    await asyncio.gather(*calls)
    assert (model.most_at_once, model.total) == (2, 20)
    assert model.order == sorted(model.order)
    assert not permits.throttled("qa")


async def test_who_would_wait_long_is_handed_back_at_once_with_the_time_to_come_again(permits: Permits) -> None:
    limits, model = permits.of(program()), Model()
    assert limits is not None
    for number in range(3):
        await during(limits, "three", model, number)
    with pytest.raises(Deferred) as handed_back:
        await asyncio.wait_for(during(limits, "three", model, 3), 30)
    assert handed_back.value.code == "rate_limited_locally"
    assert 50 < handed_back.value.delay_seconds < 80
    assert permits.throttled("qa"), "until then"
    assert model.total == 3


async def test_a_call_that_is_cancelled_gives_its_place_back(permits: Permits) -> None:
    limits, model = permits.of(program()), Model()
    assert limits is not None
    stuck = [asyncio.create_task(during(limits, "two", model, n, 600)) for n in range(6)]
    await model.reached(2)
    for call in stuck:
        call.cancel()
    _, pending = await asyncio.wait(stuck, timeout=60)
    assert not pending
    await asyncio.wait_for(during(limits, "two", model, 9), 60)
    assert model.total == 3


async def test_without_redis_nothing_is_called(backends: Backends) -> None:
    permits, model = permits_of(backends, "redis://127.0.0.1:1/0", {"two": ModelLimits(concurrency=2)}), Model()
    limits = permits.of(program(timeout=0.5))
    assert limits is not None
    with pytest.raises(Deferred, match="Redis, which counts model calls, is out of reach") as handed_back:
        await during(limits, "two", model, 0)
    assert handed_back.value.code == "limits_unknown"
    assert model.total == 0
    await permits.close()


async def test_a_refused_call_leaves_its_program_which_cannot_hide_it(backends: Backends) -> None:
    permits, model = permits_of(backends, "redis://127.0.0.1:1/0", {"two": ModelLimits(concurrency=2)}), Model()
    trail = AttemptTrail(datetime.now(UTC))
    calls = ModelCalls(AttemptJournal(uuid4(), 1, Table()), trail, limits=permits.of(program(timeout=0.5)))
    with pytest.raises(asyncio.CancelledError):
        await calls.perform("00", "two", lambda: model.call(0))
    assert calls.deferral is not None
    assert calls.deferral.code == "limits_unknown"
    assert json.loads(trail.encode()) == [], "no call was made"
    await permits.close()


async def test_without_limits_no_permit_is_requested(backends: Backends) -> None:
    permits = permits_of(backends, "redis://127.0.0.1:1/0", {})
    assert permits.of(program()) is None
    assert permits.of(program(limits=dspex.Limits(concurrency=3, per_minute=3))) is None, "these are the pump's"
    assert permits.of(program(limits=dspex.Limits(tokens_per_minute=3))) is not None
    assert WAITING_MOST > 1
    await permits.close()


async def test_a_budget_needs_a_price(permits: Permits) -> None:
    limits, model = permits.of(program(limits=dspex.Limits(max_cost_usd=1))), Model()
    assert limits is not None
    for estimate in (None, lambda: Estimate(100, None)):
        with pytest.raises(ModelError, match="the price of model 'free' is not known: no call is made") as refused:
            await during(limits, "free", model, 0, estimate=estimate)
        assert (refused.value.code, refused.value.retryable) == ("price_unknown", False)
    assert model.total == 0
