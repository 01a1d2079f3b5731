"""DSPy strings: ``"question, context: list[str] -> answer: str, confidence: float"``.

Annotations are parsed token by token. Nothing in the string is evaluated or imported.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from dspex.signatures.fields import NO_DEFAULT, PLAIN_TEXT, Field, Type
from dspex.signatures.parse.lexer import MAX_NESTING, PYTHON, Tokens
from dspex.signatures.parse.source import Source
from dspex.signatures.types.python_constraints import code, from_python, from_values, set_of, tuple_of
from dspex.signatures.types.type_registry import TypeFaultError, build, nearest

__all__ = ["parse"]

_PLAIN = {
    "str": "string", "int": "integer", "float": "float", "bool": "boolean", "bytes": "binary", "Any": "any",
    "Text": "string", "datetime": "datetime", "dict": "map", "Dict": "map", "Mapping": "map",
    "date": "date", "time": "time", "timedelta": "duration", "UUID": "uuid", "Decimal": "decimal",
    "IPv4Address": "ipv4", "IPv6Address": "ipv6", "AnyUrl": "url",
    "Image": "image", "Audio": "audio", "History": "history", "Reasoning": "string",
}  # fmt: skip
_LISTS = frozenset({"list", "List", "Sequence", "tuple", "Tuple"})
_SETS = frozenset({"set", "Set", "frozenset", "FrozenSet"})
_TUPLES = frozenset({"tuple", "Tuple"})
_DICTS = frozenset({"dict", "Dict", "Mapping"})
_MODULES = {
    "typing": None, "typing_extensions": None, "t": None,
    "datetime": frozenset({"datetime", "date", "time", "timedelta"}), "uuid": frozenset({"UUID"}),
    "decimal": frozenset({"Decimal"}), "ipaddress": frozenset({"IPv4Address", "IPv6Address"}),
    "pydantic": frozenset({"AnyUrl"}), "dspy": frozenset({"Image", "Audio", "History", "Code", "Reasoning"}),
}  # fmt: skip
_BARE_ELSEWHERE = frozenset({"Image", "Audio", "History", "Code", "Reasoning"})
_NULLS = frozenset({"None", "NoneType"})
_GENERIC = frozenset({"Optional", "Union", "Literal", "Annotated"})
_NAMES = sorted({*_PLAIN, *_LISTS, *_SETS, *_GENERIC, *(f"dspy.{name}" for name in _BARE_ELSEWHERE)})


def parse(text: str) -> Source:
    """Parse a DSPy string. Defaults are supported; ``*args``, ``/`` and duplicate fields are rejected."""
    return _DspyStringParser(text, PYTHON).signature()


class _DspyStringParser(Tokens):
    __slots__ = ()

    def signature(self) -> Source:
        inputs = () if self.here == "->" else self._fields()
        self.expect("->", "',' and another field, or '->'" if inputs else "a field's name")
        outputs = self._fields()
        if self.here:
            self.fail("',' and another field, or the end")
        return Source(None, "", inputs, outputs, self)

    def _fields(self) -> tuple[Field, ...]:
        fields = [self._field()]
        while self.skip(",") and self.here not in ("->", ""):
            fields.append(self._field())
        return tuple(fields)

    def _field(self) -> Field:
        if self.here[:1] in ("*", "/"):
            self.fail("a field's name", problem=f"{self.here!r} has no meaning in a signature")
        if self.here[:1] == ":":
            self.fail('a field\'s name; the native language writes ":string question -> :string answer" on both sides')
        name = self.field_name()
        at = self.at + 1
        kind = PLAIN_TEXT
        if self.skip(":"):
            kind = self._annotation(0)
        if kind.name == "null":
            self.fail("a type", problem="a field cannot be None only", at=at)
        optional = kind.name == "optional"
        default: Any = None if optional else NO_DEFAULT
        if self.skip("="):
            default = self._python_literal(0)
        return Field(name, kind.args[0] if optional else kind, "", optional, default)

    def _annotation(self, depth: int) -> Type:
        if depth > MAX_NESTING:
            self.fail(f"at most {MAX_NESTING} levels", problem="the type is nested too deep")
        at = self.at
        members = [self._atom(depth)]
        while self.skip("|"):
            members.append(self._atom(depth))
        return members[0] if len(members) == 1 else self._union(members, at)

    def _atom(self, depth: int) -> Type:
        at = self.at
        if self.skip("("):
            kind = self._annotation(depth + 1)
            self.expect(")", "'|' or ')'")
            return kind
        if self.here[:1] in ("'", '"'):
            self.fail("a type without quotes", problem="a type in quotes is not supported")
        name = self._dotted()
        if name in _NULLS:
            return _NULL
        if self.here == "[":
            return self._generic(name, at, depth)
        if (bare := _bare(name)) is not None:
            return bare
        self._unknown(name, at)

    def _dotted(self) -> str:
        at = self.at
        name = self.identifier("a type such as str, int or list[str]")
        module = ""
        while self.skip("."):
            module = f"{module}.{name}" if module else name
            name = self.identifier("a name")
        if not module:
            return f"{name} (write dspy.{name})" if name in _BARE_ELSEWHERE else name
        allowed = _MODULES.get(module, frozenset())
        if allowed is not None and name not in allowed:
            self._unknown(f"{module}.{name}", at)
        return name

    def _unknown(self, name: str, at: int) -> NoReturn:
        fault = TypeFaultError(
            f"unknown type {name}",
            expected="a type that JSON can hold, such as str or list[str]; "
            "a class of your own needs a signature that is written as a class",
            near=nearest(name, _NAMES),
        )
        self.fail_type(fault, at)

    def _generic(self, name: str, at: int, depth: int) -> Type:
        self.at += 1
        if name == "Literal":
            return self._literal_type(at)
        if name == "Annotated":
            return self._annotated(at, depth)
        args = [self._annotation(depth + 1)]
        while self.skip(",") and self.here != "]":
            args.append(self._annotation(depth + 1))
        self.expect("]", "',' or ']'")
        if name == "Union":
            return self._union(args, at)
        if name == "Optional" and len(args) == 1:
            return self._union([args[0], _NULL], at)
        if (make := _maker(name, args)) is not None:
            return self._made(args, at, make)
        self._unknown(f"{name}[…]", at)

    def _union(self, members: list[Type], at: int) -> Type:
        parts = [part for member in members for part in _parts(member)]
        kinds = [part for part in parts if part is not _NULL]
        if not kinds:
            return _NULL
        kind = kinds[0] if len(kinds) == 1 else self._made(kinds, at, lambda: build("union", kinds))
        return kind if len(kinds) == len(parts) else self._made([kind], at, lambda: build("optional", [kind]))

    def _made(self, args: list[Type], at: int, make: Callable[[], Type]) -> Type:
        if any(arg is _NULL for arg in args):
            self.fail_type(TypeFaultError("a value that is None only", code="invalid_type", expected="a type"), at)
        return self._guard(at, make)

    def _literal_type(self, at: int) -> Type:
        values = [self._python_literal(0)]
        while self.skip(",") and self.here != "]":
            values.append(self._python_literal(0))
        self.expect("]", "',' or ']'")
        return self._guard(at, lambda: from_values(values))

    def _guard(self, at: int, make: Callable[[], Type]) -> Type:
        try:
            return make()
        except TypeFaultError as fault:
            self.fail_type(fault, at)

    def _annotated(self, at: int, depth: int) -> Type:
        kind = self._annotation(depth + 1)
        given: dict[str, Any] = {}
        while self.skip(","):
            if self.here[:1] in ("'", '"'):
                given.setdefault("description", self._python_literal(0))
                continue
            name = self.identifier("Field(...)")
            if name != "Field":
                self.fail("Field(gt=0, max_length=10, ...)", problem=f"unexpected {name!r}", at=self.at - 1)
            given.update(self._keywords())
        self.expect("]", "',' or ']'")
        return self._guard(at, lambda: from_python(kind, given))

    def _keywords(self) -> Mapping[str, Any]:
        self.expect("(", "'('")
        given: dict[str, Any] = {}
        while not self.skip(")"):
            key = self.identifier("a constraint such as ge=1")
            self.expect("=", "'='")
            given[key] = self._python_literal(0)
            if self.here != ")":
                self.expect(",", "',' or ')'")
        return given

    def _python_literal(self, depth: int) -> Any:
        word = self.here
        if word in ("True", "False", "None"):
            self.at += 1
            return {"True": True, "False": False, "None": None}[word]
        if len(word) > 1 and word[0] == "'":
            return self._quoted(word)
        if word == "[":
            return self._python_list(depth)
        if word in ("true", "false", "null", "{"):
            self.fail("a Python literal: a number, text, True, False, None or a list")
        return self.literal()

    def _quoted(self, word: str) -> str:
        try:
            value = ast.literal_eval(word)
        except (SyntaxError, ValueError) as error:
            self.fail("text in quotes", problem=f"bad text ({error})")
        if any("\ud800" <= c <= "\udfff" for c in value):
            self.fail("text that can be written as UTF-8", problem="a lone surrogate is not text")
        self.at += 1
        return str(value)

    def _python_list(self, depth: int) -> list[Any]:
        if depth > MAX_NESTING:
            self.fail(f"at most {MAX_NESTING} levels", problem="the literal is nested too deep")
        self.at += 1
        items: list[Any] = []
        while not self.skip("]"):
            items.append(self._python_literal(depth + 1))
            if self.here != "]":
                self.expect(",", "',' or ']'")
        return items


_NULL = Type("null")


def _bare(name: str) -> Type | None:
    """The type of a name without arguments."""
    if name in _LISTS:
        return build("list", [build("any")])
    if name in _SETS:
        return set_of(build("any"))
    if name == "Code":
        return code("python")
    return build(_PLAIN[name]) if name in _PLAIN else None


def _maker(name: str, args: Sequence[Type]) -> Callable[[], Type] | None:
    """Makes the type of a container's name with arguments."""
    if name in _TUPLES:
        return lambda: tuple_of(args)
    if name in _SETS and len(args) == 1:
        return lambda: set_of(args[0])
    if name in _LISTS:
        return lambda: build("list", args)
    return (lambda: build("dict", args)) if name in _DICTS else None


def _parts(kind: Type) -> tuple[Type, ...]:
    """The members of a union within a union, which are the outer one's."""
    if kind.name == "optional":
        return (*_parts(kind.args[0]), _NULL)
    return kind.args if kind.name == "union" and not kind.notes else (kind,)
