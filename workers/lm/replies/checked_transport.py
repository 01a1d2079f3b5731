"""A transport whose replies are checked before lm15 reads them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

from lm15.transports import TransportRequest
from lm15.transports._types import LineSplitter

from workers.lm.replies.error_body import read_error
from workers.lm.replies.error_rules import REDIRECT, SERVER, UNREADABLE
from workers.lm.replies.reply_fault import ReplyFault
from workers.lm.replies.reply_forms import ReplyForm, StreamCheck, fault_of

__all__ = ["CheckedReply", "CheckedTransport", "RawReply", "Transport"]

_MARK = b"\xef\xbb\xbf"  # some servers begin with it


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
        try:
            async with self._transport.stream(request) as reply:
                try:
                    yield CheckedReply(reply, self._form)
                except ReplyFault as fault:
                    fault.add_head(reply.status, reply.headers)
                    raise
        except ReplyFault as fault:
            fault.provider = self._provider
            if fault.rule.code == "authentication":
                fault.env_keys = self._env_keys
            raise


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
        data = _object(body)
        return _bytes(self._form.whole(data), data, body)

    async def aiter_lines(self) -> AsyncIterator[bytes]:
        """The lines of a stream of events. A whole reply becomes one."""
        if self.status >= 300:
            raise self._failure(b"")
        splitter, stream = LineSplitter(), EventStream(self._form)
        async for piece in self._reply:
            for line in splitter.feed(piece):
                for checked in stream.feed(line):
                    yield checked
        for line in (*splitter.finish(), b""):
            for checked in stream.feed(line):
                yield checked
        for checked in stream.end():
            yield checked

    def _failure(self, body: bytes) -> ReplyFault:
        if self.status < 400:
            return ReplyFault(rule=REDIRECT)
        found = read_error(body)
        return ReplyFault(found.text, rule=found.rule(self.status), provider_code=found.code)


class EventStream:
    """Checks the lines of a stream of events, one after the other."""

    def __init__(self, form: ReplyForm) -> None:
        self._form = form
        self._check = StreamCheck(form)
        self._data: list[bytes] = []
        self._is_error = False
        #: The lines of a whole reply, where a stream was asked for; None while nothing is known.
        self._whole: list[bytes] | None = None
        self._has_begun = False

    def feed(self, line: bytes) -> Iterable[bytes]:
        """The next line; returns the lines to pass on."""
        if not self._has_begun:
            line = line.removeprefix(_MARK)
            self._has_begun = bool(line.strip())
            if line.lstrip()[:1] in (b"{", b"["):
                self._whole = []
        if self._whole is not None:
            self._whole.append(line)
            return ()
        if line.startswith(b"data:"):
            self._data.append(line[5:].strip(b" \r\n"))
            return ()
        if line.startswith(b"{"):  # a gateway writes an error into the stream, without the form of an event
            return (*self._dispatched(), *self._event(line))
        if line.startswith(b"event:"):
            self._is_error = line[6:].strip() == b"error"
            return ()
        return self._dispatched() if not line.strip() else ()

    def end(self) -> Iterable[bytes]:
        """The stream is over. Raises ReplyFault if it did not say why the answer ended."""
        if self._whole is None:
            self._check.end()
            return ()
        body = b"".join(self._whole)
        return [line for event in self._as_events(body) for line in _lines(json.dumps(event).encode())]

    def _dispatched(self) -> Iterable[bytes]:
        """The event that a blank line ends. Some servers leave out the blank lines: then each line is an event."""
        lines, self._data = self._data, []
        is_error, self._is_error = self._is_error, False
        data = b"\n".join(lines)
        if len(lines) > 1 and not _is_json(data):
            return [passed for line in lines for passed in self._event(line, is_error=is_error)]
        return self._event(data, is_error=is_error) if lines else ()

    def _event(self, data: bytes, *, is_error: bool = False) -> Iterable[bytes]:
        if data == b"[DONE]":
            self._check.end()
            return _lines(data)
        try:
            body = _decoded(data)
        except (ValueError, RecursionError):
            if self._check.is_finished or not data:
                return ()
            raise (fault_of(data, SERVER) if is_error else ReplyFault(rule=UNREADABLE)) from None
        event = self._check.event(body, is_error=is_error)
        return () if event is None else _lines(_bytes(event, body, data))

    def _as_events(self, body: bytes) -> Iterable[dict[str, Any]]:
        """A whole reply as events. Gemini streams an array unless it is asked for events; others an object a line."""
        lines = [line for line in body.splitlines() if line.strip()]
        data = [_json(line) for line in lines] if len(lines) > 1 and not _is_json(body) else _json(body)
        if not isinstance(data, list):
            return self._form.events(_object(body))
        found = [event for part in data if (event := self._check.event(part))]
        self._check.end()
        return found


def _lines(data: bytes) -> tuple[bytes, bytes]:
    return b"data: " + data + b"\n", b"\n"


def _bytes(checked: dict[str, Any], given: dict[str, Any], body: bytes) -> bytes:
    """The bytes of a checked body: unchanged if nothing in it was changed."""
    is_same = checked is given or checked == given
    return body if is_same and b"NaN" not in body and b"Infinity" not in body else json.dumps(checked).encode()


def _object(body: bytes) -> dict[str, Any]:
    data = _json(body)
    if not isinstance(data, dict):
        raise fault_of(data, UNREADABLE)
    return data


def _json(body: bytes) -> Any:
    """Raises ReplyFault for what is no JSON."""
    try:
        return _decoded(body)
    except (ValueError, RecursionError):
        raise ReplyFault(rule=UNREADABLE) from None


def _is_json(body: bytes) -> bool:
    try:
        _decoded(body)
    except (ValueError, RecursionError):
        return False
    return True


def _decoded(body: bytes) -> Any:
    return _JSON.decode(body.decode("utf-8-sig"))


#: A number that JSON does not have becomes null.
_JSON = json.JSONDecoder(parse_constant=lambda _: None)
