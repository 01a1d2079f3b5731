"""Two versions of a program side by side: their signatures, instructions, demos, models and options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dspex.program.program import Program
from dspex.signatures.fields import NO_DEFAULT

__all__ = ["Difference", "program_diff"]


@dataclass(frozen=True, slots=True)
class Difference:
    """A part of a program that two versions have differently, such as ``state.predict.signature.instructions``.

    ``before`` and ``after`` are None where the version does not have it. ``breaks`` is why a caller of the older
    version, or a reader of its results, would fail; None if neither does.
    """

    part: str
    before: Any
    after: Any
    breaks: str | None = None


def program_diff(before: Program, after: Program) -> list[Difference]:
    """Every difference, in the order of a program's fields: of the signature by field, of other values by path."""
    return [*_of_signatures(before, after), *_of_contents(before, after)]


def _of_signatures(before: Program, after: Program) -> Iterator[Difference]:
    if before.signature.description != after.signature.description:
        yield Difference("instructions", before.signature.description, after.signature.description)
    changes = {(change.side, change.field): change for change in before.signature.diff(after.signature).changes}
    for (side, name), change in changes.items():
        old, new = _field(before, side, name), _field(after, side, name)
        yield Difference(f"{side}.{name}", old, new, None if change.compatible else change.reason)


def _field(program: Program, side: Any, name: str) -> str | None:
    found = {field.name: field for field in program.signature.fields(side)}.get(name)
    if found is None:
        return None
    default = "" if found.default is None or found.default is NO_DEFAULT else f" = {found.default!r}"
    return f"{found.full_type}{default}" + (f" ({found.description})" if found.description else "")


def _of_contents(before: Program, after: Program) -> Iterator[Difference]:
    old, new = (dict(_leaves("", {**each.content, "signature": None})) for each in (before, after))
    for path in [*old, *(path for path in new if path not in old)]:
        if old.get(path) != new.get(path):
            yield Difference(path, old.get(path), new.get(path))


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The values of nested data by path. An item of a list is one value: a demo, for example."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _leaves(f"{path}.{name}" if path else str(name), inner)
    elif isinstance(value, list) and value:
        yield from ((f"{path}[{index}]", item) for index, item in enumerate(value))
    elif value not in (None, {}, []):
        yield path, value
