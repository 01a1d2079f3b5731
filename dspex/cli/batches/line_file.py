"""A file of JSON lines, written by ``dspex batch``, which can be killed at any time and continued.

The file has one line for each row, with the row's index, so the file itself records which rows are written. Lines are
appended; an incomplete last line is removed. To take lines out, or to sort them, the file is replaced as a whole.
"""

from __future__ import annotations

import fcntl
import heapq
import json
import os
import stat
import time
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from dspex.data.cell_text import json_text
from dspex.data.replaced_file import naming, sync_directory
from dspex.errors import DspexError
from dspex.wait.completion import IndexSet

__all__ = ["LineFile", "LineStream", "Lines", "refuse"]

#: Written lines are synced to disk after so many lines or seconds.
SYNC_LINES = 1000
SYNC_SECONDS = 1.0


def refuse(message: str, **details: Any) -> DspexError:
    """The error for files that do not fit the arguments of the command."""
    return DspexError(message, code="batch_refused", **details)


class Lines(Protocol):
    """Where the lines of a batch are written."""

    def recover(self, written: IndexSet) -> int: ...
    def lines(self) -> Iterator[dict[str, Any]]: ...
    def write(self, line: Mapping[str, Any]) -> None: ...
    def sync(self) -> None: ...
    def drop(self, indexes: Container[int]) -> None: ...
    def sort(self) -> None: ...
    def clear(self) -> None: ...
    def abandon(self) -> None: ...
    def discard(self) -> None: ...
    def close(self) -> None: ...
    @property
    def is_empty(self) -> bool: ...
    @property
    def path(self) -> Path: ...


class LineStream:
    """Lines that are written to a pipe or to standard output, and cannot be read again."""

    is_empty = True

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self._file = file

    def recover(self, written: IndexSet) -> int:
        return 0

    def lines(self) -> Iterator[dict[str, Any]]:
        return iter(())

    def write(self, line: Mapping[str, Any]) -> None:
        with naming(self.path):
            self._file.write(_encoded(line))
            self._file.flush()

    def sync(self) -> None:
        """Each line is written at once."""

    def drop(self, indexes: Container[int]) -> None:
        """Nothing was written before this run."""

    def sort(self) -> None:
        """Lines are written in order, or were not to be."""

    def clear(self) -> None:
        """Nothing was written before this run."""

    def abandon(self) -> None:
        """Nothing was created."""

    def discard(self) -> None:
        """Nothing was created."""

    def close(self) -> None:
        """Its opener closes the file."""


class LineFile:
    """A file of JSON lines, each with the ``index`` of its row. Only one process can write it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._created = not path.exists()
        self._file = _locked(path)
        self._replaced: list[BinaryIO] = []  # they stay locked, for a process that opened one before
        self._last = -1
        self._in_order = True
        self._unsynced = 0
        self._synced_at = time.monotonic()

    @property
    def is_empty(self) -> bool:
        return os.fstat(self._file.fileno()).st_size == 0

    def clear(self) -> None:
        self._file.truncate(0)

    def recover(self, written: IndexSet) -> int:
        """Add the index of each line to ``written``, and remove an incomplete last line.

        Returns the number of lines. Raises DspexError if the file was not written by this command.
        """
        self._file.seek(0)
        good, count = 0, 0
        for line in self._file:
            index = _index(line)
            if index is None:
                if self._file.read(1):
                    raise refuse(f"{self.path}, line {count + 1}, was not written by dspex batch: {line[:60]!r}")
                break
            self._note(written, index, count)
            self._passed(index)
            good, count = good + len(line), count + 1
        self._file.truncate(good)
        self._file.seek(0, os.SEEK_END)
        return count

    def lines(self) -> Iterator[dict[str, Any]]:
        """The lines, each as it was written."""
        return map(json.loads, self._between(0, self._size()))

    def write(self, line: Mapping[str, Any]) -> None:
        with naming(self.path):
            self._file.write(_encoded(line))
        self._passed(line["index"])
        self._unsynced += 1
        if self._unsynced >= SYNC_LINES or time.monotonic() - self._synced_at > SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Sync the written lines to disk."""
        with naming(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
        self._unsynced, self._synced_at = 0, time.monotonic()

    def drop(self, indexes: Container[int]) -> None:
        """Take out the lines of these rows."""
        self._replace(line for line in self._between(0, self._size()) if _row(line) not in indexes)

    def sort(self) -> None:
        """Put the lines in the order of their rows: lines that were written late are merged into the others."""
        if not self._in_order:
            begins = [*self._runs(), self._size()]
            runs = [self._between(begin, end) for begin, end in pairwise(begins)]
            self._replace(heapq.merge(*runs, key=_row))
            self._in_order = True

    def discard(self) -> None:
        """Remove the file: what it records is elsewhere."""
        self.path.unlink(missing_ok=True)

    def abandon(self) -> None:
        """Remove the file if this object created it and it is empty: no batch was begun."""
        if self._created and self.is_empty:
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        try:
            self.sync()
        finally:
            for file in (self._file, *self._replaced):
                with suppress(OSError):  # what could not be written is no longer tried
                    file.close()

    def _passed(self, index: int) -> None:
        self._in_order = self._in_order and index > self._last
        self._last = index

    def _size(self) -> int:
        self.sync()
        return os.fstat(self._file.fileno()).st_size

    def _between(self, begin: int, end: int) -> Iterator[bytes]:
        """The lines from one offset to another."""
        with self.path.open("rb") as file:
            file.seek(begin)
            while begin < end:
                line = file.readline()
                begin += len(line)
                yield line

    def _runs(self) -> Iterator[int]:
        """The offsets at which a run of ascending rows begins."""
        offset, last = 0, -1
        for line in self._between(0, self._size()):
            index = _row(line)
            if offset == 0 or index < last:
                yield offset
            offset, last = offset + len(line), index

    def _replace(self, lines: Iterable[bytes]) -> None:
        """Replace the file atomically by one with these lines."""
        path = self.path.resolve()
        draft_path = path.with_name(path.name + ".new")
        draft = _locked(draft_path)
        draft.truncate(0)  # an earlier run may have been killed here
        os.fchmod(draft.fileno(), stat.S_IMODE(os.fstat(self._file.fileno()).st_mode))
        draft.writelines(lines)
        draft.flush()
        os.fsync(draft.fileno())
        draft_path.replace(path)
        sync_directory(path.parent)
        self._replaced.append(self._file)
        self._file = draft

    def _note(self, written: IndexSet, index: int, count: int) -> None:
        try:
            fresh = written.add(index)
        except IndexError:
            raise refuse(f"{self.path}, line {count + 1}, has row {index}, which the input does not have") from None
        if not fresh:
            raise refuse(f"{self.path}, line {count + 1}: row {index} is there twice")


def _encoded(line: Mapping[str, Any]) -> bytes:
    text = json_text(line, compact=True)
    return text.encode(errors="backslashreplace") + b"\n"  # a lone surrogate as JSON escapes it


def _locked(path: Path) -> BinaryIO:
    """The file, which no other process can open in this way. Raises DspexError if another has."""
    file = path.open("ab+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise refuse(f"another `dspex batch` is writing {path}") from None
    return file


def _row(line: bytes) -> int:
    return int(json.loads(line)["index"])


def _index(line: bytes) -> int | None:
    """The index in a line; None if the line is incomplete."""
    if not line.endswith(b"\n"):
        return None
    try:
        index = json.loads(line)["index"]
    except (ValueError, TypeError, KeyError):
        return None
    return index if isinstance(index, int) and index >= 0 else None
