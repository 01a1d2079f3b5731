"""The rows of a Parquet upload. Parquet is read from its end, so the upload is kept in a file without a name."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from dspex.data.input_columns import InputColumns
from dspex.data.parquet_file import ParquetFile, need_pyarrow
from dspex.errors import ConfigurationError
from dspex.serve.api.problem_details import HttpRefusal
from dspex.serve.api.row_upload import UPLOAD
from dspex.signatures import Signature
from dspex.submit.bulk import Row
from dspex.wait.driver import Driver

__all__ = ["PARQUET", "PARQUET_TYPES", "parquet_rows", "require_parquet", "spooled"]

PARQUET = "application/vnd.apache.parquet"
PARQUET_TYPES = frozenset({PARQUET, "application/x-parquet", "application/parquet"})
#: So many bytes are written at once.
PART_BYTES = 1024 * 1024


def require_parquet(status: int, code: str) -> None:
    """Raise HttpRefusal with this status and code where Parquet cannot be read and written."""
    try:
        need_pyarrow()
    except ConfigurationError as error:
        raise HttpRefusal(status, code, f"this gateway cannot: {error}") from None


@asynccontextmanager
async def spooled(driver: Driver, parts: AsyncIterator[bytes]) -> AsyncIterator[Path]:
    """A path to the bytes of a body. The file has no name: it is gone with the block, or with the process.

    Raises HttpRefusal when the disk is full.
    """
    with tempfile.TemporaryFile(prefix="dspex-upload-", buffering=0) as file:
        try:
            held, size = [], 0
            async for part in parts:
                held.append(part)
                size += len(part)
                if size >= PART_BYTES:
                    await driver.block(partial(_write, file, held))
                    held, size = [], 0
            await driver.block(partial(_write, file, held))
        except OSError as error:
            detail = f"the gateway cannot keep the upload: {os.strerror(error.errno or 0)}"
            raise HttpRefusal(503, "no_space", detail, headers={"Connection": "close"}) from None
        yield Path(f"/dev/fd/{file.fileno()}")


def _write(file: Any, parts: Sequence[bytes]) -> None:
    left = memoryview(b"".join(parts))
    while left:
        left = left[file.write(left) :]


def parquet_rows(path: Path, signature: Signature) -> Iterator[Row]:
    """The inputs of each row, read from the columns of their names. A null, like an empty cell, leaves its field out.

    Raises DspexError for what is no Parquet, naming the row after which it is damaged, and for a missing column.
    """
    source = ParquetFile(path, UPLOAD)
    names = source.columns()
    columns = InputColumns(signature.input_fields, source.cells, {})
    columns.check(names, UPLOAD, fix="Rename the column that has {}")
    for chunk in source.chunks(0, columns.used(names)):
        yield from columns.chunk_inputs(chunk)
