"""What each type accepts and refuses, and how a refusal reads."""

from __future__ import annotations

import copy
import json
import pickle
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import pytest

from dspex.errors import ConstraintViolation, DspexError, FieldError, ValidationError
from dspex.signatures import signature
from dspex.signatures.compile import compile_uncached
from dspex.signatures.parse.annotations import to_annotation
from dspex.signatures.types.constraints import CONSTRAINT_RULES, ORDER
from dspex.signatures.types.type_registry import SPECS, expand
from dspex.signatures.values.json_text import read_json
from dspex.signatures.values.value_faults import MOST_FAULTS
from tests.unit.signatures import seed
from tests.unit.signatures.type_table import ALL_TYPES, TABLE

BIG = 1_000_000


@pytest.mark.parametrize(
    "text",
    ['{"a": [1, 2.5, "\\ud800 \\u0000 🐈", null, true, 1e400]}', " [1] ", "1", '"x"', "12345678901234567890", "\n{}"],
)
def test_json_is_read_as_by_the_standard_library(text: str) -> None:
    assert read_json(text) == read_json(text.encode()) == json.loads(text)


@pytest.mark.parametrize("text", ["", " ", "{} x", "{", "[1,]", "\ud800"])
def test_what_is_no_json_is_refused_as_by_the_standard_library(text: str) -> None:
    with pytest.raises(json.JSONDecodeError) as expected:
        json.loads(text)
    with pytest.raises(json.JSONDecodeError) as refused:
        read_json(text)
    assert str(refused.value) == str(expected.value)


@pytest.mark.parametrize("kind", ALL_TYPES)
def test_right_values_are_kept_and_survive_json(kind: str) -> None:
    compiled = compile_uncached(f"signature a: {kind} x -> {kind} y")
    assert compile_uncached(compiled.definition) == compiled
    for value in TABLE[kind][0]:
        valid = compiled.validate_inputs({"x": value})
        if SPECS[compiled.input_fields[0].type.name].from_text is None or not isinstance(value, str | int):
            assert valid == {"x": value}
        again = compiled.decode("inputs", compiled.encode("inputs", valid))
        assert again == valid
        assert type(again["x"]) is type(valid["x"])
        assert compiled.validate_outputs({"y": value}) == {"y": valid["x"]}


@pytest.mark.parametrize("kind", ALL_TYPES)
def test_wrong_values_are_refused_as_inputs(kind: str) -> None:
    compiled = compile_uncached(f"signature a: {kind} x -> :string y")
    for value in TABLE[kind][1]:
        with pytest.raises(ValidationError) as caught:
            compiled.validate_inputs({"x": value})
        assert caught.value.errors
        for fault in caught.value.errors:
            assert fault.path.startswith("x")
            assert fault.expected
            assert len(fault.got) <= 120
        str(caught.value).encode()
        assert pickle.loads(pickle.dumps(caught.value)).errors == caught.value.errors


@pytest.mark.parametrize("kind", ALL_TYPES)
def test_each_type_has_an_annotation_and_an_example(kind: str) -> None:
    compiled = compile_uncached(f"signature a: {kind} x -> {kind} y")
    assert to_annotation(compiled.input_fields[0].full_type) is not None
    assert compiled.example(1) == compiled.example(1)


def test_the_table_covers_every_type_and_every_constraint() -> None:
    used = [compile_uncached(f"signature a: {kind} x -> :string y").input_fields[0].full_type for kind in ALL_TYPES]
    assert {kind.name for kind in used} >= {name for name, spec in SPECS.items() if not spec.custom}
    named = {(expand(kind).name, name) for kind in used for name in kind.limits}
    expected = {(kind, name) for kind, rules in CONSTRAINT_RULES.items() for name in rules}
    assert expected - named <= {("dict", "min_size"), ("map", "unique")}
    assert set(ORDER) == {name for rules in CONSTRAINT_RULES.values() for name in rules} | {"dimensions", "max_steps"}
    assert all(spec.doc and spec.phrase for spec in SPECS.values())


