"""The result of an execution, and the error to raise when it has none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dspex.client.session import Session
from dspex.errors import ExecutionCancelled, ExecutionFailed
from dspex.store.lifecycle.status import Status
from dspex.wait.driver import Row

__all__ = ["Result", "recorded_result"]


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


def recorded_result(session: Session, row: Row) -> Result:
    """The result in the row of a final execution. Raises ExecutionFailed, ExecutionCancelled, EncryptionError."""
    id = str(row["id"])
    if row["status"] == Status.COMPLETED:
        return Result(session.sealing.values(session.signature(row), "outputs", row["result"], row["id"]))
    if row["status"] == Status.CANCELLED:
        raise ExecutionCancelled(f"execution {id} was cancelled", execution_id=id)
    cause = row["error"] or {}
    raise ExecutionFailed(
        f"execution {id} of {row['program']!r} failed after {row['attempt']} attempt(s), {cause.get('code')}: "
        f"{cause.get('message')}. See `dspex show {id}`",
        code=cause.get("code", "failed"),
        execution_id=id,
        attempts=row["attempt"],
        cause=session.sealing.open_whole(cause, f"{id}:error"),
    )
