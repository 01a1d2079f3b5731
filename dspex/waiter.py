"""Waiting for executions to finish: one thread and one subscription for all the waits of a client.

Workers publish the ids of what they finished on ``dspex:done``. That is only a hint: a watch yields ids to ask
Postgres about, and Postgres is asked anyway every few seconds, in case a hint was lost or Redis is away.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from uuid import UUID

import redis

from dspex.broker import DONE_CHANNEL, Broker
from dspex.errors import BackendUnavailable

__all__ = ["Waiter", "Watch"]

#: How often Postgres is asked while hints come, and while they do not.
POLL_SECONDS = 5.0
POLL_SECONDS_WITHOUT_REDIS = 0.5
#: How long a wait may go on without its subscription before it falls back on polling.
SUBSCRIBE_SECONDS = 2.0

log = logging.getLogger("dspex")


class Watch:
    """The executions that one caller waits for: those in ``waiting``."""

    def __init__(self, ids: Iterable[UUID]) -> None:
        self.waiting = set(ids)
        self._hints: queue.SimpleQueue[UUID] = queue.SimpleQueue()

    def next(self, timeout: float | None) -> set[UUID]:
        """Executions that may be final by now: what was hinted at, waiting up to ``timeout`` seconds for a first."""
        hinted: set[UUID] = set()
        with suppress(queue.Empty):
            hinted.add(self._hints.get(timeout=timeout))
            while True:
                hinted.add(self._hints.get_nowait())
        return hinted & self.waiting

    def hint(self, id: UUID) -> None:
        self._hints.put(id)


class Waiter:
    """Tells watches what may be final. ``final_among`` asks Postgres. The thread starts with the first watch."""

    def __init__(self, broker: Broker, final_among: Callable[[Collection[UUID]], Collection[UUID]]) -> None:
        self._broker = broker
        self._final_among = final_among
        self._lock = threading.Lock()
        self._watches: defaultdict[UUID, list[Watch]] = defaultdict(list)
        self._listening = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def watch(self, ids: Iterable[UUID]) -> Iterator[Watch]:
        """A watch over these executions. Ask Postgres after it has begun for those that are final already."""
        watch = Watch(ids)
        watched = tuple(watch.waiting)
        with self._lock:
            for id in watched:
                self._watches[id].append(watch)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="dspex-waiter", daemon=True)
                self._thread.start()
        self._listening.wait(SUBSCRIBE_SECONDS)
        try:
            yield watch
        finally:
            with self._lock:
                for id in watched:
                    self._watches[id].remove(watch)
                    if not self._watches[id]:
                        del self._watches[id]

    def close(self) -> None:
        """End the thread. A wait under way ends only with its own timeout."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._listen()
            except (redis.RedisError, OSError) as error:
                log.warning("waiting without Redis, by asking Postgres: %s", error)
                self._listening.set()
                self._poll_for(POLL_SECONDS)

    def _listen(self) -> None:
        with self._broker.client(health_check_interval=10) as client, client.pubsub() as pubsub:
            pubsub.subscribe(DONE_CHANNEL)
            next_poll = time.monotonic() + POLL_SECONDS
            while not self._closed.is_set():
                message = pubsub.get_message(timeout=0.5)
                if message and message["type"] == "subscribe":
                    # What finished while nobody listened was not hinted at.
                    self._poll()
                    self._listening.set()
                elif message and message["type"] == "message":
                    self._hint(UUID(text) for text in message["data"].decode().split())
                if time.monotonic() >= next_poll:
                    self._poll()
                    next_poll = time.monotonic() + POLL_SECONDS

    def _poll_for(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self._closed.wait(POLL_SECONDS_WITHOUT_REDIS):
            self._poll()

    def _poll(self) -> None:
        with self._lock:
            watched = list(self._watches)
        if watched:
            try:
                self._hint(self._final_among(watched))
            except BackendUnavailable as error:
                log.warning("%s", error)

    def _hint(self, ids: Iterable[UUID]) -> None:
        with self._lock:
            for id in ids:
                for watch in self._watches.get(id, ()):
                    watch.hint(id)
