"""The keys of classes: pydantic models, dataclasses and TypedDicts, recognised by their shape.

pydantic is not imported: it reads such classes in the same way, so that a value that fits the type fits the class.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Annotated, Any

from pydantic_core import to_jsonable_python

from dspex.signatures.fields import NO_DEFAULT
from dspex.signatures.parse.class_scope import annotations_of
from dspex.signatures.types.type_registry import TypeFaultError
from dspex.signatures.values.text_forms import to_text

__all__ = [
    "UNKNOWN_DEFAULT",
    "ClassMember",
    "class_notes",
    "enum_names",
    "field_notes",
    "json_of",
    "members_of",
    "stored_keys",
]

UNKNOWN_DEFAULT: Any = object()
"""The default of a key that may be left out, whose value only the class knows."""

_PURE_FACTORIES = (list, dict, str, int, float, bool, bytes)


@dataclass(frozen=True, slots=True)
class ClassMember:
    """One key: its annotation, the other arguments of ``Annotated``, and its default if it may be left out; and the
    attribute of an instance that has its value."""

    key: str
    annotation: Any
    metadata: tuple[Any, ...] = ()
    default: Any = NO_DEFAULT
    attribute: str = ""


@lru_cache(maxsize=1024)
def stored_keys(cls: Any) -> Mapping[str, str]:
    """The keys of a model or a dataclass, by the attributes that have their values. Computed ones are none of them.

    Raises TypeFaultError, NameError and the like for a class that no type can be made of.
    """
    return {member.attribute: member.key for member in members_of(cls, {})}


def members_of(cls: Any, local: Mapping[str, Any]) -> Iterator[ClassMember]:
    """The keys of a class, under the names that pydantic validates: aliases. None for a class of another kind."""
    fields = getattr(cls, "__pydantic_fields__", None)
    if isinstance(fields, Mapping):
        return _pydantic_members(cls, fields)
    if hasattr(cls, "__required_keys__"):
        return _typed_dict_members(cls, local)
    return _dataclass_members(cls, local) if dataclasses.is_dataclass(cls) else iter(())


def _pydantic_members(cls: Any, fields: Mapping[str, Any]) -> Iterator[ClassMember]:
    for name, info in fields.items():
        if getattr(info, "init", None) is not False:
            yield ClassMember(_key(cls, name, (info,)), info.annotation, (info,), _info_default(info), name)


def _info_default(info: Any) -> Any:
    return NO_DEFAULT if info.is_required() else _default(info.default, info.default_factory)


def _default(value: Any, factory: Any) -> Any:
    """The default. A factory may make another value each time, so only plain types are called."""
    if factory is not None and factory is not dataclasses.MISSING:
        return factory() if factory in _PURE_FACTORIES else UNKNOWN_DEFAULT
    return value


def _typed_dict_members(cls: Any, local: Mapping[str, Any]) -> Iterator[ClassMember]:
    for name, hint in annotations_of(cls, local).items():
        annotation, metadata, is_required = _unwrapped(hint, is_required=name in cls.__required_keys__)
        default = NO_DEFAULT if is_required else UNKNOWN_DEFAULT
        yield ClassMember(_key(cls, name, metadata), annotation, metadata, default, name)


def _unwrapped(hint: Any, *, is_required: bool = True) -> tuple[Any, tuple[Any, ...], bool]:
    """The annotation without ``Annotated``, ``Required`` and ``NotRequired``, which override the class."""
    metadata: tuple[Any, ...] = ()
    while True:
        origin = typing.get_origin(hint)
        if origin is Annotated:
            metadata, hint = (*hint.__metadata__, *metadata), hint.__origin__
        elif origin in (typing.Required, typing.NotRequired) or getattr(origin, "_name", "") == "ReadOnly":
            is_required = (
                is_required if origin not in (typing.Required, typing.NotRequired) else (origin is typing.Required)
            )
            hint = typing.get_args(hint)[0]
        else:
            return hint, metadata, is_required


def _dataclass_members(cls: Any, local: Mapping[str, Any]) -> Iterator[ClassMember]:
    hints = annotations_of(cls, local)
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        annotation, metadata, _ = _unwrapped(hints[field.name])
        metadata = (*metadata, SimpleNamespace(**{str(name): value for name, value in field.metadata.items()}))
        if hasattr(field.default, "is_required"):  # pydantic's Field() as the default of a plain dataclass
            metadata, default = (*metadata, field.default), _info_default(field.default)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            default = NO_DEFAULT
        else:
            default = _default(field.default, field.default_factory)
        yield ClassMember(_key(cls, field.name, metadata), annotation, metadata, default, field.name)


def _key(cls: Any, name: str, metadata: tuple[Any, ...]) -> str:
    """The name under which pydantic validates a field."""
    if _config(cls).get("validate_by_alias") is False:
        return name
    for item in metadata:
        alias = getattr(item, "validation_alias", None) or getattr(item, "alias", None)
        if alias is not None:
            return _alias_text(f"{cls.__name__}.{name}", alias)
    return name


def _alias_text(where: str, alias: Any) -> str:
    """An alias as one key; of several choices the first that is one."""
    for choice in getattr(alias, "choices", [alias]):
        path = getattr(choice, "path", [choice])
        if len(path) == 1 and isinstance(path[0], str) and path[0].isprintable():
            return path[0]
    raise TypeFaultError(
        f"the alias of {where} is not one key", code="invalid_type", expected="text, or choices with a text among them"
    )


def _config(cls: Any) -> Mapping[str, Any]:
    config = getattr(cls, "model_config", None) or getattr(cls, "__pydantic_config__", None)
    return config if isinstance(config, Mapping) else {}


def class_notes(cls: type) -> dict[str, Any]:
    """The notes of a class: its docstring, and the title and the examples of its configuration."""
    config = _config(cls)
    notes = {"title": config.get("title")} | _extra_notes(config.get("json_schema_extra"))
    return _given({"description": _docstring(cls)} | _given(notes))


def _docstring(cls: type) -> str:
    """The docstring that a user wrote: Python makes up some, and DSPy writes its own for programmers."""
    doc = inspect.cleandoc(vars(cls).get("__doc__") or "")
    is_made_up = doc == "An enumeration." or (dataclasses.is_dataclass(cls) and doc.startswith(f"{cls.__name__}("))
    return "" if is_made_up or cls.__module__.partition(".")[0] == "dspy" else doc


def enum_names(cls: type[enum.Enum]) -> dict[str, str | int]:
    """The names of an enum's values, where they say more than the values."""
    values = {name: member.value for name, member in cls.__members__.items()}
    if all(name.casefold() == str(value).casefold() for name, value in values.items()):
        return {}
    return {name: value for name, value in values.items() if type(value) in (str, int)}


