"""Authentication of requests: a bearer's key, a user that a trusted proxy names, or none where none is needed.

A cookie of the console is accepted by the console alone (sign_in.py), so no page of another site can use it with the
HTTP interface.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import urlsplit
from uuid import UUID

import anyio
from starlette.requests import Request

from dspex.client.session import Session
from dspex.errors import BackendUnavailable
from dspex.serve.access.access_keys import KEY_PREFIX, key_hash
from dspex.serve.access.principal import LOCAL, Principal
from dspex.serve.api.problem_details import HttpRefusal
from dspex.store.operations import api_keys

__all__ = ["KEY_ENDED", "KEY_SECONDS", "AccessCheck"]

log = logging.getLogger("dspex.serve")

#: A key that was found is not looked up again for so long: a revoked one is accepted at most as much longer.
KEY_SECONDS = 5.0
#: Why a response ends whose key does.
KEY_ENDED = "the key is no longer in force"
#: The most keys that are remembered.
MOST_KEPT = 10_000
#: The names by which a browser of this machine reaches a gateway that needs no key. Any other name may be another
#: site's, made to lead here.
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class AccessCheck:
    """Finds who sends a request. ``is_open``: requests of this machine need no key."""

    def __init__(self, session: Session, *, is_open: bool) -> None:
        self.is_open = is_open
        self._session = session
        self._settings = session.settings
        self._proxies = [ipaddress.ip_network(name) for name in self._settings.serve_trusted_proxies]
        self._known: dict[bytes, tuple[float, Principal | None]] = {}

    async def of_request(self, request: Request) -> Principal:
        """Who sends this request to the HTTP interface. Raises HttpRefusal."""
        self.check_site(request)
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return await self.of_key(text.strip())
        found = self.without_key(request)
        if found is None:
            raise _unauthenticated("send Authorization: Bearer KEY; `dspex keys create` makes a key")
        return found

    def without_key(self, request: Request) -> Principal | None:
        """Who sends a request that has no key: a proxy's user, or any client of this machine; None for all others."""
        if (user := self._proxy_user(request)) is not None:
            return Principal(f"user {user}", frozenset(self._settings.serve_user_scopes))
        return LOCAL if self.is_open else None

    async def of_key(self, text: str) -> Principal:
        """The bearer of this key. Raises HttpRefusal for one that is not in force."""
        found = await self.find(text)
        if found is None:
            raise _unauthenticated("the key is unknown, expired or revoked")
        return found

    async def find(self, text: str) -> Principal | None:
        """The bearer of this key, if it is in force."""
        if not text.startswith(KEY_PREFIX):
            return None
        digest = key_hash(text)
        return await self._remembered(digest, lambda: self._find(digest))

    async def by_id(self, id: UUID) -> Principal | None:
        """The bearer of the key with this id, if it is in force."""
        return await self._remembered(id.bytes, lambda: self._get(id))

    async def is_in_force(self, principal: Principal) -> bool:
        """Whether what this principal began may go on. It may while Postgres cannot be asked: it would begin again."""
        try:
            return principal.key_id is None or await self.by_id(principal.key_id) is not None
        except BackendUnavailable:
            return True

    @asynccontextmanager
    async def while_in_force(self, principal: Principal) -> AsyncIterator[anyio.CancelScope]:
        """Cancel the block when the key of this principal ends. The scope says afterwards whether it did."""
        with anyio.CancelScope() as scope:
            watch = asyncio.create_task(self._end_with_key(scope, principal))
            try:
                yield scope
            finally:
                watch.cancel()

    async def _end_with_key(self, scope: anyio.CancelScope, principal: Principal) -> None:
        is_over = False
        while not is_over:
            await asyncio.sleep(KEY_SECONDS)
            is_over = not await self.is_in_force(principal)
        log.info("%s: what it was sent has ended: %s", principal.name, KEY_ENDED)
        scope.cancel()

    def check_site(self, request: Request) -> None:
        """Raise HttpRefusal for a request that a page of another site made a browser send."""
        host = request.headers.get("host", "")
        if self.is_open and _host_name(host) not in LOCAL_HOSTS:
            detail = f"without keys only {', '.join(sorted(LOCAL_HOSTS))} are accepted as host names"
            raise HttpRefusal(403, "foreign_host", detail)
        origin = request.headers.get("origin")
        if request.method in SAFE_METHODS or origin is None or origin in self._settings.serve_cors_origins:
            return
        if _site(origin) != host:
            raise HttpRefusal(403, "foreign_origin", f"requests from pages of {origin[:200]} are not accepted")

    def _proxy_user(self, request: Request) -> str | None:
        header = self._settings.serve_user_header
        if header is None or request.client is None:
            return None
        try:
            peer = ipaddress.ip_address(request.client.host)
        except ValueError:
            return None
        if not any(peer in network for network in self._proxies):
            return None
        return request.headers.get(header, "").strip()[:200] or None

    async def _remembered(self, key: bytes, find: Callable[[], Principal | None]) -> Principal | None:
        now = time.monotonic()
        at, known = self._known.get(key, (0.0, None))
        if key in self._known and now - at < KEY_SECONDS:
            return known
        found = await self._session.driver.call(find)
        if len(self._known) >= MOST_KEPT:
            self._known.clear()
        self._known[key] = now, found
        return found

    def _find(self, digest: bytes) -> Principal | None:
        found = self._session.database.run(partial(api_keys.find, hash=digest))
        return None if found is None else Principal.of_key(found, digest)

    def _get(self, id: UUID) -> Principal | None:
        found = self._session.database.run(partial(api_keys.get, id=id))
        return None if found is None else Principal.of_key(*found)


def _unauthenticated(detail: str) -> HttpRefusal:
    return HttpRefusal(401, "not_authenticated", detail, headers={"WWW-Authenticate": 'Bearer realm="dspex"'})


def _site(origin: str) -> str | None:
    """The host and port of an origin; None for what is none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _host_name(host: str) -> str:
    """The name or address in a Host header; empty for what is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "") if "@" not in host else ""
    except ValueError:
        return ""
