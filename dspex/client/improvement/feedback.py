"""Feedback on executions: scores, corrected outputs and notes, given by users after the fact."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from dspex.client.result import recorded_result
from dspex.client.session import Session
from dspex.errors import FieldError, ResultNotReady, ValidationError
from dspex.program.storable_text import STORABLE, is_storable
from dspex.scoring.score_statistics import SCORE_MOST
from dspex.signatures import Signature
from dspex.store.improvement import feedback_entries
from dspex.store.improvement.feedback_entries import FeedbackEntry
from dspex.store.lifecycle.status import Status
from dspex.wait.driver import Row

__all__ = ["Feedback", "entries_of", "give_feedback", "opened_content"]

#: The longest note, and the longest name of who judged.
NOTE_MOST, BY_MOST = 10_000, 200


@dataclass(frozen=True, slots=True)
class Feedback:
    """A judgement of an execution. ``outputs`` are the corrected ones, if any; ``by`` is who judged."""

    at: datetime
    score: float | None = None
    outputs: Mapping[str, Any] | None = None
    note: str | None = None
    by: str | None = None


def give_feedback(
    session: Session,
    row: Row,
    *,
    score: float | None,
    outputs: Mapping[str, Any] | None,
    note: str | None,
    by: str | None,
) -> Feedback:
    """Append feedback: see :meth:`dspex.Execution.feedback`."""
    if not Status(row["status"]).is_final:
        row = session.row(row["id"])
    if not Status(row["status"]).is_final:
        raise ResultNotReady(
            f"execution {row['id']} is {row['status']}: feedback is on final executions", execution_id=str(row["id"])
        )
    faults = list(_faults(score, outputs, note, by))
    if faults:
        raise ValidationError.of(f"feedback on execution {row['id']}", faults)
    signature = session.signature(row)
    corrected = None if outputs is None else _corrected(session, row, signature, outputs)
    content = json.dumps({"outputs": corrected, "note": note}, ensure_ascii=False)
    if session.sealing.covers(signature):
        content = session.sealing.seal_whole({"outputs": corrected, "note": note}, f"{row['id']}:feedback")
    append = partial(
        feedback_entries.append, execution_id=row["id"], score=None if score is None else float(score),
        corrected=corrected is not None, content=content, author=by,
    )  # fmt: skip
    with session.database.transaction(saved="the feedback was not saved") as connection:
        stored = append(connection)
    if not stored:
        session.row(row["id"])  # raises ExecutionNotFound
        raise ResultNotReady(f"execution {row['id']} runs again", execution_id=str(row["id"]))
    return Feedback(datetime.now(UTC), score, outputs, note, by)


def entries_of(session: Session, row: Row) -> list[Feedback]:
    """The feedback on an execution, the oldest first. Sealed values are left out if the client has no key."""
    signature = session.signature(row)
    found = session.database.run(partial(feedback_entries.of_executions, ids=[row["id"]]))
    return [_feedback(session, signature, entry) for entry in found]


def opened_content(session: Session, entry: FeedbackEntry) -> Mapping[str, Any]:
    """The corrected outputs and the note of an entry, as JSON data."""
    return session.sealing.open_whole(json.loads(entry.content), f"{entry.execution_id}:feedback")


def _feedback(session: Session, signature: Signature, entry: FeedbackEntry) -> Feedback:
    content = opened_content(session, entry)
    outputs = content.get("outputs")
    decoded = None if outputs is None else signature.decode("outputs", json.dumps(outputs))
    return Feedback(entry.at, entry.score, decoded, content.get("note"), entry.author)


def _faults(score: object, outputs: object, note: object, by: object) -> Iterator[FieldError]:
    if score is None and outputs is None and note is None:
        yield FieldError("feedback", "a score, outputs or a note")
    if score is not None and not _is_score(score):
        yield FieldError("score", f"a number, of {SCORE_MOST:g} at most", repr(score)[:80])
    if outputs is not None and not (isinstance(outputs, Mapping) and outputs):
        yield FieldError("outputs", "a mapping from names of outputs to values", type(outputs).__name__)
    for name, given, most in (("note", note, NOTE_MOST), ("by", by, BY_MOST)):
        if given is not None and not (isinstance(given, str) and len(given) <= most and is_storable(given)):
            yield FieldError(name, f"{STORABLE}, {most} characters at most", repr(given)[:80])


def _is_score(score: object) -> bool:
    """Whether it is a number that can be stored and added up."""
    return isinstance(score, int | float) and not isinstance(score, bool) and abs(score) <= SCORE_MOST


def _corrected(session: Session, row: Row, signature: Signature, outputs: Mapping[str, Any]) -> dict[str, Any]:
    """The corrected outputs as JSON data, validated together with those that were recorded.

    Raises ValidationError. After a failure all required outputs have to be given.
    """
    recorded = dict(recorded_result(session, row)) if row["status"] == Status.COMPLETED else {}
    unknown = _unknown(signature, outputs)
    if unknown:
        raise ValidationError.of(f"feedback on execution {row['id']}", unknown)
    checked = signature.validate_outputs({**recorded, **outputs})
    encoded: dict[str, Any] = json.loads(signature.encode("outputs", checked))
    return {name: encoded[name] for name in outputs}


def _unknown(signature: Signature, outputs: Mapping[str, Any]) -> Sequence[FieldError]:
    names = [field.name for field in signature.output_fields]
    expected = f"an output of the program: {', '.join(names)}"
    return [FieldError(f"outputs.{name}", expected, repr(name)[:80]) for name in outputs if name not in names]
