"""The schema of every type and constraint obeys the rules of every provider."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from dspex.signatures import signature
from dspex.signatures.compile import compile_uncached
from tests.unit.signatures.provider_rules import RULES
from tests.unit.signatures.strategies import types
from tests.unit.signatures.type_table import ALL_TYPES

PROVIDERS = sorted(RULES)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("kind", ALL_TYPES)
def test_each_type_obeys_the_rules(kind: str, provider: str) -> None:
    compiled = compile_uncached(
        f'signature a: {kind} x "of this kind" -> {kind} y, :optional({kind}) z, :list({kind}) l'
    )
    for side in ("inputs", "outputs"):
        schema = compiled.json_schema(side, provider)
        assert list(RULES[provider](schema)) == []
        Draft202012Validator.check_schema(schema)
    assert compiled.provider_fit(provider).accepted


@pytest.mark.parametrize("provider", PROVIDERS)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(kinds=st.lists(types, min_size=1, max_size=3))
def test_composed_types_obey_the_rules_or_are_reported(provider: str, kinds: list[object]) -> None:
    outputs = ", ".join(f"{kind} x{number}" for number, kind in enumerate(kinds))
    compiled = compile_uncached(f"signature a: -> {outputs}")
    faults = list(RULES[provider](compiled.json_schema("outputs", provider)))
    assert bool(faults) <= bool(compiled.provider_fit(provider).problems), faults


@pytest.mark.parametrize("kind", ALL_TYPES)
def test_each_plain_schema_is_json_schema(kind: str) -> None:
    schema = compile_uncached(f"signature a: -> {kind} y").json_schema("outputs")
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


SUMMARY = signature(
    """
    signature s "Summarise.":
        :string text -> :string(max_length=160, pattern="^[A-Z]") summary "one sentence",
        :list(:string, unique=true) tags,
        :float(precision=2, min=0) score, :map extra, :dict(:string(max_length=3), :integer(min=1)) counts
    """
)


def test_the_fit_names_what_a_provider_does_not_enforce() -> None:
    fit = SUMMARY.provider_fit("openai")
    assert set(fit.enforced) == {("summary", "pattern"), ("score", "min")}
    assert set(fit.checked_by_dspex) == {
        ("summary", "max_length"),
        ("tags", "unique"),
        ("score", "precision"),
        ("counts", "key max_length"),
        ("counts{}", "min"),
    }
    assert [path for path, _ in fit.approximated] == ["extra", "counts"]
    assert set(SUMMARY.provider_fit("anthropic").enforced) == {("summary", "pattern")}
    assert ("score", "precision") in SUMMARY.provider_fit("json-schema").checked_by_dspex
    assert ("counts{}", "min") in SUMMARY.provider_fit("gemini").enforced


def test_the_prompt_names_what_is_not_enforced() -> None:
    properties = SUMMARY.json_schema("outputs", "anthropic")["properties"]
    assert properties["summary"]["description"] == "one sentence (at most 160 characters)"
    assert properties["score"]["description"] == "at least 0.0"


def test_what_a_provider_cannot_say_comes_back_as_text_and_is_repaired() -> None:
    checked = SUMMARY.check_outputs(
        {"summary": "Fine.", "tags": [], "score": 0.5, "extra": '{"a": [1]}', "counts": '{"x": 2}'}
    )
    assert checked.values["extra"] == {"a": [1]}
    assert checked.values["counts"] == {"x": 2}
    assert [repair.what for repair in checked.repairs] == ["JSON in text", "JSON in text"]


def test_limits_of_size_are_reported() -> None:
    deep = signature(f"signature a: -> {':list(' * 12}:string{')' * 12} x")
    assert deep.provider_fit("openai").problems == ("13 levels; the limit of openai is 10",)
    russian = signature("signature a: -> :string ответ")
    assert "ответ" in russian.provider_fit("anthropic").problems[0]
    assert russian.provider_fit("openai").accepted
    many = signature("signature a: -> " + ", ".join(f":optional(:string) x{n}" for n in range(30)))
    assert len(many.provider_fit("anthropic").problems) == 2


def test_an_unknown_provider_is_refused() -> None:
    with pytest.raises(ValueError, match="no provider 'mistral'"):
        SUMMARY.json_schema("outputs", "mistral")


def test_the_name_of_a_schema_fits_every_provider() -> None:
    assert SUMMARY.schema_name == "s"
    assert signature(":string a -> :string b", name="Ärger_" + "x" * 80).schema_name == "_rger_" + "x" * 58
