"""The answers of the model server without a script: values that fit the JSON Schema, or the words, of a prompt."""

from __future__ import annotations

import ast
import json
import math
import random
import re
from collections.abc import Callable, Mapping
from typing import Any

from dspex.signatures.values.pattern_examples import text_matching

__all__ = ["field_example", "schema_example", "with_limits"]

Schema = dict[str, Any]

#: Texts in the formats of JSON Schema.
_FORMATS = {
    "date": "2025-01-02",
    "date-time": "2025-01-02T03:04:05Z",
    "time": "03:04:05",
    "duration": "PT1H",
    "uuid": "123e4567-e89b-12d3-a456-426614174000",
    "uri": "https://example.com/",
    "email": "somebody@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
}
_BASE64 = "dGV4dA=="
#: The constraints of a field in the words of a prompt, and the keywords of JSON Schema that say the same.
_WORDS: tuple[tuple[str, str, Callable[[str], Any]], ...] = (
    (r"at least (-?[\d.e+-]+)$", "minimum", json.loads),
    (r"at most (-?[\d.e+-]+)$", "maximum", json.loads),
    (r"a multiple of ([\d.e+-]+)$", "multipleOf", json.loads),
    (r"at least (\d+) characters$", "minLength", json.loads),
    (r"at most (\d+) characters$", "maxLength", json.loads),
    (r"at least (\d+) items$", "minItems", json.loads),
    (r"at most (\d+) items$", "maxItems", json.loads),
    (r"text matching (['\"].*['\"])$", "pattern", ast.literal_eval),
    (r"a valid ([\w-]+)$", "format", str),
    (r"one of (-?\d+(?:, -?\d+)*)$", "enum", lambda numbers: json.loads(f"[{numbers}]")),
)
_KINDS = {"int": "integer", "float": "number", "bool": "boolean", "str": "string", "": "string"}


def field_example(name: str, kind: str, system: str, digest: str) -> Any:
    """An example of a field of DSPy's prompt, by the name of its Python type, and what the first message says of it:
    the schema of types without a plain name, and the constraints."""
    limits = _limits(name, system)
    noted = _noted_schema(name, system)
    is_plain = re.fullmatch(r"(list|dict)(\[(str|int|float|bool|, )+\])?", kind) is not None
    if noted is not None and (limits or not is_plain or "properties" in noted.get("items", {})):
        return schema_example({**noted, **limits}, noted, digest)
    if limits and kind in _KINDS:
        schema = {"type": _KINDS[kind], **limits}
        return schema_example(schema, schema, digest)
    return _python(kind, digest)


def _noted_schema(name: str, system: str) -> Schema | None:
    """The schema that the first message has for a field; in a prompt for JSON it is within a string."""
    noted = re.search(rf"\{{{name}\}}\s+# note: .* must adhere to the JSON schema: (.*)", system)
    if noted is None:
        return None
    text = noted[1]
    if text.startswith('{\\"'):
        text = json.JSONDecoder().raw_decode(f'"{text}')[0]
    schema: Schema = json.loads(text)
    return schema


def with_limits(schema: Schema, system: str) -> Schema:
    """The schema of an answer, with the constraints of its fields that only the first message of the prompt has."""
    properties = {name: {**_limits(name, system), **inner} for name, inner in schema.get("properties", {}).items()}
    return {**schema, "properties": properties} if properties else schema


def _limits(name: str, system: str) -> Schema:
    """The constraints of a field, as keywords of JSON Schema, from the line that describes it."""
    described = re.search(rf"^\d+\. `{name}` \(.*?\): (.*)$", system, re.MULTILINE)
    limits = {}
    for words in described[1].split("; ") if described else ():
        for pattern, keyword, read in _WORDS:
            if found := re.match(pattern, words):
                limits[keyword] = read(found[1])
    return limits


def _python(kind: str, digest: str) -> Any:
    """An example of a Python type by its name, as DSPy's prompts give it."""
    if literal := re.match(r"Literal\[['\"]([^'\"]+)", kind):
        return literal.group(1)
    examples = {"int": 3, "float": 0.5, "bool": True, "list[int": [3], "list[float": [0.5], "list[bool": [True],
                "list": ["a", "b"], "dict": {"a": 1}}  # fmt: skip
    return next((value for name, value in examples.items() if kind.startswith(name)), f"text {digest[:8]}")


def schema_example(schema: Mapping[str, Any], root: Mapping[str, Any], digest: str) -> Any:
    """A value that fits the schema."""
    if "$ref" in schema:
        target: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return schema_example(target, root, digest)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][int(digest[:4], 16) % len(schema["enum"])]
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return schema_example(schema[choice][0], root, digest)
    return _of_type(schema, root, digest)


def _of_type(schema: Mapping[str, Any], root: Mapping[str, Any], digest: str) -> Any:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    match kind[0] if isinstance(kind, list) else kind:
        case "object":
            return {name: schema_example(inner, root, digest) for name, inner in schema.get("properties", {}).items()}
        case "array":
            return _items(schema, root, digest)
        case "integer" | "number" as name:
            return _number(schema, 1 if name == "integer" else 0.5)
        case "boolean":
            return True
        case "null":
            return None
    return _text(schema, digest)


def _items(schema: Mapping[str, Any], root: Mapping[str, Any], digest: str) -> list[Any]:
    first = [schema_example(inner, root, digest) for inner in schema.get("prefixItems", [])]
    items = schema.get("items") or {}
    count = max(1, schema.get("minItems", 1)) - len(first)
    return [*first, *([schema_example(items, root, digest)] * count)]


def _number(schema: Mapping[str, Any], step: float) -> float:
    """1, or the number nearest to it within the limits, which is ``step`` beyond one that is excluded."""
    least, most = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    above, below = schema.get("exclusiveMinimum", -math.inf), schema.get("exclusiveMaximum", math.inf)
    step = min(step, (below - above) / 2)
    value: float = max(least, above + step, min(1, most, below - step))
    multiple = schema.get("multipleOf", 1 if isinstance(value, int) else 0)
    if not multiple:
        return value
    rounded: float = math.ceil(value / multiple) * multiple
    return rounded if rounded <= most else rounded - multiple


def _text(schema: Mapping[str, Any], digest: str) -> str:
    if "pattern" in schema:
        return text_matching(schema["pattern"], random.Random(digest))  # noqa: S311 - an example
    if schema.get("contentEncoding") == "base64":
        return _BASE64
    if (known := _FORMATS.get(schema.get("format", ""))) is not None:
        return known
    text = f"text {digest[:8]}"[: schema.get("maxLength", 100)]
    return text.ljust(schema.get("minLength", 0), ".")
