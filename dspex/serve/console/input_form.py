"""The forms of a program: a control for each input or output, and the values that a sent form stands for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import FormData

from dspex.errors import ValidationError
from dspex.signatures import Field, Signature
from dspex.signatures.compiled import Side
from dspex.signatures.types.type_registry import is_text

__all__ = ["FormControl", "controls", "inputs_of_form", "outputs_of_form"]

#: Fields of the form are named so, apart from fields that every form has.
PREFIX, OUTPUT_PREFIX = "input.", "output."
#: A value of at most so many characters has a control of one line.
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
    signature: Signature, given: Mapping[str, str] | None = None, error: ValidationError | None = None, *,
    side: Side = "inputs",
) -> list[FormControl]:  # fmt: skip
    """The controls of a signature's inputs, with the texts that were ``given`` and why they do not fit.

    ``side="outputs"``: of its outputs, all of which may be left out.
    """
    schemas = signature.json_schema(side)["properties"]
    faults: dict[str, list[str]] = {}
    for fault in () if error is None else error.errors:
        faults.setdefault(fault.path.partition("[")[0].partition(".")[0], []).append(f"expected {fault.expected}")
    return [
        _control(field, schemas[field.name], (given or {}).get(field.name), "; ".join(faults.get(field.name, ())), side)
        for field in signature.fields(side)
    ]


def inputs_of_form(signature: Signature, form: FormData) -> tuple[dict[str, Any], dict[str, str]]:
    """The inputs that a form stands for, as JSON values, and its texts. An empty optional control is left out."""
    given = _texts(signature.input_fields, PREFIX, form)
    fields = [field for field in signature.input_fields if field.name in given]
    return {f.name: _value(f, given[f.name]) for f in fields if given[f.name] or f.required}, given


def outputs_of_form(signature: Signature, form: FormData) -> tuple[dict[str, Any], dict[str, str]]:
    """The corrected outputs that a form stands for, as JSON values, and its texts. An empty control is left out."""
    given = _texts(signature.output_fields, OUTPUT_PREFIX, form)
    fields = [field for field in signature.output_fields if given.get(field.name)]
    return {field.name: _value(field, given[field.name]) for field in fields}, given


def _texts(fields: Sequence[Field], prefix: str, form: FormData) -> dict[str, str]:
    """The texts of the controls that a form has, by field."""
    found = {field.name: form.get(prefix + field.name) for field in fields}
    # Browsers send line breaks so.
    return {name: text.replace("\r\n", "\n") for name, text in found.items() if isinstance(text, str)}


def _value(field: Field, text: str) -> Any:
    return text if is_text(field.type) else _json_or_text(text)


def _control(field: Field, schema: Json, given: str | None, fault: str, side: Side) -> FormControl:
    choices = [value if isinstance(value, str) else json.dumps(value) for value in _choices(schema)]
    is_input = side == "inputs"
    value = given if given is not None else _default(schema) if is_input else ""
    return FormControl(
        name=(PREFIX if is_input else OUTPUT_PREFIX) + field.name, field=field.name, type=str(field.full_type),
        kind=_kind(field, schema, choices), about=field.description or "", required=field.required and is_input,
        value=value, choices=choices, fault=fault, secret=field.secret,
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
