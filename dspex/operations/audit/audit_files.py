"""The formats of exported audit trails: JSON lines, plain or gzipped, and Parquet."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, TextIO, cast
from uuid import UUID

from dspex.errors import ConfigurationError
from dspex.store.audit_chain import Chain, Entry

__all__ = ["FORMAT", "AuditWriter", "Export", "reader", "writer"]

FORMAT = "dspex-audit-1"


@dataclass(frozen=True, slots=True)
class Export:
    """The totals of a file; ``digest`` is over the heads of all its trails."""

    executions: int
    entries: int
    digest: str


class AuditWriter(Protocol):
    """Writes a file in one format. Call ``end`` once all chains are added."""

    def add(self, chain: Chain) -> None: ...
    def end(self, export: Export) -> None: ...
    def close(self) -> None: ...


def writer(path: Path) -> Callable[[Path, Mapping[str, Any]], AuditWriter]:
    """The writer for the extension of a file. Raises ConfigurationError for an unsupported extension."""
    if path.suffix == ".parquet":
        _need_pyarrow()
        return _ParquetWriter
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return partial(_JsonLinesWriter, compress=path.suffix == ".gz")
    raise ConfigurationError(f"{path.name!r} has an unsupported extension: use .jsonl, .jsonl.gz or .parquet")


def reader(path: Path) -> Iterator[Chain | Export]:
    """The trails of a file in order, and at the end its declared totals.

    Raises OSError, EOFError, ValueError, KeyError or TypeError for a damaged file.
    """
    return _read_parquet(path) if path.suffix == ".parquet" else _read_lines(path)


def _open(path: Path, mode: str, *, compress: bool) -> TextIO:
    return cast(
        TextIO,
        gzip.open(path, f"{mode}t", compresslevel=6, encoding="utf-8")
        if compress
        else path.open(mode, encoding="utf-8"),
    )


class _JsonLinesWriter:
    def __init__(self, path: Path, about: Mapping[str, Any], *, compress: bool) -> None:
        self._file = _open(path, "w", compress=compress)
        self._write(about)

    def add(self, chain: Chain) -> None:
        entries = [
            {"seq": e.seq, "attempt": e.attempt, "at": e.at.astimezone(UTC).isoformat(), "events": e.events,
             "hash": e.hash.hex(), "submission_hash": _hex(e.submission_hash), "outcome_hash": _hex(e.outcome_hash)}
            for e in chain.entries
        ]  # fmt: skip
        self._write(
            {"execution_id": str(chain.execution_id), "seq": chain.head_seq, "hash": chain.head_hash.hex(),
             "entries": entries}
        )  # fmt: skip

    def end(self, export: Export) -> None:
        self._write({"executions": export.executions, "entries": export.entries, "digest": export.digest})

    def close(self) -> None:
        self._file.close()

    def _write(self, value: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(value, ensure_ascii=False) + "\n")


def _read_lines(path: Path) -> Iterator[Chain | Export]:
    with _open(path, "r", compress=path.suffix == ".gz") as file:
        first = json.loads(file.readline())
        if first.get("format") != FORMAT:
            raise ValueError(f"the first line does not declare the format {FORMAT}")
        for line in file:
            item = json.loads(line)
            if "execution_id" not in item:
                yield Export(item["executions"], item["entries"], item["digest"])
                return
            entries = [
                Entry(
                    e["seq"],
                    e["attempt"],
                    datetime.fromisoformat(e["at"]),
                    e["events"],
                    bytes.fromhex(e["hash"]),
                    _bytes(e["submission_hash"]),
                    _bytes(e["outcome_hash"]),
                )
                for e in item["entries"]
            ]
            yield Chain(UUID(item["execution_id"]), item["seq"], bytes.fromhex(item["hash"]), entries)
    raise ValueError("the last line is missing: the file is truncated")


def _hex(hash: bytes | None) -> str | None:
    return None if hash is None else hash.hex()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


# --------------------------------------------------------------------------------------------------------- Parquet

_GROUP_ROWS = 20_000


class _ParquetWriter:
    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        import pyarrow
        import pyarrow.parquet

        self._schema = _parquet_schema()
        self._table = pyarrow.Table
        self._writer = pyarrow.parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._writer.add_key_value_metadata({name: str(value) for name, value in about.items()})
        self._rows: list[Mapping[str, Any]] = []

    def add(self, chain: Chain) -> None:
        self._rows += [
            {"execution_id": str(chain.execution_id), "seq": e.seq, "attempt": e.attempt, "at": e.at,
             "events": e.events, "hash": e.hash, "submission_hash": e.submission_hash, "outcome_hash": e.outcome_hash,
             "head_seq": chain.head_seq, "head_hash": chain.head_hash}
            for e in chain.entries
        ]  # fmt: skip
        if len(self._rows) >= _GROUP_ROWS:
            self._flush()

    def end(self, export: Export) -> None:
        self._flush()
        self._writer.add_key_value_metadata(
            {"executions": str(export.executions), "entries": str(export.entries), "digest": export.digest}
        )

    def close(self) -> None:
        self._writer.close()

    def _flush(self) -> None:
        self._writer.write_table(self._table.from_pylist(self._rows, schema=self._schema))
        self._rows.clear()


def _parquet_schema() -> Any:
    import pyarrow

    return pyarrow.schema(
        [
            ("execution_id", pyarrow.string()), ("seq", pyarrow.int32()), ("attempt", pyarrow.int32()),
            ("at", pyarrow.timestamp("us", tz="UTC")), ("events", pyarrow.string()), ("hash", pyarrow.binary()),
            ("submission_hash", pyarrow.binary()), ("outcome_hash", pyarrow.binary()),
            ("head_seq", pyarrow.int32()), ("head_hash", pyarrow.binary()),
        ]
    )  # fmt: skip


def _read_parquet(path: Path) -> Iterator[Chain | Export]:
    _need_pyarrow()
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:  # nothing is read beside, so close() is the end
        about = {name.decode(): value.decode() for name, value in (file.metadata.metadata or {}).items()}
        if about.get("format") != FORMAT:
            raise ValueError(f"the metadata does not declare the format {FORMAT}")
        chain: Chain | None = None
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                id = UUID(row["execution_id"])
                if chain is None or chain.execution_id != id:
                    if chain is not None:
                        yield chain
                    chain = Chain(id, row["head_seq"], row["head_hash"])
                columns = ("seq", "attempt", "at", "events", "hash", "submission_hash", "outcome_hash")
                chain.entries.append(Entry(*(row[name] for name in columns)))
        if chain is not None:
            yield chain
        yield Export(int(about["executions"]), int(about["entries"]), about["digest"])


def _need_pyarrow() -> None:
    if find_spec("pyarrow") is None:
        raise ConfigurationError("Parquet needs pyarrow: pip install 'dspex[parquet]', or use .jsonl.gz")
