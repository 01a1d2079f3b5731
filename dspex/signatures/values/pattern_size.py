"""The size of a regular expression, which its matching time grows with.

Values are matched by the regex crate of Rust, whose time is linear in the length of the text. Its factor is the number
of states of the pattern: ``(a{100}){100}`` has 10,000 of them and reads 100,000 characters in 2.4 s.
"""

from __future__ import annotations

import re

__all__ = ["MOST_STATES", "pattern_size"]

#: A pattern of this size reads a megabyte in about 0.3 s.
MOST_STATES = 1_000

#: A repetition, a group's beginning or end, an escape, or one character, all in one scan without backtracking.
_TOKEN = re.compile(
    r"\{\s*+(?P<least>\d*+)\s*+(?P<open>,\s*+(?P<most>\d*+)\s*+)?\}|(?P<group>\()|(?P<end>\))|(?P<set>\[)"
    r"|(?P<repeat>[*+?|])|(?P<aside>[\s#])|\\[pPxuU]\{[^}]{0,100}\}|\\.|.",
    re.DOTALL,
)
_VERBOSE = re.compile(r"\(\?[a-zA-Z]*x")
_IN_SET = re.compile(r"\\.|[\[\]]|[^\\\[\]]++", re.DOTALL)


def pattern_size(pattern: str) -> int:
    """How many characters, character sets and groups it has when its repetitions are written out."""
    sizes = [0]  # of each group that is open, the pattern itself first
    last = 0  # of the part that a repetition repeats
    at = 0
    verbose = _VERBOSE.search(pattern) is not None
    while at < len(pattern):
        token = _TOKEN.match(pattern, at)
        assert token is not None
        at = token.end()
        if token["least"] is not None:
            times = max(_number(token["least"]) + (token["open"] is not None), _number(token["most"]), 1)
            last, sizes[-1] = last * times, sizes[-1] + last * (times - 1)
        elif token["group"]:
            sizes.append(1)
            last = 0
        elif token["end"] and len(sizes) > 1:
            last = sizes.pop()
            sizes[-1] += last
        elif token["aside"] and verbose:  # a repetition may follow that belongs to what is before it
            last = max(last, 1)
            sizes[-1] += 1
            at = at if token[0] != "#" else (pattern.find("\n", at) + 1 or len(pattern))
        elif not token["repeat"]:
            at = _end_of_set(pattern, at) if token["set"] else at
            last = 1
            sizes[-1] += last
    return sum(sizes)


def _number(digits: str | None) -> int:
    """The number of times; any that is too large for a pattern is enough."""
    significant = (digits or "").lstrip("0")
    return int(significant[:9] or 0) if len(significant) < 10 else 10**9


def _end_of_set(pattern: str, at: int) -> int:
    """Where the set ends whose bracket is before ``at``. Sets may stand inside of sets."""
    if pattern.startswith("^", at):
        at += 1
    if pattern.startswith("]", at):  # the first one is a character
        at += 1
    depth = 1
    while depth and at < len(pattern):
        token = _IN_SET.match(pattern, at)
        if token is None:  # a backslash at the end
            return len(pattern)
        at = token.end()
        depth += {"[": 1, "]": -1}.get(token[0], 0)
    return at
