"""What an answer is read for: the outputs that were asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dspex.signatures.fields import Field, Type
from dspex.signatures.types.type_registry import expand, is_text

__all__ = ["Expected", "Form", "Output", "holds_text", "is_text_type"]

#: How answers are written: sections with markers, or one JSON object.
Form = Literal["sections", "object"]


def is_text_type(kind: Type) -> bool:
    """Whether all values of the type are text, so that the text of a section is the value as it stands."""
    primitive = expand(kind)
    return is_text(primitive.args[0] if primitive.name == "optional" else primitive)


def holds_text(kind: Type) -> bool:
    """Whether all that the values of the type hold is text: text, lists of text, and the like."""
    primitive = expand(kind)
    if primitive.name == "dict":
        return holds_text(primitive.args[1])
    return is_text_type(kind) or (primitive.name in ("list", "optional") and holds_text(primitive.args[0]))


@dataclass(frozen=True, slots=True)
class Output:
    """One output. ``name`` is the program's name for it, None if it is no output of the program: a step's own.

    ``is_text``: a section's text is the value; else it is JSON. ``is_nullable``: text may be ``null``, for no value.
    ``holds_text``: there is only text in the value's JSON.
    """

    is_text: bool
    is_required: bool = True
    is_nullable: bool = False
    name: str | None = None
    holds_text: bool = False

    @classmethod
    def of(cls, field: Field) -> Output:
        kind = field.full_type
        return cls(is_text_type(kind), field.required, kind.name == "optional", field.name, holds_text(kind))


@dataclass(frozen=True, slots=True)
class Expected:
    """The outputs by their names in the answer, the names of the inputs, and the form that was asked for.

    ``fits`` is asked which of several answers have valid values.
    """

    form: Form
    outputs: Mapping[str, Output]
    inputs: frozenset[str] = frozenset()
    fits: Callable[[Mapping[str, Any]], bool] = lambda values: True

    def output_named(self, name: str) -> str | None:
        """The output with this name: as it is written, else the only one that differs from it in case."""
        if name in self.outputs:
            return name
        near = [own for own in self.outputs if own.casefold() == name.casefold()]
        return near[0] if len(near) == 1 else None

    @property
    def required(self) -> frozenset[str]:
        return frozenset(name for name, output in self.outputs.items() if output.is_required)
