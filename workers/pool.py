"""The pool: Celery's task pool on one asyncio loop.

Executions run as coroutines on the loop of :class:`workers.process.runtime.Runtime`; other tasks (health checks) run
in a small thread pool. Celery's callbacks belong to the main thread, where its hub is: they go there through
``hub.call_soon``, which wakes an idle hub at once (kombu 5.7).
"""

from __future__ import annotations

import asyncio
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
from celery.utils import log as celery_log
from celery.worker import state

from dspex.publish.broker import QUEUE, TASK
from workers.attempt.executor import OnEnd, OnStart, Received
from workers.consume import redis_transport
from workers.consume.message import Message
from workers.observe.redis_trouble import REDIS_TROUBLE
from workers.process.fleet_pipe import EXIT_RETIRED
from workers.process.runtime import Runtime
from workers.process.watchdog import Consumption

__all__ = ["AsyncioPool"]

log = logging.getLogger("dspex.workers")

#: For tasks that are not executions: short, and seldom more than one at a time.
SIDE_THREADS = 4
#: The upper limit of DSPEX_WORKER_CONCURRENCY.
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
    #: Whether the hub is scheduled to make the waiting calls.
    _scheduled = False
    #: The loop's timer for the calls that can wait.
    _timer: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._calls: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()

    def on_start(self) -> None:
        from workers.app import settings

        self._stop_requested = False
        self._threads = ThreadPoolExecutor(SIDE_THREADS, thread_name_prefix="dspex-side")
        self._runtime = Runtime(settings, concurrency=self.limit, consumption=self._consumption, on_retire=self._retire)
        self._runtime.start()
        redis_transport.on_refused = self.refuse
        worker_shutting_down.connect(self._on_shutdown_signal)

    def register_with_event_loop(self, hub: Any) -> None:
        self._hub = hub

    def grow(self, n: int = 1) -> None:
        """Run ``n`` more executions at once. Raises ValueError, which Celery reports to the caller."""
        self._resize(self.limit + n)

    def shrink(self, n: int = 1) -> None:
        """Run ``n`` fewer executions at once; running ones continue. Raises ValueError as :meth:`grow` does."""
        self._resize(self.limit - n)

    def revoke(self, ids: Sequence[UUID], *, running: bool) -> None:
        """Cancel executions: queued ones, and those that run if ``running``. Raises BackendUnavailable."""
        for id in self._runtime.revoke(ids, running=running):
            self.send_event("task-revoked", id, terminated=False, signum=None, expired=False)

    def on_stop(self) -> None:
        # Celery's handler of a signal for a cold shutdown must not wait: only its end shortens the grace period. After
        # it the main thread stops the pool or, if it was stopping it already, goes on with that.
        if not celery_log._in_sighandler:
            self._end()

    def on_terminate(self) -> None:
        """A cold shutdown: running executions are handed back at once. If that hangs, SIGKILL ends it."""
        self._runtime.hurry(0.0)
        self._end()

    def _end(self) -> None:
        self._hub = None  # the hub no longer runs: callbacks are made where they arise
        self._make_calls()
        self._runtime.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _on_shutdown_signal(self, how: str = "Warm", **_: object) -> None:
        """The first signal gives running executions the grace period; a second or a cold one gives them no time."""
        at_once = self._stop_requested or how == "Cold"
        self._stop_requested = True
        self._runtime.hurry(0.0 if at_once else None)

    def _retire(self) -> None:
        """Have Celery stop consuming and end this process, because another replaces it. From any thread."""
        state.should_stop = EXIT_RETIRED
        self.on_main(lambda: None)  # the hub reads should_stop when it wakes

    def _consumption(self) -> Consumption:
        if REDIS_TROUBLE.refuses(redis_transport.MESSAGES, redis_transport.CONNECTION):
            return Consumption.REFUSED
        if self.consumer is None:
            return Consumption.LOST
        return Consumption.ON if self.consumer.consuming_from(QUEUE) else Consumption.OFF

    def _resize(self, concurrency: int) -> None:
        if not 1 <= concurrency <= MOST_CONCURRENCY:
            raise ValueError(f"a worker runs between 1 and {MOST_CONCURRENCY} executions at once, not {concurrency}")
        self.limit = concurrency
        self._runtime.resize(concurrency)

    # Time limits of a message or a task are ignored: an execution ends at its own deadline.
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
        """Have Celery's main thread make this call. If it fails that is logged, and the other calls are still made."""
        if self._hub is None:
            _attempt(call, *args)
            return
        self._calls.append((call, args))
        if not self._scheduled:
            self._scheduled = True
            self._hub.call_soon(self._make_calls)

    def on_main_within(self, seconds: float, call: Callable[..., Any], *args: Any) -> None:
        """:meth:`on_main` together with the next call that is made, or after so many seconds. On the loop's thread.

        The main thread takes the interpreter from the loop, which may be busy now.
        """
        if self._hub is None:
            _attempt(call, *args)
            return
        self._calls.append((call, args))
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + seconds:
                return
            self._timer.cancel()
        self._timer = loop.call_later(seconds, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._calls:
            self.on_main(self._make_calls)

    def _make_calls(self) -> None:
        """Make the calls in the order of their requests; kombu's hub keeps a set and would not."""
        self._scheduled = False  # first: a call added from now on is made below, or schedules this again
        while self._calls:
            call, args = self._calls.popleft()
            _attempt(call, *args)

    def send_event(self, event: str, id: UUID, **fields: Any) -> None:
        """Send an event about an execution that has no message of its own. Main thread only."""
        if self.sends_events:
            self.events.send(event, uuid=str(id), **fields)

    def count_executions(self, name: str, more: int) -> None:
        """Add to what Celery counts as processed, in which a message of many executions is one."""
        state.total_count.update({name: more})
        state.all_total_count[0] += more

    @property
    def sends_events(self) -> bool:
        """Whether a listener, most likely Flower, has asked for the events of tasks."""
        events = self.events
        return events is not None and events.enabled and (events.groups is None or "task" in events.groups)

    def submit(self, received: Received, on_start: OnStart, on_end: OnEnd) -> None:
        self._runtime.submit(received, on_start, on_end)

    def refuse(self, reason: str) -> None:
        """Count a refused message; the reasons are listed in workers/consume/refusal_counts.py."""
        self._runtime.refuse(reason)

    def _get_info(self) -> dict[str, Any]:
        """The pool's part of ``celery inspect stats``, which Flower shows."""
        return {**super()._get_info(), "processes": [os.getpid()], **self._runtime.info()}


def _attempt(call: Callable[..., Any], *args: Any) -> None:
    """Make a call of Celery's. An error raised into kombu's hub would end the worker and lose the later calls."""
    try:
        call(*args)
    except (redis.RedisError, OSError) as error:  # the hub notices a lost connection itself
        log.warning("a callback of Celery could not reach Redis: %s", type(error).__name__)
    except Exception:
        log.exception("a callback of Celery failed")
