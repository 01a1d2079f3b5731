"""The request that an ordinary call would send, and the answer that it would get, without the call.

A provider's batch API takes the same bodies and returns the same. So both are made and read by the client of the
endpoint, with something else in the place of the network.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

from lm15 import Response
from lm15.transports import TransportRequest

from workers.lm.connect.endpoint import Endpoint
from workers.lm.connect.http_transport import stand_in
from workers.lm.replies.checked_transport import RawReply

__all__ = ["StoredReply", "read_reply", "wire_request"]


class StoredReply:
    """A reply that was read before."""

    http_version = "HTTP/1.1"
    reason = ""

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self.headers = [("content-type", "application/json")]
        self._body = body

    async def read(self) -> bytes:
        return self._body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body


class _Captured(BaseException):
    """The request is made. No Exception, so that the client does not take it for a failure of the network."""

    def __init__(self, request: TransportRequest) -> None:
        self.request = request


async def wire_request(endpoint: Endpoint, request: Mapping[str, Any]) -> TransportRequest:
    """The HTTP request of an ordinary call. Raises the errors that the client has for a request it cannot make."""
    reduced = endpoint.refused_keywords.reduced(request)
    with _instead_of_network(_capture):
        try:
            await endpoint.complete(request if reduced is None else reduced.request)
        except _Captured as captured:
            return captured.request
    raise RuntimeError(f"model {endpoint.model!r}: its client sent no request")


async def read_reply(endpoint: Endpoint, request: Mapping[str, Any], reply: StoredReply) -> Response:
    """The response to a request, from this reply. Raises what an ordinary call would raise."""
    with _instead_of_network(lambda _: reply):
        return await endpoint.complete(request)


@contextmanager
def _instead_of_network(replies: Callable[[TransportRequest], RawReply]) -> Iterator[None]:
    token = stand_in.set(replies)
    try:
        yield
    finally:
        stand_in.reset(token)


def _capture(request: TransportRequest) -> NoReturn:
    raise _Captured(request)
