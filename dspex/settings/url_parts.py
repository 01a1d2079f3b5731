"""The parts of a URL of Postgres or Redis, which may name several hosts."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

__all__ = ["split_url"]


def split_url(url: str) -> SplitResult:
    """As ``urlsplit``, which from Python 3.14 on refuses an IPv6 address after another host."""
    scheme, separator, rest = url.partition("://")
    netloc = re.split("[/?#]", rest, maxsplit=1)[0]
    return urlsplit(scheme + separator + rest.removeprefix(netloc))._replace(netloc=netloc)
