"""Definitions, fingerprints and differences."""

from __future__ import annotations

import pytest

from dspex.signatures import signature

PLAIN = "signature a: :integer(min=1, max=9) n -> :string(max_length=5) y"


@pytest.mark.parametrize(
    "same",
    [
        "signature b: :integer(max=9, min=1) n -> :string(max_length=5) y",
        "signature a::integer(max=9.0,min=1)n->:string(min_length=0,max_length=5)y,",
        "n: Annotated[int, Field(gt=0, lt=10)] -> y: Annotated[str, Field(max_length=5)]",
    ],
)
def test_the_fingerprint_does_not_depend_on_spelling_name_or_source(same: str) -> None:
    assert signature(same).fingerprint == signature(PLAIN).fingerprint


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (":probability", ":probability(min=0, max=1.0)"),
        (":float(min=1)", ":float(min=1.0)"),
        (":union(:union(:integer, :string), :integer)", ":union(:integer, :string)"),
        (":optional(:optional(:string))", ":optional(:string)"),
        (":union(:integer, :optional(:string))", ":optional(:union(:integer, :string))"),
        (":dict(:string, :any)", ":map"),
        (':map(required_keys=["b", "a"])', ':map(required_keys=["a", "b"])'),
        (":list(:string, unique=false)", ":list(:string)"),
        (":embedding(dimensions=3)", ":embedding(min_size=3, max_size=3)"),
    ],
)
def test_equal_meaning_is_written_one_way(one: str, other: str) -> None:
    assert signature(f":string x -> {one} y") == signature(f":string x -> {other} y")


@pytest.mark.parametrize(
    "other",
    [
        "signature a: :integer(min=1, max=9) m -> :string(max_length=5) y",
        "signature a: :integer(min=1, max=8) n -> :string(max_length=5) y",
        "signature a: :optional(:integer(min=1, max=9)) n -> :string(max_length=5) y",
        "signature a: :integer(min=1, max=9) n = 3 -> :string(max_length=5) y",
        'signature a: :integer(min=1, max=9) n "number" -> :string(max_length=5) y',
        'signature a "Do": :integer(min=1, max=9) n -> :string(max_length=5) y',
        "signature a: :integer(min=1, max=9, secret=true) n -> :string(max_length=5) y",
        "signature a: -> :integer(min=1, max=9) n, :string(max_length=5) y",
    ],
)
def test_another_meaning_is_another_fingerprint(other: str) -> None:
    assert signature(other).fingerprint != signature(PLAIN).fingerprint


def test_signatures_of_two_names_are_not_equal_but_mean_the_same() -> None:
    a, b = signature(PLAIN), signature(PLAIN, name="b")
    assert a != b
    assert a.fingerprint == b.fingerprint
    assert a != "a"


def test_a_definition_is_stable() -> None:
    text = (
        'signature t "Route\\n\\"it\\"":\n'
        '    :string(max_length=5, secret=true) key "the key",\n'
        "    :optional(:list(:string(min_length=1), max_size=3)) history,\n"
        '    :datetime at = "2025-01-31T12:00:00+00:00"\n'
        "    ->\n"
        '    :tagged("a", :object(x=:integer), "b", :float(max=1.0)) y\n'
    )
    assert signature(text).definition == text


def test_the_same_content_is_compiled_once() -> None:
    assert signature(PLAIN) is signature(PLAIN)
    given = {"n": {"max": 5}}
    assert signature(PLAIN, constraints=given) is signature(PLAIN, constraints={"n": {"max": 5}})
    assert signature(PLAIN, constraints=given) is not signature(PLAIN)
    assert signature(signature(PLAIN)) is signature(PLAIN)
    assert signature(signature(PLAIN), name="b") == signature(PLAIN, name="b")


@pytest.mark.parametrize(
    ("old", "new", "compatible"),
    [
        (":integer(min=1)", ":integer", True),
        (":integer", ":integer(min=1)", False),
        (":integer(min=1, max=3)", ":integer(min=0, max=3)", True),
        (":integer", ":float", True),
        (":float", ":integer", False),
        (":string", ":optional(:string)", True),
        (":optional(:string)", ":string", False),
        (':enum("a")', ':enum("a", "b")', True),
        (':enum("a", "b")', ':enum("a")', False),
        (':enum("a")', ":string", True),
        (':enum("a")', ':string(one_of=["a", "b"])', True),
        (':string(one_of=["a"])', ':enum("a", "b")', True),
        (":string", ':enum("a")', False),
        (":string", ":any", True),
        (":datetime", ":any", False),
        (":string", ":union(:string, :integer)", True),
        (":union(:string, :integer)", ":string", False),
        (":list(:integer)", ":list(:float)", True),
        (":list(:float)", ":list(:integer)", False),
        (":list(:string, unique=true)", ":list(:string)", True),
        (":dict(:string, :integer)", ":map", True),
        (":map", ":dict(:string, :integer)", False),
        (":object(a=:string)", ":object(a=:string, b=:optional(:string))", True),
        (":object(a=:string)", ":object(a=:string, b=:string)", False),
        (":object(a=:string, b=:string)", ":object(a=:string)", False),
        (':tagged("a", :string)', ':tagged("a", :string, "b", :integer)', True),
        (':tagged("a", :string, "b", :integer)', ':tagged("a", :string)', False),
        (":probability", ":float", True),
        (":float", ":probability", False),
        (":prompt_template", ":string", True),
        (":string", ":prompt_template", False),
        (":string(max_length=3)", ':string(max_length=3, pattern="a")', False),
    ],
)
def test_a_change_of_type_is_compatible_when_old_values_stay_valid(old: str, new: str, compatible: bool) -> None:
    before = signature(f"signature s: {old} x -> {old} y")
    after = signature(f"signature s: {new} x -> {new} y")
    diff = before.diff(after)
    assert diff.compatible is compatible
    assert {change.kind for change in diff.changes} == {"type"}
    assert [(change.side, change.field) for change in diff.changes] == [("inputs", "x"), ("outputs", "y")]


def test_every_change_is_listed_field_by_field() -> None:
    old = signature('signature s: :string a "one", :string b, :integer c = 1, :string d -> :string y')
    new = signature(
        'signature s: :string b, :string a "two", :integer c, :optional(:string) e, :string f,'
        " :string(secret=true) g -> :string y"
    )
    changes = {(change.field, change.kind): change.compatible for change in old.diff(new).changes}
    assert changes == {
        ("d", "removed"): False,
        ("a", "description"): True,
        ("c", "default"): False,
        ("e", "added"): True,
        ("f", "added"): False,
        ("g", "added"): False,
        ("a", "moved"): True,
    }
    assert [change.field for change in old.diff(new).breaking] == ["d", "c", "f", "g"]
    assert not old.diff(old)
