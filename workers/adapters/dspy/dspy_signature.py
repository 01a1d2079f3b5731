"""A compiled signature as a ``dspy.Signature``: from its fields, never from a user's text.

DSPy imports whatever modules a signature string names, so none ever reaches it. Annotations carry the types into
DSPy's prompts. Constraints, which DSPy does not enforce, are in the descriptions; the compiled signature enforces
them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, datetime, time
from functools import lru_cache, reduce
from operator import or_
from types import MappingProxyType
from typing import Any, Literal

import dspy
from dspy.signatures.signature import make_signature
from pydantic import GetJsonSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from dspex.errors import ModelError
from dspex.program.media import is_file
from dspex.signatures import Signature
from dspex.signatures.descriptions import described_parts, field_words
from dspex.signatures.fields import Field, Type
from dspex.signatures.types.constraints import PHRASES
from dspex.signatures.types.type_registry import expand
from workers.answers.expected import holds_text, is_text_type
from workers.answers.sections import END_NAME

__all__ = [
    "Flavour",
    "dspy_inputs",
    "dspy_names",
    "dspy_signature",
    "field_parts",
    "field_schema",
    "holds_only_text",
    "is_code",
    "is_ours",
    "is_text",
]

#: The dialects of JSON Schema that providers of structured outputs take.
Flavour = Literal["json-schema", "openai", "anthropic", "gemini"]

# Where a field carries the JSON Schema of its values, and its descriptions without the constraints; DSPy keeps what it
# does not know in this mapping.
_SCHEMA = "dspex_schema"
_PARTS = "dspex_parts"
_IS_TEXT = "dspex_is_text"
_HOLDS_TEXT = "dspex_holds_text"
_MEDIA: Mapping[str, Any] = {"image": dspy.Image, "audio": dspy.Audio, "history": dspy.History}


# Keyword arguments that DSPy's modules keep for themselves: an input of that name would silently become something else.
_KEPT_BY_DSPY = frozenset({"completions", "config", "demos", "lm", "new_signature", "prediction", "self", "signature"})


@lru_cache(maxsize=1024)
def dspy_names(signature: Signature) -> Mapping[str, str]:
    """The name of each field in DSPy: its own name, with ``_`` after it where DSPy, pydantic or the marker that ends an
    answer has taken the name."""
    fields = (*signature.input_fields, *signature.output_fields)
    used = {field.name for field in fields}
    names = {}
    for field in fields:
        name = field.name
        while name in _KEPT_BY_DSPY or name == END_NAME or name.startswith("model_") or hasattr(dspy.Signature, name):
            name = f"{name.removeprefix('model_')}_"
            while name in used:
                name += "_"
        used.add(name)
        names[field.name] = name
    return MappingProxyType(names)


def dspy_signature(signature: Signature, flavour: Flavour = "json-schema") -> type[dspy.Signature]:
    """The ``dspy.Signature`` with the same name, description, fields and types.

    Each field carries its JSON Schema in ``flavour``: see :func:`field_schema`.
    """
    inputs = signature.json_schema("inputs")["properties"]
    outputs = signature.json_schema("outputs", provider=flavour)["properties"]
    names = dspy_names(signature)
    fields: dict[str, tuple[Any, FieldInfo]] = {}
    for field in signature.input_fields:
        fields[names[field.name]] = _input(field, inputs[field.name])
    for field in signature.output_fields:
        fields[names[field.name]] = _output(field, outputs[field.name])
    made: type[dspy.Signature] = make_signature(
        fields, signature.description or _task(signature), signature.name or "Signature"
    )
    return made


def field_schema(field: FieldInfo) -> dict[str, Any] | None:
    """The JSON Schema of a field of a compiled signature; ``None`` for a field that one of DSPy's modules added."""
    extra = field.json_schema_extra
    found = extra.get(_SCHEMA) if isinstance(extra, dict) else None
    return found if isinstance(found, dict) else None


def field_parts(field: FieldInfo) -> list[tuple[str, str]]:
    """The descriptions of the field and of the parts of its values, without constraints: paths, such as ``""`` and
    ``".name"``, and words. None for a field that DSPy added."""
    extra = field.json_schema_extra
    found: Any = extra.get(_PARTS, ()) if isinstance(extra, dict) else ()
    return [(path, words) for path, words in found]


