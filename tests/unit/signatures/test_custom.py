"""Types of the user's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dspex.errors import SignatureTypeError, ValidationError
from dspex.signatures import register_type, signature
from dspex.signatures.compile import forget_compiled
from dspex.signatures.types.type_registry import SPECS


@pytest.fixture(autouse=True)
def _forget_custom_types() -> Iterator[None]:
    yield
    for name in [name for name, spec in SPECS.items() if spec.custom]:
        del SPECS[name]
    forget_compiled()


def isbn(value: str) -> str:
    """An ISBN-13, without dashes."""
    digits = value.replace("-", "")
    if len(digits) != 13 or not digits.isdigit():
        raise ValueError("thirteen digits")
    return digits


def _register() -> None:
    register_type(
        "isbn",
        base=":string(max_length=17)",
        validate=isbn,
        json_schema={"pattern": "^[0-9-]{13,17}$", "examples": ["978-0-306-40615-7"]},
    )


def test_a_custom_type_works_as_the_others_do() -> None:
    _register()
    compiled = signature("signature book: :isbn number, :list(:isbn) more -> :optional(:isbn) y")
    assert compiled.validate_inputs({"number": "978-0-306-40615-7", "more": ["9780306406157"]}) == {
        "number": "9780306406157",
        "more": ["9780306406157"],
    }
    with pytest.raises(ValidationError) as caught:
        compiled.validate_inputs({"number": "12", "more": ["x" * 18, 5]})
    paths = {fault.path: (fault.expected, fault.constraint) for fault in caught.value.errors}
    assert paths == {
        "number": ("a value of :isbn (thirteen digits)", None),
        "more[0]": ("at most 17 characters", "max_length"),
        "more[1]": ("a value of :isbn", None),
    }
    assert compiled.example(1).inputs["number"] == "9780306406157"
    assert compiled.json_schema("inputs")["properties"]["number"] == {
        "type": "string",
        "maxLength": 17,
        "pattern": "^[0-9-]{13,17}$",
        "examples": ["978-0-306-40615-7"],
    }
    assert ("y", ":isbn") in compiled.provider_fit("openai").checked_by_dspex
    assert signature(compiled.definition) == compiled
    assert SPECS["isbn"].doc == "An ISBN-13, without dashes."


def test_constraints_tighten_those_of_the_base() -> None:
    _register()
    assert str(signature(":isbn(max_length=20) x -> :string y").input_fields[0].type) == ":isbn"
    assert str(signature(":isbn(max_length=13) x -> :string y").input_fields[0].type) == ":isbn(max_length=13)"


def test_another_meaning_of_the_type_is_another_fingerprint() -> None:
    register_type("code", base=":string")
    before = signature(":code x -> :string y")
    register_type("code", base=":string(max_length=3)")
    after = signature(":code x -> :string y")
    assert before is not after
    assert after.fingerprint != signature(":string x -> :string y").fingerprint
    with pytest.raises(ValidationError):
        after.validate_inputs({"x": "four"})


def test_an_example_that_cannot_be_found_says_how_to_help() -> None:
    register_type("odd", base=":string", validate=isbn)
    with pytest.raises(ValidationError, match="examples"):
        signature(":odd x -> :string y").example(1)


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("string", ":string"),
        ("two words", ":string"),
        ("x", ":optional(:string)"),
        ("x", ":nothing"),
        ("x", ":string :string"),
    ],
)
def test_a_wrong_registration_is_refused(name: str, base: str) -> None:
    from dspex.errors import SignatureSyntaxError

    with pytest.raises(SignatureSyntaxError):
        register_type(name, base=base)


def test_a_type_cannot_be_made_of_itself() -> None:
    register_type("x", base=":string")
    with pytest.raises(SignatureTypeError):
        register_type("x", base=":list(:x)")
