"""CSV in blocks of whole records, counted without their cells.

The csv module looks at every character. Here what is in quotes is cut out, and what is left is split at its line
breaks. Where that might differ from what the csv module reads, there is no count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

__all__ = ["blocks", "line_count", "record_count"]

#: Bytes that are read at once, and the most bytes of a block: a longer row is read by the csv module.
BLOCK, LONGEST_BLOCK = 1024 * 1024, 8 * 1024 * 1024
#: What stands for a quoted cell, and for two quotes in a row.
_MARK, _PAIR = b"\x02", b"\x03"
#: Two quotes in a row are outside of the single ones at the beginning of a quoted cell, or where they are all of it.
_OPENING = re.compile(_PAIR + b"++" + _MARK + b"?")


def blocks(file: BinaryIO) -> Iterator[bytes]:
    """A file in pieces of whole lines, each with an even number of quotes. Ends before a piece that cannot be so."""
    while text := file.read(BLOCK):
        lines, size, quotes = [text], len(text), text.count(b'"')
        while (quotes % 2 or not lines[-1].endswith(b"\n")) and size <= LONGEST_BLOCK:
            if not (line := file.readline(LONGEST_BLOCK)):
                break
            lines.append(line)
            size, quotes = size + len(line), quotes + line.count(b'"')
        if quotes % 2 or size > LONGEST_BLOCK:
            return
        yield b"".join(lines)


def record_count(block: bytes, delimiter: bytes) -> int | None:
    """How many records are in a block of :func:`blocks` that begins with one, without blank lines.

    None unless each quote begins or ends a whole cell, or is doubled in one.
    """
    if _MARK in block or _PAIR in block:
        return None
    text = _MARK.join(block.replace(b'""', _PAIR).split(b'"')[::2])
    if _PAIR in text:
        text = _OPENING.sub(_MARK, text)
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    around = b"\n%b\n" % text
    begun = around.count(b"\n" + _MARK) + around.count(delimiter + _MARK)
    ended = around.count(_MARK + b"\n") + around.count(_MARK + delimiter)
    return sum(map(bool, text.split(b"\n"))) if begun == ended == text.count(_MARK) else None


def line_count(text: bytes) -> int:
    """How many line breaks are in a text: CR, LF or both."""
    return text.count(b"\n") + (text.count(b"\r") - text.count(b"\r\n") if b"\r" in text else 0)
