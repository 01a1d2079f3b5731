"""URLs that name Redis Sentinels: ``redis+sentinel://user:password@host1:26379,host2:26379/name/0``.

``name`` is the name of the primary. The user and password are for Redis; the sentinels are used without.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

__all__ = ["SENTINEL", "Sentinels"]

SENTINEL = "redis+sentinel"
_PORT = 26379
_URL = re.compile(r"redis\+sentinel://(?P<netloc>[^/?#]*)(?P<path>[^?#]*)(\?(?P<query>[^#]*))?")
_PLACE = re.compile(r"(?P<host>\[[^\[\]]+\]|[^:\[\]]+)(:(?P<port>\d+))?")


@dataclass(frozen=True, slots=True)
class Sentinels:
    """The parts of a sentinel URL."""

    hosts: tuple[tuple[str, int], ...]
    name: str
    db: int
    username: str | None
    password: str | None = field(repr=False)

    @staticmethod
    def of(url: str) -> Sentinels | None:
        """Parse a sentinel URL; None for any other URL. Raises ValueError for an invalid one."""
        parts = _URL.match(url)
        if parts is None:
            return None
        credentials, _, places = parts["netloc"].rpartition("@")
        username, _, password = credentials.partition(":")
        name, _, db = parts["path"].strip("/").partition("/")
        if not name or not places:
            raise ValueError(f"must be {SENTINEL}://user:password@host:26379,host:26379/name-of-the-primary/0")
        if parts["query"]:
            raise ValueError(f"{SENTINEL}:// takes no parameters")
        if not (db or "0").isdigit():
            raise ValueError("must end with the number of a database of Redis, such as /0")
        return Sentinels(
            tuple(_place(place) for place in places.split(",")), name, int(db or 0),
            unquote(username) or None, unquote(password) or None,
        )  # fmt: skip

    @property
    def access(self) -> dict[str, Any]:
        """Connection arguments for the primary."""
        return {"db": self.db, "username": self.username, "password": self.password}


def _place(text: str) -> tuple[str, int]:
    """The host, without the brackets of an IPv6 address, and the port."""
    found = _PLACE.fullmatch(text)
    if found is None:
        raise ValueError("contains a sentinel that is not host:port; IPv6 addresses are written in brackets")
    return found["host"].strip("[]"), int(found["port"] or _PORT)
