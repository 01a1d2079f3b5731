"""The provider's own id of a request, from the headers of its reply."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["request_id"]

_HEADERS = ("x-request-id", "request-id", "x-amzn-requestid", "x-ms-request-id", "apim-request-id")


def request_id(headers: Iterable[tuple[str, str]]) -> str | None:
    """The id for the audit trail; None if the provider gave none."""
    found = {name.lower(): value for name, value in headers}
    return next((found[name] for name in _HEADERS if found.get(name)), None)
