"""Sessions of Postgres and their settings, directly or through pgbouncer.

DSPex gives libpq the URL as it is, in producers and workers alike, so that all of them understand it the same way. Its
own settings are added: those that a user may change come before the ``options`` of the URL, those that DSPex needs
after them.

``?pgbouncer=true`` in a URL declares pgbouncer in transaction mode: each transaction may then use another session, so
no statement is prepared, and no options are set that pgbouncer would refuse. The time zone and the encoding are among
the few settings that it passes on.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import parse_qsl

from psycopg.conninfo import conninfo_to_dict

from dspex.settings.urls import split_url

__all__ = ["IN_UTC", "connect_arguments", "is_pooled", "libpq_url"]

PARAMETER = "pgbouncer"
#: The first statement of a pooled session: times are read in UTC.
IN_UTC = "SET timezone TO 'UTC'"
#: Timeouts that are set for a role or a database are meant for other sessions: a settlement that waits for a lock must
#: not be given up. In the URL (``options=-c statement_timeout=5s``) they hold.
DEFAULTS = {
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
}
#: Statements are written for this isolation level, and times are read in UTC.
NEEDED = {"timezone": "UTC", "default_transaction_isolation": r"read\ committed"}
#: Arguments that the URL may set otherwise. A peer that vanished silently is noticed after about 10 s rather than the
#: kernel's two hours.
CONNECTION: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


def is_pooled(url: str) -> bool:
    """Whether the URL declares pgbouncer."""
    return dict(parse_qsl(split_url(url).query)).get(PARAMETER, "").lower() in ("true", "1", "yes")


def libpq_url(url: str) -> str:
    """The URL without the parameters that only DSPex reads."""
    base, _, query = url.partition("?")
    kept = "&".join(each for each in query.split("&") if each.partition("=")[0] != PARAMETER)
    return f"{base}?{kept}" if kept else base


def connect_arguments(url: str, application_name: str, **settings: str) -> dict[str, Any]:
    """Arguments for psycopg's ``connect`` besides the :func:`libpq_url`; ``settings`` are further ones of the session.

    On a connection that :func:`is_pooled` run IN_UTC first; it has no other settings.
    """
    given = conninfo_to_dict(libpq_url(url))
    return {
        "fallback_application_name": application_name,
        "client_encoding": "UTF8",
        **{name: value for name, value in CONNECTION.items() if name not in given},
        **({"prepare_threshold": None} if is_pooled(url) else {"options": _options(given.get("options"), settings)}),
    }


def _options(of_url: object, settings: dict[str, str]) -> str:
    """Command-line options of a session; of a setting that is given twice, the later value holds."""
    of_user = os.environ.get("PGOPTIONS", "") if of_url is None else str(of_url)
    return " ".join(filter(None, (_switches(DEFAULTS), of_user, _switches({**NEEDED, **settings}))))


def _switches(settings: dict[str, str]) -> str:
    return " ".join(f"-c {name}={value}" for name, value in settings.items())
