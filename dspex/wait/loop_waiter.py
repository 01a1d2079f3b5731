"""Waiting in an event loop: its tasks listen to ``dspex:done``, without a thread."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import Context
from typing import Any
from uuid import UUID

from dspex.publish import redis_clients
from dspex.publish.broker import CONNECT_TIMEOUT_SECONDS
from dspex.publish.channels import DONE_CHANNEL
from dspex.wait.hints import POLL_SECONDS, POLL_SECONDS_WITHOUT_REDIS, RECONNECT_SECONDS, Row, Wanted, Watches

__all__ = ["LoopWaiter"]


class LoopWaiter(Watches):
    """Listens in tasks of the loop in which its first watch begins. ``finals``: as for the Waiter."""

    def __init__(self, broker_url: str, finals: Callable[[Sequence[UUID]], Awaitable[Sequence[Row]]]) -> None:
        super().__init__()
        self._url = broker_url
        self._finals = finals
        self._listener: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """End the tasks and every wait."""
        self.end()
        if self._listener is not None:
            self._listener.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(self._listener, return_exceptions=True)

    def _begin(self) -> None:
        self._listener = _task(self._listen_and_poll(), "waiter")

    async def _listen_and_poll(self) -> None:
        polls = _task(self._poll_always(), "waiter-poll")
        try:
            await self._listen_always()
        finally:
            polls.cancel()
            await asyncio.wait({polls})

    async def _poll_always(self) -> None:
        polled_at = time.monotonic()
        while True:
            await asyncio.sleep(POLL_SECONDS_WITHOUT_REDIS)
            if not self._subscribed or time.monotonic() - polled_at >= POLL_SECONDS:
                self._poll()
                polled_at = time.monotonic()

    async def _listen_always(self) -> None:
        """Listen until the task is cancelled, or nothing has waited for long."""
        while not _is_cancelled():
            try:
                await self._listen()
            except Exception as error:
                if self._listener is not asyncio.current_task():  # another one listens already
                    return
                self._lose(error)
                if self._may_rest():
                    return
            else:
                return
            if not _is_cancelled():
                await asyncio.sleep(RECONNECT_SECONDS)

    async def _listen(self) -> None:
        options = {"socket_connect_timeout": CONNECT_TIMEOUT_SECONDS, "health_check_interval": 10}
        async with redis_clients.async_client(self._url, **options) as client, client.pubsub() as pubsub:
            await pubsub.subscribe(DONE_CHANNEL)
            while not _is_cancelled() and not self._may_rest():
                message = await pubsub.get_message(timeout=0.5)
                if message is not None:
                    await self._look_up(self._take(message["type"], message["data"]))

    async def _look_up(self, wanted: Wanted) -> None:
        if wanted:
            try:
                rows = await self._finals(list(wanted))
            except Exception:
                self._leave(wanted)
            else:
                self._give(wanted, rows)


def _task(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    # An empty context: the task belongs to no caller's.
    return asyncio.get_running_loop().create_task(work, name=f"dspex-{name}", context=Context())


def _is_cancelled() -> bool:
    """Whether this task is to end. redis-py turns some cancellations into its own errors, or into an empty reply."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
