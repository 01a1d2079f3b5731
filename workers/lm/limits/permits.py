"""Permits of model calls: a call waits a moment for the limits of its program and model, or gives its slot back.

The calls of this worker that wait for the same limits form a line, and only the first of them asks Redis. A call
that would wait longer than PERMIT_WAIT_SECONDS hands its attempt back to the queue, uncounted; its answers so far are
replayed then. While calls of a program wait, the worker begins no more of its executions (``throttled``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from uuid import UUID, uuid4

import redis

from dspex.errors import ModelError
from dspex.program.program import Program
from dspex.settings import ModelLimits
from workers.adapters.contract import Answer, Estimate
from workers.attempt.retry_policy import Deferred
from workers.lm.limits.buckets import LEASE_SECONDS, Bucket, Buckets
from workers.lm.limits.budget import Budgets, PermittedCall
from workers.observe.redis_trouble import REDIS_TROUBLE

__all__ = ["CallLimits", "Permits"]

log = logging.getLogger("dspex.workers")

#: The longest that a call waits for a permit, holding its slot.
PERMIT_WAIT_SECONDS = 3.0
#: How soon the first in line asks again when the time to wait is not known.
ASK_AGAIN_SECONDS = 0.1
#: With this many calls of a program waiting, no more of its executions begin here.
WAITING_MOST = 4
#: The delay of an attempt that is handed back, at least and at most.
DELAY_SECONDS = (1.0, 60.0)
UNKNOWN_ESTIMATE = Estimate(tokens=0, cost_usd=None)


class Permits:
    """The limits of a worker's model calls. ``model_limits`` are by model or by address (DSPEX_MODEL_LIMITS)."""

    def __init__(self, buckets: Buckets, budgets: Budgets, model_limits: Mapping[str, ModelLimits]) -> None:
        self._buckets = buckets
        self._budgets = budgets
        self._model_limits = {
            name: Bucket(f"model:{name}", limits.concurrency, limits.per_minute, limits.tokens_per_minute)
            for name, limits in model_limits.items()
        }
        self._lines: defaultdict[tuple[Bucket, ...], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._freed = asyncio.Event()
        self._held: dict[str, Sequence[Bucket]] = {}
        self._waiting: Counter[str] = Counter()
        self._throttled_until: dict[str, float] = {}
        self._renewing: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._giving: asyncio.Task[None] | None = None
        self._gives: asyncio.Queue[Callable[[], Awaitable[None]] | None] = asyncio.Queue()
        self._callbacks: list[Callable[[], None]] = []

    def on_freed(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` each time that a program may no longer be throttled."""
        self._callbacks.append(callback)

    def start(self) -> None:
        self._renewing = asyncio.create_task(self._renew())
        self._giving = asyncio.create_task(self._give_all())

    async def close(self) -> None:
        self._closing.set()
        self._gives.put_nowait(None)
        for task in (self._renewing, self._giving):
            if task is not None:
                await task
        await self._buckets.close()

    def of(self, program: Program, budget: str | None = None) -> CallLimits | None:
        """The limits of this program's calls; None when there are none. ``budget`` is the name of another budget that
        they are paid from, beside the program's."""
        limits = program.limits
        own = [Bucket(f"program:{program.name}", tokens_per_minute=limits.tokens_per_minute)]
        if limits.tokens_per_minute is None:
            own = []
        if not own and limits.max_cost_usd is None and not self._model_limits and budget is None:
            return None
        of_program = self._budgets if limits.max_cost_usd is not None else None
        of_other = None if budget is None else OtherBudget(budget, self._budgets)
        return CallLimits(self, program, own, of_program, of_other)

    def throttled(self, program: str) -> bool:
        """Whether another execution of this program would only wait here."""
        if self._waiting.get(program, 0) >= WAITING_MOST:
            return True
        return time.monotonic() < self._throttled_until.get(program, 0.0)

    def buckets_of(self, program: Program, model: str) -> list[Bucket]:
        """The buckets of the model and of the address that the program calls."""
        names = dict.fromkeys((model, program.model, program.api_base))
        return [self._model_limits[name] for name in names if name in self._model_limits]

    async def take(self, program: str, buckets: Sequence[Bucket], tokens: int, *, patience: float) -> Permit:
        """Wait in line for a permit. Raises Deferred when that takes more than ``patience`` seconds."""
        permit = Permit(self, buckets, tokens)
        self._waiting[program] += 1
        try:
            async with asyncio.timeout(patience), self._lines[tuple(buckets)]:
                await self._take(permit)
        except BaseException as error:
            permit.give(answer=None)  # Redis may have counted it although its reply was lost
            if isinstance(error, TimeoutError):
                raise self.deferred(program, permit.why, permit.wait_seconds) from None
            raise
        finally:
            self._waiting[program] -= 1
            self._announce()
        return permit

    def deferred(self, program: str, code: str, wait_seconds: float) -> Deferred:
        """Make the error that hands an attempt back, and begin no other attempt of the program here for as long."""
        least, most = DELAY_SECONDS
        seconds = min(max(wait_seconds, least), most) * random.uniform(1.0, 1.25)  # noqa: S311
        self._throttled_until[program] = time.monotonic() + seconds
        asyncio.get_running_loop().call_later(seconds, self._announce)
        return Deferred(WHY[code], code=code, delay_seconds=round(seconds, 3))

    def _announce(self) -> None:
        for callback in self._callbacks:
            callback()

    def give(self, permit: Permit, correction: int) -> None:
        """The call is over. Redis is updated in the background; if that fails, the call's lease ends."""
        self._held.pop(permit.id, None)
        give = partial(self._buckets.give, permit.buckets, permit.id, second=permit.second, correction=correction)
        self._gives.put_nowait(give)

    async def _take(self, permit: Permit) -> None:
        while True:
            self._freed.clear()
            try:
                taken = await self._buckets.take(permit.buckets, permit.id, tokens=permit.tokens)
            except (redis.RedisError, OSError) as error:
                permit.why, permit.wait_seconds = "limits_unknown", DELAY_SECONDS[0]
                log.debug("cannot ask Redis for the limits: %s", error)
                if isinstance(error, redis.ResponseError):
                    REDIS_TROUBLE.note("counting model calls", error)
                await asyncio.sleep(ASK_AGAIN_SECONDS)
                continue
            REDIS_TROUBLE.clear("counting model calls")
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise asyncio.CancelledError  # Redis' client may have swallowed it
            if taken.wait_seconds == 0:
                permit.second = taken.second
                self._held[permit.id] = permit.buckets
                return
            permit.why, permit.wait_seconds = "rate_limited_locally", taken.wait_seconds
            if taken.wait_seconds > PERMIT_WAIT_SECONDS:
                raise TimeoutError
            # A call of this worker that ends frees a place at once; a place freed by another worker is found by asking.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(taken.wait_seconds, ASK_AGAIN_SECONDS)):
                    await self._freed.wait()

    async def _give_all(self) -> None:
        while (give := await self._gives.get()) is not None:
            await _try(give)
            self._freed.set()

    async def _renew(self) -> None:
        while not self._closing.is_set():
            await _try(self._buckets.begin)
            await _try(partial(self._buckets.renew, dict(self._held)))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), LEASE_SECONDS / 3)


WHY = {
    "rate_limited_locally": "a limit of its program or its model is reached: the attempt is handed back and made later",
    "limits_unknown": "Redis, which counts model calls, is out of reach: the attempt is handed back and made later",
    "budget_reserved": "the rest of its program's budget is reserved by calls under way: the attempt is made later",
    "budget_exceeded": "its program's budget is spent and the program is paused: deploy it with a higher "
    "limits.max_cost_usd and resume it",
}


class Permit:
    """A counted call: its buckets, its tokens, and the second of Redis' clock in which it was counted."""

    def __init__(self, permits: Permits, buckets: Sequence[Bucket], tokens: int) -> None:
        self.id = uuid4().hex
        self.buckets = buckets
        self.tokens = tokens
        self.second = 0
        #: Why the call waits, and for about how long.
        self.why = "rate_limited_locally"
        self.wait_seconds = 0.0
        self._permits = permits

    def give(self, answer: Answer | None) -> None:
        used = self.tokens if answer is None else answer.prompt_tokens + answer.completion_tokens
        self._permits.give(self, used - self.tokens)


class OtherBudget:
    """A budget that is not a program's: of an evaluation. When it is spent, what needs more of it fails for good."""

    def __init__(self, name: str, budgets: Budgets) -> None:
        self._name = name
        self._budgets = budgets

    @asynccontextmanager
    async def reserve(self, model: str, expected: Estimate, call: PermittedCall) -> AsyncIterator[None]:
        """As :meth:`Budgets.reserve`. Raises ModelError ``evaluation_budget_spent`` when it is spent."""
        try:
            async with self._budgets.reserve(self._name, model, expected, call):
                yield
        except Deferred as error:
            if error.code == "budget_exceeded":
                raise ModelError(
                    f"{self._name}: its budget is spent, and the call is not made",
                    code="evaluation_budget_spent", retryable=False, model=model,
                ) from None  # fmt: skip
            raise Deferred(WHY[error.code], code=error.code, delay_seconds=DELAY_SECONDS[0]) from None


class CallLimits:
    """The limits of one program's calls."""

    def __init__(
        self,
        permits: Permits,
        program: Program,
        own: Sequence[Bucket],
        budgets: Budgets | None,
        other: OtherBudget | None = None,
    ) -> None:
        self._other = other
        self._permits = permits
        self._program = program
        self._own = own
        self._budgets = budgets

    @asynccontextmanager
    async def permit(self, model: str, estimate: Callable[[], Estimate] | None) -> AsyncIterator[PermittedCall]:
        """Wait until a call may be made, and count it until the block ends.

        Raises Deferred when that takes too long or the budget has no room for it, and ModelError when its price is
        not known.
        """
        expected = estimate() if estimate else UNKNOWN_ESTIMATE
        buckets = [*self._own, *self._permits.buckets_of(self._program, model)]
        permit: Permit | None = None
        if buckets:
            # An attempt with little time is handed back before it is over.
            patience = min(PERMIT_WAIT_SECONDS, self._program.timeout / 2)
            permit = await self._permits.take(self._program.name, buckets, expected.tokens, patience=patience)
        call = PermittedCall()
        try:
            async with self._within_budget(model, expected, call), self._within_other(model, expected, call):
                yield call
        finally:
            if permit is not None:
                permit.give(call.answer)

    async def reserve_for_wait(
        self, id: UUID, execution_id: UUID, model: str, estimate: Callable[[], Estimate] | None
    ) -> None:
        """Reserve what a call through a batch API may cost. Limits of rate do not hold for it; the provider has some.

        Raises Deferred, and ModelError (``price_unknown``).
        """
        if self._budgets is None:
            return
        expected = estimate() if estimate else UNKNOWN_ESTIMATE
        try:
            await self._budgets.reserve_for_wait(id, execution_id, self._program.name, model, expected)
        except Deferred as error:
            raise self._permits.deferred(self._program.name, error.code, 0.0) from None

    @asynccontextmanager
    async def _within_budget(self, model: str, expected: Estimate, call: PermittedCall) -> AsyncIterator[None]:
        if self._budgets is None:
            yield
            return
        try:
            async with self._budgets.reserve(self._program.name, model, expected, call):
                yield
        except Deferred as error:
            raise self._permits.deferred(self._program.name, error.code, 0.0) from None

    @asynccontextmanager
    async def _within_other(self, model: str, expected: Estimate, call: PermittedCall) -> AsyncIterator[None]:
        if self._other is None:
            yield
            return
        async with self._other.reserve(model, expected, call):
            yield


async def _try(update: Callable[[], Awaitable[None]]) -> None:
    try:
        await update()
    except (redis.RedisError, OSError) as error:
        log.debug("cannot update the count of model calls in Redis: %s", error)
