"""The native language: what it reads, and how it refuses."""

from __future__ import annotations

import pytest

from dspex.errors import SignatureSyntaxError, SignatureTypeError
from dspex.signatures import NO_DEFAULT, signature
from dspex.signatures.values.pattern_size import pattern_size
from tests.unit.signatures import seed

TRIAGE = """
signature triage "Route a support ticket":
    :string(max_length=4000) ticket "the customer's message",
    :optional(:list(:string)) history,
    :integer(min=1, max=10) max_words = 5      # a default; a comment
    ->
    :enum("billing", "bug", "other") queue,
    :confidence_score confidence,
    :reasoning_chain thoughts,
"""


def test_every_form_of_the_documentation_is_read() -> None:
    triage = signature(TRIAGE)
    assert triage.name == "triage"
    assert triage.description == "Route a support ticket"
    ticket, history, max_words = triage.input_fields
    assert (ticket.description, ticket.constraints, ticket.required) == (
        "the customer's message",
        {"max_length": 4000},
        True,
    )
    assert (str(history.type), history.optional, history.default) == (":list(:string)", True, None)
    assert (max_words.default, max_words.optional) == (5, False)
    assert ticket.default is NO_DEFAULT
    assert [str(field.type) for field in triage.output_fields] == [
        ':enum("billing", "bug", "other")',
        ":confidence_score",
        ":reasoning_chain",
    ]


@pytest.mark.parametrize("name", seed.SIGNATURES)
def test_the_signatures_of_the_seed_compile_unchanged(name: str) -> None:
    compiled = signature(seed.SIGNATURES[name], name=name, description="From the seed")
    assert compiled.name == name
    assert signature(compiled.definition) == compiled


def test_the_broken_signature_of_the_seed_is_refused_where_it_is_broken() -> None:
    with pytest.raises(SignatureSyntaxError) as caught:
        signature(seed.BROKEN, name="broken")
    assert caught.value.code == "syntax_error"
    assert (caught.value.line, caught.value.column) == (2, 25)
    assert "a type such as :string" in caught.value.expected


def test_one_line_no_spaces_no_head_and_trailing_commas_mean_the_same() -> None:
    forms = [
        "signature qa: :string question -> :string answer",
        "signature qa::string question->:string answer",
        "signature qa: :string question, -> :string answer,",
        "# before\nsignature qa: # after\n :string question # the question\n->\r\n\t:string answer # done",
    ]
    compiled = [signature(form) for form in forms]
    assert len(set(compiled)) == 1
    assert signature(":string question -> :string answer", name="qa") == compiled[0]


def test_names_and_text_may_be_in_any_language() -> None:
    compiled = signature('signature ответ "質問に答える 🎈": :string вопрос "l\\u00e9gende \\"x\\"" -> :string 答え')
    assert [field.name for field in compiled.input_fields] == ["вопрос"]
    assert compiled.input_fields[0].description == 'légende "x"'
    assert compiled.description == "質問に答える 🎈"
    assert signature(compiled.definition) == compiled


def test_names_have_the_normal_form_of_python_names() -> None:
    assert signature("signature a: :string ﬁeld -> :string b").input_fields[0].name == "field"


def test_a_signature_may_have_no_inputs_but_needs_outputs() -> None:
    assert signature("signature joke: -> :string joke").input_fields == ()
    with pytest.raises(SignatureSyntaxError, match="the signature ends too early"):
        signature("signature joke: :string topic ->")


def test_defaults_are_values_of_their_type() -> None:
    compiled = signature(
        'signature d: :list(:string) tags = ["a", "b"], :map options = {"deep":true, "n": [1, -2.5e1, null]},'
        ' :datetime at = "2025-01-31T12:00:00Z", :optional(:integer) n = 3 -> :string x'
    )
    values = compiled.validate_inputs({})
    assert values["tags"] == ["a", "b"]
    assert values["options"] == {"deep": True, "n": [1, -25.0, None]}
    assert values["at"].isoformat() == "2025-01-31T12:00:00+00:00"
    assert values["n"] == 3
    values["tags"].append("c")
    assert compiled.validate_inputs({})["tags"] == ["a", "b"]
    assert signature(compiled.definition) == compiled


