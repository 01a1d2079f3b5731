"""A transport whose replies are checked before lm15 reads them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

from lm15.sse import SSEEvent, aparse_sse
from lm15.transports import TransportRequest
from lm15.transports._types import LineSplitter

from workers.lm.replies.error_body import read_error
from workers.lm.replies.error_rules import AUTHENTICATION, REDIRECT, SERVER, UNREADABLE
from workers.lm.replies.reply_fault import ReplyFault
from workers.lm.replies.reply_forms import ReplyForm, StreamCheck, fault_of
from workers.lm.replies.retry_after import asked_delay

__all__ = ["CheckedReply", "CheckedTransport", "RawReply", "Transport"]

_REQUEST_IDS = ("x-request-id", "request-id", "x-amzn-requestid", "x-ms-request-id", "apim-request-id")
_DONE = "[DONE]"


class RawReply(Protocol):
    """A reply as it comes."""

    http_version: str
    status: int
    reason: str
    headers: list[tuple[str, str]]

    async def read(self) -> bytes: ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...


class Transport(Protocol):
    """The HTTP transport that lm15's clients expect."""

    def stream(self, request: TransportRequest) -> AbstractAsyncContextManager[RawReply]: ...


class CheckedTransport:
    """Sends requests of one protocol. ``env_keys``: the variables that may hold the key, for errors."""

    def __init__(self, transport: Transport, form: ReplyForm, *, provider: str, env_keys: Sequence[str] = ()) -> None:
        self._transport = transport
        self._form = form
        self._provider = provider
        self._env_keys = tuple(env_keys)

    @asynccontextmanager
    async def stream(self, request: TransportRequest) -> AsyncIterator[CheckedReply]:
        """Raises ReplyFault while the reply is read, if it is no answer."""
        async with self._transport.stream(request) as reply:
            checked = CheckedReply(reply, self._form)
            try:
                yield checked
            except ReplyFault as fault:
                self._complete(fault, reply)
                raise

    def _complete(self, fault: ReplyFault, reply: RawReply) -> None:
        """Add what the head of the reply says."""
        found = {name.lower(): value for name, value in reply.headers}
        fault.provider = self._provider
        fault.status = reply.status
        fault.request_id = next((found[name] for name in _REQUEST_IDS if found.get(name)), None)
        fault.retry_after = asked_delay(reply.headers)
        if fault.rule is AUTHENTICATION:
            fault.env_keys = self._env_keys


class CheckedReply:
    """A reply that raises ReplyFault, while it is read, if it is no answer. What it gives is in the form that lm15
    reads."""

    http_version = "HTTP/1.1"

    def __init__(self, reply: RawReply, form: ReplyForm) -> None:
        self.status = reply.status
        self.reason = reply.reason
        self.headers = reply.headers
        self._reply = reply
        self._form = form

    async def read(self) -> bytes:
        """The whole body."""
        body = await self._reply.read()
        if self.status >= 300:
            raise self._failure(body)
        return json.dumps(self._form.whole(_object(body))).encode()

    async def aiter_lines(self) -> AsyncIterator[bytes]:
        """The lines of a stream of events. A whole reply becomes one."""
        if self.status >= 300:
            raise self._failure(b"")
        lines = LineSplitter.aiterate(self._reply)
        first = await _first_line(lines)
        if _is_json(first):
            body = first + b"".join([line async for line in lines])
            for event in self._whole_as_events(body):
                for line in _lines(event):
                    yield line
            return
        check = StreamCheck(self._form)
        async for raw in aparse_sse(_framed(first, lines)):
            for line in _checked(check, raw):
                yield line
        check.end()

    def _whole_as_events(self, body: bytes) -> Iterator[dict[str, Any]]:
        data = _json(body)
        if isinstance(data, list):  # Gemini streams an array unless it is asked for events
            check = StreamCheck(self._form)
            yield from filter(None, map(check.event, data))
            check.end()
        else:
            yield from self._form.events(_object(body))

    def _failure(self, body: bytes) -> ReplyFault:
        if self.status < 400:
            return ReplyFault(rule=REDIRECT)
        found = read_error(body)
        return ReplyFault(found.text, rule=found.rule(self.status), provider_code=found.code)


async def _first_line(lines: AsyncIterator[bytes]) -> bytes:
    """The first line that says something."""
    async for line in lines:
        if line.strip(b"\xef\xbb\xbf \t\r\n"):
            return line.removeprefix(b"\xef\xbb\xbf")
    return b""


async def _framed(first: bytes, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The lines. JSON that stands outside of an event becomes one: a gateway writes an error into a stream."""
    for line in _frame(first):
        yield line
    async for line in lines:
        for part in _frame(line):
            yield part


def _frame(line: bytes) -> tuple[bytes, ...]:
    return (b"\n", b"data: " + line, b"\n") if line.startswith(b"{") else (line,)


def _checked(check: StreamCheck, raw: SSEEvent) -> Iterator[bytes]:
    if raw.data.strip() == _DONE:
        check.end()
        yield from (b"data: [DONE]\n", b"\n")
        return
    is_error = raw.event == "error"
    try:
        body = json.loads(raw.data, parse_constant=_nothing)
    except (ValueError, RecursionError):
        if check.is_finished or not raw.data.strip():
            return
        if is_error:
            raise fault_of(raw.data, SERVER) from None
        raise ReplyFault(rule=UNREADABLE) from None
    event = check.event(body, is_error=is_error)
    if event is not None:
        yield from _lines(event)


def _lines(event: dict[str, Any]) -> tuple[bytes, bytes]:
    return b"data: " + json.dumps(event).encode() + b"\n", b"\n"


def _is_json(line: bytes) -> bool:
    return line.lstrip()[:1] in (b"{", b"[")


def _object(body: bytes) -> dict[str, Any]:
    data = _json(body)
    if not isinstance(data, dict):
        raise ReplyFault(rule=UNREADABLE)
    return data


def _json(body: bytes) -> Any:
    """Raises ReplyFault for what is no JSON. A number that JSON does not have becomes null."""
    try:
        return json.loads(body, parse_constant=_nothing)
    except (ValueError, RecursionError):
        raise ReplyFault(rule=UNREADABLE) from None


def _nothing(_: str) -> None:
    return None
