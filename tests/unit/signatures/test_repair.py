"""Repairs of model outputs: what is rewritten, what is not, and that it is recorded."""

from __future__ import annotations

from typing import Any

import pytest

from dspex.errors import ValidationError
from dspex.signatures import Repair, signature


@pytest.mark.parametrize(
    ("kind", "value", "repaired"),
    [
        (":integer", "42", 42),
        (":integer", " -7\n", -7),
        (":integer", 5.0, 5),
        (":integer", "5.0", 5),
        (":integer", "`5`", 5),
        (":integer(max=10)", "10", 10),
        (":float", "1.5", 1.5),
        (":float", "1e3", 1000.0),
        (":float", ".5", 0.5),
        (":boolean", "True", True),
        (":boolean", "no", False),
        (":string", 42, "42"),
        (":string", 1.5, "1.5"),
        (":string", True, "true"),
        (":probability", "85%", 0.85),
        (":probability", "12.5 %", 0.125),
        (":confidence_score", "0.9", 0.9),
        (':enum("billing", "bug")', " Billing. ", "billing"),
        (':enum("billing", "bug")', '"bug"', "bug"),
        (':string(one_of=["Yes", "No"])', "yes", "Yes"),
        (":list(:integer)", "[1, 2]", [1, 2]),
        (":list(:integer)", '```json\n["1", 2]\n```', [1, 2]),
        (":list(:boolean)", ["true", False], [True, False]),
        (":map", '```\n{"a": 1}\n```', {"a": 1}),
        (":dict(:string, :float)", {"a": "1.5"}, {"a": 1.5}),
        (":object(a=:integer, b=:optional(:string))", '{"a": "1"}', {"a": 1, "b": None}),
        (':tagged("n", :integer)', {"tag": "n", "value": "1"}, {"tag": "n", "value": 1}),
        (":optional(:integer)", "null", None),
        (":optional(:integer)", "7", 7),
        (":union(:integer, :boolean)", "7", 7),
        (":datetime", "2025-01-31 12:00:00", "2025-01-31T12:00:00"),
        (":date", "`2025-01-31`", "2025-01-31"),
        (":date", "2025-01-31T00:00:00Z", "2025-01-31"),
        (":time", '"14:30"', "14:30"),
        (":duration", " P1D ", "P1D"),
        (":decimal", 19.9, "19.9"),
        (":decimal", "+1.10", "1.10"),
        (":uuid", "urn:uuid:{123E4567E89B12D3A456426614174000}", "123e4567-e89b-12d3-a456-426614174000"),
        (":ipv4", "`192.0.2.1`", "192.0.2.1"),
        (":list(:decimal)", [1.5, 2], ["1.5", "2"]),
        (':object(day=:date, tags=:list(:string) = ["a"])', {"day": "2025-01-31", "tags": None}, {"day": "2025-01-31"}),
        (":object(day?=:date)", {"day": None}, {}),
        (":reasoning_chain", '[{"step": 1, "reasoning": "so"}]', [{"step": 1, "reasoning": "so"}]),
        (":embedding", "[0.5, 1]", [0.5, 1.0]),
    ],
)
def test_what_says_one_value_is_read_as_that_value(kind: str, value: Any, repaired: Any) -> None:
    compiled = signature(f"signature a: -> {kind} y")
    checked = compiled.check_outputs({"y": value})
    assert checked.values == compiled.validate_outputs({"y": repaired})
    assert type(checked.values["y"]) is type(compiled.validate_outputs({"y": repaired})["y"])
    assert checked.repairs
    assert all(repair.path.startswith("y") and repair.what for repair in checked.repairs)
    with pytest.raises(ValidationError):
        signature(f"signature a: {kind} y -> :string x").validate_inputs({"y": value})


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (":integer", "5.5"),
        (":integer", 5.5),
        (":integer", "five"),
        (":integer", "1,000"),
        (":integer", True),
        (":integer", ""),
        (":integer", "9" * 30),
        (":integer", "9" * 10_000),
        (":integer(max=10)", "11"),
        (":date", "2025-01-31T10:00:00Z"),
        (":date", "31/01/2025"),
        (":time", "2:30 pm"),
        (":duration", "90 minutes"),
        (":duration", 90),
        (":decimal", "1,5"),
        (":decimal", True),
        (":uuid", "123"),
        (":url", "example.com"),
        (":object(day=:date)", {"day": None}),
        (":float", "NaN"),
        (":float", "1e999"),
        (":float", "85%"),
        (":probability", 85),
        (":probability", "85"),
        (":probability", "150%"),
        (":boolean", 1),
        (":boolean", "1"),
        (":boolean", "maybe"),
        (":string", None),
        (":string", ["a"]),
        (":string", float("nan")),
        (":string(max_length=3)", "abcd"),
        (':enum("a", "A")', '"Ä"'),
        (':enum("yes", "YES")', "Yes"),
        (':enum("billing", "bug")', "It is billing"),
        (":list(:integer)", "1, 2"),
        (":list(:integer)", "[1, NaN]"),
        (":list(:integer)", "[" * 100_000),
        (":list(:string)", "a"),
        (":map", "[1]"),
        (":union(:integer, :float)", "7"),
        (":datetime", "2025-01-31"),
    ],
)
def test_what_would_be_a_guess_is_refused(kind: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        signature(f"signature a: -> {kind} y").validate_outputs({"y": value})


@pytest.mark.parametrize("text", ["42", " spaced ", '```json\n{"a": 1}\n```', "null", '"quoted"', "True"])
def test_text_is_never_touched_where_text_is_expected(text: str) -> None:
    checked = signature("signature a: -> :string y, :optional(:string) z").check_outputs({"y": text, "z": text})
    assert checked.values == {"y": text, "z": text}
    assert checked.repairs == ()


def test_each_repair_says_what_was_there_and_what_is_there_now() -> None:
    compiled = signature("signature a: -> :object(n=:integer, tags=:list(:boolean)) y, :string z")
    checked = compiled.check_outputs({"y": '{"n": "1", "tags": ["yes"]}', "z": "ok"})
    assert checked.repairs == (
        Repair("y", "JSON in text", '\'{"n": "1", "tags": ["yes"]}\'', "{'n': '1', 'tags': ['yes']}"),
        Repair("y.n", "a number in text", "'1'", "1"),
        Repair("y.tags[0]", "true or false in text", "'yes'", "True"),
    )


def test_what_is_left_after_the_repairs_is_reported() -> None:
    compiled = signature("signature a: -> :integer n, :list(:integer) l")
    with pytest.raises(ValidationError) as caught:
        compiled.check_outputs({"n": "1", "l": '["1", "x"]', "more": 1})
    assert [(fault.path, fault.got) for fault in caught.value.errors] == [
        ("l[1]", "'x'"),
        ("more", "an unknown field"),
    ]
