"""The form of a program: a control for each input, and the inputs that a sent form stands for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import FormData

from dspex.errors import ValidationError
from dspex.signatures import Field, Signature
from dspex.signatures.types.type_registry import is_text

__all__ = ["FormControl", "controls", "inputs_of_form"]

#: Fields of the form are named so, apart from fields that every form has.
PREFIX = "input."
#: An input of at most so many characters has a control of one line.
ONE_LINE = 120
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class FormControl:
    """A control: ``kind`` is ``text``, ``line``, ``number``, ``choice`` or ``json``."""

    name: str
    field: str
    type: str
    kind: str
    about: str
    required: bool
    value: str
    choices: Sequence[str] = ()
    fault: str = ""
    secret: bool = False


def controls(
    signature: Signature, given: Mapping[str, str] | None = None, error: ValidationError | None = None
) -> list[FormControl]:
    """The controls of a signature's inputs, with the texts that were ``given`` and why they do not fit."""
    schemas = signature.json_schema("inputs")["properties"]
    faults: dict[str, list[str]] = {}
    for fault in () if error is None else error.errors:
        faults.setdefault(fault.path.partition("[")[0].partition(".")[0], []).append(f"expected {fault.expected}")
    return [
        _control(field, schemas[field.name], (given or {}).get(field.name), "; ".join(faults.get(field.name, ())))
        for field in signature.input_fields
    ]


def inputs_of_form(signature: Signature, form: FormData) -> tuple[dict[str, Any], dict[str, str]]:
    """The inputs that a form stands for, as JSON values, and its texts. An empty optional control is left out."""
    inputs: dict[str, Any] = {}
    given: dict[str, str] = {}
    for field in signature.input_fields:
        value = form.get(PREFIX + field.name)
        if not isinstance(value, str):
            continue
        given[field.name] = text = value.replace("\r\n", "\n")  # browsers send line breaks so
        if text or field.required:
            inputs[field.name] = text if is_text(field.type) else _json_or_text(text)
    return inputs, given


def _control(field: Field, schema: Json, given: str | None, fault: str) -> FormControl:
    choices = [value if isinstance(value, str) else json.dumps(value) for value in _choices(schema)]
    value = given if given is not None else _default(schema)
    return FormControl(
        name=PREFIX + field.name, field=field.name, type=str(field.full_type), kind=_kind(field, schema, choices),
        about=field.description or "", required=field.required, value=value, choices=choices, fault=fault,
        secret=field.secret,
    )  # fmt: skip


def _choices(schema: Json) -> list[Any]:
    """The values that a schema allows, if it lists them."""
    if "enum" in schema:
        return list(schema["enum"])
    if schema.get("type") == "boolean":
        return [True, False]
    for option in schema.get("anyOf", ()):
        if "enum" in option:
            return list(option["enum"])
    return []


def _kind(field: Field, schema: Json, choices: Sequence[str]) -> str:
    if choices:
        return "choice"
    if schema.get("type") in ("integer", "number"):
        return "number"
    if not is_text(field.type):
        return "json"
    return "line" if schema.get("maxLength", ONE_LINE + 1) <= ONE_LINE else "text"


def _default(schema: Json) -> str:
    value = schema.get("default")
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
