"""What the specification asks of the signature language as a whole."""

from __future__ import annotations

import pytest

from dspex.errors import SignatureSyntaxError, SignatureTypeError, ValidationError
from dspex.signatures import InputField, OutputField, SignatureModel, signature
from dspex.signatures.schemas.provider_fit import DIALECTS

SOURCE = """
signature completion_test "Is everything there?":
    :string(max_length=100) input,
    :integer(min=0) count = 1
    ->
    :string output,
    :confidence_score confidence
"""


class _Asked(SignatureModel):
    question: str = InputField()
    answer: str = OutputField()


def test_the_canonical_text_compiles_to_an_equal_signature() -> None:
    compiled = signature(SOURCE)
    assert (len(compiled.input_fields), len(compiled.output_fields)) == (2, 2)
    assert signature(compiled.definition) == compiled


def test_the_three_source_forms_have_one_fingerprint() -> None:
    forms = (":string question -> :string answer", "question: str -> answer: str", _Asked)
    assert len({signature(form, name="asked", description="").fingerprint for form in forms}) == 1


def test_defaults_are_filled_in_and_all_faults_are_reported_together() -> None:
    compiled = signature(SOURCE)
    assert compiled.validate_inputs({"input": "x"}) == {"input": "x", "count": 1}
    with pytest.raises(ValidationError) as refused:
        compiled.validate_inputs({"input": 7, "count": -1, "more": True})
    assert sorted(error.path for error in refused.value.errors) == ["count", "input", "more"]


@pytest.mark.parametrize("provider", DIALECTS)
def test_the_schemas_for_each_provider_have_every_field(provider: str) -> None:
    compiled = signature(SOURCE)
    assert set(compiled.json_schema("inputs", provider=provider)["properties"]) == {"input", "count"}
    assert set(compiled.json_schema("outputs", provider=provider)["properties"]) == {"output", "confidence"}


def test_errors_have_the_place_and_what_was_expected() -> None:
    with pytest.raises(SignatureTypeError) as unknown:
        signature("signature broken:\n  :string question ->\n  :strin answer")
    assert unknown.value.line == 3
    assert "string" in unknown.value.nearest
    with pytest.raises(SignatureSyntaxError) as unfinished:
        signature(":string question -> ")
    assert unfinished.value.expected


def test_nested_types_validate_to_the_innermost_value() -> None:
    compiled = signature(":dict(:string, :list(:union(:integer, :list(:optional(:float))))) deep -> :string answer")
    compiled.validate_inputs({"deep": {"a": [1, [2.5, None]]}})
    with pytest.raises(ValidationError) as refused:
        compiled.validate_inputs({"deep": {"a": [1, ["x"]]}})
    assert refused.value.errors[0].path.startswith("deep")


def test_inputs_are_strict_and_outputs_are_repaired_without_guessing() -> None:
    compiled = signature(":integer n -> :integer n_out, :probability p")
    assert compiled.validate_outputs({"n_out": "5", "p": "0.5"}) == {"n_out": 5, "p": 0.5}
    with pytest.raises(ValidationError):
        compiled.validate_inputs({"n": "5"})
    for wrong in ({"n_out": "five", "p": 0.5}, {"n_out": 5, "p": 1.5}):
        with pytest.raises(ValidationError):
            compiled.validate_outputs(wrong)


def test_an_unknown_constraint_is_refused() -> None:
    with pytest.raises(SignatureTypeError):
        signature(":string(max_lenght=3) value -> :string answer")
