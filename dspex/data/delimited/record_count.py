"""CSV in blocks of whole records, counted without their cells.

The csv module looks at every character. Here what is in quotes is cut out, and what is left is split at its line
breaks. Where that might differ from what the csv module reads, there is no count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

__all__ = ["blocks", "counted"]

#: Bytes that are read at once, few so that they stay in the processor's cache, and the most bytes of a block: a longer
#: row is read by the csv module.
BLOCK, LONGEST_BLOCK = 512 * 1024, 8 * 1024 * 1024
#: What stands for a quoted cell. UTF-8 has no such byte.
_MARK = b"\xff"
#: Quotes in pairs are outside of the single ones at the beginning of a quoted cell, or where they are all of it.
_MARKS = re.compile(_MARK + b"{2,}")


def blocks(file: BinaryIO) -> Iterator[tuple[bytes, list[bytes]]]:
    """A file in pieces of whole lines with an even number of quotes, each also as its :func:`_parts`.

    Ends before a piece that cannot be so.
    """
    while text := file.read(BLOCK) + file.readline(LONGEST_BLOCK):
        if _is_open(parts := _parts(text)):
            added = _lines_to_quote(file, LONGEST_BLOCK - len(text))
            begun, *others = _parts(added)
            parts[-1:] = parts[-1] + begun, *others
            text += added
        if _is_open(parts) or len(text) > LONGEST_BLOCK:
            return
        yield text, parts


def counted(parts: list[bytes], delimiter: bytes) -> tuple[int, int] | None:
    """How many records, without blank lines, and how many lines are in a block of :func:`blocks`.

    The block is UTF-8 and begins with a record. None unless each quote begins or ends a whole cell, or is doubled in
    one.
    """
    text = _with_lf(_MARK.join(parts[::2]))
    if _MARK in text and not _are_cells(_MARKS.sub(_MARK, text).replace(delimiter, b"\n")):
        return None
    lines = text.split(b"\n")
    quoted = _with_lf(_MARK.join(parts[1::2]))
    return len(lines) - lines.count(b""), len(lines) - 1 + (quoted.count(b"\n") if b"\n" in quoted else 0)


def _with_lf(text: bytes) -> bytes:
    """A text with LF where CR, or both, end a line."""
    return text.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in text else text


def _parts(text: bytes) -> list[bytes]:
    """What is between single quotes: every second part is in quotes. Pairs of quotes are marks.

    As many marks as quotes, because ``replace`` takes half the time where the length stays.
    """
    return text.replace(b'""', _MARK + _MARK).split(b'"')


def _is_open(parts: list[bytes]) -> bool:
    return len(parts) % 2 == 0


def _lines_to_quote(file: BinaryIO, most: int) -> bytes:
    """Lines up to one with a quote that closes what is open before them, or of more than ``most`` bytes."""
    lines: list[bytes] = []
    while most >= 0 and (line := file.readline(LONGEST_BLOCK)):
        lines.append(line)
        most -= len(line)
        if line.count(b'"') % 2:
            break
    return b"".join(lines)


def _are_cells(text: bytes) -> bool:
    """Whether each mark is all that is in its line."""
    lines = b"\n%b\n" % text
    return lines.count(b"\n" + _MARK) == lines.count(_MARK + b"\n") == text.count(_MARK)