@pytest.mark.parametrize(
    ("text", "column", "expected"),
    [
        ("signature a :string x -> :string y", 13, "':'"),
        ("signature a: :string x :string y", 24, "','"),
        ("signature a: :string x -> :string y :string z", 37, "','"),
        ("signature a: :string -> :string y", 22, "name"),
        ("signature a: :string x, :string x -> :string y", 33, "a name for each field"),
        ("signature a: :string x -> :string x", 35, "a name for each field"),
        ("signature a: :string _x -> :string y", 22, "underscore"),
        ("signature a: :string x = -> :string y", 26, "a literal"),
        ("signature a: :float x = NaN -> :string y", 25, "a literal"),
        ("signature a: :float x = 1e999 -> :string y", 25, "finite"),
        ('signature a: :string x "open -> :string y', 24, "double quotes"),
        ('signature a: :string x "bad \\q" -> :string y', 24, "escape"),
        ('signature a: :string x "\\ud800" -> :string y', 24, "UTF-8"),
        ("signature a: :string(min_length=1, min_length=2) x -> :string y", 36, "once"),
        ("signature a: :string(min_length) x -> :string y", 32, "'='"),
        ("signature a: :list(:string x -> :string y", 28, "')'"),
        ("signature 1a: :string x -> :string y", 11, "name"),
        (":string(secret=1) x -> :string y", 9, "true or false"),
    ],
)
def test_a_syntax_error_points_at_the_place(text: str, column: int, expected: str) -> None:
    with pytest.raises(SignatureSyntaxError) as caught:
        signature(text)
    error = caught.value
    assert type(error) is SignatureSyntaxError
    assert (error.line, error.column) == (1, column), str(error)
    assert expected in error.expected
    line, caret = error.snippet.split("\n")
    assert caret.index("^") - 2 == column - 1
    assert text in line


@pytest.mark.parametrize(
    ("text", "code", "column", "nearest"),
    [
        ("signature a: :sting x -> :string y", "unknown_type", 14, ":string"),
        ("signature a: :list(:boolena) x -> :string y", "unknown_type", 20, ":boolean"),
        ("signature a: :string(max_lenght=3) x -> :string y", "unknown_constraint", 22, "max_length"),
        ("signature a: :string(min=3) x -> :string y", "unknown_constraint", 22, ""),
        ("signature a: :integer(min=4, max=3) x -> :string y", "invalid_constraint", 30, ""),
        ('signature a: :integer(min="1") x -> :string y', "invalid_constraint", 23, ""),
        ('signature a: :string(format="postcode") x -> :string y', "invalid_constraint", 22, ""),
        ("signature a: :list x -> :string y", "invalid_type", 14, ""),
        ("signature a: :string(:string) x -> :string y", "invalid_type", 14, ""),
        ('signature a: :enum("a", "a") x -> :string y', "invalid_type", 14, ""),
        ("signature a: :dict(:integer, :string) x -> :string y", "invalid_type", 14, ""),
        ("signature a: :union(:string, :datetime) x -> :string y", "invalid_type", 14, ""),
        ('signature a: :list(:string, secret=true, unique="x") x -> :string y', "invalid_constraint", 42, ""),
        ("signature a: :list(:string(secret=true)) x -> :string y", "unknown_constraint", 28, ""),
        ("signature a: :probability(max=-1) x -> :string y", "invalid_constraint", 27, ""),
    ],
)
def test_a_type_error_names_the_place_and_the_nearest_name(text: str, code: str, column: int, nearest: str) -> None:
    with pytest.raises(SignatureTypeError) as caught:
        signature(text)
    assert (caught.value.code, caught.value.column, caught.value.nearest) == (code, column, nearest), str(caught.value)


def test_a_bad_pattern_is_named() -> None:
    with pytest.raises(SignatureTypeError, match="look-around") as caught:
        signature('signature a: :string(pattern="(?=x)") x -> :string y')
    assert caught.value.code == "invalid_constraint"


@pytest.mark.parametrize(
    "pattern",
    [
        "(a{100}){100}", "a{1001}", "(a{1,50}){2,1000}", "((a{20}){20}){20}", "a{0000000000001001}", "a{ 1001 }",
        "(?x)(a{100}) # a comment\n{100}", "[a-z[0-9]]{500}x{501}", "\\p{L}{1001}", "a{99999999999}", "a" * 1001,
    ],
)  # fmt: skip
def test_a_pattern_that_is_too_large_to_match_quickly_is_refused(pattern: str) -> None:
    with pytest.raises(SignatureTypeError, match="at most 1,000 characters and sets") as caught:
        signature("signature a: :string x -> :string y", constraints={"x": {"pattern": pattern}})
    assert caught.value.code == "invalid_constraint"


