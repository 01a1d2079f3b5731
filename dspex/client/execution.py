"""Executions as the producer sees them: status, result, error, metrics, audit trail."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from dspex.client.audit_trail import AuditTrail
from dspex.errors import DspexError, ExecutionCancelled, ExecutionFailed, ResultNotReady
from dspex.store.lifecycle.status import Status

if TYPE_CHECKING:
    from dspex.client.client import Client
    from dspex.client.follow import StreamEvent
    from dspex.sealing.values import Sealing
    from dspex.signatures import Signature

__all__ = ["Execution", "ExecutionRecord", "Metrics", "Result"]


class Result(Mapping[str, Any]):
    """The outputs of an execution: ``result.answer``, ``result["answer"]``, ``dict(result)``."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        object.__setattr__(self, "_values", dict(values))

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            known = ", ".join(self._values)
            raise AttributeError(f"no output {name!r}; this result has {known}") from None

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a result is a record: it cannot be changed")

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Result({', '.join(f'{name}={value!r}' for name, value in self._values.items())})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Result, (self._values,)


@dataclass(frozen=True, slots=True)
class Metrics:
    """What an execution took. Times in milliseconds, cost in US dollars (None when the price is unknown).

    ``execution_time_ms`` is that of the last attempt, ``queue_time_ms`` from due to claimed. Calls that were
    replayed from the journal count in ``replayed_lm_calls`` only, so tokens and cost are counted once.
    """

    execution_time_ms: float = 0.0
    queue_time_ms: float = 0.0
    lm_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = None
    replayed_lm_calls: int = 0

    @classmethod
    def of(cls, stored: Mapping[str, Any] | None) -> Metrics:
        known = {f.name for f in fields(cls)}
        return cls(**{name: value for name, value in (stored or {}).items() if name in known})


class ExecutionRecord:
    """What the row of an execution tells, as it was read."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self._row = row

    def __repr__(self) -> str:
        return f"<Execution {self.id} of {self.program}: {self._row['status']}>"

    @property
    def id(self) -> UUID:
        """UUIDv7: sorts by time of submission."""
        id: UUID = self._row["id"]
        return id

    @property
    def program(self) -> str:
        return str(self._row["program"])

    @property
    def version(self) -> str:
        return str(self._row["version"])

    @property
    def status(self) -> Status:
        return Status(self._current["status"])

    @property
    def attempts(self) -> int:
        """How many attempts were begun; the audit trail tells of each."""
        return int(self._current["attempt"])

    @property
    def error(self) -> DspexError | None:
        """The recorded failure, or None. After a retry: why the last attempt failed."""
        stored = self._current["error"]
        return None if stored is None else self._opened_error(stored)

    @property
    def shown_error(self) -> DspexError | None:
        """The same without what it says if that is sealed: for logs and screens."""
        stored = self._current["error"]
        return None if stored is None else DspexError.from_dict(stored)

    @property
    def metrics(self) -> Metrics:
        return Metrics.of(self._current["metrics"])

    @property
    def adapter_used(self) -> str | None:
        return cast("str | None", self._current["adapter_used"])

    @property
    def action_results(self) -> dict[str, Any]:
        """What the program's manual actions told of the last attempt, by their names; sealed, nothing without a key."""
        return self._sealing.open_whole(self._current["action_results"] or {}, f"{self.id}:action_results")

    @property
    def shown_action_results(self) -> dict[str, Any]:
        """The same without what is sealed of them: for logs and screens."""
        return self._sealing.shown_whole(self._current["action_results"] or {})

    @property
    def metadata(self) -> dict[str, Any] | None:
        """What the submitter attached; DSPex does not read it."""
        return cast("dict[str, Any] | None", self._current["metadata"])

    @property
    def priority(self) -> int:
        return int(self._row["priority"])

    @property
    def created_at(self) -> datetime:
        at: datetime = self._row["created_at"]
        return at

    @property
    def started_at(self) -> datetime | None:
        """When the last attempt began."""
        return cast("datetime | None", self._current["started_at"])

    @property
    def finished_at(self) -> datetime | None:
        return cast("datetime | None", self._current["finished_at"])

    @property
    def record(self) -> Mapping[str, Any]:
        """The row, as it was read."""
        return self._row

    @property
    def batch_id(self) -> UUID | None:
        return cast("UUID | None", self._row.get("batch_id"))

    @property
    def batch_index(self) -> int | None:
        """The index of its row among the rows of its batch."""
        return cast("int | None", self._row.get("batch_index"))

    @property
    def trace_id(self) -> str | None:
        """The OpenTelemetry trace it was submitted in, 32 hex digits; None when there was none.

        Of a batch's execution that is the trace of the submit; the event ``traced`` of each attempt has the attempt's.
        """
        stored: str | None = self._row.get("traceparent")
        return None if stored is None else stored.split("-")[1]

    @property
    def _current(self) -> Mapping[str, Any]:
        return self._row

    @property
    def _sealing(self) -> Sealing:
        raise NotImplementedError

    def _opened_error(self, stored: Mapping[str, Any]) -> DspexError:
        return DspexError.from_dict(self._sealing.open_whole(stored, f"{self.id}:error"))


