"""HTTP for model calls: one aiohttp connection pool for all endpoints of a worker process.

lm15 builds the requests and reads the replies of each provider; it takes any object with this shape as its transport.
Why aiohttp: docs/decisions/0010-connections-to-models.md.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, Protocol
from urllib.request import getproxies, proxy_bypass

import aiohttp
import lm15
from yarl import URL

from dspex.errors import ConfigurationError
from dspex.settings import Settings
from workers.lm.replies.call_notes import current_notes
from workers.lm.replies.error_rules import UNSENDABLE
from workers.lm.replies.reply_fault import ReplyFault
from workers.lm.replies.request_ids import request_id
from workers.observe.tracing import traceparent

__all__ = ["MOST_REPLY_BYTES", "HttpTransport", "Reply", "extra_headers", "last_request_id", "stand_in"]

#: The largest reply, decompressed: an endless one would use up the memory of every execution of the worker. The longest
#: answers of models have about a megabyte, images some.
MOST_REPLY_BYTES = 32 * 2**20

#: The provider's own id of the last request made in this context, for the audit trail.
last_request_id: ContextVar[str | None] = ContextVar("last_request_id", default=None)

#: Headers that go with the request of this context, besides the provider's own.
extra_headers: ContextVar[Sequence[tuple[str, str]]] = ContextVar("extra_headers", default=())

# Deadlines belong to the loop: an attempt is cancelled when its time is over, and the connection with it.
_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=10, sock_read=None)

_SENDABLE = re.compile(r"[\t\x20-\x7e]*")

# The parent's connections in a forked child: to close them, or let them be collected, would end them for the parent.
_INHERITED: list[aiohttp.ClientSession] = []


#: Stands in for the network in this context: it gets each request and returns its reply.
stand_in: ContextVar[Callable[[Any], Any] | None] = ContextVar("stand_in", default=None)


class _Request(Protocol):
    """A request as lm15 makes it."""

    method: str
    url: str
    headers: list[tuple[str, str]]
    body: bytes


class Reply:
    """A reply as lm15 reads it: status, headers and the body, whole or line by line.

    Reading raises CollectionLimitError beyond the largest size; the connection is closed then.
    """

    http_version = "HTTP/1.1"

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self.reason = response.reason or ""
        self.headers = [(name, value) for name, value in response.headers.items()]
        self._response = response

    async def read(self) -> bytes:
        return b"".join([piece async for piece in self])

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for piece in self._response.content.iter_any():
            size += len(piece)
            if size > MOST_REPLY_BYTES:
                raise lm15.CollectionLimitError
            yield piece


class HttpTransport:
    """Connections to model endpoints, made on first use on the loop that uses them, never shared across a fork.

    The number of connections is bounded by the worker's concurrency, not here. Proxies come from the environment
    (``HTTPS_PROXY``, ``NO_PROXY``), read once per host; certificates are verified against the system's store
    (``SSL_CERT_FILE``) and ``DSPEX_CA_FILE``. aiohttp's own ``trust_env`` is off: it takes two hops through a thread
    for each request, and reads credentials from ``.netrc``, which are not ours.
    """

    def __init__(self) -> None:
        """Raises ConfigurationError for a ``DSPEX_CA_FILE`` that holds no certificate."""
        settings = Settings.load()
        self._trusted = _trusted_authorities(settings.ca_file)
        self._sends_trace = settings.trace_to_models
        self._session: aiohttp.ClientSession | None = None
        self._opened_by = 0
        self._proxies: dict[tuple[str, str], str | None] = {}

    @asynccontextmanager
    async def stream(self, request: _Request) -> AsyncIterator[Reply]:
        if (replies := stand_in.get()) is not None:
            yield replies(request)
            return
        url = URL(request.url, encoded=True)
        headers = [*request.headers, *extra_headers.get()]
        if not all(_SENDABLE.fullmatch(value) for _, value in headers):
            raise ReplyFault(rule=UNSENDABLE)
        if (notes := current_notes.get()) is not None:
            notes.url = str(url.with_user(None).with_query(None))
        if self._sends_trace and (trace := traceparent()) is not None:
            headers = [*headers, ("traceparent", trace)]
        async with self._open().request(
            request.method,
            url,
            data=request.body,
            headers=headers,
            allow_redirects=False,
            proxy=self._proxy(url),
        ) as response:
            reply = Reply(response)
            last_request_id.set(request_id(reply.headers))
            yield reply

    def request(
        self, method: str, url: URL, *, data: object, headers: Sequence[tuple[str, str]], silent_seconds: float
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """A request that is no model call, given up after so many seconds without a byte."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=silent_seconds)
        return self._open().request(
            method, url, data=data, headers=headers, timeout=timeout, allow_redirects=False, proxy=self._proxy(url)
        )

    async def aclose(self) -> None:
        """Close every connection; the next request opens new ones."""
        session, self._session = self._session, None
        if session is not None and self._opened_by == os.getpid():
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is not None and self._opened_by != os.getpid():
            _INHERITED.append(self._session)
            self._session = None
        if self._session is None:
            self._opened_by = os.getpid()
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=30, ssl=self._trusted),
                timeout=_TIMEOUT,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    def _proxy(self, url: URL) -> str | None:
        scheme, host = url.scheme, url.host or ""
        if (scheme, host) not in self._proxies:
            found = None if proxy_bypass(host) else getproxies().get(scheme)
            self._proxies[scheme, host] = found
        return self._proxies[scheme, host]


def _trusted_authorities(ca_file: os.PathLike[str] | None) -> ssl.SSLContext:
    """The context of all transports that read the same files: reading the system's store takes 30 ms."""
    places = ssl.get_default_verify_paths()
    return _context(places.cafile, places.capath, None if ca_file is None else os.fspath(ca_file))


@cache
def _context(system_file: str | None, system_directory: str | None, ca_file: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except ssl.SSLError as error:
            raise ConfigurationError(f"DSPEX_CA_FILE: {ca_file} holds no certificate in PEM form") from error
    return context
