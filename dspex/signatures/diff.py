"""The changes between two signatures, and whether old inputs and stored results stay valid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dspex.signatures.fields import Field, Type
from dspex.signatures.types.type_registry import SPECS, expand, is_wire

if TYPE_CHECKING:
    from dspex.signatures.compiled import Signature

__all__ = ["Change", "Diff", "accepts", "compare"]


@dataclass(frozen=True, slots=True)
class Change:
    """A changed field.

    ``kind`` is ``added``, ``removed``, ``type`` (type, constraints or optionality), ``default``, ``description``,
    ``secret`` or ``moved``.
    ``compatible``: every value that was valid before still is (inputs of callers, or outputs of stored results).
    """

    side: Literal["inputs", "outputs"]
    field: str
    kind: str
    compatible: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Diff:
    """The changes from one signature to another, field by field."""

    changes: tuple[Change, ...]

    @property
    def compatible(self) -> bool:
        """Whether all old inputs and stored results stay valid."""
        return all(change.compatible for change in self.changes)

    @property
    def breaking(self) -> tuple[Change, ...]:
        """The changes that break callers or stored results."""
        return tuple(change for change in self.changes if not change.compatible)

    def __bool__(self) -> bool:
        return bool(self.changes)


def compare(old: Signature, new: Signature) -> Diff:
    """Every change from ``old`` to ``new``."""
    return Diff(
        (
            *_side("inputs", old.input_fields, new.input_fields),
            *_side("outputs", old.output_fields, new.output_fields),
        )
    )


def _side(side: Literal["inputs", "outputs"], old: tuple[Field, ...], new: tuple[Field, ...]) -> Iterator[Change]:
    before, after = {f.name: f for f in old}, {f.name: f for f in new}
    for name in before.keys() - after.keys():
        yield Change(side, name, "removed", False, "old values contain a field that is now rejected")
    for name, field in after.items():
        if name in before:
            yield from _field(side, before[name], field)
        else:
            reason = "the field is required, and old values lack it" if field.required else "the field is optional"
            yield Change(side, name, "added", not field.required, reason)
    common = [name for name in before if name in after]
    if common != [name for name in after if name in before]:
        yield Change(side, common[0], "moved", True, "a different order of fields changes the prompt")


def _field(side: Literal["inputs", "outputs"], old: Field, new: Field) -> Iterator[Change]:
    name = new.name
    before, after = old.full_type.without_notes(), new.full_type.without_notes()
    if before != after:
        wider = accepts(after, before)
        reason = f"{old.full_type} became {new.full_type}"
        yield Change(side, name, "type", wider and (new.required <= old.required), reason)
    elif new.required and not old.required:
        yield Change(side, name, "default", False, "the field is now required")
    elif old.default != new.default:
        yield Change(side, name, "default", True, "the default has changed")
    if old.description != new.description or (before == after and old.type != new.type):
        yield Change(side, name, "description", True, "a different description changes the prompt")
    if old.secret != new.secret:
        yield Change(
            side, name, "secret", True, "the field is now secret" if new.secret else "the field is no longer secret"
        )


def accepts(new: Type, old: Type) -> bool:
    """Whether every value of ``old`` is certainly a value of ``new``. False if it cannot be decided."""
    if new == old:
        return True
    if _has_check(new):
        return _is_kind_of(old, new) and _limits_hold(expand(new), expand(old))
    wide, narrow = expand(new), expand(old)
    if narrow.name == "union":
        return all(accepts(wide, arg) for arg in narrow.args)
    if wide.name in ("optional", "union"):
        inner = narrow.args[0] if wide.name == narrow.name == "optional" else narrow
        return any(accepts(arg, inner) for arg in wide.args)
    if wide.name == narrow.name:
        return _limits_hold(wide, narrow) and _ACCEPT.get(wide.name, _always)(wide, narrow)
    return _across(wide, narrow)


def _has_check(kind: Type) -> bool:
    spec = SPECS[kind.name]
    return spec.check is not None or (spec.base is not None and _has_check(spec.base))


def _is_kind_of(kind: Type, other: Type) -> bool:
    base = SPECS[kind.name].base
    return kind.name == other.name or (base is not None and _is_kind_of(base, other))


def _across(wide: Type, narrow: Type) -> bool:
    """Types with different names that can hold the same values."""
    if wide.name == "any":
        return not is_wire(narrow)
    if (wide.name, narrow.name) == ("string", "enum"):
        return not wide.constraints or _only_one_of(wide, narrow.labels)
    if (wide.name, narrow.name) == ("enum", "string"):
        return set(narrow.limits.get("one_of", ("\0",))) <= set(wide.labels)
    if (wide.name, narrow.name) == ("float", "integer"):
        return _limits_hold(wide, narrow)
    if wide.name == "map" and narrow.name in ("dict", "object", "tagged"):
        return not wide.constraints and not is_wire(narrow)
    return False


def _only_one_of(wide: Type, values: tuple[str, ...]) -> bool:
    return set(wide.limits) == {"one_of"} and set(values) <= set(wide.limits["one_of"])


def _limits_hold(wide: Type, narrow: Type) -> bool:
    have = narrow.limits
    return all(name in have and _implies(name, have[name], value) for name, value in wide.constraints)


def _implies(name: str, narrow: Any, wide: Any) -> bool:
    if name.startswith("min"):
        return bool(narrow >= wide)
    if name.startswith("max") or name == "precision":
        return bool(narrow <= wide)
    if name == "one_of":
        return set(narrow) <= set(wide)
    if name == "required_keys":
        return set(narrow) >= set(wide)
    return bool(narrow == wide)


def _always(_: Type, __: Type) -> bool:
    return True


def _all_args(wide: Type, narrow: Type) -> bool:
    return all(map(accepts, wide.args, narrow.args))


def _members(wide: Type, narrow: Type) -> bool:
    new, old = (dict(zip(kind.labels, kind.args, strict=True)) for kind in (wide, narrow))
    if wide.name == "tagged":
        return all(tag in new and accepts(new[tag], arg) for tag, arg in old.items())
    known = all(key in new and accepts(new[key], arg) for key, arg in old.items())
    return known and wide.required <= narrow.required


_ACCEPT: Mapping[str, Any] = {
    "enum": lambda wide, narrow: set(narrow.labels) <= set(wide.labels),
    "list": _all_args,
    "dict": _all_args,
    "object": _members,
    "tagged": _members,
}
