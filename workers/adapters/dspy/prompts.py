"""DSPy's own prompts, read without judging: a program's outputs come back as the model wrote them.

DSPy parses each output by its annotation and fails the whole answer on the first misfit, and it ignores constraints.
Here an answer is only taken apart into its fields; whether each value is right is decided once, by the program's
compiled signature, which can name the field, repair without loss, and record that it did.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

import dspy
from dspy.adapters.utils import annotation_allows_none, apply_output_field_defaults, parse_value
from dspy.utils.exceptions import AdapterParseError
from pydantic import TypeAdapter

from workers.adapters.dspy.dspy_signature import field_schema, is_text
from workers.answers.json_object import is_repairable, json_object

__all__ = ["ChatPrompt", "JsonPrompt", "json_fields"]

_HEADER = re.compile(r"\[\[ ## (\w+) ## \]\]")


class ChatPrompt(dspy.ChatAdapter):  # type: ignore[misc]
    """DSPy's default prompt, one paid call at most: a malformed answer is not asked for again as JSON."""

    def __init__(self) -> None:
        super().__init__(use_json_adapter_fallback=False)

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, text in _sections(completion):
            if name in signature.output_fields and name not in found:
                found[name] = _read(self, signature, completion, name, text)
        return _complete(self, signature, completion, found)


class JsonPrompt(dspy.JSONAdapter):  # type: ignore[misc]
    """DSPy's JSON prompt, with structured outputs where the endpoint has them."""

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        return json_fields(self, signature, completion)


def json_fields(adapter: dspy.Adapter, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
    """The output fields of an answer that is one JSON object, perhaps fenced or slightly broken.

    Raises AdapterParseError when there is no object or a field is missing.
    """
    answer = json_object(completion)
    if answer is None:
        raise _parse_error(adapter, signature, completion, None)
    found = {
        name: value if _is_ours(signature, name) else _typed(adapter, signature, completion, name, value)
        for name, value in answer.items()
        if name in signature.output_fields
    }
    return _complete(adapter, signature, completion, found)


def _sections(completion: str) -> list[tuple[str, str]]:
    """The text after each ``[[ ## name ## ]]`` header that begins a line."""
    sections: list[tuple[str, list[str]]] = []
    for line in completion.splitlines():
        header = _HEADER.match(line.strip())
        if header:
            sections.append((header.group(1), [line.strip()[header.end() :].strip()]))
        elif sections:
            sections[-1][1].append(line)
    return [(name, "\n".join(lines).strip()) for name, lines in sections]


def _read(adapter: dspy.Adapter, signature: type[dspy.Signature], completion: str, name: str, text: str) -> Any:
    """A field's text as the value it spells: text stays text, JSON and Python literals become values.

    For an optional text, ``null`` and ``None`` mean that there is none: this prompt has no other way to write it.
    """
    if not _is_ours(signature, name):
        return _typed(adapter, signature, completion, name, text)
    field = signature.output_fields[name]
    if is_text(field):
        return None if text in ("null", "None") and annotation_allows_none(field.annotation) else text
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return text


def _typed(adapter: dspy.Adapter, signature: type[dspy.Signature], completion: str, name: str, value: Any) -> Any:
    """A field that DSPy's own modules added (reasoning, a tool's name): read by its annotation, as they expect."""
    annotation = signature.output_fields[name].annotation
    try:
        if isinstance(value, str) and not is_repairable(value):
            return _unrepaired(value, annotation)
        return parse_value(value, annotation)
    except (ValueError, AssertionError) as error:  # AssertionError: json_repair's own
        raise _parse_error(adapter, signature, completion, {name: None}) from error


def _unrepaired(text: str, annotation: Any) -> Any:
    """Text that is too long for json_repair, which ``parse_value`` uses: as it is if it fits, else as valid JSON."""
    kind = TypeAdapter(annotation)
    try:
        return kind.validate_python(text)
    except ValueError:
        return kind.validate_python(json.loads(text))


def _is_ours(signature: type[dspy.Signature], name: str) -> bool:
    return field_schema(signature.output_fields[name]) is not None


def _complete(
    adapter: dspy.Adapter, signature: type[dspy.Signature], completion: str, found: dict[str, Any]
) -> dict[str, Any]:
    values: dict[str, Any] = apply_output_field_defaults(signature, found)
    if values.keys() != signature.output_fields.keys():
        raise _parse_error(adapter, signature, completion, found)
    return values


def _parse_error(
    adapter: dspy.Adapter, signature: type[dspy.Signature], completion: str, found: dict[str, Any] | None
) -> AdapterParseError:
    return AdapterParseError(
        adapter_name=type(adapter).__name__, signature=signature, lm_response=completion, parsed_result=found
    )
