"""What holds for every signature and every value."""

from __future__ import annotations

import json
import pickle
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from dspex.errors import SignatureSyntaxError, ValidationError
from dspex.signatures import Field, Signature, Type
from dspex.signatures.compile import compile_uncached
from dspex.signatures.types.type_registry import expand
from dspex.signatures.values.codec import encode
from dspex.signatures.values.text_forms import to_text
from tests.unit.signatures.strategies import json_values, plain_types, signature_texts, types, values

storable = st.text(alphabet=st.characters(exclude_categories=["Cs"]))
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


def _of(kind: Type) -> Signature:
    return compile_uncached(f"signature a: -> {kind} x")


@quick
@given(signature_texts())
def test_a_definition_compiles_to_an_equal_signature(text: str) -> None:
    compiled = compile_uncached(text)
    again = compile_uncached(compiled.definition)
    assert again == compiled
    assert again.definition == compiled.definition
    assert again.input_fields == compiled.input_fields
    assert pickle.loads(pickle.dumps(compiled)) == compiled


@quick
@given(signature_texts(), st.integers(0, 9))
def test_examples_are_valid_and_depend_on_the_seed_alone(text: str, seed: int) -> None:
    compiled = compile_uncached(text)
    try:
        example = compiled.example(seed)
    except ValidationError:  # no example was found, which is allowed for sizes that hardly agree
        return
    assert compiled.validate_inputs(example.inputs) == example.inputs
    assert compiled.check_outputs(example.outputs).repairs == ()
    assert compile_uncached(text).example(seed) == example


@quick
@given(st.data())
def test_values_survive_the_way_through_json(data: st.DataObject) -> None:
    compiled = _of(data.draw(types))
    valid = compiled.validate_outputs({"x": data.draw(values(compiled.output_fields[0].full_type))})
    assert compiled.decode("outputs", compiled.encode("outputs", valid)) == valid
    assert compiled.check_outputs(valid).values == valid
    as_json = json.loads(compiled.encode("outputs", valid))
    assert compiled.validate_outputs(as_json) == valid


@quick
@given(st.data())
def test_validators_and_json_schemas_agree(data: st.DataObject) -> None:
    """They differ only where JSON Schema cannot say it: 1.0 is an integer there, and numbers have no size."""
    kind = data.draw(plain_types)
    value = data.draw(st.one_of(values(kind), json_values, _spoiled(values(kind))))
    compiled = _of(kind)
    accepted = Draft202012Validator(compiled.json_schema("outputs")).is_valid({"x": value})
    if _holds_whole_floats(value):
        return
    strictly = True
    try:
        compiled._outputs.validate_python({"x": value})  # the validator alone, without repairs
    except ValueError:
        strictly = False
    assert strictly == accepted


@quick
@given(st.dictionaries(storable, storable))
def test_texts_are_written_as_pythons_json_writes_them(values: dict[str, str]) -> None:
    expected = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()
    assert encode(values) == expected
    assert encode({**values, "wire": b"x"}) != expected  # the other writer


def _holds_whole_floats(value: Any) -> bool:
    if isinstance(value, list | dict):
        return any(map(_holds_whole_floats, value.values() if isinstance(value, dict) else value))
    return isinstance(value, float) and value.is_integer()


def _spoiled(good: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Values with one thing wrong, perhaps."""
    return st.tuples(good, json_values, st.randoms(use_true_random=False)).map(lambda t: _spoil(*t))


def _spoil(value: Any, other: Any, rng: Any) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        return {**value, key: _spoil(value[key], other, rng)} if rng.random() < 0.7 else {**value, "extra": other}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], _spoil(value[at], other, rng), *value[at + 1 :]]
    return other


@quick
@given(st.data())
def test_every_value_is_accepted_or_refused_with_a_reason(data: st.DataObject) -> None:
    compiled = _of(data.draw(types))
    odd = st.one_of(json_values, st.floats(), st.binary(), st.text(), st.tuples(st.integers()), st.integers(2**63))
    value = data.draw(odd)
    refusal: ValidationError | None = None
    valid: dict[str, Any] = {}
    try:
        valid = compiled.validate_outputs({"x": value})
    except ValidationError as error:
        refusal = error
    json.dumps(valid, default=to_text, allow_nan=False).encode()
    if refusal is not None:
        assert refusal.errors
        assert all(fault.path.startswith("x") and fault.expected for fault in refusal.errors)
        str(refusal).encode()


_PIECES = r"""
    signature : :string :list( :optional( :enum( :union( :object(a= :tagged("a", ) -> , = " ' [ ] { } | # \ . * / -1
    1e5 min= str list[ Literal[ Annotated[int, Field( "text" x y é ²
"""
_pieces = st.sampled_from([*_PIECES.split(), " ", "\n", "\ud800", "\0"])


@settings(quick, max_examples=200)
@given(st.lists(_pieces, max_size=25).map("".join) | st.text(max_size=60))
def test_garbage_is_refused_at_a_place_inside_the_text(text: str) -> None:
    refusal: SignatureSyntaxError | None = None
    try:
        compile_uncached(text)
    except SignatureSyntaxError as error:
        refusal = error
    if refusal is not None:
        lines = text.split("\n")
        assert 1 <= refusal.line <= len(lines)
        assert 1 <= refusal.column <= len(lines[refusal.line - 1]) + 1
        assert refusal.snippet
        assert refusal.expected


@quick
@given(types)
def test_a_type_expands_to_a_primitive(kind: Type) -> None:
    assert expand(expand(kind)) == expand(kind)
    assert Field("x", kind).full_type == kind
