"""Sessions of Postgres: what each is given when it begins, straight or through pgbouncer.

``?pgbouncer=true`` in a URL says that pgbouncer in transaction mode is in between: a session is then another one for
each transaction, so nothing is prepared in it, and it is given no options that pgbouncer would refuse. The time zone it
passes on, as it does with few others.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

__all__ = ["IN_UTC", "is_pooled", "libpq_url", "session_arguments"]

PARAMETER = "pgbouncer"
#: What a pooled session runs first; moments are read in UTC.
IN_UTC = "SET timezone TO 'UTC'"


def is_pooled(url: str) -> bool:
    """Whether the URL says that pgbouncer is in between."""
    return dict(parse_qsl(urlsplit(url).query)).get(PARAMETER, "").lower() in ("true", "1", "yes")


def libpq_url(url: str) -> str:
    """The URL without what only DSPex knows."""
    parts = urlsplit(url)
    if PARAMETER not in parts.query:
        return url
    query = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name != PARAMETER]
    return urlunsplit(parts._replace(query=urlencode(query, safe="/:,")))


def session_arguments(url: str, **settings: str) -> dict[str, Any]:
    """For psycopg to connect with: the time zone and these settings, where a session is one's own.

    To one that :func:`is_pooled` send IN_UTC first.
    """
    if is_pooled(url):
        return {"prepare_threshold": None}
    given = {"timezone": "UTC", **settings}
    return {"options": " ".join(f"-c {name}={value}" for name, value in given.items())}
