"""Text of users and models on pages: it reads in the order in which it is stored."""

from __future__ import annotations

import re

__all__ = ["unreversed"]

#: Marks that reverse the order of the characters after them, also where these are the page's own.
_REVERSING = re.compile("[\u202a-\u202e\u2066-\u2069]")


def unreversed(text: str) -> str:
    """The text without the marks that have a reader see another order of characters than there is."""
    return text if text.isascii() else _REVERSING.sub("", text)
