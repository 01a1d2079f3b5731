"""Budgets: what a program may spend, reserved in Postgres before each call and settled after it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

from psycopg.rows import tuple_row
from uuid_utils.compat import uuid7

from dspex.errors import DspexError, ModelError
from dspex.store.lifecycle import budgets
from dspex.store.lifecycle.budgets import Reservation
from workers.adapters.contract import Answer, Estimate
from workers.attempt.batcher import Batcher, Connection
from workers.attempt.retry_policy import Deferred

__all__ = ["Budgets", "PermittedCall"]

log = logging.getLogger("dspex.workers")

#: Failures after which a call may have been billed: the answer may have been on its way.
UNCERTAIN = frozenset({"model_timeout"})

#: The part of an ordinary call's price that a call through a batch API costs.
BATCH_SHARE = 0.5

#: A reservation, and the cost of its call; None: the reserved amount.
_Ended = tuple[UUID, float | None]


class PermittedCall:
    """A call under way within limits: what it used is counted by its ``answer``, once there is one."""

    def __init__(self) -> None:
        self.answer: Answer | None = None

    def answered(self, answer: Answer) -> None:
        self.answer = answer


class Budgets:
    """Reserves and settles, over two connections that are opened only for programs with a budget."""

    def __init__(self, database_url: str, worker_id: Callable[[], UUID]) -> None:
        self._worker_id = worker_id
        self._reserve: Batcher[Reservation, str | None] = Batcher("reserve", database_url, self._reserve_all)
        self._settle: Batcher[_Ended, None] = Batcher("spend", database_url, _settle_all)
        self._settling: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        await asyncio.gather(*self._settling, return_exceptions=True)
        await self._reserve.close()
        await self._settle.close()

    @asynccontextmanager
    async def reserve(self, program: str, model: str, expected: Estimate, call: PermittedCall) -> AsyncIterator[None]:
        """Reserve what a call may cost, and settle what it did cost when the block ends.

        Raises Deferred when the budget has no room for it, and ModelError (``price_unknown``) when the price is not
        known.
        """
        if expected.cost_usd is None:
            raise _price_unknown(program, model)
        reservation = Reservation(uuid7(), program, expected.cost_usd)
        reserving = self._reserve.add(reservation)
        cost: float | None = 0.0
        try:
            if refused := await asyncio.shield(reserving):
                raise Deferred(code=refused, delay_seconds=0.0)
            cost = None  # a call that is ended while it is under way may be billed
            yield
            cost = call.answer.cost_usd if call.answer else None
        except DspexError as error:
            cost = None if error.code in UNCERTAIN else 0.0
            raise
        finally:
            # A call that is cancelled does not wait for it.
            task = asyncio.create_task(self._end(reserving, reservation.id, cost))
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)

    async def reserve_for_wait(
        self, id: UUID, execution_id: UUID, program: str, model: str, expected: Estimate
    ) -> None:
        """Reserve what a call through a batch API may cost, until it is answered. Raises as :meth:`reserve` does."""
        if expected.cost_usd is None:
            raise _price_unknown(program, model)
        usd = expected.cost_usd * BATCH_SHARE
        if refused := await self._reserve.add(Reservation(id, program, usd, execution_id)):
            raise Deferred(code=refused, delay_seconds=0.0)

    async def _end(self, reserving: asyncio.Future[str | None], id: UUID, cost: float | None) -> None:
        if await reserving is None:
            await self._settle.add((id, cost))

    async def _reserve_all(self, connection: Connection, reservations: Sequence[Reservation]) -> list[str | None]:
        """For each reservation: None, or the reason of the refusal."""
        parameters = budgets.reserve_parameters(reservations, self._worker_id())
        async with connection.cursor(row_factory=tuple_row) as cursor:
            rows = await (await cursor.execute(budgets.RESERVE, parameters)).fetchall()
        answers: dict[UUID, str | None] = {}
        for id, granted, exhausted, paused_reason in rows:
            answers[id] = None if granted else "budget_exceeded" if exhausted else "budget_reserved"
            if paused_reason:
                name = next(r.program for r in reservations if r.id == id)
                log.error("program %r is paused: %s", name, paused_reason)
        return [answers.get(r.id, "budget_exceeded") for r in reservations]


def _price_unknown(program: str, model: str) -> ModelError:
    return ModelError(
        f"{program!r} has a budget, and the price of model {model!r} is not known: no call is made. "
        "Use a model with a known price, or no budget (limits.max_cost_usd, budget_usd)",
        code="price_unknown", retryable=False, model=model,
    )  # fmt: skip


async def _settle_all(connection: Connection, ended: Sequence[_Ended]) -> list[None]:
    await connection.execute(budgets.SETTLE, budgets.settle_parameters(ended))
    return [None] * len(ended)
