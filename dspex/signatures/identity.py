"""The identity of a signature: its definition and its fingerprint.

The *definition* is the canonical text: it is complete, and compiling it gives an equal signature.
The *fingerprint* covers everything that affects the prompt or the validators: the fields in their order with types,
constraints, defaults, secret marks and descriptions, and the signature's description. The signature's name is not part
of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from dspex.signatures.fields import NO_DEFAULT, Field, Type, literal
from dspex.signatures.types.type_registry import SPECS
from dspex.signatures.values.text_forms import to_text

__all__ = ["definition", "fingerprint"]

_VERSION = "dspex-signature-1"


def definition(name: str, description: str, inputs: Sequence[Field], outputs: Sequence[Field]) -> str:
    """The canonical text of a signature."""
    about = f" {literal(description)}" if description else ""
    arrow = ["    ->"]
    lines = [f"signature {name}{about}:", *_lines(inputs), *arrow, *_lines(outputs)]
    return "\n".join(lines) + "\n"


def _lines(fields: Sequence[Field]) -> Iterator[str]:
    for number, field in enumerate(fields, 1):
        yield f"    {field_text(field)}{',' if number < len(fields) else ''}"


def field_text(field: Field) -> str:
    """One field in the signature language."""
    kind = _secret_text(field) if field.secret else str(field.full_type)
    text = f"{kind} {field.name}"
    if field.description:
        text += f" {literal(field.description)}"
    if has_default(field):
        text += f" = {literal(json_form(field.default))}"
    return text


def _secret_text(field: Field) -> str:
    inner = field.type
    return f":optional({inner}, secret=true)" if field.optional else inner.text(secret=True)


def has_default(field: Field) -> bool:
    """Whether the field has an explicit default. None is the implicit default of an optional field."""
    return field.default is not NO_DEFAULT and not (field.optional and field.default is None)


def json_form(value: Any) -> Any:
    """A value in its JSON form."""
    return json.loads(json.dumps(value, default=to_text))


def fingerprint(description: str, inputs: Sequence[Field], outputs: Sequence[Field]) -> str:
    """The SHA-256 of the signature's meaning, in hex."""
    meaning = [
        _VERSION,
        description,
        list(map(_meaning, inputs)),
        list(map(_meaning, outputs)),
        _custom(inputs, outputs),
    ]
    text = json.dumps(meaning, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _meaning(field: Field) -> list[Any]:
    default = [json_form(field.default)] if has_default(field) else []
    return [field.name, str(field.full_type), field.description, default, field.secret]


def _custom(*sides: Sequence[Field]) -> list[Any]:
    """The definitions of the custom types in use."""
    used = {name for side in sides for field in side for name in _names(field.type) if SPECS[name].custom}
    return [[name, str(SPECS[name].base), dict(SPECS[name].json or {})] for name in sorted(used)]


def _names(kind: Type) -> Iterator[str]:
    yield kind.name
    for arg in kind.args:
        yield from _names(arg)
    base = SPECS[kind.name].base
    if base is not None and SPECS[kind.name].custom:
        yield from _names(base)
