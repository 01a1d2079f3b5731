"""JSON Schema (draft 2020-12) of types and signatures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dspex.signatures.fields import Field, Type
from dspex.signatures.identity import has_default, json_form
from dspex.signatures.types.constraints import CONSTRAINT_RULES
from dspex.signatures.types.type_registry import SPECS, expand

__all__ = ["DIALECT", "side_schema", "type_schema"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]


def side_schema(name: str, description: str, fields: Sequence[Field]) -> Schema:
    """The JSON Schema of one side of a signature: an object with these fields and no others."""
    schema: Schema = {"$schema": DIALECT, "title": name}
    if description:
        schema["description"] = description
    return schema | _closed({field.name: _field(field) for field in fields}, [f.name for f in fields if f.required])


def _field(field: Field) -> Schema:
    schema = type_schema(field.full_type)
    if field.description:
        schema["description"] = field.description
    if has_default(field):
        schema["default"] = json_form(field.default)
    return schema


def _closed(properties: Schema, required: Sequence[str]) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def type_schema(kind: Type) -> Schema:
    """The JSON Schema of a type with its constraints."""
    spec = SPECS[kind.name]
    if spec.base is None:
        plain = dict(spec.json) if spec.json is not None else _COMPOSITES[kind.name](kind)
        return _constrained(kind, plain)
    limits = expand(kind).constraints if kind.constraints else spec.base.constraints
    schema = type_schema(Type(spec.base.name, spec.base.args, spec.base.labels, limits))
    return schema | dict(spec.json or {})


def _constrained(kind: Type, schema: Schema) -> Schema:
    rules = CONSTRAINT_RULES.get(kind.name, {})
    for name, value in kind.constraints:
        keyword = rules[name].json
        if keyword:
            schema[keyword] = list(value) if isinstance(value, tuple) else value
    return schema


def _object(kind: Type) -> Schema:
    members = dict(zip(kind.labels, kind.args, strict=True))
    required = [key for key, arg in members.items() if arg.name != "optional"]
    return _closed({key: type_schema(arg) for key, arg in members.items()}, required)


def _tagged(kind: Type) -> Schema:
    members = zip(kind.labels, kind.args, strict=True)
    choices = [
        _closed({"tag": {"type": "string", "enum": [tag]}, "value": type_schema(arg)}, ["tag", "value"])
        for tag, arg in members
    ]
    return {"anyOf": choices}


def _dict(kind: Type) -> Schema:
    keys = {key: value for key, value in type_schema(kind.args[0]).items() if key != "type"}
    named = {"propertyNames": keys} if keys else {}
    return {"type": "object", "additionalProperties": type_schema(kind.args[1]), **named}


_COMPOSITES: Mapping[str, Callable[[Type], Schema]] = {
    "enum": lambda kind: {"type": "string", "enum": list(kind.labels)},
    "list": lambda kind: {"type": "array", "items": type_schema(kind.args[0])},
    "dict": _dict,
    "optional": lambda kind: {"anyOf": [type_schema(kind.args[0]), {"type": "null"}]},
    "union": lambda kind: {"anyOf": [type_schema(arg) for arg in kind.args]},
    "tagged": _tagged,
    "object": _object,
}