def is_ours(field: FieldInfo) -> bool:
    """Whether the field is one of a compiled signature, and not one that a module of DSPy added."""
    return field_schema(field) is not None


def is_text(field: FieldInfo) -> bool:
    """Whether all values of a field of a compiled signature are text."""
    extra = field.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get(_IS_TEXT))


def holds_only_text(field: FieldInfo) -> bool:
    """Whether there is only text in the values of a field of a compiled signature."""
    extra = field.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get(_HOLDS_TEXT))


def dspy_inputs(signature: Signature, inputs: Mapping[str, Any], *, is_own: bool = False) -> dict[str, Any]:
    """Validated inputs as DSPy takes them: media and histories as its own types, fields left out as ``None``.

    ``is_own``: for a module of the user's own, under the program's names.
    """
    names = {} if is_own else dspy_names(signature)
    plain = json.loads(signature.encode("inputs", inputs))  # bytes and times as the text that JSON has for them
    return {
        names.get(field.name, field.name): _given(field.type, plain.get(field.name)) for field in signature.input_fields
    }


def _input(field: Field, schema: dict[str, Any]) -> tuple[Any, FieldInfo]:
    annotation = _media_annotation(field.type) or _annotation(field.type, schema)
    return _marked(field, annotation, dspy.InputField(**_described(field, [*described_parts(field)])), schema)


def _output(field: Field, schema: dict[str, Any]) -> tuple[Any, FieldInfo]:
    own = field_words(field)  # its schema, which DSPy's prompts show, describes the parts
    described = _described(field, [("", own)] if own else [])
    return _marked(field, _annotation(field.type, schema), dspy.OutputField(**described), schema)


def _marked(field: Field, annotation: Any, info: FieldInfo, schema: dict[str, Any]) -> tuple[Any, FieldInfo]:
    extra = info.json_schema_extra
    assert isinstance(extra, dict)
    parts: list[Any] = [list(part) for part in described_parts(field)]
    extra |= {_SCHEMA: schema, _PARTS: parts, _IS_TEXT: is_text_type(field.full_type)}
    extra[_HOLDS_TEXT] = holds_text(field.full_type)
    return (annotation if field.required else annotation | None), info


def _described(field: Field, parts: list[tuple[str, str]]) -> dict[str, str]:
    """The descriptions and the constraints in words; without any, DSPy's own placeholder stays."""
    own = [words for path, words in parts if not path]
    inner = [f"{path.removeprefix('.')}: {words}" for path, words in parts if path]
    words = [*own, *_limits(field.type), *inner]
    text = "; ".join(filter(None, words))
    return {"desc": text} if text else {}


def _limits(kind: Type) -> list[str]:
    """The constraints in words: first of the type itself, then of a list's items."""
    if kind.name in _MEDIA:
        return []
    primitive = expand(kind)
    phrases = [PHRASES[name].format(_spelled(value)) for name, value in primitive.constraints]
    if primitive.name == "list":
        phrases += [f"each {words}" for words in _limits(primitive.args[0])]
    return phrases


