"""JSON Schema in the dialects of providers, and what each provider enforces.

A :class:`Dialect` describes a provider as its documentation does, and :func:`schema_for` rewrites a schema into it.
Unsupported keywords are moved to descriptions for the model, and DSPex's validators check them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dspex.signatures.fields import Field, Type, literal
from dspex.signatures.types.constraints import CONSTRAINT_RULES
from dspex.signatures.types.type_registry import SPECS, expand

__all__ = ["DIALECTS", "Dialect", "ProviderFit", "fit", "schema_for"]

Schema = dict[str, Any]
Log = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Dialect:
    """The subset of JSON Schema that a provider supports.

    ``closed``: every object lists its properties and allows no others. ``all_required``: all properties are required.
    ``max_min_items``: the largest ``minItems`` that is enforced.
    """

    name: str
    source: str
    keywords: frozenset[str]
    formats: frozenset[str]
    closed: bool
    all_required: bool
    ordered: bool = False
    max_min_items: int | None = None
    key_pattern: str = ""
    max_depth: int | None = None
    max_properties: int | None = None
    max_enum_values: int | None = None
    max_optional: int | None = None
    max_unions: int | None = None
    max_characters: int | None = None


_SHARED = "type properties required additionalProperties items enum anyOf description"

DIALECTS: Mapping[str, Dialect] = {
    "openai": Dialect(
        name="openai",
        source="https://platform.openai.com/docs/guides/structured-outputs#supported-schemas",
        keywords=frozenset(f"{_SHARED} pattern format multipleOf maximum minimum minItems maxItems".split()),
        formats=frozenset(["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"]),
        closed=True,
        all_required=True,
        max_depth=10,
        max_properties=5000,
        max_enum_values=1000,
        max_characters=120_000,
    ),
    "anthropic": Dialect(
        name="anthropic",
        source="https://platform.claude.com/docs/en/build-with-claude/structured-outputs#json-schema-limitations",
        keywords=frozenset(f"{_SHARED} default format pattern minItems".split()),
        formats=frozenset(
            ["date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"]
        ),
        closed=True,
        all_required=False,
        max_min_items=1,
        key_pattern=r"[a-zA-Z0-9_.-]{1,64}",
        max_optional=24,
        max_unions=16,
    ),
    "gemini": Dialect(
        name="gemini",
        source="https://ai.google.dev/api/generate-content#FIELDS.response_json_schema",
        keywords=frozenset(f"{_SHARED} title format minItems maxItems minimum maximum propertyOrdering".split()),
        formats=frozenset(["date-time", "date", "time"]),
        closed=False,
        all_required=False,
        ordered=True,
    ),
}


@dataclass(frozen=True, slots=True)
class ProviderFit:
    """How far a provider enforces a signature's outputs.

    ``enforced`` and ``checked_by_dspex`` list ``(path, constraint)``; DSPex validates every output, so the latter hold
    too. ``approximated`` lists ``(path, how)`` for types that the provider has no schema for. ``problems`` are the
    reasons why it rejects the schema.
    """

    provider: str
    enforced: tuple[tuple[str, str], ...]
    checked_by_dspex: tuple[tuple[str, str], ...]
    approximated: tuple[tuple[str, str], ...]
    problems: tuple[str, ...]

    @property
    def accepted(self) -> bool:
        """Whether the provider accepts the schema."""
        return not self.problems


def schema_for(provider: str, schema: Schema) -> Schema:
    """The schema of one side in the provider's dialect; ``"json-schema"`` returns it unchanged."""
    if provider == "json-schema":
        return schema
    return _Rewriter(_dialect(provider)).root(schema)


def _dialect(provider: str) -> Dialect:
    found = DIALECTS.get(provider)
    if found is None:
        raise ValueError(f"no provider {provider!r}; known: json-schema, {', '.join(DIALECTS)}")
    return found


def fit(provider: str, fields: Sequence[Field], schema: Schema) -> ProviderFit:
    """Which constraints of these fields the provider enforces, given their JSON Schema."""
    limits = [limit for field in fields for limit in _limits(field.full_type, field.name)]
    if provider == "json-schema":
        done = tuple((path, name) for path, name, keyword in limits if keyword)
        return ProviderFit(provider, done, tuple((p, n) for p, n, keyword in limits if not keyword), (), ())
    dialect = _dialect(provider)
    rewriter = _Rewriter(dialect)
    rewritten = rewriter.root(schema)
    enforced: Log = []
    checked: Log = []
    for path, name, keyword in limits:
        lost = not keyword or (path, keyword) in rewriter.dropped or rewriter.is_inside_approximated(path)
        (checked if lost else enforced).append((path, name))
    problems = tuple(_problems(dialect, rewritten))
    return ProviderFit(provider, tuple(enforced), tuple(checked), tuple(rewriter.approximated), problems)


