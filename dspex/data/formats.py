"""The formats of files with rows, by the names of the files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from dspex.errors import DspexError

__all__ = ["FORMATS", "FileFormat", "Kind", "data_refused", "format_of"]

Kind = Literal["jsonl", "csv", "tsv", "parquet"]
#: The names by which a format is given where a file's name does not show it.
FORMATS = ("jsonl", "jsonl.gz", "csv", "csv.gz", "tsv", "tsv.gz", "parquet")


@dataclass(frozen=True, slots=True)
class FileFormat:
    """The format of a file; ``compressed`` by gzip."""

    kind: Kind
    compressed: bool = False

    @property
    def delimiter(self) -> str:
        """What separates the cells of a line."""
        return "\t" if self.kind == "tsv" else ","

    def __str__(self) -> str:
        return f"{self.kind}.gz" if self.compressed else self.kind


def format_of(path: Path | str, given: str | None = None) -> FileFormat:
    """The format of a file: ``given``, or by the end of its name; JSON lines where the name does not show it."""
    parts = (given or Path(path).name).lower().split(".")
    compressed = parts[-1] == "gz"
    kind = parts[-2 if compressed and len(parts) > 1 else -1]
    for known in get_args(Kind):
        if kind == known:
            return FileFormat(known, compressed and known != "parquet")
    return FileFormat("jsonl", compressed)


def data_refused(message: str) -> DspexError:
    """The error for a file or a frame that cannot be read as rows, or cannot be written."""
    return DspexError(message, code="data_refused")
