"""Signatures written as classes."""

from __future__ import annotations

import dataclasses
import enum
from datetime import datetime
from typing import Annotated, Any, Literal, NotRequired

import pytest
from pydantic import BaseModel
from pydantic import Field as PydanticField
from typing_extensions import TypedDict

from dspex.errors import SignatureTypeError
from dspex.signatures import InputField, OutputField, SignatureModel, signature
from dspex.signatures.parse.annotations import from_annotation, to_annotation
from dspex.signatures.parse.native_language import parse_type


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Person(BaseModel):
    name: str
    age: Annotated[int, PydanticField(ge=0)]
    tags: list[str] = []


class Movie(TypedDict):
    title: str
    year: NotRequired[int]


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0


class QA(SignatureModel):
    """Answer the question.

    Be brief.
    """

    question: str = InputField(desc="what to answer")
    history: list[str] | None = InputField()
    key: str = InputField(secret=True)
    vector: list[float] = InputField(type=":embedding", dimensions=3)
    limit: int = InputField(5, ge=1, max=10)
    answer: str = OutputField(max_length=280)
    color: Color = OutputField()


def test_a_model_class_is_equal_to_its_text() -> None:
    assert signature(QA) == signature(
        """
        signature QA "Answer the question.\\n\\nBe brief.":
            :string question "what to answer", :optional(:list(:string)) history, :string(secret=true) key,
            :embedding(dimensions=3) vector, :integer(min=1, max=10) limit = 5
            ->
            :string(max_length=280) answer, :enum("red", "blue") color
        """
    )


def test_a_model_class_can_be_inherited() -> None:
    class Longer(QA):
        """Longer."""

        confidence: float = OutputField(type=":confidence_score")

    names = [field.name for field in signature(Longer).output_fields]
    assert names == ["answer", "color", "confidence"]


def test_faults_of_a_model_class_name_the_field() -> None:
    class Bad(SignatureModel):
        question: complex = InputField()
        answer: str = OutputField()

    with pytest.raises(SignatureTypeError, match="field 'question' of Bad"):
        signature(Bad)

    class Stray(SignatureModel):
        question: str
        answer: str = OutputField()

    with pytest.raises(SignatureTypeError, match="question of Stray is not a field"):
        signature(Stray)

    class Unmade(SignatureModel):
        answer: str = OutputField(maxlength=3)

    with pytest.raises(SignatureTypeError, match="unknown constraint maxlength"):
        signature(Unmade)

    class Empty(SignatureModel):
        question: str = InputField()

    with pytest.raises(SignatureTypeError, match="no outputs"):
        signature(Empty)


@pytest.mark.parametrize("source", [3, int, object(), None])
def test_other_objects_are_no_signatures(source: Any) -> None:
    with pytest.raises(SignatureTypeError, match="is not a signature"):
        signature(source)


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (Person, ":object(name=:string, age=:integer(min=0), tags=:list(:string) = [])"),
        (Movie, ":object(title=:string, year?=:integer)"),
        (Point, ":object(x=:float, y=:float = 0.0)"),
        (list[Person], ":list(:object(name=:string, age=:integer(min=0), tags=:list(:string) = []))"),
        (dict[str, Any], ":map"),
        (dict[str, int], ":dict(:string, :integer)"),
        (Literal["a", "b"], ':enum("a", "b")'),
        (Color | None, ':optional(:enum("red", "blue"))'),
        (Annotated[float, PydanticField(ge=0, le=1)], ":float(min=0.0, max=1.0)"),
        (datetime, ":datetime"),
        (bytes | int, ":union(:binary, :integer)"),
        (list, ":list(:any)"),
    ],
)
def test_annotations(annotation: Any, expected: str) -> None:
    assert str(from_annotation(annotation)) == expected


def test_a_class_that_contains_itself_is_written_out_three_times() -> None:
    text = str(from_annotation(Tree))
    assert (text.count("children"), text.count(":any")) == (3, 1)


class Tree(BaseModel):
    children: list[Tree]


@pytest.mark.parametrize(
    "text",
    [
        ":string",
        ":float",
        ":any",
        ":map",
        ":binary",
        ":datetime",
        ':enum("a", "b")',
        ":integer(one_of=[1, 2])",
        ":list(:optional(:integer))",
        ":dict(:string, :boolean)",
        ":union(:integer, :string)",
        ":object(a=:string, b=:optional(:list(:float)))",
    ],
)
def test_annotations_come_back_as_the_type(text: str) -> None:
    assert str(from_annotation(to_annotation(parse_type(text)))) == text
