"""A response that is sent part by part. How many there are at a time is bounded, and so is the wait for a reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping

from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from dspex.serve.access.principal import Principal
from dspex.serve.gateway import Gateway

__all__ = ["BoundedStream"]

#: The most that is sent at once, which a reader has to take in time.
PIECE_BYTES = 256 * 1024


class BoundedStream(StreamingResponse):
    """Sends the parts of a generator, and closes it. A reader that takes nothing for too long is disconnected.

    So is one whose key ends: before the end of the response, so that what it has is not taken for all of it.
    ``principal`` is None for parts that end with the key themselves.
    """

    def __init__(
        self,
        gateway: Gateway,
        principal: Principal | None,
        parts: AsyncGenerator[bytes, None],
        media_type: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        gateway.streams.require()
        super().__init__(_pieces(parts), headers=headers, media_type=media_type)
        self._gateway = gateway
        self._principal = principal
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":  # nothing is sent, so nothing is read
            await self._parts.aclose()
            head = Response(status_code=self.status_code)
            head.raw_headers = self.raw_headers
            await head(scope, receive, send)
            return
        seconds = self._gateway.settings.serve_read_seconds

        async def send_soon(message: Message) -> None:
            """Send within bounds: a reader that takes nothing would hold its slot for ever."""
            try:
                async with asyncio.timeout(seconds):
                    await send(message)
            except TimeoutError:
                raise ClientDisconnect from None

        try:
            with self._gateway.streams.take():
                if self._principal is None:
                    await super().__call__(scope, receive, send_soon)
                    return
                async with self._gateway.access.while_in_force(self._principal):
                    await super().__call__(scope, receive, send_soon)
        except ClientDisconnect:
            return
        finally:
            await self._parts.aclose()


async def _pieces(parts: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async for part in parts:
        if len(part) <= PIECE_BYTES:
            yield part
            continue
        for begin in range(0, len(part), PIECE_BYTES):
            yield part[begin : begin + PIECE_BYTES]