def _limits(kind: Type, path: str) -> Iterator[tuple[str, str, str]]:
    """Every constraint as ``(path, constraint, JSON Schema keyword)``, with the paths that the rewriter uses."""
    for name in _checks(kind):
        yield path, name, ""
    primitive = expand(kind)
    for name, _ in primitive.constraints:
        yield path, name, CONSTRAINT_RULES[primitive.name][name].json
    if primitive.name == "optional":
        yield from _limits(primitive.args[0], path)
    elif primitive.name == "list":
        yield from _limits(primitive.args[0], f"{path}[]")
    elif primitive.name == "dict":
        yield from ((path, f"key {name}", "propertyNames") for _, name, _ in _limits(primitive.args[0], path))
        yield from _limits(primitive.args[1], f"{path}{{}}")
    elif primitive.name == "object":
        for key, arg in zip(primitive.labels, primitive.args, strict=True):
            yield from _limits(arg, f"{path}.{key}")
    else:
        suffix = ".value" if primitive.name == "tagged" else ""
        for number, arg in enumerate(primitive.args):
            yield from _limits(arg, f"{path}|{number}{suffix}")


def _checks(kind: Type) -> Iterator[str]:
    spec = SPECS[kind.name]
    if spec.check is not None:
        yield f":{spec.name}"
    if spec.base is not None:
        yield from _checks(spec.base)


_KEYWORD_PHRASES = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "multipleOf": "a multiple of {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "pattern": "matching {!r}",
    "format": "in the format {}",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "minProperties": "at least {} keys",
    "maxProperties": "at most {} keys",
    "uniqueItems": "no item twice",
    "contentEncoding": "in {}",
    "required": "with the keys {}",
    "default": "by default {}",
    "examples": "for example {}",
    "title": "titled {!r}",
}
"""The text that replaces an unsupported keyword in a description."""

_LOCAL_ONLY = re.compile(r"\\[bBAzpP]|\(\?[^:]|\[\[|&&|--|~~")
"""Syntax of Rust's regular expressions that providers may not support."""


class _Rewriter:
    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.dropped: set[tuple[str, str]] = set()
        self.approximated: Log = []

    def root(self, schema: Schema) -> Schema:
        kept = {key: value for key, value in schema.items() if key not in ("$schema", "title")}
        return self.object(kept, "")

    def is_inside_approximated(self, path: str) -> bool:
        return any(path.startswith(above) for above, _ in self.approximated)

    def rewrite(self, schema: Schema, path: str) -> Schema:
        if "anyOf" in schema:
            return self.any_of(schema, path)
        kind = schema.get("type")
        if kind == "object":
            is_open = "properties" not in schema
            return self.open_object(schema, path) if is_open else self.object(schema, path)
        if kind == "array":
            return self.keep({**schema, "items": self.rewrite(schema.get("items", {}), f"{path}[]")}, path)
        if kind is None and "enum" not in schema:
            return self.anything(schema, path)
        return self.keep(schema, path)

    def any_of(self, schema: Schema, path: str) -> Schema:
        members = schema["anyOf"]
        if len(members) == 2 and members[1] == {"type": "null"}:
            return self.keep({**schema, "anyOf": [self.rewrite(members[0], path), members[1]]}, path)
        rewritten = [self.rewrite(member, f"{path}|{number}") for number, member in enumerate(members)]
        return self.keep({**schema, "anyOf": rewritten}, path)

    def object(self, schema: Schema, path: str) -> Schema:
        dot = f"{path}." if path else ""
        properties = {key: self.rewrite(value, f"{dot}{key}") for key, value in schema["properties"].items()}
        required = schema["required"]
        if self.dialect.all_required:
            if path:  # null stands for a key that is left out
                properties = {key: value if key in required else _nullable(value) for key, value in properties.items()}
            required = list(properties)
        ordered = {"propertyOrdering": list(properties)} if self.dialect.ordered else {}
        return self.keep({**schema, "properties": properties, "required": required, **ordered}, path)

    def open_object(self, schema: Schema, path: str) -> Schema:
        """An object with arbitrary keys: JSON text if the dialect requires closed objects."""
        required = schema.get("required", [])
        if self.dialect.closed:
            self.approximated.append((path, "a JSON object written as text"))
            words = [
                schema.get("description", ""),
                "A JSON object, written as JSON text",
                *_entries_in_words(schema),
                _in_words(schema, ("required", "examples")),
            ]
            return {"type": "string", "description": "; ".join(filter(None, words))}
        inside = schema.get("additionalProperties", True)
        values = self.rewrite(inside, f"{path}{{}}") if isinstance(inside, dict) else True
        kept = {key: value for key, value in schema.items() if key != "required"}
        if required:
            self.dropped.add((path, "required"))
            kept["description"] = "; ".join(
                filter(None, [schema.get("description", ""), _in_words(schema, ("required",))])
            )
        return self.keep({**kept, "additionalProperties": values}, path)

    def anything(self, schema: Schema, path: str) -> Schema:
        """Any JSON value, as far as the provider supports it."""
        scalars: list[Schema] = [{"type": name} for name in ("string", "number", "boolean", "null")]
        members = [*scalars, {"type": "array", "items": {"anyOf": scalars}}]
        if not self.dialect.closed:
            members.append({"type": "object", "additionalProperties": True})
        self.approximated.append(
            (
                path,
                "a text, a number, true, false, null, or a list of these"
                if self.dialect.closed
                else "any JSON of few levels",
            )
        )
        return self.keep({**schema, "anyOf": members}, path)

    def keep(self, schema: Schema, path: str) -> Schema:
        """Keep the supported keywords, and move the others to the description."""
        lost = [keyword for keyword in schema if not self.takes(keyword, schema[keyword])]
        kept = {keyword: value for keyword, value in schema.items() if keyword not in lost}
        if "minItems" in lost and "minItems" in self.dialect.keywords:
            kept["minItems"] = self.dialect.max_min_items
        self.dropped.update((path, keyword) for keyword in lost)
        words = _in_words(schema, lost)
        if words:
            about = schema.get("description", "")
            kept["description"] = f"{about} ({words})" if about else words
        return kept

    def takes(self, keyword: str, value: Any) -> bool:
        if keyword not in self.dialect.keywords:
            return False
        if keyword == "format":
            return value in self.dialect.formats
        if keyword == "pattern":
            return _LOCAL_ONLY.search(value) is None
        if keyword == "minItems" and self.dialect.max_min_items is not None:
            return bool(value <= self.dialect.max_min_items)
        return True


