"""Redis channels and streams that carry ids and events of executions."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import Any, overload
from uuid import UUID

import redis
import redis.asyncio

from dspex.errors import MessageRefused

__all__ = ["CANCEL_CHANNEL", "DONE_CHANNEL", "publish_ids", "read_ids", "stream_key"]

#: The ids of executions that reached a terminal status, separated by spaces.
DONE_CHANNEL = "dspex:done"
#: The ids of running executions that are to be cancelled, separated by spaces.
CANCEL_CHANNEL = "dspex:cancel"
#: Several times the size of the largest message.
BYTES_MOST = 1024 * 1024


@overload
def publish_ids(client: redis.asyncio.Redis, channel: str, ids: Iterable[UUID]) -> Awaitable[int]: ...
@overload
def publish_ids(client: redis.Redis, channel: str, ids: Iterable[UUID]) -> int: ...
def publish_ids(client: Any, channel: str, ids: Iterable[UUID]) -> Any:
    """Publish execution ids on a channel, with a blocking or an asynchronous client.

    Returns the number of subscribers. Raises redis.RedisError, OSError.
    """
    return client.publish(channel, " ".join(map(str, ids)))


def read_ids(data: object) -> list[UUID]:
    """The execution ids in a message of a channel. Raises MessageRefused, with the reason, for anything else."""
    if not isinstance(data, bytes):
        raise MessageRefused("a message of a channel is bytes", reason="shape")
    if len(data) > BYTES_MOST:
        raise MessageRefused(f"it has {len(data)} bytes, more than {BYTES_MOST}", reason="size")
    try:
        return [UUID(text) for text in data.decode("ascii").split()]
    except ValueError:
        raise MessageRefused("an id is not a UUID", reason="ids") from None


def stream_key(id: UUID) -> str:
    """The Redis key of an execution's stream."""
    return f"dspex:stream:{id}"