def field_notes(item: Any) -> dict[str, Any]:
    """The notes in one argument of ``Annotated``: text, a ``Field(...)``, ``Doc(...)`` or ``WithJsonSchema(...)``."""
    if isinstance(item, str):
        return {"description": item}
    notes = {name: getattr(item, name, None) for name in ("title", "description", "examples")}
    if doc := getattr(item, "documentation", None):
        notes["description"] = doc
    extra = _extra_notes(getattr(item, "json_schema_extra", None)) | _extra_notes(getattr(item, "json_schema", None))
    return extra | _given(notes)


def _extra_notes(extra: Any) -> dict[str, Any]:
    """The notes among additions to a JSON Schema."""
    if not isinstance(extra, Mapping):
        return {}
    notes = {name: extra.get(name) for name in ("title", "description", "examples")}
    if "example" in extra and not notes["examples"]:
        notes["examples"] = [extra["example"]]
    return _given(notes)


def _given(notes: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: notes[name] for name in ("title", "description") if isinstance(notes.get(name), str) and notes[name]}
    examples = notes.get("examples")
    if isinstance(examples, list | tuple | Mapping) and examples:
        values = examples.values() if isinstance(examples, Mapping) else examples
        return kept | {"examples": json_of(list(values))}
    return kept


def json_of(value: Any) -> Any:
    """A Python value in the form that it has in JSON. Raises ValueError if it has none."""
    try:
        return json.loads(json.dumps(value, allow_nan=False, default=_plain_form))
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _plain_form(value: Any) -> Any:
    try:
        return to_text(value)
    except TypeError:
        return to_jsonable_python(value)
