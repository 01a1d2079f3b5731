"""Streams: the answers of running executions, published in Redis while they are written.

A stream keeps its current answer, and how much of the answer is published. One task publishes the news of all streams
together, a few times a second. When Redis is slow, away, or has lost its data, the next publish sends more, or the
whole answer again; readers skip what they have. So no attempt waits for Redis, memory holds no more than the answers
under way, and readers cost the worker nothing.

In Redis: ``dspex:stream:ID``, a Redis Stream, read by dspex/client/follow.py. Entry ids are ``ATTEMPT-NUMBER``. Redis
refuses an entry once a later attempt has written one: a worker that lost its lease cannot disturb the next.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import redis.asyncio

from dspex.publish.channels import stream_key
from dspex.publish.redis_clients import async_client
from dspex.publish.redis_refusals import is_wrong_type
from dspex.store.lifecycle.status import Status
from workers.adapters.contract import Stream, StreamedAnswer

__all__ = ["ENTRIES_MOST", "AttemptStream", "StreamWithout", "Streams"]

log = logging.getLogger("dspex.workers")

#: How long a stream is kept after its last entry.
STREAM_SECONDS = 600
#: About this many of the newest entries of a stream are kept.
ENTRIES_MOST = 10_000
#: News within this time becomes one entry.
PUBLISH_PAUSE_SECONDS = 0.04
#: A command costs the loop about 0.03 ms. After a publish, the executions have the loop for ten times as long.
PAUSE_SECONDS_PER_COMMAND = 0.0003
#: The timeout of Redis, and the pause after a failure.
REDIS_SECONDS = 2.0
REDIS_AWAY_SECONDS = 1.0

Entry = dict[str, Any]


@dataclass(slots=True)
class _StreamedField:
    """A field of the answer: the pieces of its text so far, its value once it is complete, and what is published.

    ``published`` counts the pieces, ``at`` their characters.
    """

    pieces: list[str] = field(default_factory=list)
    value: Any = None
    is_complete: bool = False
    published: int = 0
    at: int = 0
    is_published: bool = False

    def rewind(self) -> None:
        self.published, self.at, self.is_published = 0, 0, False

    def news(self, answer: int, name: str) -> Iterator[Entry]:
        if text := "".join(self.pieces[self.published :]):
            yield {"answer": answer, "field": name, "at": self.at, "text": text}
            self.published, self.at = len(self.pieces), self.at + len(text)
        if self.is_complete and not self.is_published:
            yield {"answer": answer, "field": name, "value": self.value}
            self.is_published = True


class _Answer:
    """See :class:`workers.adapters.contract.StreamedAnswer`."""

    def __init__(self, stream: AttemptStream, number: int) -> None:
        self._stream = stream
        self.number = number
        self.fields: dict[str, _StreamedField] = {}

    def text(self, field: str, more: str) -> None:
        known = self.fields.setdefault(field, _StreamedField())
        if not known.is_complete:
            known.pieces.append(more)
            self._stream.touch(self)

    def field(self, name: str, value: Any) -> None:
        known = self.fields.setdefault(name, _StreamedField())
        if not known.is_complete and _is_json(value):
            known.value, known.is_complete = value, True
            self._stream.touch(self)


def _is_json(value: Any) -> bool:
    """Whether the value can be published. A third-party adapter may give any; the result has the validated one."""
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


class AttemptStream:
    """The stream of one attempt: see :class:`workers.adapters.contract.Stream`."""

    def __init__(self, streams: Streams, id: UUID, attempt: int) -> None:
        self.id = id
        self.key = stream_key(id)
        self._streams = streams
        self._attempt = attempt
        self._numbers = itertools.count(1)
        self._answer = _Answer(self, 0)
        self._status = Status.RUNNING
        self._published_status: Status | None = None
        self.exists = False

    @property
    def is_over(self) -> bool:
        return self._status is not Status.RUNNING

    def answer(self) -> StreamedAnswer:
        self._answer = _Answer(self, self._answer.number + 1)
        return self._answer

    def end(self, status: Status | None) -> None:
        """The attempt is settled, and the execution has this status now; None when the lease was lost."""
        if status is None:
            self._streams.drop(self)
        else:
            self._status = status
            self._streams.touch(self)

    def touch(self, answer: _Answer) -> None:
        """There is news in an answer. An answer that was replaced is ignored."""
        if answer is self._answer:
            self._streams.touch(self)

    def rewind(self) -> None:
        """Redis may have lost what was published: all of it is news again."""
        self.exists = False
        self._published_status = None
        for streamed in self._answer.fields.values():
            streamed.rewind()

    def news(self) -> Iterator[tuple[str, bytes]]:
        """The entries to publish, which then count as published."""
        for entry in self._entries():
            # ASCII, because half a surrogate pair cannot be encoded as UTF-8.
            yield f"{self._attempt}-{next(self._numbers)}", json.dumps(entry, separators=(",", ":")).encode()

    def _entries(self) -> Iterator[Entry]:
        if self._published_status is None:
            yield {"status": Status.RUNNING}
            self._published_status = Status.RUNNING
        for name, streamed in self._answer.fields.items():
            yield from streamed.news(self._answer.number, name)
        if self._published_status is not self._status:
            yield {"status": self._status}
            self._published_status = self._status


class StreamWithout:
    """A stream without the fields ``hidden``: their values are sealed, and never written to Redis."""

    def __init__(self, stream: Stream, hidden: Collection[str]) -> None:
        self._stream = stream
        self._hidden = hidden

    def answer(self) -> StreamedAnswer:
        return _AnswerWithout(self._stream.answer(), self._hidden)


class _AnswerWithout:
    def __init__(self, answer: StreamedAnswer, hidden: Collection[str]) -> None:
        self._answer = answer
        self._hidden = hidden

    def text(self, field: str, more: str) -> None:
        if field not in self._hidden:
            self._answer.text(field, more)

    def field(self, name: str, value: Any) -> None:
        if name not in self._hidden:
            self._answer.field(name, value)


def _is_about_one_stream(error: redis.ResponseError) -> bool:
    """Whether a later attempt has begun, or another client wrote to the stream: nothing more is published in it."""
    return is_wrong_type(error) or "smaller than the target stream top item" in str(error)


class Streams:
    """Publishes the streams of a worker. All methods belong to the loop's thread."""

    def __init__(self, broker_url: str) -> None:
        self._redis = async_client(broker_url, socket_connect_timeout=REDIS_SECONDS, socket_timeout=REDIS_SECONDS)
        self._with_news: dict[UUID, AttemptStream] = {}
        self._has_news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_away = False

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="dspex-streams")

    async def close(self) -> None:
        """Publish the rest, unless Redis is away."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._with_news and not self._is_away:
            await self._publish()
        await self._redis.aclose()

    def open(self, id: UUID, attempt: int) -> AttemptStream:
        """The stream of an attempt that begins."""
        stream = AttemptStream(self, id, attempt)
        self.touch(stream)
        return stream

    def touch(self, stream: AttemptStream) -> None:
        """The stream has news to publish."""
        self._with_news[stream.id] = stream
        self._has_news.set()

    def drop(self, stream: AttemptStream) -> None:
        if self._with_news.get(stream.id) is stream:
            del self._with_news[stream.id]

    async def _run(self) -> None:
        while True:
            await self._has_news.wait()
            pause = await self._publish() * PAUSE_SECONDS_PER_COMMAND
            await asyncio.sleep(REDIS_AWAY_SECONDS if self._is_away else max(PUBLISH_PAUSE_SECONDS, pause))

    async def _publish(self) -> int:
        """Publish the news of every stream. Returns the number of commands."""
        self._has_news.clear()
        streams, self._with_news = list(self._with_news.values()), {}
        pipeline = self._redis.pipeline(transaction=False)
        sent = []
        for stream in streams:
            for id, entry in stream.news():
                pipeline.xadd(
                    stream.key, {"e": entry}, id=id, maxlen=ENTRIES_MOST, approximate=True, nomkstream=stream.exists
                )
                sent.append(stream)
            pipeline.expire(stream.key, STREAM_SECONDS)
            sent.append(stream)
        try:
            replies = await pipeline.execute(raise_on_error=False)
        except (redis.RedisError, OSError) as error:
            self._failed(streams, error)
        else:
            self._is_away = False
            self._answered(sent, replies)
        return len(sent)

    def _answered(self, sent: Sequence[AttemptStream], replies: Sequence[Any]) -> None:
        """Check the reply to each command: it is None for an entry of a stream that is gone."""
        lost, refusal = {}, None
        for stream, reply in zip(sent, replies, strict=True):
            stream.exists = True
            if reply is None or reply is False or reply == 0:
                lost[stream.id] = stream
            elif isinstance(reply, redis.ResponseError):
                log.debug("stream of %s: %s", stream.id, reply)
                if not _is_about_one_stream(reply):
                    lost[stream.id], refusal = stream, reply
        if refusal is not None:  # Redis is full, or a replica
            self._failed([*lost.values()], refusal)
            return
        for stream in lost.values():
            stream.rewind()
            if stream.id not in self._with_news:
                self.touch(stream)

    def _failed(self, streams: Sequence[AttemptStream], error: Exception) -> None:
        """Try again later with the streams of running attempts. Readers of the others find the end in Postgres."""
        if not self._is_away:
            log.warning("streams: Redis is out of reach or refuses entries, publishing resumes later: %s", error)
        self._is_away = True
        for stream in streams:
            stream.rewind()
            if not stream.is_over:
                self.touch(stream)
