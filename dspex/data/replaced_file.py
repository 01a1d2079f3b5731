"""Files that are replaced as a whole: a reader finds the earlier file or the complete new one."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["naming", "replacing", "sync_directory"]


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that replaces ``path`` when the block ends, synced to disk; when the block raises, nothing is replaced."""
    path = path.resolve()
    draft = path.with_name(path.name + ".new")
    try:
        with naming(path, draft), draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if path.exists():
                os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


@contextmanager
def naming(path: Path, draft: Path | None = None) -> Iterator[None]:
    """Add the name of the file to an error of the block that has none, such as the one of a full disk, or that has the
    name of the ``draft``."""
    try:
        yield
    except OSError as error:
        if not error.filename or error.filename == str(draft):
            error.filename = str(path)
        raise


def sync_directory(path: Path) -> None:
    """Sync a directory to disk, with the names of its files."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
