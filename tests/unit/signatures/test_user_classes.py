"""The user's own models, dataclasses and TypedDicts: all that they say is in the signature, and its values fit them."""

from __future__ import annotations

import dataclasses
import enum
import ipaddress
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NewType, NotRequired, Required
from uuid import UUID, uuid4

import annotated_types
import pytest
from pydantic import (
    AliasChoices,
    AliasPath,
    AnyUrl,
    BaseModel,
    ConfigDict,
    EmailStr,
    Field,
    HttpUrl,
    PostgresDsn,
    RootModel,
    SecretStr,
    StringConstraints,
    TypeAdapter,
    WithJsonSchema,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypedDict

from dspex.errors import SignatureTypeError, ValidationError
from dspex.signatures import InputField, OutputField, Signature, SignatureModel, signature
from dspex.signatures.parse.annotations import from_annotation

dspy: Any = pytest.importorskip("dspy")


class Color(enum.Enum):
    """What people see first."""

    RED = "red"


class Bare(BaseModel):
    born: int


class Described(BaseModel):
    born: int = Field(description="the year of birth")


class Documented(BaseModel):
    """A person of whom we know little."""

    born: int


class Aliased(BaseModel):
    born: int = Field(alias="yearOfBirth")


class Exemplified(BaseModel):
    born: int = Field(examples=[1815])


class Titled(BaseModel):
    born: int = Field(title="Year of birth")


class Commented(BaseModel):
    born: Annotated[int, "the year of birth"]


class Schematic(BaseModel):
    born: Annotated[int, WithJsonSchema({"type": "integer", "description": "the year of birth"})]


class Configured(BaseModel):
    model_config = ConfigDict(title="PERSON", json_schema_extra={"examples": [{"born": 1815}]})
    born: int


class Deep(BaseModel):
    born: list[dict[str, Annotated[int, Field(description="the year of birth")]]]


@dataclasses.dataclass
class Plain:
    born: Annotated[int, Field(description="the year of birth")]


@dataclasses.dataclass
class Metadata:
    born: int = dataclasses.field(metadata={"description": "the year of birth"})


@dataclasses.dataclass
class Defaulted:
    born: int = Field(1815, description="the year of birth")


@pydantic_dataclass
class Dataclass:
    """A person of whom we know little."""

    born: int = Field(description="the year of birth")


class Dictionary(TypedDict):
    """A person of whom we know little."""

    born: Annotated[int, Field(description="the year of birth")]


class Rating(enum.Enum):
    POOR = 1
    GOOD = 2


class Priority(enum.StrEnum):
    LOW = "p2"
    HIGH = "p1"


SAID: list[tuple[Any, str]] = [
    (Described, "the year of birth"),
    (Documented, "A person of whom we know little."),
    (Aliased, "yearOfBirth"),
    (Exemplified, "1815"),
    (Commented, "the year of birth"),
    (Schematic, "the year of birth"),
    (Configured, "1815"),
    (Deep, "the year of birth"),
    (Plain, "the year of birth"),
    (Metadata, "the year of birth"),
    (Defaulted, "the year of birth"),
    (Dataclass, "the year of birth"),
    (Dataclass, "A person of whom we know little."),
    (Dictionary, "the year of birth"),
    (Dictionary, "A person of whom we know little."),
    (Color, "What people see first."),
    (Rating, "POOR"),
]


def as_model(annotation: Any) -> Signature:
    """A signature with this type on both sides, in a list, and below an Optional."""
    hints = {"given": annotation, "made": list[annotation], "other": annotation | None}
    fields = {"given": InputField(), "made": OutputField(), "other": OutputField()}
    return signature(type("Made", (SignatureModel,), {"__annotations__": hints, **fields}))


def as_dspy(annotation: Any) -> Signature:
    hints = {"given": annotation, "made": list[annotation], "other": annotation | None}
    fields = {"given": dspy.InputField(), "made": dspy.OutputField(), "other": dspy.OutputField()}
    return signature(type("Made", (dspy.Signature,), {"__annotations__": hints, "__doc__": "Make.", **fields}))


@pytest.mark.case("sig-01")
@pytest.mark.parametrize("form", [as_model, as_dspy])
@pytest.mark.parametrize(("cls", "said"), SAID)
def test_what_a_class_says_is_in_the_definition_and_in_every_schema(
    cls: Any, said: str, form: Callable[[Any], Signature]
) -> None:
    compiled = form(cls)
    assert signature(compiled.definition) == compiled
    assert compiled.definition.count(said) == 3
    for provider in ("json-schema", "openai", "anthropic", "gemini"):
        assert said in str(compiled.json_schema("inputs", provider=provider))
        assert str(compiled.json_schema("outputs", provider=provider)).count(said) >= 2


@pytest.mark.case("sig-01")
def test_classes_that_say_different_things_have_different_fingerprints() -> None:
    classes: list[Any] = [Bare, Described, Documented, Aliased, Exemplified, Titled, Configured]
    assert len({as_model(cls).fingerprint for cls in classes}) == len(classes)
    assert as_model(Described).fingerprint == as_model(Commented).fingerprint == as_model(Plain).fingerprint
    changes = as_model(Bare).diff(as_model(Described)).changes
    assert {(change.kind, change.compatible) for change in changes} == {("description", True)}


def test_a_description_in_annotated_is_the_fields_unless_it_has_its_own() -> None:
    class Described(SignatureModel):
        one: Annotated[str, Field(description="said in Annotated")] = OutputField()
        two: Annotated[str, Field(description="said in Annotated", examples=["x"])] = OutputField(desc="its own")

    one, two = signature(Described).output_fields
    assert (one.description, str(one.type)) == ("said in Annotated", ":string")
    assert str(two.type) == ':string(description="said in Annotated", examples=["x"])'
    schema = signature(Described).json_schema("outputs")["properties"]["two"]
    assert schema == {"type": "string", "description": "its own\nsaid in Annotated", "examples": ["x"]}


class Address(BaseModel):
    city: str = "Paris"


class Person(BaseModel):
    name: str
    tags: list[str] = []
    limits: dict[str, int] = Field(default_factory=dict)
    age: int = 3
    note: str | None = None
    wrong: str = None  # type: ignore[assignment]
    id: UUID = Field(default_factory=uuid4)
    seen: datetime = Field(default_factory=datetime.now)
    color: Color = Color.RED
    address: Address = Address()
    since: date = date(2025, 1, 31)
    price: Decimal = Decimal("1.10")


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0
    tags: list[str] = dataclasses.field(default_factory=list)
    steps: list[int] = dataclasses.field(default_factory=lambda: [1])
    made: int = dataclasses.field(init=False, default=3)


class Movie(TypedDict, total=False):
    title: Required[str]
    year: int
    tags: Annotated[NotRequired[list[str]], Field(description="of the movie")]


class Strange(BaseModel):
    model_config = ConfigDict(alias_generator=str.upper)
    class_: str = Field(alias="class")
    spaced: int = Field(5, validation_alias="with blank")
    choice: str = Field(validation_alias=AliasChoices(AliasPath("a", 0), "either", "or"))
    shouted: str = "x"


class Tags(RootModel[list[str]]):
    """All of them."""


OWN: list[tuple[Any, Any, list[str]]] = [
    (
        Person,
        {"name": "Ada"},
        ["tags", "limits", "age", "wrong", "id", "seen", "color", "address", "since", "price"],
    ),
    (Point, {"x": 1.5}, ["y", "tags", "steps"]),
    (Movie, {"title": "M"}, ["year", "tags"]),
    (Strange, {"class": "a", "either": "b"}, ["with blank", "SHOUTED"]),
]


@pytest.mark.case("sig-11")
@pytest.mark.parametrize(("cls", "least", "optional"), OWN)
def test_values_with_keys_left_out_or_null_fit_the_users_own_class(cls: Any, least: Any, optional: list[str]) -> None:
    compiled = as_model(cls)
    nulls = {**least, **dict.fromkeys(optional)}
    left_out, null = compiled.validate_outputs({"made": [least, nulls], "other": None})["made"]
    assert TypeAdapter(cls).validate_python(left_out)
    assert TypeAdapter(cls).validate_python(null)
    assert left_out == null
    repairs = compiled.check_outputs({"made": [nulls], "other": None}).repairs
    assert [repair.path for repair in repairs] == [f"made[0].{key}" for key in optional]
    with pytest.raises(ValidationError):
        compiled.validate_inputs({"given": nulls})


def test_defaults_that_are_data_are_filled_in_and_others_are_left_to_the_class() -> None:
    compiled = as_model(Person)
    (made,) = compiled.validate_outputs({"made": [{"name": "Ada"}], "other": None})["made"]
    assert made == {
        "name": "Ada",
        "tags": [],
        "limits": {},
        "age": 3,
        "note": None,
        "color": "red",
        "address": {"city": "Paris"},
        "since": date(2025, 1, 31),
        "price": Decimal("1.10"),
    }
    made["tags"].append("changed")
    assert compiled.validate_outputs({"made": [{"name": "Bo"}], "other": None})["made"][0]["tags"] == []
    assert as_model(Person).fingerprint == compiled.fingerprint
    assert signature(compiled.definition).validate_inputs({"given": {"name": "Ada"}})["given"]["tags"] == []


@pytest.mark.case("sig-05")
@pytest.mark.parametrize(
    ("cls", "answer", "value"),
    [
        (Rating, "GOOD", 2),
        (Rating, "Rating.GOOD", 2),
        (Rating, "`good`", 2),
        (Rating, "2", 2),
        (Rating, "POOR.", 1),
        (Priority, "HIGH", "p1"),
        (Priority, "Priority.low", "p2"),
        (Priority, "P1", "p1"),
        (Color, "Red", "red"),
    ],
)
def test_a_member_of_an_enum_is_read_by_its_name(cls: Any, answer: str, value: Any) -> None:
    compiled = as_model(cls)
    assert compiled.validate_outputs({"made": [answer], "other": answer}) == {"made": [value], "other": value}
    with pytest.raises(ValidationError):
        compiled.validate_outputs({"made": [f"{answer} enough"], "other": None})
    with pytest.raises(ValidationError):
        compiled.validate_inputs({"given": answer})


def test_strict_schemas_let_keys_that_may_be_left_out_be_null() -> None:
    item = as_model(Movie).json_schema("outputs", provider="openai")["properties"]["made"]["items"]
    assert item["required"] == ["title", "year", "tags"]
    assert item["properties"]["title"] == {"type": "string"}
    assert item["properties"]["year"] == {"anyOf": [{"type": "integer"}, {"type": "null"}]}


def test_a_model_of_one_value_is_that_value() -> None:
    compiled = as_model(Tags)
    assert compiled.input_fields[0].description == "All of them."
    assert Tags.model_validate(compiled.validate_inputs({"given": ["a"]})["given"]).root == ["a"]


def test_a_path_into_values_is_no_key() -> None:
    class Pathed(BaseModel):
        name: str = Field(validation_alias=AliasPath("names", 0))

    with pytest.raises(SignatureTypeError, match=r"the alias of Pathed\.name is not one key"):
        as_model(Pathed)


UserId = NewType("UserId", int)


@pytest.mark.case("sig-02")
@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (date, ":date"),
        (time, ":time"),
        (timedelta, ":duration"),
        (UUID, ":uuid"),
        (Decimal, ":decimal"),
        (ipaddress.IPv4Address | None, ":optional(:ipv4)"),
        (list[ipaddress.IPv6Address], ":list(:ipv6)"),
        (AnyUrl, ":url"),
        (HttpUrl, ':url(max_length=2083, pattern="^(http|https)://")'),
        (EmailStr, ':string(format="email")'),
        (UserId, ":integer"),
        (Annotated[Decimal, Field(gt=0, decimal_places=2)], ":decimal(min=0.01, precision=2)"),
        (Annotated[Decimal, Field(max_digits=6)], ":decimal(max_digits=6)"),
        (Annotated[Decimal, Field(ge=Decimal("0.10"))], ":decimal(min=0.1)"),
        (Annotated[Decimal, Field(lt=1)], ':decimal(max="0.99999999999999999999")'),
        (Annotated[str, StringConstraints(min_length=2, pattern="^a")], ':string(min_length=2, pattern="^a")'),
        (Annotated[list[int], annotated_types.Len(1, 3)], ":list(:integer, min_size=1, max_size=3)"),
        (Annotated[Literal["a"] | None, Field(description="said")], ':optional(:enum("a", description="said"))'),
    ],
)
def test_types_of_the_standard_library_and_of_pydantic(annotation: Any, expected: str) -> None:
    kind = from_annotation(annotation)
    assert str(kind) == expected


