"""DSPy strings: the same fields and types as in DSPy, and nothing evaluated."""

from __future__ import annotations

import sys

import pytest

from dspex.errors import SignatureSyntaxError, SignatureTypeError
from dspex.signatures import signature


def test_the_types_of_a_dspy_string() -> None:
    compiled = signature("question, context: list[str], k: int = 3 -> answer: str, confidence: float, ok: bool")
    assert [str(field.full_type) for field in compiled.input_fields] == [":string", ":list(:string)", ":integer"]
    assert [str(field.full_type) for field in compiled.output_fields] == [":string", ":float", ":boolean"]
    assert compiled.input_fields[2].default == 3
    assert signature(compiled.definition) == compiled


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        ("str", ":string"),
        ("bytes", ":binary"),
        ("list", ":list(:any)"),
        ("List[int]", ":list(:integer)"),
        ("typing.List[typing.Optional[int]]", ":list(:optional(:integer))"),
        ("Sequence[str]", ":list(:string)"),
        ("dict", ":map"),
        ("dict[str, Any]", ":map"),
        ("Dict[str, list[float]]", ":dict(:string, :list(:float))"),
        ("Any", ":any"),
        ("Optional[int]", ":optional(:integer)"),
        ("int | None", ":optional(:integer)"),
        ("None | int | str", ":optional(:union(:integer, :string))"),
        ("Union[int, str]", ":union(:integer, :string)"),
        ("Union[int, int]", ":integer"),
        ("Literal['a', \"b\"]", ':enum("a", "b")'),
        ("Literal[1, 2]", ":integer(one_of=[1, 2])"),
        ("Literal['a', None]", ':optional(:enum("a"))'),
        ("Literal[True, False]", ":boolean"),
        ("Literal['a', 1]", ':union(:enum("a"), :integer(one_of=[1]))'),
        ("Annotated[int, Field(gt=3, le=9)]", ":integer(min=4, max=9)"),
        ("Annotated[str, Field(min_length=1, max_length=5, description='x')]", ":string(min_length=1, max_length=5)"),
        ("Annotated[list[str], Field(max_length=5), 'note']", ":list(:string, max_size=5)"),
        ("Annotated[float, Field(gt=0)]", ":float(min=5e-324)"),
        ("datetime", ":datetime"),
        ("datetime.datetime", ":datetime"),
        ("dspy.Image", ":image"),
        ("list[dspy.Image]", ":list(:image)"),
        ("dspy.Audio", ":audio"),
        ("dspy.History", ":history"),
    ],
)
def test_annotations(annotation: str, expected: str) -> None:
    field = signature(f"a: {annotation} -> b").input_fields[0]
    assert str(field.full_type) == expected


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("", 1),
        ("question", 9),
        ("question ->", 12),
        ("a -> b -> c", 8),
        ("a, a -> b", 4),
        ("a -> a", 6),
        ("*a -> b", 1),
        ("a, /, b -> c", 4),
        ("a, *, b -> c", 4),
        ("a:: str -> b", 3),
        ("a: :string -> b", 4),
        ("a: 'str' -> b", 4),
        ("a: list[str -> b", 13),
        ("a: int = -> b", 10),
        ("a: int = None() -> b", 14),
        ("a: int = true -> b", 10),
        ("a: Annotated[int, Gt(3)] -> b", 19),
        ("a; b -> c", 2),
        ("_a -> b", 1),
        ("a -> b: Literal['x]", 17),
    ],
)
def test_what_has_no_meaning_is_refused_at_its_place(text: str, column: int) -> None:
    with pytest.raises(SignatureSyntaxError) as caught:
        signature(text)
    assert (caught.value.line, caught.value.column) == (1, column), str(caught.value)


@pytest.mark.parametrize(
    "annotation",
    [
        "foo",
        "os.system",
        "os",
        "set[str, int]",
        "tuple[None]",
        "complex",
        "None",
        "Optional[int, str]",
        "dict[int, str]",
        "dict[str]",
        "Image",
        "dspy.Foo",
        "__import__.x",
        "int[str]",
        "Literal[1.5]",
        "Annotated[int, Field(foo=3)]",
        "Annotated[str, Field(ge=3)]",
    ],
)
def test_unknown_types_are_refused(annotation: str) -> None:
    with pytest.raises((SignatureTypeError, SignatureSyntaxError)):
        signature(f"a: {annotation} -> b")


def test_no_string_imports_a_module() -> None:
    before = set(sys.modules)
    for name in ("antigravity", "turtledemo.clock", "this"):
        with pytest.raises(SignatureTypeError):
            signature(f"a: {name}.X -> b")
    assert not {"antigravity", "turtledemo", "this"} & (set(sys.modules) - before)


def test_a_field_may_be_called_signature() -> None:
    for text in ("signature -> b", "signature: str -> b", "signature, x -> b", "signature:str -> b"):
        assert signature(text).input_fields[0].name == "signature"


def test_it_is_equal_to_the_native_form() -> None:
    native = signature(":string question, :list(:string) context -> :string answer")
    assert signature("question, context: list[str] -> answer") == native


def test_types_of_the_standard_library() -> None:
    text = (
        "a: date, b: datetime.time, c: Optional[datetime.timedelta], d: list[uuid.UUID] -> "
        "e: Annotated[Decimal, Field(gt=0, decimal_places=2, description='what it costs', examples=[5])], "
        "f: Annotated[AnyUrl, 'where it is'], g: ipaddress.IPv4Address"
    )
    assert signature(text) == signature(
        ":date a, :time b, :optional(:duration) c, :list(:uuid) d -> "
        ':decimal(min=0.01, precision=2, examples=[5]) e "what it costs", :url f "where it is", :ipv4 g'
    )


@pytest.mark.case("sig-04")
@pytest.mark.parametrize("text", ["doc: Document -> ok: bool", "doc: list[my.Document] -> ok"])
def test_a_class_of_ones_own_needs_the_class_form(text: str) -> None:
    with pytest.raises(SignatureTypeError, match="a class of your own needs a signature that is written as a class"):
        signature(text)
