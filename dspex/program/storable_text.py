"""Text that Postgres can store: UTF-8 without NUL."""

from __future__ import annotations

import re

__all__ = ["STORABLE", "is_storable"]

STORABLE = "text without NUL characters and lone surrogates"
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def is_storable(text: str) -> bool:
    return _UNSTORABLE.search(text) is None
