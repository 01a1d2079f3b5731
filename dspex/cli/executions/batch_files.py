"""The files of ``dspex batch``, which can be killed at any time and continued.

``OUT`` and ``ERR`` have one line for each row with the row's index, so the files themselves record which rows are
written. Lines are appended; an incomplete last line is removed. For rows that were retried, ``ERR`` is replaced by a
file without their lines, and their new outcome is appended to one of the two. ``OUT.batch`` holds the id of the batch.
The ids of its executions are derived from it, so no row is stored twice.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from dspex.errors import DspexError
from dspex.wait.completion import IndexSet

__all__ = ["BatchInput", "BatchState", "LineFile", "read_state", "refuse", "write_state"]

#: Written lines are synced to disk after so many lines or seconds.
SYNC_LINES = 1000
SYNC_SECONDS = 1.0
#: The version of the file ``OUT.batch``.
FORMAT = 1


def refuse(message: str, **details: Any) -> DspexError:
    """The error for files that do not fit the arguments of the command."""
    return DspexError(message, code="batch_refused", **details)


@dataclass(frozen=True, slots=True)
class BatchInput:
    """The input file: a JSON object on each line. ``rows`` is their number; blank lines at the end do not count."""

    path: Path
    rows: int
    sha256: str

    @classmethod
    def survey(cls, path: Path) -> BatchInput:
        """Read the file once to count and hash it."""
        digest, rows = hashlib.sha256(), 0
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                digest.update(line)
                if not line.isspace():
                    rows = number
        return cls(path, rows, digest.hexdigest())

    def lines(self, begin: int) -> Iterator[bytes]:
        """The lines from this index on."""
        with self.path.open("rb") as lines:
            for index, line in enumerate(lines):
                if index >= self.rows:
                    return
                if index >= begin:
                    yield line


@dataclass(frozen=True, slots=True)
class BatchState:
    """The batch that the output belongs to. ``submitted``: every row of the input is stored."""

    batch_id: str
    program: str
    version: str
    input_sha256: str
    ordered: bool
    submitted: bool = False


def read_state(path: Path) -> BatchState | None:
    if not path.exists():
        return None
    try:
        return BatchState(**{name: value for name, value in json.loads(path.read_bytes()).items() if name != "format"})
    except (ValueError, TypeError, AttributeError) as error:
        raise refuse(f"{path} is not the state of a batch ({error}); use --restart to begin again") from None


def write_state(path: Path, state: BatchState) -> None:
    """Replace the file atomically, and sync it to disk."""
    draft = path.with_name(path.name + ".new")
    with draft.open("w") as file:
        json.dump({"format": FORMAT, **asdict(state)}, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    _replace(path, draft)


def _replace(path: Path, draft: Path) -> None:
    """Give the draft, which is synced, the name of the file; synced to disk."""
    draft.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class LineFile:
    """A file of JSON lines, each with the ``index`` of its row. Only one process can write it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _locked(path, shown=path)
        #: Files that had this path before, still locked: another process may have opened one of them.
        self._replaced: list[BinaryIO] = []
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
            good, count = good + len(line), count + 1
        self._file.truncate(good)
        self._file.seek(0, os.SEEK_END)
        return count

    def entries(self) -> Iterator[dict[str, Any]]:
        """The lines, which :meth:`recover` has read before."""
        self._file.flush()
        with self.path.open("rb") as lines:
            yield from map(json.loads, lines)

    def remove(self, indexes: Collection[int]) -> None:
        """Take out the lines of these rows, all at once."""
        draft = self.path.with_name(self.path.name + ".new")
        draft.unlink(missing_ok=True)
        replacement = _locked(draft, shown=self.path)
        self._replaced.append(self._file)
        for entry in self.entries():
            if entry["index"] not in indexes:
                replacement.write(_line(entry))
        self._file = replacement
        self.sync()
        _replace(self.path, draft)

    def write(self, line: Mapping[str, Any]) -> None:
        self._file.write(_line(line))
        self._unsynced += 1
        if self._unsynced >= SYNC_LINES or time.monotonic() - self._synced_at > SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Sync the written lines to disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._unsynced, self._synced_at = 0, time.monotonic()

    def close(self) -> None:
        self.sync()
        for file in (self._file, *self._replaced):
            file.close()

    def _note(self, written: IndexSet, index: int, count: int) -> None:
        try:
            fresh = written.add(index)
        except IndexError:
            raise refuse(f"{self.path}, line {count + 1}, has row {index}, which the input does not have") from None
        if not fresh:
            raise refuse(f"{self.path}, line {count + 1}: row {index} is there twice")


def _locked(path: Path, *, shown: Path) -> BinaryIO:
    """The file, opened to append; locked for this process."""
    file = path.open("ab+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise refuse(f"another `dspex batch` is writing {shown}") from None
    return file


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _index(line: bytes) -> int | None:
    """The index in a line; None if the line is incomplete."""
    if not line.endswith(b"\n"):
        return None
    try:
        index = json.loads(line)["index"]
    except (ValueError, TypeError, KeyError):
        return None
    return index if isinstance(index, int) and index >= 0 else None