class Execution(ExecutionRecord):
    """One execution: a snapshot of its row, and a handle on it.

    ``status``, ``error``, ``metrics`` and the rest read the database again while the execution is not final, so
    they are current; once it is final nothing is read twice. ``refresh()`` reads in any case.
    """

    def __init__(self, client: Client, row: Mapping[str, Any]) -> None:
        super().__init__(row)
        self._client = client

    @property
    def inputs(self) -> dict[str, Any]:
        """The validated inputs. Values that are sealed are ``"<secret>"`` if the client has no key."""
        return self._sealing.values(self._signature, "inputs", self._row["inputs"], self.id)

    @property
    def audit_trail(self) -> AuditTrail:
        """What happened, in order of time; read from the database at each use."""
        return self._client.audit_trail(self.id)

    def result(self, timeout: float | None = None) -> Result:
        """The outputs, waiting up to ``timeout`` seconds for them (None: for ever; 0: not at all).

        Values that are sealed are ``"<secret>"`` if the client has no key.

        Raises ExecutionFailed (its ``cause`` is the recorded error), ExecutionCancelled, ExecutionTimedOut when the
        wait is over (the execution goes on), ResultNotReady with ``timeout=0``, EncryptionError when the key that
        sealed the outputs is not among the client's.
        """
        final = Status(self._row["status"]).is_final
        return self.conclude(self._row if final else self._client.wait(self, timeout), timeout)

    def conclude(self, row: Mapping[str, Any] | None, timeout: float | None) -> Result:
        """The outputs, or the error to raise, after a wait that ended with this final row, or with none."""
        if row is None and timeout == 0:
            raise ResultNotReady(f"execution {self.id} is {self.status}", execution_id=str(self.id))
        if row is None:
            raise self._client.timed_out(self, timeout)
        self._row = row
        return self._outcome()

    def stream(self, *, after: str | None = None, timeout: float | None = None) -> Iterator[StreamEvent]:
        """What happens to it, as it happens, until it is final: from the beginning, or ``after`` an event's cursor.

        Of an execution that was submitted with ``stream=True`` that is each change of its status, what the model
        writes of each output field, and each field once it is complete; of any other, changes of status, and the fields
        at the end. Redis may be away or lose the stream on the way: the events go on without gaps or repeats, and the
        recorded outputs come in any case. See :class:`StreamEvent`.

        Raises ExecutionTimedOut after ``timeout`` seconds (the execution goes on), ValidationError for what is no
        cursor. That the execution failed or was cancelled is an event.
        """
        return self._client.follow(self.id, after, timeout)

    def cancel(self) -> bool:
        """Cancel it: see :meth:`dspex.Client.cancel`. False when it had completed or failed already."""
        return self._client.cancel(self.id)

    def refresh(self) -> Execution:
        """Read the row again."""
        self._row = self._client.row(self.id)
        return self

    def _outcome(self) -> Result:
        row = self._row
        id = str(self.id)
        if row["status"] == Status.COMPLETED:
            return Result(self._sealing.values(self._signature, "outputs", row["result"], self.id))
        if row["status"] == Status.CANCELLED:
            raise ExecutionCancelled(f"execution {id} was cancelled", execution_id=id)
        cause = row["error"] or {}
        raise ExecutionFailed(
            f"execution {id} of {self.program!r} failed after {row['attempt']} attempt(s), {cause.get('code')}: "
            f"{cause.get('message')}. See `dspex show {id}`",
            code=cause.get("code", "failed"),
            execution_id=id,
            attempts=row["attempt"],
            cause=self._sealing.open_whole(cause, f"{id}:error"),
        )

    @property
    def _current(self) -> Mapping[str, Any]:
        if not Status(self._row["status"]).is_final:
            self.refresh()
        return self._row

    @property
    def _sealing(self) -> Sealing:
        return self._client.sealing

    @property
    def _signature(self) -> Signature:
        return self._client.program(self.program, self.version).signature
