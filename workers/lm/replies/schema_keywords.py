"""Requests whose answer is described by a JSON Schema with keywords that the server does not know."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["ReducedRequest", "RefusedKeywords", "with_reduced_schema"]

#: What every server with structured outputs knows. The rest narrows values; outputs are validated anyway.
_KNOWN = frozenset(
    {"type", "properties", "required", "items", "enum", "const", "anyOf", "$ref", "$defs", "definitions"}
    | {"additionalProperties", "description"}
)
_BY_NAME = frozenset({"properties", "$defs", "definitions"})


class ReducedRequest(NamedTuple):
    """A request with a schema of the usual keywords, and the keywords that it had beside them."""

    request: dict[str, Any]
    keywords: frozenset[str]


class RefusedKeywords:
    """The keywords of the schemas that one server refused for one model, so that it is asked with them once."""

    def __init__(self) -> None:
        self._refused: set[frozenset[str]] = set()

    def add(self, keywords: frozenset[str]) -> None:
        """A schema with these was refused; it is not known for which of them."""
        self._refused.add(keywords)

    def reduced(self, request: Mapping[str, Any]) -> ReducedRequest | None:
        """The request with its schema reduced, if they include all keywords of a schema that was refused."""
        found = with_reduced_schema(request) if self._refused else None
        return found if found and any(known <= found.keywords for known in self._refused) else None


def with_reduced_schema(request: Mapping[str, Any]) -> ReducedRequest | None:
    """The request, in lm15's canonical form, with a schema of the usual keywords, and the whole schema in words; None
    if its schema has no others."""
    config = request.get("config") or {}
    form = config.get("response_format")
    if not isinstance(form, Mapping) or form.get("type") != "json_schema":
        return None
    schema = form.get("schema")
    others: set[str] = set()
    reduced = _reduced(schema, others)
    if not others:
        return None
    words = {"system": f"{request['system']}\n{_words(schema)}"} if isinstance(request.get("system"), str) else {}
    return ReducedRequest(
        {**request, **words, "config": {**config, "response_format": {**form, "schema": reduced}}}, frozenset(others)
    )


def _words(schema: Any) -> str:
    return f"The answer also fits this JSON Schema: {json.dumps(schema, ensure_ascii=False)}"


def _reduced(schema: Any, others: set[str]) -> Any:
    """The schema with the usual keywords; the others are added to ``others``."""
    if isinstance(schema, list):
        return [_reduced(inner, others) for inner in schema]
    if not isinstance(schema, Mapping):
        return schema
    known: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword not in _KNOWN:
            others.add(keyword)
        if keyword in _BY_NAME and isinstance(value, Mapping):
            known[keyword] = {name: _reduced(inner, others) for name, inner in value.items()}
        elif keyword in ("items", "anyOf", "additionalProperties"):
            known[keyword] = _reduced(value, others)
        elif keyword in _KNOWN:
            known[keyword] = value
        elif keyword in ("oneOf", "allOf"):
            known["anyOf"] = _reduced(value, others)
    return known
