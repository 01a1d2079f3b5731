"""Files of text as lines: gzip, encodings, byte-order marks, and lines that never end.

A fault that makes the rest of a file unreadable is a DspexError that names the file and the line.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, cast

from dspex.data.formats import data_refused

__all__ = ["LONGEST_LINE", "DamagedFile", "binary_lines", "digest", "is_utf8", "open_bytes", "open_text", "reading"]

#: The longest line, in bytes, and the longest cell, in characters. It bounds the memory for a file without line breaks.
LONGEST_LINE = 64 * 1024 * 1024
#: Bytes that are hashed at once: many, as a thread that hashes waits for Python code of others after each.
HASHED_BYTES = 4 * 1024 * 1024
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

#: What reading a damaged gzip file raises.
DamagedFile = (gzip.BadGzipFile, EOFError, zlib.error)


def digest(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    found, buffer = hashlib.sha256(), memoryview(bytearray(HASHED_BYTES))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            found.update(buffer[:size])
    return found.hexdigest()


def is_utf8(encoding: str | None) -> bool:
    """Whether an encoding is UTF-8, with or without a byte-order mark; None is."""
    return encoding is None or codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


def open_bytes(path: Path, *, compressed: bool) -> BinaryIO:
    """The bytes of a file, decompressed."""
    return cast("BinaryIO", gzip.open(path, "rb")) if compressed else path.open("rb")


def open_text(path: Path, *, compressed: bool, encoding: str | None, offset: int = 0) -> IO[str]:
    """The text of a file from a byte on, line breaks as they are. UTF-8 when ``encoding`` is None.

    A byte-order mark at the begin of the file is left out.
    """
    if encoding is None:
        _refuse_utf16(path, compressed=compressed)
    file = open_bytes(path, compressed=compressed)
    file.seek(offset)
    if is_utf8(encoding):
        encoding = "utf-8" if offset else "utf-8-sig"
    return io.TextIOWrapper(file, encoding=encoding, newline="")


def binary_lines(path: Path, *, compressed: bool) -> Iterator[bytes | None]:
    """The lines of a UTF-8 file without its byte-order mark; None for a line longer than LONGEST_LINE."""
    _refuse_utf16(path, compressed=compressed)
    with open_bytes(path, compressed=compressed) as file:
        if file.read(3) != codecs.BOM_UTF8:
            file.seek(0)
        while line := file.readline(LONGEST_LINE):
            if len(line) < LONGEST_LINE or line.endswith(b"\n"):
                yield line
            else:
                _skip_line(file)
                yield None


@contextmanager
def reading(path: Path, last_line: Callable[[], int] | None = None) -> Iterator[None]:
    """Turn what a damaged file raises in the block into a DspexError, with the number of the last line."""
    try:
        yield
    except DamagedFile as error:
        raise data_refused(f"{path}{_after(last_line)}: the gzip data is damaged or cut off ({error})") from None
    except UnicodeDecodeError as error:
        raise data_refused(
            f"{path}{_after(last_line)}: the text is not {error.encoding} ({error.reason}); name its encoding with "
            "--encoding, for example --encoding cp1252"
        ) from None


def _after(last_line: Callable[[], int] | None) -> str:
    return "" if last_line is None else f", after line {last_line()}"


def _skip_line(file: BinaryIO) -> None:
    while (part := file.readline(LONGEST_LINE)) and not part.endswith(b"\n"):
        pass


def _refuse_utf16(path: Path, *, compressed: bool) -> None:
    with reading(path), open_bytes(path, compressed=compressed) as file:
        if file.read(2) in _UTF16:
            raise data_refused(f"{path} begins like UTF-16, not UTF-8: use --encoding utf-16")
