"""The pool: Celery's task pool on one asyncio loop.

Executions run as coroutines on the loop of :class:`workers.process.runtime.Runtime`; other tasks (health checks) run
in a small thread pool. Celery's callbacks belong to the main thread, where its hub is: they go there through
``hub.call_soon``, which wakes an idle hub at once (kombu 5.7).
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from uuid import UUID

import redis
from celery.concurrency.base import BasePool, apply_target
from celery.signals import worker_shutting_down
from celery.worker import state

from dspex.publish.broker import QUEUE, TASK
from workers.attempt.executor import OnEnd, OnStart, Received
from workers.consume import redis_transport
from workers.consume.message import Message
from workers.process.fleet_pipe import EXIT_RETIRED
from workers.process.runtime import Runtime
from workers.process.watchdog import Consumption

__all__ = ["AsyncioPool"]

log = logging.getLogger("dspex.workers")

#: For tasks that are not executions: short, and seldom more than one at a time.
SIDE_THREADS = 4
#: As DSPEX_WORKER_CONCURRENCY has it.
MOST_CONCURRENCY = 10_000


class AsyncioPool(BasePool):  # type: ignore[misc]
    """``worker_pool = "workers.pool:AsyncioPool"``."""

    # Stopping waits for executions, which must not happen in a signal handler.
    signal_safe = False
    task_join_will_block = False

    #: Celery's event dispatcher, once it is connected; see workers/app.py.
    events: Any = None
    #: kombu's consumer, while Celery is connected; see workers/app.py.
    consumer: Any = None
    _hub: Any = None
    #: Whether the hub knows of the calls that wait for it.
    _called = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._calls: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()

    def on_start(self) -> None:
        from workers.app import settings

        self._told_to_stop = False
        self._threads = ThreadPoolExecutor(SIDE_THREADS, thread_name_prefix="dspex-side")
        self._runtime = Runtime(settings, concurrency=self.limit, consumption=self._consumption, on_worn=self._retire)
        self._runtime.start()
        redis_transport.on_refused = self.refuse
        worker_shutting_down.connect(self._on_shutdown_signal)

    def register_with_event_loop(self, hub: Any) -> None:
        self._hub = hub

    def grow(self, n: int = 1) -> None:
        """Run ``n`` executions more at once. Raises ValueError for what is no concurrency; Celery tells the caller."""
        self._resize(self.limit + n)

    def shrink(self, n: int = 1) -> None:
        """Run ``n`` executions fewer at once; what runs goes on. Raises ValueError as :meth:`grow` does."""
        self._resize(self.limit - n)

    def revoke(self, ids: Sequence[UUID], *, running: bool) -> None:
        """Cancel executions: queued ones, and those that run if ``running``. Raises BackendUnavailable."""
        for id in self._runtime.revoke(ids, running=running):
            self.tell("task-revoked", id, terminated=False, signum=None, expired=False)

    def on_stop(self) -> None:
        if self._state == self.RUN:
            # Celery's handler of a signal for a cold shutdown: nothing may wait in it. on_terminate comes next.
            return
        self._end()

    def on_terminate(self) -> None:
        """A cold shutdown: what runs is handed back at once. One that does not return ends as SIGKILL would."""
        self._runtime.hurry(0.0)
        self._end()

    def _end(self) -> None:
        self._hub = None  # the hub does not turn any more: callbacks are carried out where they arise
        self._make_calls()
        self._runtime.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _on_shutdown_signal(self, how: str = "Warm", **_: object) -> None:
        """The first signal gives what runs the grace period; a second one, or one for a cold shutdown, nothing."""
        at_once = self._told_to_stop or how == "Cold"
        self._told_to_stop = True
        self._runtime.hurry(0.0 if at_once else None)

    def _retire(self) -> None:
        """Have Celery stop consuming and end this process, so that another takes its place. From any thread."""
        state.should_stop = EXIT_RETIRED
        self.on_main(lambda: None)  # the hub looks when it wakes

    def _consumption(self) -> Consumption:
        if self.consumer is None:
            return Consumption.LOST
        return Consumption.ON if self.consumer.consuming_from(QUEUE) else Consumption.OFF

    def _resize(self, concurrency: int) -> None:
        if not 1 <= concurrency <= MOST_CONCURRENCY:
            raise ValueError(f"a worker runs between 1 and {MOST_CONCURRENCY} executions at once, not {concurrency}")
        self.limit = concurrency
        self._runtime.resize(concurrency)

    # Time limits of a message or a task are not looked at: an execution ends at its own deadline.
    def on_apply(
        self,
        target: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
        callback: Callable[..., Any] = lambda _: None,
        accept_callback: Callable[..., Any] = lambda _pid, _at: None,
        **_: Any,
    ) -> None:
        if args and args[0] == TASK:
            task_id, request, body, content_type = args[1:5]
            Message(self, str(task_id), request, body, str(content_type), callback, accept_callback).run()
        else:
            on_main = partial(self.on_main, callback)
            accepted = partial(self.on_main, accept_callback)
            self._threads.submit(apply_target, target, args, kwargs, on_main, accepted)

    def on_main(self, call: Callable[..., Any], *args: Any) -> None:
        """Have Celery's main thread make this call. One that fails is logged, and the others are made all the same."""
        if self._hub is None:
            _attempt(call, *args)
            return
        self._calls.append((call, args))
        if not self._called:
            self._called = True
            self._hub.call_soon(self._make_calls)

    def _make_calls(self) -> None:
        """In the order they were asked for; kombu's hub, which keeps a set, would not."""
        self._called = False  # first: what is added from now on is either made below, or calls again
        while self._calls:
            call, args = self._calls.popleft()
            _attempt(call, *args)

    def tell(self, event: str, id: UUID, **fields: Any) -> None:
        """Send an event about an execution that has no message of its own. Main thread only."""
        if self.tells:
            self.events.send(event, uuid=str(id), **fields)

    @property
    def tells(self) -> bool:
        """Whether somebody, most likely Flower, has asked for the events of tasks."""
        events = self.events
        return events is not None and events.enabled and (events.groups is None or "task" in events.groups)

    def submit(self, received: Received, on_start: OnStart, on_end: OnEnd) -> None:
        self._runtime.submit(received, on_start, on_end)

    def refuse(self, reason: str) -> None:
        """Count a message that was refused; ``reason`` is one of those of workers/consume/refusal_counts.py."""
        self._runtime.refuse(reason)

    def _get_info(self) -> dict[str, Any]:
        """What ``inspect stats`` and Flower show of the pool."""
        return {**super()._get_info(), "processes": [os.getpid()], **self._runtime.info()}


def _attempt(call: Callable[..., Any], *args: Any) -> None:
    """Make a call of Celery's. Raised into kombu's hub, its error would end the worker, and lose the calls after it."""
    try:
        call(*args)
    except (redis.RedisError, OSError) as error:  # the hub finds out by itself that the connection is lost
        log.warning("Celery was not told: %s", type(error).__name__)
    except Exception:
        log.exception("a callback of Celery's failed")
