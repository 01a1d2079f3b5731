"""Storing a dataset: rows are checked, hashed and stored as they are read, and become a version at the end."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from dspex.client.execution import Execution
from dspex.client.improvement.dataset import Dataset
from dspex.client.improvement.dataset_sources import SourceRow, read_source
from dspex.client.improvement.feedback import opened_content
from dspex.client.session import Session
from dspex.errors import FieldError, ValidationError
from dspex.program.improvement.purpose import row_context
from dspex.program.storable_text import STORABLE, is_storable
from dspex.signatures.values.text_forms import to_text
from dspex.store.improvement import dataset_rows
from dspex.store.improvement.feedback_entries import FeedbackEntry, of_executions
from dspex.store.lifecycle.status import Status

__all__ = ["dataset_of_executions", "open_dataset", "store_dataset"]

#: Rows that are written to Postgres at a time.
WRITE_ROWS = 200
#: The most faults that an error names.
MOST_FAULTS = 20
#: The fault of a source without rows.
NO_ROWS = FieldError("source", "at least one row", "none")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}")


def open_dataset(session: Session, name: str, version: str | None) -> Dataset:
    """A stored version, the newest if none is named. Raises ValidationError when there is none."""
    found = session.database.run(partial(dataset_rows.find, name=name, version=version))
    if found is None:
        raise ValidationError.of("dataset", [_not_stored(session, name, version)])
    return Dataset(session, found)


def _not_stored(session: Session, name: str, version: str | None) -> FieldError:
    """The fault, with the newest version or the nearest name."""
    newest = {stored.name: stored.version for stored in reversed(session.database.run(dataset_rows.listing))}
    if version is not None and name in newest:
        return FieldError("version", f"a version of dataset {name!r}, the newest is {newest[name]}", repr(version))
    near = difflib.get_close_matches(name, newest, 1, 0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return FieldError("name", f"a stored dataset, {hint}`dspex dataset` lists all of them", repr(name))


def store_dataset(
    session: Session, name: str, source: Any, *, inputs: Collection[str] | None, sealed: bool = False,
    empty: FieldError = NO_ROWS,
) -> Dataset:  # fmt: skip
    """Store the rows of a source as a version of the dataset, unless it has this version already.

    Raises ValidationError with the numbers of the rows that do not fit; then nothing is stored. ``empty`` is the fault
    of a source without rows.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        expected = "letters, digits, _ . and -, beginning with a letter"
        raise ValidationError.of("dataset", [FieldError("name", expected, repr(name)[:80])])
    sealed = sealed or session.sealing.everything
    taken = _Rows(session, uuid7(), read_source(source), inputs, sealed=sealed, empty=empty)
    try:
        with session.database.transaction(saved=f"dataset {name!r} was not stored") as connection:
            dataset_rows.add_rows(connection, taken.id, taken.groups())
            version = taken.version()
            register = partial(
                dataset_rows.register, id=taken.id, name=name, version=version, inputs=taken.inputs,
                labels=taken.labels, size=taken.size, sealed=sealed,
            )  # fmt: skip
            if not register(connection):
                raise _KnownVersion
    except _KnownVersion:
        pass
    return open_dataset(session, name, version)


def dataset_of_executions(session: Session, name: str, executions: Iterable[Execution]) -> Dataset:
    """See :meth:`dspex.Client.dataset`."""
    chosen = list(executions)
    entries: dict[UUID, list[FeedbackEntry]] = {}
    for entry in session.database.run(partial(of_executions, ids=[each.id for each in chosen])):
        entries.setdefault(entry.execution_id, []).append(entry)
    sealed = any(session.sealing.covers(session.signature(each._row)) for each in chosen)
    rows = (row for each in chosen if (row := _labelled(session, each, entries.get(each.id, []))) is not None)
    empty = FieldError(
        "executions",
        "at least one that completed or has corrected outputs, and whose last score is not 0 or less",
        f"none of {len(chosen)}",
    )
    return store_dataset(session, name, rows, inputs=None, sealed=sealed, empty=empty)


def _labelled(session: Session, execution: Execution, entries: Sequence[FeedbackEntry]) -> SourceRow | None:
    """The row of an execution: its inputs, and its outputs as feedback corrected them; None without known outputs."""
    row, signature = execution._row, session.signature(execution._row)
    corrected: dict[str, Any] = {}
    for entry in entries:
        corrected |= opened_content(session, entry).get("outputs") or {}
    scores = [entry.score for entry in entries if entry.score is not None]
    if not corrected and (execution.status is not Status.COMPLETED or (scores and scores[-1] <= 0)):
        return None
    opened = session.sealing.json_values(signature, "inputs", row["inputs"], execution.id)
    recorded: dict[str, Any] = {}
    if execution.status is Status.COMPLETED:
        stored = row["result"] if row.get("result") is not None else session.row(execution.id)["result"]
        recorded = session.sealing.json_values(signature, "outputs", stored, execution.id)
    inputs = {field.name: opened.get(field.name) for field in signature.input_fields}
    labels = {field.name: {**recorded, **corrected}.get(field.name) for field in signature.output_fields}
    return SourceRow({**inputs, **labels}, frozenset(inputs))


