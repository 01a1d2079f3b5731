"""Waiting for executions to finish: one subscription for all the waits of a client.

Workers publish the ids of finished executions on ``dspex:done``. An id is only a hint: a watch collects ids to look up
in Postgres. Most waits are for one execution: these are looked up here, all of a message with one statement, so that
each caller is woken once, with its row. Hints can be lost, so every few seconds, and after each new subscription, every
watch is marked stale: its caller then looks up all its executions. The latest ids are remembered: a wait for what this
client has just submitted needs no look-up before its hint. Two threads do this: one listens to Redis, and the other
marks watches stale, whatever happens to the first. In the asynchronous client two tasks do it (loop_waiter.py). They
end when nothing has waited for a few minutes, because each message of the channel takes a listening client some CPU.
The next wait begins again.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self
from uuid import UUID

import redis

from dspex.errors import DspexError, MessageRefused
from dspex.publish.broker import Broker
from dspex.publish.channels import DONE_CHANNEL, read_ids
from dspex.publish.refused_data import RefusedData
from dspex.store.lifecycle.batch_ids import batch_number

__all__ = ["FinalWatch", "Hints", "Row", "Waiter", "Wanted", "Watch", "Watches"]

Row = Mapping[str, Any]

#: How often watches are marked stale, with and without Redis.
POLL_SECONDS = 5.0
POLL_SECONDS_WITHOUT_REDIS = 0.5
#: The pause after a failed subscription.
RECONNECT_SECONDS = 5.0
#: A client that has not waited for so long stops listening.
IDLE_SECONDS = 300.0
#: The most hints a watch keeps for a slow caller. Beyond that it drops them and is marked stale.
HINTS_MOST = 10_000
#: The most ids that are remembered for watches that begin after their hint.
REMEMBERED_MOST = 10_000

log = logging.getLogger("dspex")


#: The watches that want the final row of an execution, by its id.
Wanted = Mapping[UUID, Sequence["FinalWatch"]]


class Hints(NamedTuple):
    """``ids`` may be final by now; when ``stale``, any watched execution may be."""

    ids: Sequence[UUID]
    stale: bool


class Watch:
    """The hints for one waiting caller, within a ``with`` block.

    ``ids`` name executions, or a batch for all of its executions. ``wake`` is called at each hint.
    ``since``: none of these executions was final at this time of the monotonic clock.
    """

    def __init__(
        self, watches: Watches, ids: Iterable[UUID], wake: Callable[[], None], since: float | None = None
    ) -> None:
        #: The ids as numbers, which are found faster.
        self.numbers = [id.int for id in ids]
        self.since = since
        self._watches = watches
        self._wake = wake
        self._lock = threading.Lock()
        self._hinted: list[UUID] = []
        self._stale = False
        self._ended = False

    def __enter__(self) -> Self:
        try:
            self._watches.add(self)
        except BaseException:  # this thread is interrupted
            self._watches.remove(self)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._watches.remove(self)

    def begin(self, hinted: Sequence[UUID] | None) -> None:
        """Begin with these hints, which came before; None when some may have been lost."""
        self._hinted, self._stale = list(hinted or ()), hinted is None

    def take(self) -> Hints:
        """The hints since the last call. Raises DspexError once the client is closed."""
        with self._lock:
            if self._ended:
                raise self._closed()
            hints = Hints(self._hinted, self._stale)
            self._hinted, self._stale = [], False
            return hints

    def _closed(self) -> DspexError:
        return DspexError("the client was closed while it waited; the executions go on", code="client_closed")

    def hint(self, ids: Sequence[UUID]) -> None:
        with self._lock:
            if len(self._hinted) + len(ids) > HINTS_MOST:
                self._hinted, self._stale = [], True
            else:
                self._hinted.extend(ids)
        self._wake()

    def go_stale(self) -> None:
        """Mark the watch stale: hints may have been lost."""
        with self._lock:
            self._stale = True
        self._wake()

    def end(self) -> None:
        with self._lock:
            self._ended = True
        self._wake()


class FinalWatch(Watch):
    """The hints for a caller that waits for one execution, and its ``row`` once it was looked up and is final."""

    row: Row | None = None

    def _closed(self) -> DspexError:
        id = str(UUID(int=self.numbers[0]))
        message = f"the client was closed while it waited for execution {id}, which goes on: see `dspex show {id}`"
        return DspexError(message, code="client_closed", execution_id=id)

    def give(self, row: Row) -> None:
        self.row = row
        self._wake()


class Watches:
    """Hands the hints of ``dspex:done`` to watches, and final rows. Listening begins with a watch, and ends when there
    has been none for :data:`IDLE_SECONDS`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watches: defaultdict[int, list[Watch]] = defaultdict(list)
        self._listens = False
        self._ended = False
        #: The end of the last watch, by the monotonic clock.
        self._idle_since = 0.0
        self._subscribed = False
        #: The latest ids of the channel, each with its time, and since when they are all of them.
        self._remembered: dict[int, float] = {}
        self._complete_since = math.inf
        #: The messages of the channel that are not ids.
        self.refused = RefusedData(DONE_CHANNEL, log)

    def watch(self, ids: Iterable[UUID], wake: Callable[[], None], *, since: float | None = None) -> Watch:
        """A watch over these executions, or over a batch."""
        return Watch(self, ids, wake, since)

    def watch_final(self, id: UUID, wake: Callable[[], None], *, since: float | None = None) -> FinalWatch:
        """:meth:`watch` for one execution, whose row is looked up here."""
        return FinalWatch(self, [id], wake, since)

    def add(self, watch: Watch) -> None:
        """Let the watch have hints from now on."""
        with self._lock:
            watch.begin(self._hints_since(watch.since, watch.numbers))
            for number in watch.numbers:
                self._watches[number].append(watch)
            if self._ended:
                watch.end()
            elif not self._listens:
                self._begin()
                self._listens = True

    def remove(self, watch: Watch) -> None:
        with self._lock:
            for number in watch.numbers:
                others = self._watches[number]
                if watch in others:
                    others.remove(watch)
                if not others:
                    del self._watches[number]
            if not self._watches:
                self._idle_since = time.monotonic()

    def _may_rest(self) -> bool:
        """Whether to stop listening, because nothing has waited for long. The next watch begins to listen again."""
        if self._watches or time.monotonic() - self._idle_since < IDLE_SECONDS:
            return False
        with self._lock:
            if self._watches:
                return False
            self._listens = self._subscribed = False
            self._remembered.clear()
            self._complete_since = math.inf
            return True

    def _hints_since(self, since: float | None, numbers: Iterable[int]) -> list[UUID] | None:
        """The hints for these ids since then; None if some may have been lost or forgotten. With the lock."""
        if since is None or since < self._complete_since:
            return None
        return [UUID(int=number) for number in numbers if number in self._remembered]

    def _remember(self, ids: Iterable[UUID]) -> None:
        """With the lock."""
        now = time.monotonic()
        for id in ids:
            self._remembered.pop(id.int, None)  # in the order of their times
            self._remembered[id.int] = now
        while len(self._remembered) > REMEMBERED_MOST:
            self._complete_since = self._remembered.pop(next(iter(self._remembered)))

    def _forget(self, since: float) -> None:
        """Forget the hints so far; they are complete ``since`` then."""
        with self._lock:
            self._remembered.clear()
            self._complete_since = since

    def end(self) -> None:
        """End every wait."""
        with self._lock:
            self._ended = True
        for watch in self._all():
            watch.end()

    def _begin(self) -> None:
        """Begin to listen, and to mark watches stale. With the lock."""
        raise NotImplementedError

    def _take(self, kind: str, data: object) -> Wanted:
        """Take a message of the subscription. Returns the executions to look up."""
        if kind == "subscribe":
            self._subscribed = True
            self._forget(time.monotonic())
            self._poll()  # hints published before the subscription were lost
        elif kind == "message":
            try:
                ids = read_ids(data)
            except MessageRefused as error:
                self.refused.note(error.details["reason"])
            else:
                return self._hint(ids)
        return {}

    def _lose(self, error: Exception) -> None:
        """The subscription ended."""
        self._subscribed = False
        self._forget(math.inf)
        if isinstance(error, redis.RedisError | OSError):
            log.warning("waiting without Redis, by asking Postgres: %s", error)
        else:  # the server does not keep to Redis' protocol
            log.warning("waiting without Redis, by asking Postgres: its reply is unreadable: %r", type(error))

    def _poll(self) -> None:
        for watch in self._all():
            watch.go_stale()

    def _all(self) -> set[Watch]:
        with self._lock:
            return {watch for watches in self._watches.values() for watch in watches}

    def _hint(self, ids: Sequence[UUID]) -> Wanted:
        hints: defaultdict[Watch, list[UUID]] = defaultdict(list)
        wanted: defaultdict[UUID, list[FinalWatch]] = defaultdict(list)
        with self._lock:
            self._remember(ids)
            for id in ids:
                for number in (id.int, batch_number(id.int)):
                    for watch in self._watches.get(number, ()):
                        if isinstance(watch, FinalWatch):
                            wanted[id].append(watch)
                        else:
                            hints[watch].append(id)
        for watch, hinted in hints.items():
            watch.hint(hinted)
        return wanted

    def _give(self, wanted: Wanted, rows: Iterable[Row]) -> None:
        """Give their rows to those that wait for them."""
        for row in rows:
            for watch in wanted[row["id"]]:
                watch.give(row)

    def _leave(self, wanted: Wanted) -> None:
        """Leave it to the callers to look them up: each gets the error, too."""
        for id, watches in wanted.items():
            for watch in watches:
                watch.hint([id])


