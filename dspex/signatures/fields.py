"""Types and fields of signatures, as immutable data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

__all__ = ["NO_DEFAULT", "PLAIN_TEXT", "Field", "Type", "literal"]

NO_DEFAULT: Any = ...
"""``Field.default`` of a field that must be given."""


def literal(value: object) -> str:
    """The value as a literal of the signature language: JSON, with text left readable."""
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": "))


@dataclass(frozen=True, slots=True)
class Type:
    """A type of the language, such as ``:list(:string, max_size=5)``.

    ``args`` are its type arguments, ``labels`` their names: the values of an ``:enum``, the tags of a
    ``:tagged``, the keys of an ``:object``. ``constraints`` are ``(name, value)`` pairs in canonical order.
    """

    name: str
    args: tuple[Type, ...] = ()
    labels: tuple[str, ...] = ()
    constraints: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return self.text()

    def text(self, *, secret: bool = False) -> str:
        """The type in the signature language; ``secret`` adds ``secret=true``, which belongs to the field."""
        parts = [*self._arguments(), *(f"{name}={literal(_plain(value))}" for name, value in self.constraints)]
        if secret:
            parts.append("secret=true")
        return f":{self.name}({', '.join(parts)})" if parts else f":{self.name}"

    def _arguments(self) -> list[str]:
        if self.name == "object":
            return [f"{key}={arg}" for key, arg in zip(self.labels, self.args, strict=True)]
        if self.name == "tagged":
            return [part for tag, arg in zip(self.labels, self.args, strict=True) for part in (literal(tag), str(arg))]
        return [*map(literal, self.labels), *map(str, self.args)]

    @property
    def limits(self) -> dict[str, Any]:
        """The constraints as a mapping."""
        return dict(self.constraints)


PLAIN_TEXT = Type("string")


@dataclass(frozen=True, slots=True)
class Field:
    """One input or output of a signature.

    ``type`` does not include ``:optional``; an ``optional`` field may be missing or ``None``. ``default`` replaces a
    missing value; it is :data:`NO_DEFAULT` (``...``) if the field is required. The value of a ``secret`` field
    is never shown in errors.
    """

    name: str
    type: Type
    description: str = ""
    optional: bool = False
    default: Any = NO_DEFAULT
    secret: bool = False

    @property
    def constraints(self) -> dict[str, Any]:
        """The field's constraints, by name."""
        return self.type.limits

    @property
    def required(self) -> bool:
        """Whether a value must be given."""
        return self.default is NO_DEFAULT

    @property
    def full_type(self) -> Type:
        """The type, wrapped in ``:optional`` if the field is optional."""
        return Type("optional", (self.type,)) if self.optional else self.type


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
