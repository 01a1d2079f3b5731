"""The input of ``dspex batch``, and the file ``OUT.batch``, with which an interrupted run is continued.

``OUT.batch`` holds the id of the batch. The ids of its executions are derived from it, so no row is stored twice.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from dspex.cli.executions.line_file import refuse, sync_directory

__all__ = ["BatchInput", "BatchState", "read_state", "write_state"]

#: The version of the file ``OUT.batch``.
FORMAT = 1


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
    draft.replace(path)
    sync_directory(path.parent)