def test_addresses_of_databases_are_urls_of_their_schemes() -> None:
    compiled = as_model(PostgresDsn)
    assert compiled.validate_inputs({"given": "postgresql+psycopg://a:b@c/d"})["given"].startswith("postgresql")
    with pytest.raises(ValidationError):
        compiled.validate_inputs({"given": "mysql://a:b@c/d"})


def test_a_secret_text_makes_its_field_secret() -> None:
    class Login(SignatureModel):
        key: SecretStr = InputField()
        other: SecretStr | None = InputField()
        ok: bool = OutputField()

    assert [(field.secret, str(field.full_type)) for field in signature(Login).input_fields] == [
        (True, ":string"),
        (True, ":optional(:string)"),
    ]

    class Hidden(BaseModel):
        key: SecretStr

    with pytest.raises(
        SignatureTypeError, match=r"Hidden.key: SecretStr inside of a value; expected a field of its own"
    ):
        as_model(Hidden)


@pytest.mark.case("sig-02")
def test_an_unknown_type_names_the_field_and_the_key() -> None:
    @dataclasses.dataclass
    class Inner:
        value: complex

    @dataclasses.dataclass
    class Outer:
        inner: list[Inner]

    class Asked(SignatureModel):
        outer: Outer = OutputField()

    with pytest.raises(SignatureTypeError, match=r"field \'outer\' of Asked: Outer\.inner: Inner\.value: unknown type"):
        signature(Asked)


