"""The events of an execution as server-sent events.

The format is a few lines of text, so it is written here. Each event's id is its cursor: a client that reconnects sends
the last one it received, and the stream goes on there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import anyio

from dspex.client.execution import AsyncExecution
from dspex.client.follow import StreamEvent, position
from dspex.client.shown.event_data import event_data
from dspex.serve.access.access_check import KEY_ENDED, KEY_SECONDS
from dspex.serve.access.principal import Principal
from dspex.serve.api.bounded_stream import BoundedStream
from dspex.serve.api.json_replies import json_bytes
from dspex.serve.gateway import Gateway
from dspex.signatures import Signature

__all__ = ["PING_SECONDS", "event_stream", "sent_event"]

MEDIA_TYPE = "text/event-stream"
#: How often a line without meaning is sent while nothing happens: proxies close connections that carry nothing.
PING_SECONDS = 15.0
#: How often a stream looks whether it may go on: its key, and the server.
CHECK_SECONDS = 1.0
#: After how many milliseconds a client reconnects.
RECONNECT_MS = 1000
PING = b": nothing new\n\n"
_NO_STORE = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


async def event_stream(
    gateway: Gateway, principal: Principal, execution: AsyncExecution, after: str | None
) -> BoundedStream:
    """The events after a cursor. The stream ends with the execution, with its key, or with the server.

    Raises ValidationError for an invalid cursor, HttpRefusal when too many streams are open.
    """
    position(after)
    signature = await gateway.call(gateway.session.signature, execution._row)
    lines = _lines(gateway, principal, execution, signature, after)
    return BoundedStream(gateway, None, lines, MEDIA_TYPE, _NO_STORE)


def sent_event(kind: str, data: Mapping[str, Any], id: str | None = None) -> bytes:
    """An event as it is sent. JSON has no line breaks, so its data is one line."""
    head = f"id: {id}\n" if id is not None else ""
    return f"{head}event: {kind}\ndata: ".encode() + json_bytes(data) + b"\n\n"


async def _lines(
    gateway: Gateway, principal: Principal, execution: AsyncExecution, signature: Signature, after: str | None
) -> AsyncGenerator[bytes, None]:
    yield f"retry: {RECONNECT_MS}\n\n".encode()
    sent_at = checked_at = time.monotonic()
    async with aclosing(_with_pauses(execution, after)) as events:
        async for event in events:
            now = time.monotonic()
            if gateway.stopping:
                return
            if now - checked_at >= KEY_SECONDS:
                checked_at = now
                if not await gateway.access.is_in_force(principal):
                    yield sent_event("closed", {"code": "not_authenticated", "detail": KEY_ENDED})
                    return
            if event is not None:
                data = event_data(event, signature, hidden=signature.secret_fields)
                yield sent_event(event.kind, data, event.cursor)
                sent_at = now
            elif now - sent_at >= PING_SECONDS:
                yield PING
                sent_at = now


async def _with_pauses(execution: AsyncExecution, after: str | None) -> AsyncGenerator[StreamEvent | None, None]:
    """The events, and None each second in which there is none."""
    async with aclosing(execution.stream(after=after)) as events:
        waiting: asyncio.Task[StreamEvent] | None = None
        try:
            while True:
                if waiting is None:
                    waiting = asyncio.ensure_future(anext(events))
                done, _ = await asyncio.wait({waiting}, timeout=CHECK_SECONDS)
                if not done:
                    yield None
                    continue
                try:
                    event = waiting.result()
                except StopAsyncIteration:
                    return
                finally:
                    waiting = None
                yield event
        finally:
            if waiting is not None:
                waiting.cancel()
                # A reader that is gone has cancelled this task, too: the events are closed only once none is awaited.
                with anyio.CancelScope(shield=True):
                    await asyncio.wait({waiting})
