"""Datasets: rows with inputs and labels, versioned by their content."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, overload

from dspex.client.session import Session
from dspex.data.replaced_file import naming
from dspex.program.improvement.purpose import row_context
from dspex.store.improvement import dataset_rows
from dspex.store.improvement.dataset_rows import DatasetVersion

__all__ = ["Dataset", "DatasetRow"]

#: Rows of one query.
READ_ROWS = 500


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """A row: ``index`` is its place in the dataset, which a part of the dataset keeps. Values are JSON data."""

    index: int
    inputs: Mapping[str, Any]
    labels: Mapping[str, Any]


class Dataset(Sequence[DatasetRow]):
    """A version of a dataset, or a part of one. Its rows are read as they are needed.

    ``len``, ``dataset[3]`` and iteration work as for a list of rows.
    """

    def __init__(self, session: Session, stored: DatasetVersion, indexes: Sequence[int] | None = None) -> None:
        self._session = session
        self._stored = stored
        self._indexes: Sequence[int] = range(stored.size) if indexes is None else indexes

    def __repr__(self) -> str:
        part = "" if len(self) == self._stored.size else f"{len(self)} of "
        return f"<Dataset {self.name} {self.version}: {part}{self._stored.size} rows>"

    def __len__(self) -> int:
        return len(self._indexes)

    @overload
    def __getitem__(self, place: int) -> DatasetRow: ...
    @overload
    def __getitem__(self, place: slice) -> Dataset: ...
    def __getitem__(self, place: int | slice) -> DatasetRow | Dataset:
        """The row at a place, or the part of the dataset that a slice names."""
        if isinstance(place, slice):
            return Dataset(self._session, self._stored, self._indexes[place])
        return next(self._read([self._indexes[place]]))

    def __iter__(self) -> Iterator[DatasetRow]:
        for begin in range(0, len(self), READ_ROWS):
            yield from self._read(self._indexes[begin : begin + READ_ROWS])

    @property
    def name(self) -> str:
        """The name of the dataset."""
        return self._stored.name

    @property
    def version(self) -> str:
        """16 hex digits of a hash of all rows: the same rows in the same order are the same version."""
        return self._stored.version

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the columns that are inputs."""
        return self._stored.inputs

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the other columns."""
        return self._stored.labels

    @property
    def created_at(self) -> datetime:
        """When this version was stored."""
        return self._stored.created_at

    @property
    def indexes(self) -> Sequence[int]:
        """The places of its rows in the whole dataset."""
        return self._indexes

    @property
    def stored(self) -> DatasetVersion:
        """The stored version that the rows are of."""
        return self._stored

    def split(self, share: float) -> tuple[Dataset, Dataset]:
        """Two parts, the first with this share of the rows. A row's part depends on its content alone, not on its place
        or on chance: equal rows are in the same part, wherever that is possible, and nothing needs a seed.
        """
        if not 0 < share < 1:
            raise ValueError(f"a share is more than 0 and less than 1, not {share!r}")
        ranked = sorted((_content_hash(row), row.index) for row in self)
        first = {index for _, index in ranked[: round(len(ranked) * share)]}
        rest = array("q", (index for index in self._indexes if index not in first))
        chosen = array("q", (index for index in self._indexes if index in first))
        return Dataset(self._session, self._stored, chosen), Dataset(self._session, self._stored, rest)

    def examples(self) -> list[Any]:
        """The rows as ``dspy.Example`` objects with their inputs marked. DSPy has to be installed."""
        example = import_module("dspy").Example
        return [example({**row.inputs, **row.labels}).with_inputs(*self.inputs) for row in self]

    def to_jsonl(self, path: str | Path) -> None:
        """Write the rows to a file, each as a JSON object with its inputs and labels."""
        with naming(Path(path)), Path(path).open("w", encoding="utf-8") as file:
            for row in self:
                file.write(json.dumps({**row.inputs, **row.labels}, ensure_ascii=False) + "\n")

    def _read(self, indexes: Sequence[int]) -> Iterator[DatasetRow]:
        """The rows at these places of the whole dataset, in this order."""
        read = partial(dataset_rows.rows, id=self._stored.id, indexes=indexes)
        found = dict(self._session.database.run(read))
        for index in indexes:
            content = json.loads(found[index])
            if self._stored.sealed:
                content = self._session.sealing.open_whole(content, row_context(self._stored.id, index))
            yield DatasetRow(index, content.get("inputs", {}), content.get("labels", {}))


def _content_hash(row: DatasetRow) -> bytes:
    text = json.dumps([row.inputs, row.labels], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