def test_patterns_are_measured_with_their_repetitions_written_out() -> None:
    sizes = {"abc": 3, "a{2,50}": 50, "a{3,}": 4, "(ab|c){10}": 40, "[]a]{4}x": 5, "[\\]]{2}": 2, "a #b{2}": 5, "(": 1}
    assert {pattern: pattern_size(pattern) for pattern in sizes} == sizes
    signature('signature a: :string(pattern="^[A-Z]{2}[0-9]{9}(-[a-z]{1,100}){0,9}$") x -> :string y')


def test_a_default_that_does_not_fit_is_refused() -> None:
    with pytest.raises(SignatureTypeError, match=r"the default of n does not fit.*at most 3"):
        signature("signature a: :integer(max=3) n = 4 -> :string y")
    with pytest.raises(SignatureTypeError, match="secret"):
        signature('signature a: :string(secret=true) key = "sk-1" -> :string y')


def test_bombs_are_refused_with_a_position() -> None:
    for text in (
        f"signature a: {':list(' * 500}:string{')' * 500} x -> :string y",
        f"signature a: :any x = {'[' * 5000}{']' * 5000} -> :string y",
        "signature a: :any x = " + '{"a":' * 5000 + "1" + "}" * 5000 + " -> :string y",
        f"signature a: :integer x = {'9' * 10_000} -> :string y",
        "signature a: :string x " + "#" * 2_000_000,
        "signature a: " + " " * 200_000,
        f"a: {'list[' * 500}str{']' * 500} -> b",
        f"signature a: :{'a' * 900_000} x -> :string y",
        f"signature a: :string({'a' * 900_000}=1) x -> :string y",
        f"signature a: :string _{'a' * 900_000} -> :string y",
        'signature a: :integer(min="' + "a" * 900_000 + '") x -> :string y',
        f"a: {'x' * 900_000} -> b",
    ):
        with pytest.raises(SignatureSyntaxError) as caught:
            signature(text)
        assert caught.value.line == 1
        assert len(str(caught.value)) < 1000


def test_a_long_line_is_shown_around_the_caret() -> None:
    text = ", ".join(f":string field_{n}" for n in range(500)) + ", :strin last -> :string y"
    with pytest.raises(SignatureTypeError) as caught:
        signature(text)
    line, caret = caught.value.snippet.split("\n")
    assert len(line) < 120
    assert line[caret.index("^") :].startswith(":strin last")


def test_constraints_as_an_argument_say_the_same_as_inline() -> None:
    inline = signature("signature a: :optional(:integer(min=1, max=10)) n -> :string y")
    argument = signature(
        "signature a: :optional(:integer) n -> :string y", constraints={"n": {"max": 10.0, "min": 1}, "y": {}}
    )
    assert inline == argument
    secret = signature("signature a: :string k -> :string y", constraints={"k": {"secret": True}})
    assert secret.secret_fields == {"k"}


@pytest.mark.parametrize(
    ("constraints", "code", "nearest"),
    [
        ({"quest": {"max_length": 1}}, "unknown_field", "question"),
        ({"question": {"maximum": 1}}, "unknown_constraint", ""),
        ({"question": {"max_length": "x"}}, "invalid_constraint", ""),
        ({"question": 3}, "invalid_constraint", ""),
        ({"question": {1: 2}}, "unknown_constraint", ""),
        ({1: {"max_length": 1}}, "unknown_field", ""),
        ({"question": {"format": ["date"]}}, "invalid_constraint", ""),
        ({"question": {"one_of": [["a"]]}}, "invalid_constraint", ""),
        ({"question": {"one_of": []}}, "invalid_constraint", ""),
        ({"question": {"max_length": True}}, "invalid_constraint", ""),
        ({"question": {"max_length": None}}, "invalid_constraint", ""),
        ({"question": {"pattern": "("}}, "invalid_constraint", ""),
    ],
)
def test_wrong_constraints_are_never_ignored(constraints: dict[str, object], code: str, nearest: str) -> None:
    with pytest.raises(SignatureTypeError) as caught:
        signature("signature a: :string question -> :string y", constraints=constraints)  # type: ignore[arg-type]
    assert (caught.value.code, caught.value.nearest) == (code, nearest)
    assert caught.value.line == 1


def test_names_and_descriptions_can_be_replaced() -> None:
    compiled = signature("signature a: :string x -> :string y", name="b", description="  Do it.  ")
    assert (compiled.name, compiled.description) == ("b", "Do it.")
    with pytest.raises(SignatureSyntaxError):
        signature(":string x -> :string y", name="not a name")
    with pytest.raises(SignatureSyntaxError):
        signature(":string x -> :string y", description="\ud800")
