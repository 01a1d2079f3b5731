"""Parser for the native signature language."""

from __future__ import annotations

from typing import Any

from dspex.signatures.fields import LEFT_OUT, NO_DEFAULT, Field, Type
from dspex.signatures.parse.lexer import MAX_NESTING, NATIVE, Tokens
from dspex.signatures.parse.source import Source
from dspex.signatures.types.type_registry import TypeFaultError, build, known
from dspex.signatures.values.validators import key_default

__all__ = ["is_native", "parse", "parse_type"]

_A_TYPE = "a type such as :string"


def is_native(text: str) -> bool:
    """Whether the text is in the native language, as opposed to a DSPy string."""
    first = NATIVE.match(text)
    word = first.group(1) if first else ""
    if word[:1] == ":":
        return True
    if word != "signature" or first is None:
        return False
    following = NATIVE.match(text, first.end())
    word = following.group(1) if following else ""
    return word[:1] != ":" and word not in ("->", ",", "=", "")  # else a field of a DSPy string is called "signature"


def parse(text: str) -> Source:
    """Parse a signature in the native language.

    Raises SignatureSyntaxError and SignatureTypeError with the position in the text.
    """
    return _NativeParser(text, NATIVE).signature()


def parse_type(text: str) -> Type:
    """Parse one type, such as ``:list(:string)``."""
    return _NativeParser(text, NATIVE).lone_type()


class _TypeArguments:
    """The arguments of a type, and the token of each constraint."""

    __slots__ = ("args", "defaults", "given", "labels", "places")

    def __init__(self) -> None:
        self.args: list[Type] = []
        self.defaults: list[str | None] = []
        self.labels: list[str] = []
        self.given: dict[str, Any] = {}
        self.places: dict[str, int] = {}


class _NativeParser(Tokens):
    __slots__ = ()

    def signature(self) -> Source:
        name, description = self._head()
        inputs = [] if self.here == "->" else self._fields("'->' and the outputs")
        self.expect("->", "',' and another field, or '->'")
        outputs = self._fields("an output field")
        if self.here:
            self.fail("',' and another field, or the end")
        return Source(name, description, tuple(inputs), tuple(outputs), self)

    def lone_type(self) -> Type:
        kind, _ = self._type(0)
        if self.here:
            self.fail("the end")
        return kind

    def _head(self) -> tuple[str | None, str]:
        if self.here != "signature":
            return None, ""
        self.at += 1
        name = self.identifier("the signature's name")
        description = self.string("a description") if self.here[:1] == '"' else ""
        self.expect(":", "':' after the signature's name")
        return name, description

    def _fields(self, after: str) -> list[Field]:
        fields = [self._field()]
        while self.skip(","):
            if self.here[:1] != ":":
                if self.here and self.here != "->":
                    self.fail(f"{_A_TYPE} or {after}")
                break
            fields.append(self._field())
        return fields

    def _field(self) -> Field:
        kind, secret = self._type(0, is_field=True)
        name = self.field_name()
        description = self.string("a description in double quotes") if self.here[:1] == '"' else ""
        optional = kind.name == "optional"
        default: Any = None if optional else NO_DEFAULT
        if self.skip("="):
            default = self.literal()
        return Field(name, kind.args[0] if optional else kind, description, optional, default, secret)

    def _type(self, depth: int, *, is_field: bool = False) -> tuple[Type, bool]:
        at, word = self.at, self.here
        if len(word) < 2 or word[0] != ":":
            self.fail(_A_TYPE)
        if depth > MAX_NESTING:
            self.fail(f"at most {MAX_NESTING} levels", problem="the type is nested too deep")
        self.at += 1
        name = word[1:]
        try:
            if self.here != "(":
                return build(name), False
            known(name)
        except TypeFaultError as fault:
            self.fail_type(fault, at)
        return self._arguments(name, at, depth, is_field=is_field)

    def _arguments(self, name: str, at: int, depth: int, *, is_field: bool) -> tuple[Type, bool]:
        parts = _TypeArguments()
        self.at += 1
        while not self.skip(")"):
            self._argument(name, parts, depth)
            if self.here != ")":
                self.expect(",", "',' or ')'")
        secret = self._take_secret(parts) if is_field and "secret" in parts.given else False
        try:
            return build(name, parts.args, parts.labels, parts.given, parts.defaults), secret
        except TypeFaultError as fault:
            self.fail_type(fault, parts.places.get(fault.key or "", at))

    def _argument(self, name: str, parts: _TypeArguments, depth: int) -> None:
        word = self.here
        if word[:1] == ":":
            parts.args.append(self._type(depth + 1)[0])
        elif word[:1] == '"' and name != "object":
            parts.labels.append(self.string("text in double quotes"))
        else:
            at = self.at
            is_key = name == "object" and self._is_key()
            if is_key and word[:1] == '"':
                key = self.string("a key in double quotes")
            else:
                key = self.identifier("a type, text in double quotes or a constraint such as min=1")
            may_be_left_out = is_key and self.skip("?")
            self.expect("=", "'='")
            if is_key:
                self._key(key, parts, depth, may_be_left_out=may_be_left_out)
                return
            if key in parts.given:
                self.fail("each constraint once", problem=f"{key} is given twice", at=at)
            parts.places[key] = at
            parts.given[key] = self.literal()

    def _is_key(self) -> bool:
        """Whether a key of an ``:object`` is next: a type follows its name."""
        following = self.tokens[self.at + 1 : self.at + 4]
        following = following[1:] if following[:1] == ["?"] else following
        return len(following) > 1 and following[0] == "=" and len(following[1]) > 1 and following[1][0] == ":"

    def _key(self, key: str, parts: _TypeArguments, depth: int, *, may_be_left_out: bool) -> None:
        kind = self._type(depth + 1)[0]
        default = LEFT_OUT if may_be_left_out else None
        at = self.at
        if self.skip("="):
            if may_be_left_out:
                self.fail("'?' or a default", problem="a key with a default may be left out anyway", at=at)
            value = self.literal()
            try:
                default = key_default(kind, value)
            except TypeFaultError as fault:
                self.fail_type(fault, at)
        parts.labels.append(key)
        parts.args.append(kind)
        parts.defaults.append(default)

    def _take_secret(self, parts: _TypeArguments) -> bool:
        secret = parts.given.pop("secret")
        if type(secret) is not bool:
            self.fail("true or false", problem="secret is not a boolean", at=parts.places["secret"])
        return secret
