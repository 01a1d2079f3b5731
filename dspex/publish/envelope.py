"""The message envelope: the content of a message in Redis.

A message carries ids and nothing else. Postgres holds the state, so a lost, repeated or forged message can at worst
make a worker look for an execution that does not exist. The envelope is versioned, because producers and workers are
upgraded at different times, and checksummed, because a damaged id would look like any other.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from dspex.errors import MessageRefused

__all__ = ["MAX_IDS", "VERSION", "message_size", "pack", "unpack"]

VERSION = 1
#: The most execution ids in one message.
MAX_IDS = 100
#: Besides, a message carries at most 1/SLOTS_PART of what the smallest worker runs at once.
SLOTS_PART = 2


def message_size(count: int, *, workers: int, smallest: int, least: int) -> int:
    """How many of ``count`` executions travel in one message, to ``workers`` of which the smallest runs ``smallest``.

    Of what is published together, each worker should get ``least`` messages.

    A message costs its worker as much CPU as several executions that do nothing, so larger messages are better; but no
    worker should receive what another has room for.
    """
    share = math.ceil(count / (max(workers, 1) * least))
    return max(min(share, smallest // SLOTS_PART, MAX_IDS), 1)


def pack(ids: Sequence[UUID]) -> dict[str, Any]:
    """The envelope for these executions (1 to MAX_IDS): ``{"v": 1, "ids": [hex, …], "sum": crc32}``."""
    if not 1 <= len(ids) <= MAX_IDS:
        raise ValueError(f"an envelope carries 1 to {MAX_IDS} ids, not {len(ids)}")
    texts = [id.hex for id in ids]
    return {"v": VERSION, "ids": texts, "sum": _checksum(texts)}


def unpack(envelope: object) -> list[UUID]:
    """The execution ids of an envelope. Raises MessageRefused, with the reason, for anything else."""
    if not isinstance(envelope, Mapping):
        raise MessageRefused(f"not an envelope: {type(envelope).__name__}", reason="shape")
    version = envelope.get("v")
    if version != VERSION:
        named = version if isinstance(version, int) and 0 <= version < 1000 else "unknown"
        raise MessageRefused(f"envelope version {named}, this worker reads {VERSION}; upgrade it", reason="version")
    texts = envelope.get("ids")
    if not isinstance(texts, list) or not 1 <= len(texts) <= MAX_IDS:
        raise MessageRefused(f"an envelope carries 1 to {MAX_IDS} ids", reason="size")
    if not all(isinstance(text, str) for text in texts) or envelope.get("sum") != _checksum(texts):
        raise MessageRefused("the checksum does not match: the message is damaged", reason="checksum")
    try:
        return [UUID(hex=text) for text in texts]
    except ValueError:
        raise MessageRefused("an id is not a UUID", reason="ids") from None


def _checksum(texts: Sequence[str]) -> int:
    return zlib.crc32(f"{VERSION}:{','.join(texts)}".encode())
