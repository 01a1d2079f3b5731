"""The result of an execution, and the error to raise when it has none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from functools import lru_cache
from typing import Any, Generic, NoReturn, TypeVar
from uuid import UUID

from dspex.client.session import Session
from dspex.errors import ExecutionCancelled, ExecutionFailed, FieldError, ValidationError
from dspex.store.lifecycle.status import Status
from dspex.wait.driver import Row

__all__ = ["Result", "ResultType", "recorded_result", "result_type_of"]

T = TypeVar("T")

#: So many types of results are kept for the next one: to prepare a type takes longer than to read a result with it.
TYPES_KEPT = 128

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

        Raises ValidationError when they do not fit it, or when pydantic cannot read such a class.
        """
        return result_type_of(kind).read(self)

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse


class ResultType(Generic[T]):
    """The type that results are read as: a pydantic model, a dataclass or a TypedDict with the outputs' names, or the
    type of the only output.

    Raises ValidationError for a type that pydantic cannot read.
    """

    def __init__(self, kind: type[T]) -> None:
        from pydantic import PydanticUserError, TypeAdapter  # they take as long to import as the rest of a client

        self._name = kind.__name__ if isinstance(kind, type) else str(kind)
        try:
            self._adapter = TypeAdapter(kind)
            self._adapter.rebuild()  # it raises for a name that does not exist
            self._members = _member_names(kind)
        except (PydanticUserError, NameError) as error:  # NameError: an annotation has a name that does not exist
            reason = str(error).split("\n", 1)[0]
            raise ValidationError(f"{self._name} cannot be the type of a result: {reason}") from None

    def read(self, outputs: Mapping[str, Any], execution_id: UUID | None = None) -> T:
        """The outputs as this type. Raises ValidationError when they do not fit it; it names the execution."""
        from pydantic import ValidationError as PydanticError

        is_only = len(outputs) == 1 and self._members.isdisjoint(outputs)
        value = next(iter(outputs.values())) if is_only else dict(outputs)
        try:
            return self._adapter.validate_python(value)
        except PydanticError as error:
            faults = [
                FieldError(".".join(map(str, fault["loc"])) or "outputs", str(fault["msg"])) for fault in error.errors()
            ]
        named = "the result" if execution_id is None else f"the stored result of execution {execution_id}"
        text = "; ".join(f"{fault.path}: {fault.expected}" for fault in faults)
        details: dict[str, Any] = {} if execution_id is None else {"execution_id": str(execution_id)}
        details["errors"] = [asdict(fault) for fault in faults]
        raise ValidationError(f"{named} as {self._name}: {text}", **details)


def result_type_of(kind: type[T]) -> ResultType[T]:
    """The type, prepared once. Raises ValidationError for one that pydantic cannot read."""
    try:
        hash(kind)
    except TypeError:  # Annotated[...] with metadata that cannot be hashed
        return ResultType(kind)
    return _kept(kind)  # type: ignore[arg-type]  # it was hashed


@lru_cache(TYPES_KEPT)
def _kept(kind: Any) -> ResultType[Any]:
    return ResultType(kind)


def _member_names(kind: Any) -> frozenset[str]:
    """The names of a class's members; none for a type without any, such as ``list[str]``."""
    if model_fields := getattr(kind, "model_fields", None):
        aliases = {alias for info in model_fields.values() for alias in (info.alias, info.validation_alias)}
        return frozenset({*model_fields, *filter(lambda alias: isinstance(alias, str), aliases)})
    if is_dataclass(kind):
        return frozenset(field.name for field in fields(kind))
    return frozenset(getattr(kind, "__annotations__", ()))


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
