"""docs/reference/settings.md: every setting, from the class Settings."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from dataclasses import fields
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from dspex.settings import Settings, variable
from dspex.settings.profiles import PROFILES, Profile
from dspex.settings.secrets import is_secret

__all__ = ["page"]

_HEAD = """\
# Settings

<!-- Made by `python -m docs.generate` from dspex/settings/: do not edit. -->

A setting is read from the environment variable named here, else from `dspex.toml` in the working directory (the same
name without `DSPEX_`, in lower case), else it has its default. All mistakes are told at once when a process starts.
`dspex config` shows what is in force and where it comes from. How to write them is in
[configure](../how-to/configure.md).

A **secret** may also be in a file that `<variable>_FILE` names, or be had from a provider (`DSPEX_SECRETS`). It is
never shown.
"""


def page() -> str:
    """The text of the page."""
    parts = [_HEAD, _profiles()]
    for section, names in Settings.sections():
        if names:
            parts.append(f"## {inspect.cleandoc(section.__doc__ or '').splitlines()[0].rstrip('.')}\n")
            parts += [_setting(name, Settings.model_fields[name]) for name in names]
    return "\n".join(parts)


def _profiles() -> str:
    described = inspect.cleandoc(Profile.__doc__ or "").splitlines()[2:]
    meanings = dict(line.removeprefix("``").split("``", 1) for line in described)
    rows = [
        f"| {meanings[field.name].strip()} | {' | '.join(_yes(p, field.name) for p in PROFILES.values())} |"
        for field in fields(Profile)
    ]
    head = f"| | {' | '.join(f'`{name}`' for name in PROFILES)} |\n|---|{'---|' * len(PROFILES)}"
    says = "`DSPEX_ENV` chooses one. This is all that differs between them:\n"
    return "\n".join(["## Profiles\n", says, head, *rows, ""])


def _yes(profile: Profile, name: str) -> str:
    return "yes" if getattr(profile, name) else "no"


def _setting(name: str, field: FieldInfo) -> str:
    facts = ["secret"] if is_secret(field.annotation) else []
    facts += [_type(field.annotation), *_bounds(field), f"default: {_default(name, field)}"]
    text = f"### `{variable(name)}`\n\n{field.description}\n\n*{'; '.join(fact for fact in facts if fact)}*\n"
    return text + "".join(_members(field.annotation))


def _members(annotation: Any) -> Iterator[str]:
    """The parts of a setting that has some."""
    models = [part for part in _leaves(annotation) if isinstance(part, type) and issubclass(part, BaseModel)]
    for model in models:
        yield "\n"
        for name, field in model.model_fields.items():
            yield f"- `{name}`: {_type(field.annotation)}, default {_default('', field)}\n"


def _leaves(annotation: Any) -> Iterator[Any]:
    arguments = get_args(annotation)
    if not arguments or get_origin(annotation) is Literal:
        yield annotation
    for argument in arguments:
        yield from _leaves(argument)


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), [a for a in get_args(annotation) if a is not type(None)]
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin is Annotated or origin in (Union, types.UnionType):
        return _type(arguments[0])
    if origin is tuple:
        return f"several, with commas between them: {_type(arguments[0])}"
    if origin is dict or issubclass(annotation, BaseModel):
        return "JSON, or a table in `dspex.toml`"
    words = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`"}
    return "text" if issubclass(annotation, SecretStr) else words.get(annotation, "path")


def _bounds(field: FieldInfo) -> Iterator[str]:
    words = {Ge: ("ge", "at least"), Gt: ("gt", "more than"), Le: ("le", "at most"), Lt: ("lt", "less than")}
    for bound in field.metadata:
        for kind, (attribute, said) in words.items():
            if isinstance(bound, kind):
                yield f"{said} {getattr(bound, attribute):,}"


def _default(name: str, field: FieldInfo) -> str:
    if name == "home":
        return "`~/.dspex`, for root `/var/lib/dspex`"
    value = field.get_default(call_default_factory=True)
    if value is None or value in ("", (), {}):
        return "none"
    if isinstance(value, BaseModel):
        return "as below"
    if isinstance(value, tuple):
        return f"`{','.join(value)}`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"
