"""Sessions of Postgres and their settings, directly or through pgbouncer.

``?pgbouncer=true`` in a URL declares pgbouncer in transaction mode: each transaction may then use another session, so
no statement is prepared, and no options are set that pgbouncer would refuse. The time zone is one of the few that it
passes on.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

__all__ = ["IN_UTC", "is_pooled", "libpq_url", "session_arguments"]

PARAMETER = "pgbouncer"
#: The first statement of a pooled session: times are read in UTC.
IN_UTC = "SET timezone TO 'UTC'"


def is_pooled(url: str) -> bool:
    """Whether the URL declares pgbouncer."""
    return dict(parse_qsl(urlsplit(url).query)).get(PARAMETER, "").lower() in ("true", "1", "yes")


def libpq_url(url: str) -> str:
    """The URL without the parameters that only DSPex reads."""
    parts = urlsplit(url)
    if PARAMETER not in parts.query:
        return url
    query = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name != PARAMETER]
    return urlunsplit(parts._replace(query=urlencode(query, safe="/:,")))


def session_arguments(url: str, **settings: str) -> dict[str, Any]:
    """Arguments for psycopg: the time zone and these settings, where a session lasts as long as the connection.

    On a connection that :func:`is_pooled` run IN_UTC first.
    """
    if is_pooled(url):
        return {"prepare_threshold": None}
    given = {"timezone": "UTC", **settings}
    return {"options": " ".join(f"-c {name}={value}" for name, value in given.items())}
