"""What a signature says about a field and about the parts of its values, for prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator

from dspex.signatures.fields import Field, Type, literal

__all__ = ["described_parts", "field_words", "named_values"]


def described_parts(field: Field) -> Iterator[tuple[str, str]]:
    """The descriptions and examples of a field and of the parts of its values: a path (``""``: the field) and words."""
    own = [field.description] if field.description else []
    for path, words in _described(field.type, ""):
        if path:
            yield from _joined("", own)
            own = []
            yield path, words
        else:
            own.append(words)
    yield from _joined("", own)


def field_words(field: Field) -> str:
    """The description and examples of a field; not of the parts of its values."""
    return next((words for path, words in described_parts(field) if not path), "")


def named_values(names: str) -> str:
    """The note ``names`` in words: ``1 is POOR, 2 is GOOD``."""
    return ", ".join(f"{literal(value)} is {name}" for name, value in json.loads(names).items())


def _joined(path: str, words: list[str]) -> Iterator[tuple[str, str]]:
    if words:
        yield path, "; ".join(words)


def _described(kind: Type, path: str) -> Iterator[tuple[str, str]]:
    notes = dict(kind.notes)
    words = [notes["description"]] if "description" in notes else []
    if "names" in notes:
        words.append(named_values(notes["names"]))
    if "examples" in notes:
        words.append(f"for example {', '.join(map(literal, json.loads(notes['examples'])))}")
    yield from _joined(path, words)
    for step, arg in _inside(kind):
        if arg.is_noted:
            yield from _described(arg, f"{path}{step}")


def _inside(kind: Type) -> Iterator[tuple[str, Type]]:
    match kind.name:
        case "object":
            yield from ((f".{key}", arg) for key, arg, _ in kind.object_keys())
        case "tagged":
            yield from ((f"[{tag}]", arg) for tag, arg in zip(kind.labels, kind.args, strict=True))
        case "list":
            yield "[]", kind.args[0]
        case "dict":
            yield from zip(("{key}", "{}"), kind.args, strict=True)
        case _:
            yield from (("", arg) for arg in kind.args)