def local_signature() -> type[SignatureModel]:
    class Inner(TypedDict):
        count: Local

    class Later(SignatureModel):
        doc: Doc = OutputField()

    @dataclasses.dataclass
    class Doc:
        inner: Inner | None = None
        many: list[Inner] = dataclasses.field(default_factory=list)

    class Local(BaseModel):
        n: int

    class Asked(SignatureModel):
        doc: Doc = OutputField()

    assert signature(Later).output_fields == signature(Asked).output_fields
    return Asked


@pytest.mark.case("sig-03")
def test_classes_of_a_function_compile_while_it_runs_and_after() -> None:
    assert str(signature(local_signature()).output_fields[0].type) == (
        ":object(inner=:optional(:object(count=:object(n=:integer))), "
        "many=:list(:object(count=:object(n=:integer))) = [])"
    )


EXECUTED = """
from __future__ import annotations
import dataclasses
from dspex.signatures import OutputField, SignatureModel

@dataclasses.dataclass
class Doc:
    parts: list[Part]

@dataclasses.dataclass
class Part:
    n: int

class Asked(SignatureModel):
    doc: Doc = OutputField()
"""


@pytest.mark.parametrize("names", [{}, {"__name__": __name__}])
def test_classes_of_executed_code_compile(names: dict[str, Any]) -> None:
    exec(EXECUTED, names)
    assert str(signature(names["Asked"]).output_fields[0].type) == ":object(parts=:list(:object(n=:integer)))"


