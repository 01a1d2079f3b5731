"""The result of an execution, and the error to raise when it has none."""

from __future__ import annotations

from typing import Any, NoReturn, TypeVar

from dspex.client.session import Session
from dspex.errors import ExecutionCancelled, ExecutionFailed, FieldError, ValidationError
from dspex.store.lifecycle.status import Status
from dspex.wait.driver import Row

__all__ = ["Result", "recorded_result"]

T = TypeVar("T")

_RECORD = "a result is a record: it cannot be changed"


class Result(dict[str, Any]):
    """The outputs of an execution: ``result.answer``, ``result["answer"]``, ``dict(result)``, ``{**result}``.

    It cannot be changed. An output wins over a method of the same name: with an output ``items``, ``result.items`` is
    its value, and ``dict(result).items()`` gives all outputs.
    """

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        if name in self:
            return self[name]
        return super().__getattribute__(name)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no output {name!r}; this result has {', '.join(self)}")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self})

    def __repr__(self) -> str:
        return f"Result({', '.join(f'{name}={self[name]!r}' for name in self)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Result, (dict(self),)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(_RECORD)

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(_RECORD)

    def as_model(self, kind: type[T]) -> T:
        """The outputs as a class of yours: a pydantic model, a dataclass or a TypedDict with the outputs' names; or the
        value of the only output as any type.

        Raises ValidationError when they do not fit it.
        """
        from pydantic import TypeAdapter  # it takes as long to import as the rest of a client
        from pydantic import ValidationError as PydanticError

        names = _member_names(kind)
        whole = names is not None and (len(self) != 1 or not names.isdisjoint(self))
        value = dict(self) if whole else next(iter(self.values())) if len(self) == 1 else dict(self)
        try:
            return TypeAdapter(kind).validate_python(value)
        except PydanticError as error:
            faults = [
                FieldError(".".join(map(str, fault["loc"])) or "outputs", str(fault["msg"])) for fault in error.errors()
            ]
            raise ValidationError.of(f"the result as {getattr(kind, '__name__', kind)}", faults) from None

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse


def _member_names(kind: Any) -> frozenset[str] | None:
    """The names of a class's members; None for a type without any, such as ``list[str]``."""
    fields = getattr(kind, "model_fields", None)
    if fields:
        return frozenset(info.alias or name for name, info in fields.items())
    return frozenset(getattr(kind, "__annotations__", ())) or None


def recorded_result(session: Session, row: Row) -> Result:
    """The result in the row of a final execution. Raises ExecutionFailed, ExecutionCancelled, EncryptionError."""
    if row["status"] == Status.COMPLETED:
        return Result(session.sealing.values(session.signature(row), "outputs", row["result"], row["id"]))
    id = str(row["id"])
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