def test_every_fault_of_every_field_is_reported_at_once() -> None:
    compiled = signature(seed.COMPREHENSIVE_TYPES, constraints=seed.COMPREHENSIVE_CONSTRAINTS)
    with pytest.raises(ValidationError) as caught:
        compiled.validate_inputs({"question": 1, "context": ["a", 2], "max_length": 2000, "option": {}})
    assert not isinstance(caught.value, ConstraintViolation)
    assert set(caught.value.errors) == {
        FieldError("question", "text", "1"),
        FieldError("context[1]", "text", "2"),
        FieldError("options", "a map with text as keys", "nothing"),
        FieldError("max_length", "at most 1000", "2000", "max"),
        FieldError("option", "only the fields question, context, options, max_length", "an unknown field"),
    }


def test_broken_constraints_alone_are_a_constraint_violation() -> None:
    compiled = signature(seed.COMPREHENSIVE_TYPES, constraints=seed.COMPREHENSIVE_CONSTRAINTS)
    assert compiled.validate_inputs(seed.COMPREHENSIVE_INPUT)["max_length"] == 500
    with pytest.raises(ConstraintViolation) as caught:
        compiled.validate_inputs({**seed.COMPREHENSIVE_INPUT, "max_length": 2000})
    assert caught.value.code == "constraint_violation"
    assert DspexError.from_dict(caught.value.as_dict()).as_dict() == caught.value.as_dict()


@pytest.mark.parametrize(
    ("kind", "value", "path", "expected", "constraint"),
    [
        (":list(:object(a=:list(:integer(min=1))))", [{"a": [1]}, {"a": [1, 0]}], "x[1].a[1]", "at least 1", "min"),
        (":dict(:string(max_length=1), :integer)", {"ab": 1}, "x['ab']", "at most 1 characters", "max_length"),
        (":dict(:string, :list(:integer))", {"k": ["1"]}, "x['k'][0]", "an integer", None),
        (':tagged("a", :list(:integer))', {"tag": "a", "value": ["1"]}, "x.value[0]", "an integer", None),
        (
            ':tagged("a", :list(:integer))',
            {"tag": "b", "value": 1},
            "x",
            'a map with "tag" (one of a) and "value"',
            None,
        ),
        (":union(:integer, :list(:string))", 1.5, "x", "an integer or a list", None),
        (":optional(:embedding(dimensions=2))", [1.0], "x", "exactly 2 items", "min_size"),
        (":map", {"a": {"b": (1,)}}, "x['a']", "a JSON value, and tuple is not one", None),
        (":atom", "a b", "x", "an identifier", "pattern"),
        (":integer(max=3)", -(2**70), "x", "an integer of at most 64 bits", None),
        (":string", "\ud800", "x", "text without lone surrogates", None),
        (':enum("a", "b")', "c", "x", "one of a, b", None),
        (":reasoning_chain", [{"step": 1}], "x[0].reasoning", "text", None),
        (":object(a=:string)", {"a": "1", "b": 2}, "x.b", "no such key", None),
    ],
)
def test_a_fault_has_its_path_and_what_was_expected(
    kind: str, value: Any, path: str, expected: str, constraint: str | None
) -> None:
    with pytest.raises(ValidationError) as caught:
        signature(f"signature a: {kind} x -> :string y").validate_inputs({"x": value})
    fault = caught.value.errors[0]
    assert (fault.path, fault.expected, fault.constraint) == (path, expected, constraint)


def test_what_came_is_shortened() -> None:
    compiled = signature("signature a: :integer x -> :string y")
    for value in ("x" * BIG, ["y" * BIG] * 1000, {"k" * BIG: 1}, 10**5000, object()):
        with pytest.raises(ValidationError) as caught:
            compiled.validate_inputs({"x": value})
        assert len(str(caught.value)) < 250


def test_the_value_of_a_secret_field_is_never_shown() -> None:
    compiled = signature(
        "signature a: :map(secret=true) key, :string(secret=true, min_length=9) pin -> :integer(secret=true) y"
    )
    assert compiled.secret_fields == {"key", "pin", "y"}
    with pytest.raises(ValidationError) as caught:
        compiled.validate_inputs({"key": {"sk-hidden": (1,)}, "pin": "sk-hidden"[:8]})
    assert "sk-hid" not in str(caught.value) + repr(caught.value.as_dict())
    assert [fault.path for fault in caught.value.errors] == ["key", "pin"]
    assert "12345" not in repr(compiled.check_outputs({"y": "12345"}).repairs)


def test_what_is_no_mapping_is_refused() -> None:
    compiled = signature("signature a: :string x -> :string y")
    for values in (None, [("x", "a")], "x", 3):
        with pytest.raises(ValidationError, match="a mapping from field names"):
            compiled.validate_inputs(values)  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        compiled.validate_inputs({1: "a", "x": "b"})  # type: ignore[dict-item]


