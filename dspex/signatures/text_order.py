"""Text of users and models as people are shown it: it reads in the order in which it is stored."""

from __future__ import annotations

import html
import re

__all__ = ["REVERSING", "escaped", "unreversed"]

#: Marks that reverse the order of the characters after them, also where these are the page's own: the inside of a
#: class of characters.
REVERSING = "\u202a-\u202e\u2066-\u2069"
_MARKS = re.compile(f"[{REVERSING}]")


def unreversed(text: str) -> str:
    """The text without the marks that have a reader see another order of characters than there is."""
    return text if text.isascii() else _MARKS.sub("", text)


def escaped(text: str) -> str:
    """The text as HTML, in the order in which it is stored."""
    return html.escape(unreversed(text))
