"""The compiled signature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from pydantic_core import SchemaValidator
from pydantic_core import ValidationError as CoreError

from dspex.errors import FieldError, ValidationError
from dspex.signatures import identity
from dspex.signatures.diff import Diff, compare
from dspex.signatures.fields import Field
from dspex.signatures.schemas.json_schema import side_schema
from dspex.signatures.schemas.provider_fit import ProviderFit, fit, schema_for
from dspex.signatures.values import codec
from dspex.signatures.values.value_faults import explain, shorten
from dspex.signatures.values.value_repair import CheckedOutputs, repair

__all__ = ["Example", "Side", "Signature"]

Side = Literal["inputs", "outputs"]


@dataclass(frozen=True, slots=True)
class Example:
    """Inputs and outputs that fit a signature."""

    inputs: dict[str, Any]
    outputs: dict[str, Any]


class Signature:
    """A compiled signature: immutable, picklable, and equal to a signature with the same name and fingerprint.

    Created by :func:`dspex.signature`. ``name`` and ``description`` are text, ``input_fields`` and ``output_fields``
    tuples of :class:`Field`.
    """

    __slots__ = (
        "__weakref__",
        "_fingerprint",
        "_inputs",
        "_outputs",
        "_secret_fields",
        "description",
        "input_fields",
        "name",
        "output_fields",
    )

    name: str
    description: str
    input_fields: tuple[Field, ...]
    output_fields: tuple[Field, ...]
    _inputs: SchemaValidator
    _outputs: SchemaValidator
    _secret_fields: frozenset[str]
    _fingerprint: str | None

    def __init__(
        self,
        name: str,
        description: str,
        input_fields: tuple[Field, ...],
        output_fields: tuple[Field, ...],
        validators: tuple[SchemaValidator, SchemaValidator],
    ) -> None:
        put = object.__setattr__
        put(self, "name", name)
        put(self, "description", description)
        put(self, "input_fields", input_fields)
        put(self, "output_fields", output_fields)
        put(self, "_inputs", validators[0])
        put(self, "_outputs", validators[1])
        put(self, "_fingerprint", None)
        put(self, "_secret_fields", frozenset(f.name for f in (*input_fields, *output_fields) if f.secret))

    # values

    def validate_inputs(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Validate inputs and return them with defaults filled in. No value is coerced.

        Raises ValidationError with every fault in ``.errors`` (of more than a thousand, one for each field);
        ConstraintViolation if all of them are violated constraints.
        """
        try:
            return self._inputs.validate_python(values if type(values) is dict else _as_dict(values, "inputs"))  # type: ignore[no-any-return]
        except CoreError as error:
            fault = self._fault("inputs", explain(error, self.input_fields, values, self.secret_fields))
        raise fault

    def validate_outputs(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Validate outputs, and return them with lossless repairs applied; see :meth:`check_outputs`."""
        return self.check_outputs(values).values

    def check_outputs(self, values: Mapping[str, Any]) -> CheckedOutputs:
        """Validate the outputs of a model, and return them with the repairs made (a number in quotes, JSON in a fence).

        Raises ValidationError, as :meth:`validate_inputs` does, for values that cannot be repaired without a guess.
        """
        given = values if type(values) is dict else _as_dict(values, "outputs")
        try:
            return CheckedOutputs(self._outputs.validate_python(given), ())
        except CoreError as error:
            first = explain(error, self.output_fields, given, self.secret_fields)
        repaired = repair(self.output_fields, given)
        if repaired.repairs:
            try:
                return CheckedOutputs(self._outputs.validate_python(repaired.values), repaired.repairs)
            except CoreError as error:
                first = explain(error, self.output_fields, repaired.values, self.secret_fields)
        raise self._fault("outputs", first)

    def _fault(self, side: Side, errors: Sequence[FieldError]) -> ValidationError:
        return ValidationError.of(f"{side} of {self.name}", errors)

    def encode(self, side: Side, values: Mapping[str, Any]) -> bytes:
        """Validated values as JSON in UTF-8: bytes become base64, times ISO 8601; text is unchanged."""
        _check_side(side)
        return codec.encode(values)

    def decode(self, side: Side, data: bytes | str) -> dict[str, Any]:
        """Decode the output of :meth:`encode` to Python values, without validating them again."""
        return codec.decode(self.fields(side), data)

    def example(self, seed: int = 0) -> Example:
        """Valid example inputs and outputs, which depend on the seed only.

        Raises ValidationError if no valid value was found for a field.
        """
        from dspex.signatures.values.examples import find  # only tests and the scripted adapter need it

        return Example(*find(seed, self.input_fields, self.output_fields))

    # schemas

    def json_schema(self, side: Side, provider: str = "json-schema") -> dict[str, Any]:
        """The JSON Schema of one side in the dialect of ``provider``.

        ``"json-schema"`` is draft 2020-12 with every constraint it supports; ``"openai"`` is strict structured outputs,
        ``"anthropic"`` strict tools, ``"gemini"`` ``responseJsonSchema``. Constraints that a dialect does not
        support are moved to descriptions.
        """
        plain = side_schema(self.name, self.description, self.fields(side))
        return schema_for(provider, plain)

    def provider_fit(self, provider: str) -> ProviderFit:
        """Which constraints of the outputs the provider enforces, and which only DSPex checks."""
        return fit(provider, self.output_fields, side_schema(self.name, self.description, self.output_fields))

    @property
    def schema_name(self) -> str:
        """The name as providers accept it for schemas and tools: at most 64 characters of ``A-Z a-z 0-9 _ -``."""
        kept = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in self.name)
        return kept[:64]

    # identity

    def fields(self, side: Side) -> tuple[Field, ...]:
        """The fields of one side."""
        _check_side(side)
        return self.input_fields if side == "inputs" else self.output_fields

    @property
    def secret_fields(self) -> frozenset[str]:
        """The names of the secret fields, whose values are never shown."""
        return self._secret_fields

    @property
    def definition(self) -> str:
        """The canonical text. Compiling it gives an equal signature."""
        return identity.definition(self.name, self.description, self.input_fields, self.output_fields)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the signature's meaning, in hex.

        It does not depend on the source form, the spelling or the name.
        """
        if self._fingerprint is None:
            found = identity.fingerprint(self.description, self.input_fields, self.output_fields)
            object.__setattr__(self, "_fingerprint", found)
            return found
        return self._fingerprint

    def diff(self, other: Signature) -> Diff:
        """The changes from this signature to ``other``, and whether old inputs and stored results stay valid."""
        return compare(self, other)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Signature):
            return NotImplemented
        return self is other or (self.name == other.name and self.fingerprint == other.fingerprint)

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        inputs, outputs = (
            ", ".join(f"{f.full_type} {f.name}" for f in s) for s in (self.input_fields, self.output_fields)
        )
        return f"<Signature {self.name}: {inputs} -> {outputs}>"

    def _repr_html_(self) -> str:
        from dspex.signatures.html_card import table  # only notebooks need it

        sides = (("input", self.input_fields), ("output", self.output_fields))
        rows = [(side, f.name, f.full_type, f.description) for side, fields in sides for f in fields]
        return table(f"{self.name}: {self.description}", ("", "field", "type", "description"), rows)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a Signature is immutable: compile a new one to change {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a Signature is immutable: {name!r} cannot be deleted")

    def __copy__(self) -> Signature:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Signature:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _recompile, (self.definition,)


def _recompile(definition: str) -> Signature:
    from dspex.signatures.compile import compile_signature

    return compile_signature(definition)


def _check_side(side: str) -> None:
    if side not in ("inputs", "outputs"):
        raise ValueError(f'side is "inputs" or "outputs", not {side!r}')


def _as_dict(values: Any, what: str) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise ValidationError.of(what, [FieldError(what, "a mapping from field names to values", shorten(values))])
    return dict(values)
