"""Types and fields of signatures, as immutable data."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

__all__ = [
    "LEFT_OUT",
    "NO_DEFAULT",
    "PLAIN_TEXT",
    "Field",
    "Type",
    "literal",
    "with_lifted_description",
]

NO_DEFAULT: Any = ...
"""``Field.default`` of a field that must be given."""

LEFT_OUT = ""
"""``Type.defaults`` of a key that stays away when it is left out."""


def literal(value: object) -> str:
    """The value as a literal of the signature language: JSON, with text left readable."""
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": "))


@dataclass(frozen=True, slots=True)
class Type:
    """A type of the language, such as ``:list(:string, max_size=5)``.

    ``args`` are its type arguments, ``labels`` their names: the values of an ``:enum``, the tags of a
    ``:tagged``, the keys of an ``:object``. ``constraints`` are ``(name, value)`` pairs in canonical order.
    ``defaults`` has an entry for each key of an ``:object`` with a key that may be left out: the JSON of its default,
    :data:`LEFT_OUT`, or None for a key that must be given or is ``:optional``. ``notes`` describe the values to models:
    pairs of ``title``, ``description``, ``examples`` or ``names`` (of values; both as JSON) and text.
    """

    name: str
    args: tuple[Type, ...] = ()
    labels: tuple[str, ...] = ()
    constraints: tuple[tuple[str, Any], ...] = ()
    defaults: tuple[str | None, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return self.text()

    def text(self, *, secret: bool = False) -> str:
        """The type in the signature language; ``secret`` adds ``secret=true``, which belongs to the field."""
        parts = [*self._arguments(), *(f"{name}={literal(_plain(value))}" for name, value in self.constraints)]
        parts += [f"{name}={text if name in ('examples', 'names') else literal(text)}" for name, text in self.notes]
        if secret:
            parts.append("secret=true")
        return f":{self.name}({', '.join(parts)})" if parts else f":{self.name}"

    def _arguments(self) -> list[str]:
        if self.name == "object":
            return [_key_text(key, arg, default) for key, arg, default in self.object_keys()]
        if self.name == "tagged":
            return [part for tag, arg in zip(self.labels, self.args, strict=True) for part in (literal(tag), str(arg))]
        return [*map(literal, self.labels), *map(str, self.args)]

    def object_keys(self) -> Iterator[tuple[str, Type, str | None]]:
        """The keys of an ``:object``: name, type and default."""
        return zip(self.labels, self.args, self.defaults or (None,) * len(self.labels), strict=True)

    @property
    def required(self) -> frozenset[str]:
        """The keys of an ``:object`` that must be given."""
        return frozenset(key for key, arg, default in self.object_keys() if default is None and arg.name != "optional")

    @property
    def is_noted(self) -> bool:
        """Whether the type or a type inside of it has notes."""
        return bool(self.notes) or any(arg.is_noted for arg in self.args)

    def without_notes(self) -> Type:
        """The type without the notes of it and of the types inside of it."""
        if not self.is_noted:
            return self
        return replace(self, args=tuple(arg.without_notes() for arg in self.args), notes=())

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


def with_lifted_description(field: Field) -> Field:
    """The field with the description of its type as its own, if it has no other."""
    if not field.type.notes:
        return field
    notes = dict(field.type.notes)
    inner = notes.pop("description", "")
    if not inner or field.description not in ("", inner):
        return field
    return replace(field, description=inner, type=replace(field.type, notes=tuple(notes.items())))


def _key_text(key: str, kind: Type, default: str | None) -> str:
    plain = key.isidentifier() and unicodedata.is_normalized("NFKC", key)
    name = f"{key if plain else literal(key)}{'?' if default == LEFT_OUT else ''}"
    return f"{name}={kind} = {default}" if default else f"{name}={kind}"


def _plain(value: Any) -> Any:
    """A constraint's value as JSON has it."""
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, Decimal):
        return int(value) if value == int(value) and abs(value) < 2**53 else _plain_fraction(value)
    return value


def _plain_fraction(value: Decimal) -> float | str:
    return float(value) if Decimal(repr(float(value))) == value else str(value)