class _KnownVersion(Exception):
    """The dataset has this version already: what was added is rolled back."""


class _Rows:
    """The rows of a source on their way: checked against the columns of the first one, and hashed."""

    def __init__(
        self, session: Session, id: UUID, source: Iterable[SourceRow], inputs: Collection[str] | None, *, sealed: bool,
        empty: FieldError,
    ) -> None:  # fmt: skip
        self.id = id
        self.size = 0
        self.inputs: tuple[str, ...] = ()
        self.labels: tuple[str, ...] = ()
        self._session = session
        self._source = source
        self._given_inputs = inputs
        self._sealed = sealed
        self._empty = empty
        self._hash = hashlib.sha256()
        self._faults: list[FieldError] = []

    def groups(self) -> Iterator[Sequence[str]]:
        """The contents to store. Raises ValidationError at the end, or after many faults."""
        yield from _grouped(self._contents(), WRITE_ROWS)
        if not self.size and not self._faults:
            self._faults.append(self._empty)
        self._refuse()

    def version(self) -> str:
        """The version that these rows are."""
        columns = json.dumps([self.inputs, self.labels]).encode()
        digest = hashlib.sha256(columns + self._hash.digest()).digest()
        return (self._session.sealing.digest(digest) if self._sealed else digest).hex()[:16]

    def _contents(self) -> Iterator[str]:
        for number, row in enumerate(self._source):
            if number == 0:
                self._take_columns(row)
            fault = self._fault(number, row.values)
            content = None if fault else self._content(number, row.values)
            if content is None:
                if fault:
                    self._faults.append(fault)
                if len(self._faults) >= MOST_FAULTS:
                    self._refuse()
                continue
            self._hash.update(hashlib.sha256(content.encode()).digest())
            if self._sealed:
                content = self._session.sealing.seal_whole(json.loads(content), row_context(self.id, self.size))
            self.size += 1
            yield content

    def _take_columns(self, row: SourceRow) -> None:
        names = [str(name) for name in row.values]
        inputs = row.inputs if self._given_inputs is None else self._given_inputs
        if inputs is None:
            fault = FieldError("inputs", 'the names of the columns that are inputs: inputs=["question"]', "none")
            raise ValidationError.of("dataset", [fault])
        if isinstance(inputs, str) or not inputs or (missing := [name for name in inputs if name not in names]):
            got = repr(inputs if isinstance(inputs, str) or not inputs else missing)[:80]
            fault = FieldError("inputs", f"names of columns, which are {', '.join(names)[:200]}", got)
            raise ValidationError.of("dataset", [fault])
        self.inputs = tuple(sorted(set(inputs)))
        self.labels = tuple(sorted(set(names) - set(inputs)))

    def _fault(self, number: int, values: Mapping[str, Any]) -> FieldError | None:
        """A column that the row lacks, or that the first row does not have."""
        columns = {*self.inputs, *self.labels}
        if len(values) == len(columns) and columns.issuperset(values):
            return None
        missing, extra = sorted(columns - set(values)), sorted(map(str, set(values) - columns))
        got = [f"{', '.join(names)} {what}" for names, what in ((missing, "missing"), (extra, "added")) if names]
        return FieldError(f"rows[{number}]", "the columns of the first row", "; ".join(got)[:200])

    def _content(self, number: int, values: Mapping[str, Any]) -> str | None:
        """The row as canonical JSON text; None, and a fault, for values that JSON does not have."""
        parts = {
            "inputs": {name: values[name] for name in self.inputs},
            "labels": {name: values[name] for name in self.labels},
        }
        try:
            text = json.dumps(parts, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=to_text)
        except (TypeError, ValueError, RecursionError) as error:
            self._faults.append(FieldError(f"rows[{number}]", f"JSON-friendly values ({error})"[:200]))
            return None
        if not is_storable(text):
            self._faults.append(FieldError(f"rows[{number}]", STORABLE))
            return None
        return text

    def _refuse(self) -> None:
        if self._faults:
            raise ValidationError.of("dataset", self._faults)


def _grouped(contents: Iterable[str], most: int) -> Iterator[Sequence[str]]:
    group: list[str] = []
    for content in contents:
        group.append(content)
        if len(group) == most:
            yield group
            group = []
    if group:
        yield group
