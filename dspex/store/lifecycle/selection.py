"""Selections of executions: the conditions that listings, retries and reports share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, Text, cast, func, literal_column, select
from sqlalchemy.dialects.postgresql import JSON

from dspex.store.lifecycle.batch_ids import ROWS_MOST, execution_id
from dspex.store.lifecycle.status import Status
from dspex.store.tables import executions, feedback

__all__ = ["CAUSE", "EXTERNAL", "Selection"]

#: In SQL, the condition that leaves out internal executions (dspex/program/internal_programs.py).
EXTERNAL = "program !~ '^dspex-(doctor|bench)'"
#: In SQL, the code of a failure's cause: for spent attempts, the code of the last attempt's error.
CAUSE = "coalesce(error #>> '{details,cause,code}', error ->> 'code')"

# Postgres refuses to read any member of JSON that contains U+0000 or a lone surrogate.
_UNREADABLE, _REPLACED = r"\\u(0000|d[89a-f][0-9a-f]{2})", r"\\ufffd"


@dataclass(frozen=True, slots=True)
class Selection:
    """Executions that fit every given value.

    ``error``  the code of a failure, or of its cause; of failed executions unless another ``status`` is given
    ``metadata``  values as text, by the name of the member
    ``programs``  executions of any of these programs
    ``before``    executions with an id below this one: they were submitted before it
    ``feedback``  only with feedback: ``"any"``, or ``"corrected"`` for corrected outputs
    ``purposeless``  without the executions of evaluations and replays
    ``internal``  DSPex's own as well; they are also selected by their ``program`` and their ``batch_id``
    """

    program: str | None = None
    status: str | None = None
    since: datetime | None = None
    batch_id: UUID | None = None
    error: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    tenant: str | None = None
    programs: Sequence[str] | None = None
    before: UUID | None = None
    feedback: str | None = None
    purposeless: bool = False
    internal: bool = False

    def conditions(self) -> Sequence[ColumnElement[bool]]:
        """The conditions on the table of executions."""
        columns = executions.c
        given = {"program": self.program, "status": self._status, "batch_id": self.batch_id, "tenant": self.tenant}
        found = [columns[name] == value for name, value in given.items() if value is not None]
        if self.batch_id is not None:  # so that the rows of a batch are found by id, too
            found.append(columns.id.between(self.batch_id, execution_id(self.batch_id, ROWS_MOST)))
        if self.programs is not None:
            found.append(columns.program.in_(self.programs))
        if self.before is not None:
            found.append(columns.id < self.before)
        if self.since is not None:
            found.append(columns.created_at >= self.since)
        if self.error is not None:
            found.append(_failed_with(self.error))
        if self.feedback is not None:
            found.append(_judged(corrected=self.feedback == "corrected"))
        if self.purposeless:
            found.append(columns.purpose.is_(None))
        found += [_metadata(name) == value for name, value in self.metadata.items()]
        if not (self.internal or self.program or self.batch_id):
            found.append(literal_column(EXTERNAL))
        return found

    def indexed(self) -> Selection:
        """The part of it that an index finds, in the order of ids."""
        status = self._status if self._status == Status.FAILED else None
        return replace(self, status=status, since=None, error=None, metadata={}, feedback=None, purposeless=False)

    @property
    def _status(self) -> str | None:
        return Status.FAILED.value if self.error is not None and self.status is None else self.status


def _failed_with(code: str) -> ColumnElement[bool]:
    return (literal_column("error ->> 'code'", Text) == code) | (literal_column(CAUSE, Text) == code)


def _judged(*, corrected: bool) -> ColumnElement[bool]:
    conditions = [feedback.c.execution_id == executions.c.id, *([feedback.c.corrected] if corrected else [])]
    return select(feedback.c.id).where(*conditions).exists()


def _metadata(name: str) -> ColumnElement[str]:
    readable = func.regexp_replace(cast(executions.c.metadata, Text), _UNREADABLE, _REPLACED, "gi")
    return cast(readable, JSON).op("->>")(name)