def _spelled(value: Any) -> Any:
    if isinstance(value, tuple):
        return ", ".join(json.dumps(item, ensure_ascii=False) for item in value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _annotation(kind: Type, schema: dict[str, Any]) -> Any:  # noqa: PLR0911 - a type for each kind
    """The type that DSPy's prompts show; a structure without a short Python name is shown by its schema."""
    primitive = expand(kind)
    match primitive.name:
        case "string" if is_code(kind):
            return _code(dict(kind.notes)["language"])
        case "enum":
            return Literal[primitive.labels]
        case "optional":
            return _annotation(primitive.args[0], schema) | None
        case "list" if _has_name(primitive.args[0]):
            return list[_annotation(primitive.args[0], {})]  # type: ignore[misc]
        case "dict" if _has_name(primitive.args[1]) and not primitive.args[0].is_noted:
            return dict[str, _annotation(primitive.args[1], {})]  # type: ignore[misc]
        case "union" if all(map(_has_name, primitive.args)):
            return reduce(or_, [_annotation(arg, {}) for arg in primitive.args])
        case name:
            return _NAMED.get(name) or _shown_by_schema(kind.name, schema)


@lru_cache(maxsize=64)
def _code(language: str) -> Any:
    """``dspy.Code`` of this language."""
    return dspy.Code if language == dspy.Code.language else dspy.Code[language]


def is_code(kind: Type) -> bool:
    """Whether its values are code, of which an answer may have more than the code: a fence, and words around it."""
    return "language" in dict(kind.notes)


_NAMED: Mapping[str, Any] = {
    "string": str,
    "binary": str,
    "integer": int,
    "float": float,
    "boolean": bool,
    "any": Any,
    "datetime": datetime,
    "date": date,
    "time": time,
    "map": dict[str, Any],
}


def _has_name(kind: Type) -> bool:
    primitive = expand(kind)
    if kind.is_noted:  # the notes are in the schema
        return False
    return primitive.name in _NAMED or primitive.name == "enum" or bool(primitive.args and _all_named(primitive))


def _all_named(primitive: Type) -> bool:
    return primitive.name in ("list", "dict", "union", "optional") and all(map(_has_name, primitive.args))


def _shown_by_schema(name: str, schema: dict[str, Any]) -> type:
    """A class that stands for a JSON Schema: any value passes, and prompts show the schema."""

    def core(cls: type, source: Any, handler: Any) -> CoreSchema:
        return core_schema.any_schema()

    def shown(cls: type, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return dict(schema)

    members = {"__get_pydantic_core_schema__": classmethod(core), "__get_pydantic_json_schema__": classmethod(shown)}
    return type(name, (), members)


def _given(kind: Type, value: Any) -> Any:
    """The value with DSPy's own types for media and histories, wherever they are in it."""
    if value is None or not _holds_media(kind):
        return value
    if kind.name == "history":
        return dspy.History(messages=value["messages"])
    if is_file(kind):
        return dspy.File(**{name: part for name, part in value.items() if part is not None})
    return _media(kind.name, value) if kind.name in _MEDIA else _with_media(expand(kind), value)


def _with_media(primitive: Type, value: Any) -> Any:
    match primitive.name:
        case "optional":
            return _given(primitive.args[0], value)
        case "list":
            return [_given(primitive.args[0], item) for item in value]
        case "dict":
            return {name: _given(primitive.args[1], item) for name, item in value.items()}
        case "object":
            return {key: _given(inner, value[key]) for key, inner, _ in primitive.object_keys() if key in value}
    return value


@lru_cache(maxsize=1024)
def _holds_media(kind: Type) -> bool:
    return kind.name in _MEDIA or is_file(kind) or any(map(_holds_media, expand(kind).args))


def _media_annotation(kind: Type) -> Any:
    """DSPy's own type for media, files and histories, and for lists of them; None for all other types."""
    primitive = expand(kind)
    if kind.name in _MEDIA:
        return _MEDIA[kind.name]
    if primitive.name == "list" and (item := _media_annotation(primitive.args[0])) is not None:
        return list[item]  # type: ignore[valid-type]
    return dspy.File if is_file(kind) else None


def _media(name: str, value: Mapping[str, Any]) -> Any:
    if name == "image":
        url = value.get("url") or f"data:{value['media_type']};base64,{value['data']}"
        return dspy.Image(url=url)
    if "url" in value:
        return _inline_audio(value["url"])
    return dspy.Audio(data=value["data"], audio_format=value["media_type"].partition("/")[2])


def _inline_audio(url: str) -> Any:
    """Audio from a ``data:`` address. Nothing is fetched: an address from an input could lead into our own network."""
    if not url.startswith("data:"):
        raise ModelError(
            "audio by address is not passed to models: give it as data and media_type, or as a data: address",
            code="unsupported",
            retryable=False,
        )
    return dspy.Audio(url)


def _task(signature: Signature) -> str:
    """DSPy's words for a signature without a description."""
    inputs = ", ".join(f"`{field.name}`" for field in signature.input_fields)
    outputs = ", ".join(f"`{field.name}`" for field in signature.output_fields)
    return f"Given the fields {inputs}, produce the fields {outputs}."
