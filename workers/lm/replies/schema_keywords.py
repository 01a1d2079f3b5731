"""Requests whose answer is described by a JSON Schema with keywords that the server does not know."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["with_reduced_schema"]

#: What every server with structured outputs knows. The rest narrows values; outputs are validated anyway.
_KNOWN = frozenset(
    {"type", "properties", "required", "items", "enum", "const", "anyOf", "$ref", "$defs", "definitions"}
    | {"additionalProperties", "description"}
)
_BY_NAME = frozenset({"properties", "$defs", "definitions"})


def with_reduced_schema(request: Mapping[str, Any]) -> dict[str, Any] | None:
    """The request, in lm15's canonical form, with a schema of the usual keywords, and the whole schema in words; None
    if its schema has no others."""
    config = request.get("config") or {}
    form = config.get("response_format")
    if not isinstance(form, Mapping) or form.get("type") != "json_schema":
        return None
    schema = form.get("schema")
    reduced = _reduced(schema)
    if reduced == schema:
        return None
    told = {"system": f"{request['system']}\n{_words(schema)}"} if isinstance(request.get("system"), str) else {}
    return {**request, **told, "config": {**config, "response_format": {**form, "schema": reduced}}}


def _words(schema: Any) -> str:
    return f"The answer also fits this JSON Schema: {json.dumps(schema, ensure_ascii=False)}"


def _reduced(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_reduced(inner) for inner in schema]
    if not isinstance(schema, Mapping):
        return schema
    known: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in _BY_NAME and isinstance(value, Mapping):
            known[keyword] = {name: _reduced(inner) for name, inner in value.items()}
        elif keyword in ("items", "anyOf", "additionalProperties"):
            known[keyword] = _reduced(value)
        elif keyword in _KNOWN:
            known[keyword] = value
        elif keyword in ("oneOf", "allOf"):
            known["anyOf"] = _reduced(value)
    return known