def unfinished() -> type[SignatureModel]:
    class Asked(SignatureModel):
        doc: Doc = OutputField()  # type: ignore[name-defined]  # noqa: F821

    return Asked


@pytest.mark.case("sig-03")
@pytest.mark.parametrize("annotation", ["list[", "os.nope", "Missing", "1 / 0", "int | 'x'", "int["])
def test_annotations_without_a_meaning_are_type_errors(annotation: str) -> None:
    asked = type("Asked", (SignatureModel,), {"__annotations__": {"doc": annotation}, "doc": OutputField()})
    with pytest.raises(SignatureTypeError, match=r"Asked: the annotation .* of doc in Asked cannot be evaluated"):
        signature(asked)

    holder = dataclasses.make_dataclass("Holder", [("doc", annotation)])
    with pytest.raises(SignatureTypeError, match=r"the annotation .* of doc in Holder cannot be evaluated"):
        as_model(holder)


@pytest.mark.case("sig-03")
def test_a_class_that_is_never_defined_is_a_type_error() -> None:
    with pytest.raises(SignatureTypeError, match="the annotation 'Doc' of doc in Asked cannot be evaluated: NameError"):
        signature(unfinished())

    class Undefined(BaseModel):
        doc: Missing  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(SignatureTypeError, match=r"Undefined\.doc: the annotation 'Missing' cannot be evaluated"):
        as_model(Undefined)


def test_defaults_of_fields_may_be_members_and_models() -> None:
    class Asked(SignatureModel):
        color: Color = InputField(Color.RED)
        address: Address = InputField(Address())
        day: date = InputField(date(2025, 1, 31))
        ok: bool = OutputField()

    assert signature(Asked).validate_inputs({}) == {
        "color": "red",
        "address": {"city": "Paris"},
        "day": date(2025, 1, 31),
    }
