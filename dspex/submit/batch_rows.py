"""The rows of a batch: which of them were stored, and which were rejected."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar, overload
from uuid import UUID

from dspex.errors import ValidationError
from dspex.store.lifecycle.batch_ids import execution_id

__all__ = ["BatchRows", "Rejected"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that did not fit the signature: its ``index`` in the rows given, and why."""

    index: int
    error: ValidationError


class BatchRows:
    """The rows of a batch. ``len`` counts the stored ones.

    ``size`` counts all rows taken, stored or not. ``rejected`` has the rows that did not fit the signature, if the
    submit that made this object collects them.
    """

    def __init__(self, id: UUID, program: str, *, size: int = 0, missing: Iterable[int] = ()) -> None:
        self.id = id
        self.program = program
        self.size = size
        self.rejected: list[Rejected] = []
        self._missing = array("I", missing)

    def __len__(self) -> int:
        return self.size - len(self._missing)

    @property
    def ids(self) -> Sequence[UUID]:
        """The ids of the executions, in the order of the stored rows."""
        return _View(self, partial(execution_id, self.id))

    @property
    def indexes(self) -> Sequence[int]:
        """For each of :attr:`ids`, the index of its row among the rows given."""
        return _View(self, int)

    @property
    def missing(self) -> Sequence[int]:
        """The indexes of the rows that were not stored, in order."""
        return self._missing

    def extend(self, count: int, missing: Iterable[int] = ()) -> None:
        """Add ``count`` rows, of which ``missing`` were not stored."""
        self.size += count
        self._missing.extend(missing)

    def index_at(self, position: int) -> int:
        """The index of the row whose execution is at this position."""
        # How many rows are missing before it: the first m with missing[m] - m > position.
        return position + bisect_right(range(len(self._missing)), position, key=lambda m: self._missing[m] - m)

    def stored(self) -> Iterator[int]:
        """The indexes of the stored rows, in order."""
        begin = 0
        for end in (*self._missing, self.size):
            yield from range(begin, end)
            begin = end + 1


class _View(Sequence[T]):
    """A sequence computed from the numbers of a batch's stored rows."""

    def __init__(self, rows: BatchRows, of: Callable[[int], T]) -> None:
        self._rows = rows
        self._of = of

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, position: int) -> T: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[T]: ...
    def __getitem__(self, position: int | slice) -> T | Sequence[T]:
        if isinstance(position, slice):
            return [self[p] for p in range(*position.indices(len(self)))]
        return self._of(self._rows.index_at(range(len(self))[position]))

    def __iter__(self) -> Iterator[T]:
        return map(self._of, self._rows.stored())

    def __repr__(self) -> str:
        return f"<{len(self)} of batch {self._rows.id}>"
