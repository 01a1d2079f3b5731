"""Forged messages, from a party that can write to Redis: none may change an execution or end a process."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

import redis
from uuid_utils.compat import uuid7

from dspex.publish.broker import QUEUE, Broker
from dspex.publish.channels import CANCEL_CHANNEL, DONE_CHANNEL, publish_ids, stream_key
from tests.chaos.history.programs import WORK

__all__ = ["FORGERIES", "Forger"]

RUBBISH = [b"\xff\xfe", b"5", b"[]", b"null", b'{"a": 1}', b"[" * 10_000, b"not an id", b"'; DROP TABLE dspex.x; --"]
STREAM_ENTRIES: list[dict[Any, Any]] = [*({"e": text} for text in RUBBISH), {"x": b"1"}]
UNKNOWN_IDS = 2000
IDS_OF_A_MESSAGE = 100


class Forger:
    """Writes to one Redis; ``ids`` are executions that exist."""

    def __init__(self, url: str) -> None:
        self.redis = redis.Redis.from_url(url)
        self.broker = Broker(url)

    def close(self) -> None:
        self.redis.close()
        self.broker.close()


def queue(forger: Forger, _ids: Sequence[UUID], chance: random.Random) -> None:
    """Texts that are not messages."""
    forger.redis.lpush(QUEUE, *chance.sample(RUBBISH, 4))


def unknown_ids(forger: Forger, _ids: Sequence[UUID], _chance: random.Random) -> None:
    """Well-formed messages of the highest priority about executions that do not exist."""
    for _ in range(UNKNOWN_IDS // IDS_OF_A_MESSAGE):
        forger.broker.publish([uuid7() for _ in range(IDS_OF_A_MESSAGE)], program=WORK, priority=0)


def replays(forger: Forger, ids: Sequence[UUID], chance: random.Random) -> None:
    """Well-formed messages about executions that run, wait or are over."""
    for _ in range(3 if ids else 0):
        forger.broker.publish(chance.sample(ids, min(IDS_OF_A_MESSAGE, len(ids))), program=WORK, priority=0)


def channels(forger: Forger, _ids: Sequence[UUID], chance: random.Random) -> None:
    """Bytes that are not ids, on both channels."""
    for text in chance.sample(RUBBISH, 4):
        forger.redis.publish(DONE_CHANNEL, text)
        forger.redis.publish(CANCEL_CHANNEL, text)


def hints(forger: Forger, ids: Sequence[UUID], _chance: random.Random) -> None:
    """Hints that executions ended, and that they are to be cancelled. Neither is true."""
    publish_ids(forger.redis, DONE_CHANNEL, ids)
    publish_ids(forger.redis, CANCEL_CHANNEL, ids)


def streams(forger: Forger, ids: Sequence[UUID], chance: random.Random) -> None:
    """Entries that no worker wrote, in the streams of the latest executions."""
    for id in ids[:20]:
        forger.redis.xadd(stream_key(id), chance.choice(STREAM_ENTRIES))


def types(forger: Forger, _ids: Sequence[UUID], _chance: random.Random) -> None:
    """A text where the queue's list is expected."""
    forger.redis.set(QUEUE, "x")


FORGERIES: Mapping[str, Callable[[Forger, Sequence[UUID], random.Random], None]] = {
    "queue": queue,
    "unknown_ids": unknown_ids,
    "replays": replays,
    "channels": channels,
    "hints": hints,
    "streams": streams,
    "types": types,
}
