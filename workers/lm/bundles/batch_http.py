"""HTTP for batch APIs: small JSON requests, large uploads and downloads as streams."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import aiohttp
from yarl import URL

from workers.lm.connect.http_transport import HttpTransport
from workers.lm.replies.error_body import read_error

__all__ = ["BatchHttp", "BatchRefused", "BatchUnreachable"]

#: The longest one line of results may be.
MOST_LINE_BYTES = 64 * 2**20
#: The most of a reply in JSON; Gemini's has all results.
MOST_JSON_BYTES = 256 * 2**20
#: The most that is read of a refusal.
MOST_ERROR_BYTES = 64 * 1024
#: Without a byte for so long, a connection is given up.
SILENT_SECONDS = 60.0


class BatchRefused(Exception):
    """The provider refused a request: what it was for did not happen. ``status`` is the HTTP status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"HTTP {status}: {text}" if text else f"HTTP {status}")
        self.status = status

    @property
    def is_final(self) -> bool:
        """Whether the same request will be refused again."""
        return self.status not in (401, 403, 425, 429)


class BatchUnreachable(Exception):
    """No usable answer came: what the request was for may have happened."""


class BatchHttp:
    """Requests to one provider with one key, whose headers are given. ``base`` is the address before ``/files`` …"""

    def __init__(self, transport: HttpTransport, base: str, headers: Sequence[tuple[str, str]]) -> None:
        self.base = base.rstrip("/")
        self._transport = transport
        self._headers = [(name, value) for name, value in headers if name.lower() not in _PER_REQUEST]

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The JSON object at a path. Raises BatchRefused, BatchUnreachable."""
        return await self._json("GET", path, query=query)

    async def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The JSON object that the request returns. ``body`` is JSON data, or an iterator of its bytes."""
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        return await self._json(
            "POST", path, data=data, headers={"Content-Type": "application/json", **(headers or {})}
        )

    async def upload(self, path: str, form: aiohttp.FormData) -> dict[str, Any]:
        """The JSON object that the upload of a form returns."""
        return await self._json("POST", path, data=form)

    async def lines(self, path: str) -> AsyncIterator[bytes]:
        """The lines at a path, one after the other, without the line break; also the last one without one."""
        try:
            async with self._open("GET", path) as response:
                await _refuse(response)
                rest = b""
                async for piece in response.content.iter_any():
                    *whole, rest = (rest + piece).split(b"\n")
                    for line in whole:
                        yield line
                    if len(rest) > MOST_LINE_BYTES:
                        raise BatchUnreachable(f"a line of results has more than {MOST_LINE_BYTES} bytes")
                if rest:
                    yield rest
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise BatchUnreachable(type(error).__name__) from error

    async def _json(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        data: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        try:
            async with self._open(method, path, query=query, data=data, headers=headers) as response:
                await _refuse(response)
                text = await _whole(response, MOST_JSON_BYTES)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise BatchUnreachable(type(error).__name__) from error
        if len(text) > MOST_JSON_BYTES:
            raise BatchUnreachable(f"the reply has more than {MOST_JSON_BYTES} bytes")
        try:
            found = json.loads(text)
        except ValueError:
            raise BatchUnreachable("the reply is no JSON") from None
        if not isinstance(found, dict):
            raise BatchUnreachable("the reply is no JSON object")
        return found

    def _open(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        data: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        url = URL(f"{self.base}/{path.lstrip('/')}")  # never an address in a reply: it must not get the key
        return self._transport.request(
            method, url.update_query(query) if query else url, data=data,
            headers=[*self._headers, *(headers or {}).items()], silent_seconds=SILENT_SECONDS,
        )  # fmt: skip


#: Headers of the captured request that belong to its body.
_PER_REQUEST = frozenset({"content-type", "content-length", "accept", "host"})
#: After these the request may have been carried out: the server gave up waiting, or an equal request is under way.
_UNDECIDED = frozenset({408, 409})


async def _refuse(response: aiohttp.ClientResponse) -> None:
    """Raise for an error: BatchRefused when nothing was done, else BatchUnreachable."""
    if response.status < 300:
        return
    text = read_error(await _whole(response, MOST_ERROR_BYTES)).text or ""
    if 400 <= response.status < 500 and response.status not in _UNDECIDED:
        raise BatchRefused(response.status, text[:300])
    raise BatchUnreachable(f"HTTP {response.status}")


async def _whole(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The body of a reply, which arrives in pieces; of one with more than ``most`` bytes, its beginning."""
    pieces, size = [], 0
    async for piece in response.content.iter_any():
        pieces.append(piece)
        size += len(piece)
        if size > most:
            break
    return b"".join(pieces)
