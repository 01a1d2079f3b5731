"""Validators for types: pydantic_core schemas, built without model classes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from pydantic_core import SchemaError, SchemaValidator
from pydantic_core import ValidationError as CoreError

from dspex.signatures.fields import LEFT_OUT, Field, Type, literal
from dspex.signatures.types.builtin_types import STRING
from dspex.signatures.types.constraints import CONSTRAINT_RULES
from dspex.signatures.types.type_registry import SPECS, TypeFaultError, TypeSpec, expand
from dspex.signatures.values.text_forms import to_text

__all__ = ["build_validator", "core_schema", "key_default"]

Schema = dict[str, Any]


def build_validator(fields: Sequence[Field]) -> SchemaValidator:
    """The validator of one side of a signature: a mapping with these fields and no others."""
    members = {field.name: _member(core_schema(field.full_type), field.default, field.required) for field in fields}
    schema: Any = {"type": "typed-dict", "fields": members, "extra_behavior": "forbid"}
    try:
        validator = SchemaValidator(schema)
    except SchemaError as error:
        for field in fields:
            _find_bad_pattern(field.full_type)
        raise TypeFaultError(str(error), code="invalid_type") from None
    schema.clear()  # the validator keeps it for pickling only, and a signature pickles its definition instead
    return validator


_plain: dict[str, tuple[TypeSpec, Schema]] = {}
"""Cached schemas of derived types without constraints."""


def core_schema(kind: Type) -> Schema:
    """The pydantic_core schema of a type, with its constraints and its check."""
    spec = SPECS[kind.name]
    if spec.base is None or kind.constraints:
        return _build(kind, spec)
    known = _plain.get(kind.name)
    if known is None or known[0] is not spec:
        known = _plain[kind.name] = (spec, _build(kind, spec))
    return known[1]


def _build(kind: Type, spec: TypeSpec) -> Schema:
    if spec.base is None:
        return _constrained(kind, cast(Schema, spec.core) if spec.core else _COMPOSITES[kind.name](kind))
    schema = core_schema(replace(spec.base, constraints=_all_constraints(kind, spec.base)))
    return _then(schema, spec.check) if spec.check else schema


def _all_constraints(kind: Type, base: Type) -> tuple[tuple[str, Any], ...]:
    return base.constraints if not kind.constraints else expand(kind).constraints


def _constrained(kind: Type, schema: Schema) -> Schema:
    if not kind.constraints:
        return schema
    rules = CONSTRAINT_RULES[kind.name]
    schema = dict(schema)
    target = schema
    if kind.name == "binary":
        target = schema["schema"] = dict(schema["schema"])
    later = []
    for name, value in kind.constraints:
        rule = rules[name]
        if rule.check is None:
            target[rule.core] = value
        else:
            later.append(rule.check(value))
    for check in later:
        schema = _then(schema, check)
    return schema


def _then(schema: Schema, check: Callable[[Any], Any]) -> Schema:
    return {"type": "function-after", "function": {"type": "no-info", "function": check}, "schema": schema}


def _member(schema: Schema, default: Any = ..., required: bool = True) -> Schema:
    if required:
        return {"type": "typed-dict-field", "schema": schema, "required": True}
    filled = {"type": "default", "schema": schema, "default": default, "copy_default": True}
    return {"type": "typed-dict-field", "schema": filled, "required": False}


def _object(kind: Type) -> Schema:
    members = {key: _key(core_schema(arg), arg, default) for key, arg, default in kind.object_keys()}
    return {"type": "typed-dict", "strict": True, "fields": members, "extra_behavior": "forbid"}


def _key(schema: Schema, kind: Type, default: str | None) -> Schema:
    if default == LEFT_OUT:
        return {"type": "typed-dict-field", "schema": schema, "required": False}
    if default is not None:
        return _member(schema, _validated(kind, json.loads(default)), required=False)
    return _member(schema, None, required=kind.name != "optional")


def key_default(kind: Type, value: Any) -> str:
    """The JSON of a key's default, in canonical form. Raises TypeFaultError if it does not fit the type."""
    return literal(json.loads(json.dumps(_validated(kind, value), default=to_text)))


def _validated(kind: Type, value: Any) -> Any:
    """The value of a default. Raises TypeFaultError."""
    schema: Any = core_schema(kind)
    try:
        return SchemaValidator(schema).validate_python(value)
    except CoreError as error:
        reason = error.errors(include_url=False)[0]["msg"]
        raise TypeFaultError(f"a default does not fit {kind}: {reason}", code="invalid_type") from None


def _tagged(kind: Type) -> Schema:
    choices = {}
    for tag, arg in zip(kind.labels, kind.args, strict=True):
        members = {"tag": _member({"type": "literal", "expected": [tag]}), "value": _member(core_schema(arg))}
        choices[tag] = {"type": "typed-dict", "strict": True, "fields": members, "extra_behavior": "forbid"}
    return {"type": "tagged-union", "strict": True, "discriminator": "tag", "choices": choices}


def _dict(kind: Type) -> Schema:
    keys, values = map(core_schema, kind.args)
    return {"type": "dict", "strict": True, "keys_schema": keys, "values_schema": values}


_COMPOSITES: Mapping[str, Callable[[Type], Schema]] = {
    "enum": lambda kind: {"type": "literal", "expected": list(kind.labels)},
    "list": lambda kind: {"type": "list", "strict": True, "items_schema": core_schema(kind.args[0])},
    "dict": _dict,
    "optional": lambda kind: {"type": "nullable", "schema": core_schema(kind.args[0])},
    "union": lambda kind: {
        "type": "union",
        "choices": [core_schema(arg) for arg in kind.args],
        "custom_error_type": "dspex_union",
        "custom_error_message": "none of the types fits",
    },
    "tagged": _tagged,
    "object": _object,
}


def _find_bad_pattern(kind: Type) -> None:
    """Raise an error that names the invalid regular expression."""
    pattern = kind.limits.get("pattern")
    if pattern is not None:
        try:
            SchemaValidator({**STRING, "pattern": pattern})
        except SchemaError as error:
            reason = str(error).strip().splitlines()[-1].removeprefix("error: ")
            raise TypeFaultError(
                f"pattern={pattern!r} is not usable: {reason}",
                code="invalid_constraint",
                expected="a regular expression without look-around and back-references",
                key="pattern",
            ) from None
    for arg in kind.args:
        _find_bad_pattern(arg)
