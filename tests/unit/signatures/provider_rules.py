"""The rules that providers publish for JSON Schema, written from their documentation and apart from DSPex's own table.

OpenAI     https://platform.openai.com/docs/guides/structured-outputs#supported-schemas
Anthropic  https://platform.claude.com/docs/en/build-with-claude/structured-outputs#json-schema-limitations
Gemini     https://ai.google.dev/gemini-api/docs/structured-output#json_schema_support and, for anyOf,
           https://ai.google.dev/api/generate-content#FIELDS.response_json_schema
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]


def nodes(schema: Schema, path: str = "$", depth: int = 1) -> Iterator[tuple[str, Schema, int]]:
    """Every schema in a schema with its path and how many objects and lists it stands in."""
    yield path, schema, depth
    for key, value in schema.get("properties", {}).items():
        yield from nodes(value, f"{path}.{key}", depth + 1)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from nodes(schema[key], f"{path}.{key}", depth + 1)
    for number, value in enumerate(schema.get("anyOf", [])):
        yield from nodes(value, f"{path}|{number}", depth)


def _types(schema: Schema) -> Any:
    return schema.get("type", "anyOf" if "anyOf" in schema else None)


def _closed(path: str, schema: Schema) -> Iterator[str]:
    if schema.get("type") == "object":
        if schema.get("additionalProperties") is not False:
            yield f"{path}: additionalProperties must be false"
        if "properties" not in schema:
            yield f"{path}: an object without properties"


def openai(schema: Schema) -> Iterator[str]:
    """Strict structured outputs."""
    allowed = {
        "string": {"pattern", "format", "enum"},
        "number": {"multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum", "enum"},
        "integer": {"multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum", "enum"},
        "boolean": {"enum"},
        "null": set(),
        "array": {"items", "minItems", "maxItems"},
        "object": {"properties", "required", "additionalProperties"},
        "anyOf": {"anyOf"},
    }
    formats = {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}
    if schema.get("type") != "object":
        yield "$: the root must be an object, not anyOf"
    for path, node, depth in nodes(schema):
        yield from _closed(path, node)
        if _types(node) not in allowed:
            yield f"{path}: type {_types(node)!r}"
            continue
        for keyword in node.keys() - {"type", "description"} - allowed[_types(node)]:
            yield f"{path}: {keyword} is not supported"
        if set(node.get("required", [])) != set(node.get("properties", {})):
            yield f"{path}: all fields must be required"
        if node.get("format", "date") not in formats:
            yield f"{path}: format {node['format']}"
        if re.search(r"\(\?[=!<]|\\[1-9]", node.get("pattern", "")):
            yield f"{path}: pattern"
        if depth > 10:
            yield f"{path}: more than 10 levels"


def anthropic(schema: Schema) -> Iterator[str]:
    """Strict tools and JSON outputs."""
    allowed = {
        "type",
        "description",
        "enum",
        "const",
        "anyOf",
        "allOf",
        "$ref",
        "$defs",
        "default",
        "required",
        "additionalProperties",
        "properties",
        "items",
        "format",
        "pattern",
        "minItems",
    }
    formats = {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
    unions = optional = 0
    for path, node, _ in nodes(schema):
        yield from _closed(path, node)
        for keyword in node.keys() - allowed:
            yield f"{path}: {keyword} is not supported"
        if node.get("minItems", 0) not in (0, 1):
            yield f"{path}: minItems beyond 1"
        if any(not isinstance(value, str | int | float | bool | None) for value in node.get("enum", [])):
            yield f"{path}: complex values in enum"
        if node.get("format", "date") not in formats:
            yield f"{path}: format {node['format']}"
        if re.search(r"\(\?[=!<]|\\[1-9bB]", node.get("pattern", "")):
            yield f"{path}: pattern"
        for key in node.get("properties", {}):
            if not re.fullmatch(r"[a-zA-Z0-9_.-]{1,64}", key):
                yield f"{path}: property name {key!r}"
        unions += "anyOf" in node
        optional += len(node.get("properties", {})) - len(node.get("required", []))
    if unions > 16:
        yield "$: more than 16 parameters with union types"
    if optional > 24:
        yield "$: more than 24 optional parameters"


def gemini(schema: Schema) -> Iterator[str]:
    """``responseJsonSchema``."""
    allowed = {
        "string": {"enum", "format"},
        "number": {"format", "minimum", "maximum", "enum"},
        "integer": {"format", "minimum", "maximum", "enum"},
        "boolean": set(),
        "null": set(),
        "array": {"minItems", "maxItems", "items", "prefixItems"},
        "object": {"properties", "required", "propertyOrdering", "additionalProperties"},
        "anyOf": {"anyOf"},
    }
    for path, node, _ in nodes(schema):
        if _types(node) not in allowed:
            yield f"{path}: type {_types(node)!r}"
            continue
        for keyword in node.keys() - {"type", "title", "description"} - allowed[_types(node)]:
            yield f"{path}: {keyword} is not supported"
        if node.get("type") == "string" and node.get("format", "date") not in {"date-time", "date", "time"}:
            yield f"{path}: format {node['format']}"
        if "propertyOrdering" in node and sorted(node["propertyOrdering"]) != sorted(node.get("properties", {})):
            yield f"{path}: propertyOrdering names other properties"


RULES = {"openai": openai, "anthropic": anthropic, "gemini": gemini}
