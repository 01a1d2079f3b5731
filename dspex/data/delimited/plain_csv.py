"""CSV read in blocks of whole records by pyarrow, several times as fast as by the csv module.

Only for blocks that ``counted`` can count: there both read the same. A block with a row that has too many or too
few cells is left to the csv module.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from dspex.data.delimited.record_count import blocks, counted

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Parse", "PlainBlock", "RecordPlace", "parsed", "places", "plain_blocks"]

#: The least bytes between two places, and how many of them pyarrow parses at once: all but the first in half the time.
READ_BYTES, PARSED_BYTES = 2 * 1024 * 1024, 256 * 1024
Item = TypeVar("Item")
Made = TypeVar("Made")
#: Reads the rows of a block, or returns None.
Parse = Callable[[bytes], "pyarrow.Table | None"]


@dataclass(frozen=True, slots=True)
class RecordPlace:
    """A byte of a file at which a record begins, and how many rows and lines are before it."""

    offset: int
    row: int
    line: int


@dataclass(frozen=True, slots=True)
class PlainBlock:
    """The text between two places. ``rows`` are its rows as pyarrow reads them; None if it cannot."""

    begin: RecordPlace
    text: bytes
    rows: pyarrow.Table | None


def places(file: BinaryIO, delimiter: str, begin: RecordPlace) -> Iterator[RecordPlace]:
    """A place, and ends of blocks after it, up to a block that cannot be counted or is not UTF-8."""
    yield begin
    end = begin
    for block, parts in blocks(file):
        count = counted(parts, delimiter.encode())
        if count is None or not (block.isascii() or _is_utf8(block)):
            break
        rows, lines = count
        end = RecordPlace(end.offset + len(block), end.row + rows, end.line + lines)
        if end.offset - begin.offset >= READ_BYTES:
            yield end
            begin = end
    if end != begin:
        yield end


def plain_blocks(
    file: BinaryIO, found: Sequence[RecordPlace], begin: int, parse: Parse
) -> Generator[PlainBlock, None, None]:
    """The blocks between places, from the one with the row ``begin`` on; one is read and parsed ahead.

    The thread only parses: for each other call it would wait until Python code of the caller lets it run.
    """

    def texts() -> Iterator[tuple[RecordPlace, RecordPlace, bytes]]:
        for first, last in pairwise(found):
            if last.row > max(begin, first.row):
                file.seek(first.offset)
                yield first, last, file.read(last.offset - first.offset)

    def block(read: tuple[RecordPlace, RecordPlace, bytes]) -> PlainBlock:
        first, last, text = read
        rows = parse(text)
        return PlainBlock(first, text, rows if rows is not None and rows.num_rows == last.row - first.row else None)

    return _ahead(block, texts())


def parsed(text: bytes, delimiter: str, names: Sequence[str], columns: Sequence[str] | None) -> pyarrow.Table | None:
    """The rows of a block by pyarrow: of columns with these names some, as text."""
    from pyarrow import ArrowInvalid, BufferReader, csv, string

    if text.startswith(codecs.BOM_UTF8):  # pyarrow would leave it out
        return None
    parse = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    convert = csv.ConvertOptions(column_types=dict.fromkeys(names, string()), include_columns=columns)
    for size in (PARSED_BYTES, len(text) + 1):  # the second for a row that is longer than the first
        if b"\r" in text[size - 1 :: size]:  # of CR LF between two parts pyarrow would leave out the LF, in quotes too
            continue
        read = csv.ReadOptions(use_threads=False, block_size=size, column_names=names)
        with suppress(ArrowInvalid):  # in one call, as the thread would wait for Python code of the caller between two
            return csv.read_csv(BufferReader(text), read, parse, convert)
    return None


def _ahead(make: Callable[[Item], Made], items: Iterable[Item]) -> Generator[Made, None, None]:
    """``map`` in a thread, one item ahead. The thread has ended when the iterator is closed."""
    made: Future[Made] | None = None
    with ThreadPoolExecutor(max_workers=1) as pool:
        for item in items:
            before, made = made, pool.submit(make, item)
            if before is not None:
                yield before.result()
        if made is not None:
            yield made.result()


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