def test_missing_optional_fields_and_defaults_are_filled_in() -> None:
    compiled = signature("signature a: :optional(:string) x, :integer n = 5 -> :string y")
    assert compiled.validate_inputs({}) == {"x": None, "n": 5}
    assert compiled.validate_inputs({"x": None, "n": 1}) == {"x": None, "n": 1}
    with pytest.raises(ValidationError):
        compiled.validate_inputs({"n": None})
    keys = signature("signature a: :object(a=:optional(:integer)) x -> :string y")
    assert keys.validate_inputs({"x": {}}) == {"x": {"a": None}}


def test_a_time_of_any_zone_equals_itself_after_json() -> None:
    class Odd(tzinfo):
        def utcoffset(self, _: datetime | None) -> timedelta:
            return timedelta(hours=5, minutes=53, seconds=28)

        def dst(self, _: datetime | None) -> timedelta:
            return timedelta(0)

        def tzname(self, _: datetime | None) -> str:
            return "odd"

    compiled = signature("signature a: :datetime x -> :string y")
    for value in (datetime(2025, 1, 1, 1, tzinfo=Odd()), datetime(2025, 10, 26, 2, 30, fold=1), datetime.now(UTC)):
        valid = compiled.validate_inputs({"x": value})
        assert compiled.decode("inputs", compiled.encode("inputs", valid)) == valid


def test_encoding_alters_no_text() -> None:
    compiled = signature("signature a: :string x -> :string y")
    text = "\0 'q' \"d\" <&> \u2028 🎈 \x7f \\ é"
    data = compiled.encode("inputs", {"x": text})
    assert json.loads(data)["x"] == text
    assert "🎈" in data.decode()
    with pytest.raises(ValueError, match="side is"):
        compiled.encode("input", {})  # type: ignore[arg-type]


def test_a_signature_is_immutable_and_small_to_copy() -> None:
    compiled = signature("signature a: :string x -> :string y")
    with pytest.raises(AttributeError, match="immutable"):
        compiled.name = "b"
    with pytest.raises(AttributeError, match="immutable"):
        del compiled.name
    assert copy.deepcopy(compiled) is compiled
    assert {compiled: 1}[pickle.loads(pickle.dumps(compiled))] == 1
    assert repr(compiled) == "<Signature a: :string x -> :string y>"


@pytest.mark.parametrize("kind", ["image", "audio"])
@pytest.mark.parametrize("url", ["https://host/a\r\nX-Injected: 1", "data:image/png;base64,aGk=\n", "http://h/\x7f"])
def test_an_address_of_media_has_no_line_breaks(kind: str, url: str) -> None:
    media = signature(f"signature s: :{kind} first, :list(:{kind}) others -> :string text")
    with pytest.raises(ValidationError) as refused:
        media.validate_inputs({"first": {"url": url}, "others": [{"url": url}]})
    assert [(error.path, error.expected) for error in refused.value.errors] == [
        (path, "an address without line breaks and other control characters") for path in ("first", "others[0]")
    ]


def test_of_very_many_faults_each_field_has_one() -> None:
    compiled = signature(
        "signature many: :list(:integer) numbers, :dict(:string, :integer) counts, :list(:integer, secret=true) hidden,"
        " :string text -> :string y"
    )
    wrong: list[Any] = ["x"] * (MOST_FAULTS + 1)
    unknown = {f"name {n}": 1 for n in range(3)}
    with pytest.raises(ValidationError) as caught:
        compiled.validate_inputs({"numbers": wrong, "counts": {"a": "x"}, "hidden": wrong, **unknown})
    assert list(caught.value.errors) == [
        FieldError("numbers", "a list", "a value with 1001 faults"), FieldError("counts['a']", "an integer", "'x'"),
        FieldError("hidden", "a list"), FieldError("text", "text", "nothing"),
        FieldError("name 0", "only the fields numbers, counts, hidden, text", "one of 3 unknown fields"),
    ]  # fmt: skip
    with pytest.raises(ValidationError) as caught:
        compiled.validate_inputs({"numbers": wrong[1:], "counts": {}, "hidden": [], "text": ""})
    assert len(caught.value.errors) == MOST_FAULTS