def _entries_in_words(schema: Schema) -> Iterator[str]:
    """What keys and values of an object that is written as text fit, as far as they are not any."""
    for keyword, what in (("propertyNames", "its keys fit"), ("additionalProperties", "its values fit")):
        inner = schema.get(keyword)
        if isinstance(inner, dict) and inner:
            yield f"{what} the JSON Schema {literal(inner)}"


def _nullable(schema: Schema) -> Schema:
    null = {"type": "null"}
    return schema if null in schema.get("anyOf", ()) else {"anyOf": [schema, null]}


def _in_words(schema: Schema, keywords: Sequence[str]) -> str:
    words = []
    for keyword in keywords:
        if keyword in _KEYWORD_PHRASES and keyword in schema:
            words.append(_KEYWORD_PHRASES[keyword].format(_keyword_text(keyword, schema[keyword])))
    return "; ".join(words)


def _keyword_text(keyword: str, value: Any) -> Any:
    if keyword in ("default", "examples"):
        return ", ".join(map(literal, value if keyword == "examples" else [value]))
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _problems(dialect: Dialect, schema: Schema) -> Iterator[str]:
    nodes = list(_nodes(schema, 1))
    keys = [key for node, _ in nodes for key in node.get("properties", ())]
    values = [value for node, _ in nodes for value in node.get("enum", ())]
    bad = [key for key in keys if dialect.key_pattern and not re.fullmatch(dialect.key_pattern, key)]
    if bad:
        yield f"the names {', '.join(bad)} do not match {dialect.key_pattern}"
    counts = [
        ("levels", max(depth for _, depth in nodes), dialect.max_depth),
        ("properties", len(keys), dialect.max_properties),
        ("enum values", len(values), dialect.max_enum_values),
        ("characters in names and values", sum(len(str(text)) for text in [*keys, *values]), dialect.max_characters),
        ("optional fields", len(keys) - sum(len(node.get("required", ())) for node, _ in nodes), dialect.max_optional),
        ("unions", sum("anyOf" in node for node, _ in nodes), dialect.max_unions),
    ]
    for what, count, limit in counts:
        if limit is not None and count > limit:
            yield f"{count} {what}; the limit of {dialect.name} is {limit}"


def _nodes(schema: Schema, depth: int) -> Iterator[tuple[Schema, int]]:
    """Every schema inside a schema, with its depth in objects and lists."""
    yield schema, depth
    inside = [*schema.get("properties", {}).values()]
    inside += [schema[key] for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)]
    for inner in inside:
        yield from _nodes(inner, depth + (inner.get("type") in ("object", "array")))
    for inner in schema.get("anyOf", ()):
        yield from _nodes(inner, depth)
