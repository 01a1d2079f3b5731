"""JSON Schema (draft 2020-12) of types and signatures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dspex.signatures.descriptions import named_values
from dspex.signatures.fields import LEFT_OUT, Field, Type
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
        inner = type_schema(field.type).get("description") if field.type.notes else None
        schema["description"] = f"{field.description}\n{inner}" if inner else field.description
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
    """The JSON Schema of a type with its constraints and notes."""
    schema = _unnoted_schema(kind)
    notes = dict(kind.notes)
    if "names" in notes:
        notes["description"] = "\n".join(filter(None, [notes.get("description"), named_values(notes.pop("names"))]))
    if "language" in notes:
        notes["description"] = "\n".join(filter(None, [notes.get("description"), f"{notes.pop('language')} code"]))
    return schema | {name: json.loads(text) if name == "examples" else text for name, text in notes.items()}


def _unnoted_schema(kind: Type) -> Schema:
    spec = SPECS[kind.name]
    if spec.base is None:
        plain = dict(spec.json) if spec.json is not None else _COMPOSITES[kind.name](kind)
        return _constrained(kind, plain)
    limits = expand(kind).constraints if kind.constraints else spec.base.constraints
    schema = type_schema(replace(spec.base, constraints=limits))
    return schema | dict(spec.json or {})


def _constrained(kind: Type, schema: Schema) -> Schema:
    rules = CONSTRAINT_RULES.get(kind.name, {})
    for name, value in kind.constraints:
        keyword = rules[name].json
        if keyword:
            schema[keyword] = list(value) if isinstance(value, tuple) else value
    return schema


def _object(kind: Type) -> Schema:
    members = {key: _key_schema(arg, default) for key, arg, default in kind.object_keys()}
    return _closed(members, [key for key in kind.labels if key in kind.required])


def _key_schema(kind: Type, default: str | None) -> Schema:
    schema = type_schema(kind)
    return schema if default in (None, LEFT_OUT) else schema | {"default": json.loads(str(default))}


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
