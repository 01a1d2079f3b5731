"""Addresses of models, as programs name them."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

from dspex.errors import FieldError

__all__ = ["address_fault"]

_ADDRESS = re.compile(r"(?i:https?)://[^\s\x00-\x1f\x7f-\x9f]+")
#: Paths of requests: what is before them is the address of an API.
_ENDPOINT = re.compile(
    r"/(?:chat/completions|completions|responses|messages|embeddings|v1/models|models/[^/]+:\w+|api/(?:chat|generate))/?$"
)


def address_fault(address: object) -> FieldError | None:
    """What is wrong with an address, and the right form of it."""
    if not isinstance(address, str) or not _ADDRESS.fullmatch(address):
        return _fault("an http:// or https:// address without blanks", address)
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        return _fault("an address whose port is a number from 1 to 65535", address)
    if not parts.hostname or port == 0:
        return _fault("an address with a host, and a port from 1 to 65535 if it has one", address)
    if "#" in address:
        return _fault(f"an address without a fragment: {_shown(parts, parts.path)}", address)
    if found := _ENDPOINT.search(parts.path):
        rest = parts.path[: found.start()]
        if found.group().startswith("/v1/") or found.group().startswith("/api/"):
            rest += "/v1"
        return _fault(f"the address of the API, without the path of a request: {_shown(parts, rest)}", address)
    return None


def _shown(parts: SplitResult, path: str) -> str:
    """The address with this path, without credentials."""
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{path}{query}"


def _fault(expected: str, address: object) -> FieldError:
    return FieldError("api_base", expected, repr(address)[:80])
