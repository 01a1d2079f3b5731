"""The registry of types, and the functions that build types.

A *primitive* type has its own validator, JSON Schema and Python type. Every other type is a primitive with
constraints or a check added, and needs only an entry in the registry.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from dspex.errors import SignatureTypeError
from dspex.signatures.fields import Type
from dspex.signatures.types import constraints, notes

__all__ = [
    "SPECS",
    "TypeFaultError",
    "TypeSpec",
    "build",
    "constrain",
    "expand",
    "is_text",
    "is_wire",
    "known",
    "nearest",
    "register",
]


_LONGEST = 400
"""The longest message of a fault, in characters: it may quote names and values of the source."""


class TypeFaultError(Exception):
    """A type or constraint that does not exist or fit. The parser adds the position."""

    def __init__(
        self, message: str, *, code: str = "unknown_type", expected: str = "", near: str = "", key: str | None = None
    ) -> None:
        super().__init__(message if len(message) <= _LONGEST else f"{message[:_LONGEST]}…")
        self.code, self.expected, self.near, self.key = code, expected, near, key

    def inside(self, where: str) -> TypeFaultError:
        """The fault with the place in front of its message."""
        return TypeFaultError(f"{where}: {self}", code=self.code, expected=self.expected, near=self.near, key=self.key)

    def as_error(self, *, line: int, column: int, snippet: str, where: str = "") -> SignatureTypeError:
        """The public error, with a position."""
        start = where or f"line {line}, column {column}"
        hint = f'; did you mean "{self.near}"?' if self.near else ""
        expected = f"; expected {self.expected}" if self.expected else ""
        message = f"{start}: {self}{expected}{hint}" + (f"\n{snippet}" if snippet else "")
        details: dict[str, Any] = {
            "line": line,
            "column": column,
            "snippet": snippet,
            "expected": self.expected,
            "nearest": self.near,
        }
        return SignatureTypeError(message, code=self.code, **details)


@dataclass(frozen=True, slots=True)
class TypeSpec:
    """One type of the language.

    ``doc`` is its documentation in one line, ``phrase`` the description of a value in errors. A scalar primitive has
    ``core`` (its pydantic_core schema), ``json`` (its JSON Schema) and ``python``. A derived type has a ``base`` and
    optionally a ``check``, which takes the value and returns it or raises ValueError; its ``json`` is merged over the
    schema of the base. A primitive with ``from_text`` is text in JSON: the function decodes what was
    encoded, without checking it.
    """

    name: str
    doc: str
    phrase: str
    constraints: frozenset[str] = frozenset()
    core: Mapping[str, Any] | None = None
    json: Mapping[str, Any] | None = None
    python: Any = None
    base: Type | None = None
    check: Callable[[Any], Any] | None = None
    from_text: Callable[[str], Any] | None = None
    custom: bool = False


SPECS: dict[str, TypeSpec] = {}
"""All types by name: built-in types and those added by ``register_type``."""

_PLAIN: dict[str, Type] = {}


def register(spec: TypeSpec) -> None:
    """Add or replace an entry."""
    SPECS[spec.name] = spec
    _PLAIN[spec.name] = Type(spec.name)


def nearest(name: str, names: Iterable[str]) -> str:
    """The name closest to ``name``, or ``""``."""
    return next(iter(difflib.get_close_matches(name, list(names), n=1)), "")


def known(name: str) -> TypeSpec:
    """The entry of the type ``name``."""
    spec = SPECS.get(name)
    if spec is None:
        near = nearest(name, SPECS)
        raise TypeFaultError(f"unknown type :{name}", expected="a known type", near=f":{near}" if near else "")
    return spec


def expand(kind: Type) -> Type:
    """The primitive type behind ``kind``, with the constraints of all its bases."""
    while (base := SPECS[kind.name].base) is not None:
        primitive = expand(base)
        kind = replace(primitive, constraints=constraints.merge(primitive.constraints, kind.constraints))
    return kind


def constrain(kind: Type, given: Mapping[str, Any]) -> Type:
    """``kind`` with more constraints and notes; for an ``:optional`` they apply to the inner type."""
    if not given:
        return kind
    if kind.name == "optional":
        return Type("optional", (constrain(kind.args[0], given),))
    limits = {name: value for name, value in given.items() if name not in notes.NAMES}
    noted = _merged_notes(kind, {name: value for name, value in given.items() if name in notes.NAMES})
    return replace(kind, constraints=_more_constraints(kind, limits), notes=noted)


def _merged_notes(kind: Type, given: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    try:
        return notes.merge(kind.notes, given)
    except notes.NoteError as bad:
        problem = f"{bad.name} of :{kind.name} is unusable"
        raise TypeFaultError(problem, code="invalid_constraint", expected=str(bad), key=bad.name) from None


def _more_constraints(kind: Type, given: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    if not given:
        return kind.constraints
    spec = SPECS[kind.name]
    base = expand(replace(kind, constraints=())) if spec.base else kind
    more: tuple[tuple[str, Any], ...] = ()
    name = ""
    try:
        for name, value in given.items():
            _check_name(spec, name)
            more += constraints.read(base.name, name, value)
        mine = constraints.merge(kind.constraints, more)
        if spec.base:
            mine = _what_it_adds(mine, base, constraints.merge(base.constraints, mine))
    except constraints.ConstraintValueError as bad:
        problem = f"{name}={given[name]!r} does not fit :{kind.name}"
        raise TypeFaultError(problem, code="invalid_constraint", expected=str(bad), key=name) from None
    return mine


def _what_it_adds(mine: tuple[tuple[str, Any], ...], base: Type, whole: tuple[tuple[str, Any], ...]) -> Any:
    """Remove constraints that the base type already has, so that equal types are written alike."""
    merged, had = dict(whole), base.limits
    return tuple((name, merged[name]) for name, _ in mine if had.get(name) != merged[name])


def _check_name(spec: TypeSpec, name: str) -> None:
    if name in spec.constraints:
        return
    allowed = " ".join(n for n in constraints.ORDER if n in spec.constraints) or "none"
    near = nearest(str(name), spec.constraints)
    what = f":{spec.name} has no constraint {name}" if name in constraints.NAMES else f"unknown constraint {name}"
    expected = f"one of {allowed}" if spec.constraints else f":{spec.name} without constraints"
    raise TypeFaultError(what, code="unknown_constraint", expected=expected, near=near, key=name)


def build(
    name: str,
    args: Sequence[Type] = (),
    labels: Sequence[str] = (),
    given: Mapping[str, Any] | None = None,
    defaults: Sequence[str | None] = (),
) -> Type:
    """Build the type ``name`` from its parts, in canonical form. ``defaults`` are of the keys of an ``:object``."""
    known(name)
    if not args and not labels and name not in _COMPOSE:
        kind = _PLAIN[name]
    else:
        compose = _COMPOSE.get(name)
        if compose is None:
            raise TypeFaultError(f":{name} takes no types or values", code="invalid_type", expected=f":{name}")
        kind = compose(tuple(args), tuple(labels))
    if any(default is not None for default in defaults):
        kind = replace(kind, defaults=tuple(map(_key_default, args, defaults)))
    return constrain(kind, given) if given else kind


def _key_default(kind: Type, default: str | None) -> str | None:
    """The default; None for the null that an ``:optional`` is anyway."""
    return None if kind.name == "optional" and default == "null" else default


def _shape(name: str, expected: str) -> TypeFaultError:
    return TypeFaultError(f":{name} has missing or superfluous arguments", code="invalid_type", expected=expected)


def _enum(args: tuple[Type, ...], labels: tuple[str, ...]) -> Type:
    if args or not labels or len(set(labels)) != len(labels):
        raise _shape("enum", 'values without duplicates, such as :enum("yes", "no")')
    return Type("enum", (), labels)


def _list(args: tuple[Type, ...], labels: tuple[str, ...]) -> Type:
    if labels or len(args) != 1:
        raise _shape("list", "the type of its items, such as :list(:string)")
    item = args[0]
    return _plain_list(item.name) if item is _PLAIN.get(item.name) else Type("list", args)


@cache
def _plain_list(name: str) -> Type:
    """The list of a type without arguments: one object for all signatures."""
    return Type("list", (_PLAIN[name],))


def _dict(args: tuple[Type, ...], labels: tuple[str, ...]) -> Type:
    if labels or len(args) != 2:
        raise _shape("dict", "the types of its keys and values, such as :dict(:string, :integer)")
    if args[0].name == "optional" or kinds(args[0]) != {"string"} or is_wire(args[0]):
        raise TypeFaultError(
            f"{args[0]} cannot be the key of a :dict", code="invalid_type", expected="a kind of text, as JSON keys are"
        )
    return _PLAIN["map"] if args == (_PLAIN["string"], _PLAIN["any"]) else Type("dict", args)


def _optional(args: tuple[Type, ...], labels: tuple[str, ...]) -> Type:
    if labels or len(args) != 1:
        raise _shape("optional", "one type, such as :optional(:string)")
    return args[0] if args[0].name == "optional" else Type("optional", args)


def _union(args: tuple[Type, ...], labels: tuple[str, ...]) -> Type:
    if labels or len(args) < 2:
        raise _shape("union", "two or more types, such as :union(:integer, :string)")
    optional = any(arg.name == "optional" for arg in args)
    bare = [arg.args[0] if arg.name == "optional" else arg for arg in args]
    flat = [inner for arg in bare for inner in (arg.args if arg.name == "union" else (arg,))]
    members = tuple(dict.fromkeys(flat))
    _refuse_ambiguous(members)
    kind = Type("union", members) if len(members) > 1 else members[0]
    return Type("optional", (kind,)) if optional else kind


def _refuse_ambiguous(members: Sequence[Type]) -> None:
    """Reject members with the same JSON form, of which one needs decoding: the decoder could not distinguish them."""
    for wire in filter(is_wire, members):
        for other in members:
            if other is not wire and kinds(other) & kinds(wire):
                raise TypeFaultError(
                    f"{wire} and {other} look the same as JSON",
                    code="invalid_type",
                    expected=f':tagged("a", {wire}, "b", {other}), which marks the type of each value',
                )


def _tagged(args: tuple[Type, ...], labels: tuple[str, ...]) -> Type:
    if not args or len(args) != len(labels) or len(set(labels)) != len(labels):
        raise _shape("tagged", 'a type behind every tag, such as :tagged("card", :string, "cash", :integer)')
    return Type("tagged", args, labels)


def _object(args: tuple[Type, ...], labels: tuple[str, ...]) -> Type:
    if not args or len(args) != len(labels) or len(set(labels)) != len(labels):
        raise _shape("object", "named types, such as :object(name=:string, age=:integer)")
    return Type("object", args, labels)


_COMPOSE: Mapping[str, Callable[[tuple[Type, ...], tuple[str, ...]], Type]] = {
    "enum": _enum,
    "list": _list,
    "dict": _dict,
    "optional": _optional,
    "union": _union,
    "tagged": _tagged,
    "object": _object,
}

_TEXT = {"string"}
_JSON_KINDS = {
    "integer": {"number"},
    "float": {"number"},
    "boolean": {"boolean"},
    "list": {"array"},
    "map": {"object"},
    "dict": {"object"},
    "tagged": {"object"},
    "object": {"object"},
    "any": {"string", "number", "boolean", "array", "object", "null"},
}


def kinds(kind: Type) -> set[str]:
    """The JSON types that a value of this type can have."""
    primitive = expand(kind)
    if primitive.name == "optional":
        return kinds(primitive.args[0]) | {"null"}
    if primitive.name == "union":
        return set().union(*map(kinds, primitive.args))
    return _JSON_KINDS.get(primitive.name, _TEXT)


def is_text(kind: Type) -> bool:
    """Whether every value of the type is text in JSON."""
    return kinds(kind) == _TEXT


def is_wire(kind: Type) -> bool:
    """Whether values of this type contain bytes, times or others that are text in JSON only."""
    primitive = expand(kind)
    return SPECS[primitive.name].from_text is not None or any(map(is_wire, primitive.args))