class Waiter(Watches):
    """Listens in threads. ``finals`` returns the rows of the executions that are final."""

    def __init__(self, broker: Broker, finals: Callable[[Sequence[UUID]], Sequence[Row]]) -> None:
        super().__init__()
        self._broker = broker
        self._finals = finals
        #: Ends the threads that listen now.
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def close(self) -> None:
        """End the threads and every wait."""
        self.end()
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=5)

    def _begin(self) -> None:
        self._stop.set()  # a thread that was interrupted here may have started some
        self._stop = threading.Event()
        self._threads = []
        for name, run in (("waiter", self._listen_always), ("waiter-poll", self._poll_always)):
            thread = threading.Thread(target=run, args=(self._stop,), name=f"dspex-{name}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _poll_always(self, stop: threading.Event) -> None:
        polled_at = time.monotonic()
        while not stop.wait(POLL_SECONDS_WITHOUT_REDIS):
            if not self._subscribed or time.monotonic() - polled_at >= POLL_SECONDS:
                self._poll()
                polled_at = time.monotonic()

    def _listen_always(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                self._listen(stop)
            except Exception as error:
                if stop.is_set():  # others may listen already
                    return
                self._lose(error)
                if self._may_rest():
                    stop.set()
                stop.wait(RECONNECT_SECONDS)

    def _listen(self, stop: threading.Event) -> None:
        with self._broker.client(health_check_interval=10) as client, client.pubsub() as pubsub:
            pubsub.subscribe(DONE_CHANNEL)
            while not stop.is_set():
                message = pubsub.get_message(timeout=0.5)
                if message is not None:
                    self._look_up(self._take(message["type"], message["data"]))
                if self._may_rest():
                    stop.set()

    def _look_up(self, wanted: Wanted) -> None:
        if wanted:
            try:
                rows = self._finals(list(wanted))
            except Exception:
                self._leave(wanted)
            else:
                self._give(wanted, rows)
