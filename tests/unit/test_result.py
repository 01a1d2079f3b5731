"""A result: the outputs by name, as attributes and as a mapping."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, NamedTuple

import pytest
from pydantic import BaseModel, Field

from dspex.client.result import Result
from dspex.errors import ValidationError

#: Outputs that are named like methods of a mapping.
VALUES = {"items": ["a"], "keys": 1, "values": 2.5, "get": None, "copy": {"a": 1}, "update": "x", "pop": True}


def named(**outputs: Any) -> dict[str, Any]:
    return outputs


@pytest.mark.case("sig-08")
def test_outputs_win_over_names_of_a_mapping() -> None:
    result = Result(VALUES)
    for name, value in VALUES.items():
        assert getattr(result, name) == result[name] == value
    assert dict(result) == {**result} == named(**result) == VALUES
    assert list(result) == list(VALUES)
    assert len(result) == len(VALUES)
    assert set(VALUES) <= set(dir(result))
    assert repr(result).startswith("Result(items=['a'], keys=1, ")


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda result: pickle.loads(pickle.dumps(result))])
def test_a_result_is_copied_with_any_names(again: Callable[[Result], Result]) -> None:
    assert again(Result(VALUES)) == Result(VALUES)
    assert type(again(Result(VALUES))) is Result


def test_a_result_without_such_outputs_is_a_mapping() -> None:
    result = Result({"answer": "Paris", "score": 1.0})
    assert (result.answer, result.get("no", 3)) == ("Paris", 3)
    assert list(result.items()) == [("answer", "Paris"), ("score", 1.0)]
    with pytest.raises(AttributeError, match="no output 'other'; this result has answer, score"):
        _ = result.other


@pytest.mark.parametrize(
    "change",
    [
        lambda result: result.__setitem__("answer", 1),
        lambda result: result.__delitem__("answer"),
        lambda result: result.__ior__({"answer": 1}),
        lambda result: result.update(answer=1),
        lambda result: result.clear(),
        lambda result: result.pop("answer"),
        lambda result: result.setdefault("more", 1),
        lambda result: setattr(result, "answer", 1),
    ],
)
def test_a_result_cannot_be_changed(change: Callable[[Any], None]) -> None:
    result = Result({"answer": "Paris"})
    with pytest.raises((TypeError, AttributeError), match="it cannot be changed"):
        change(result)
    assert result == {"answer": "Paris"}


class _Person(BaseModel):
    name: str
    born: date


@dataclass
class _Point:
    x: int
    y: int


def test_a_result_becomes_a_class_of_the_users() -> None:
    whole = Result(name="Ada", born=date(1815, 12, 10))
    assert whole.as_model(_Person) == _Person(name="Ada", born=date(1815, 12, 10))
    assert Result(person={"name": "Ada", "born": "1815-12-10"}).as_model(_Person).born.year == 1815
    assert Result(points=[{"x": 1, "y": 2}]).as_model(list[_Point]) == [_Point(1, 2)]
    assert Result(x=1, y=2).as_model(_Point) == _Point(1, 2)


@dataclass
class _Labelled(_Point):
    label: str = ""


@dataclass
class _Same(_Point):
    """It adds nothing."""


class _Aliased(BaseModel):
    given: str = Field(validation_alias="name")


class _Optional(BaseModel):
    note: str | None


class _Pair(NamedTuple):
    x: int
    y: int


@pytest.mark.parametrize(
    ("outputs", "kind", "expected"),
    [
        ({"x": 1, "y": 2}, _Same, _Same(1, 2)),
        ({"x": 1, "y": 2}, _Labelled, _Labelled(1, 2)),
        ({"point": {"x": 1, "y": 2}}, _Labelled, _Labelled(1, 2)),
        ({"x": 1, "y": 2}, _Pair, _Pair(1, 2)),
        ({"name": "Ada"}, _Aliased, _Aliased.model_validate({"name": "Ada"})),
        ({"note": None}, _Optional, _Optional(note=None)),
        ({"note": None}, str | None, None),
        ({"age": 5}, Annotated[int, Field(gt=3)], 5),
    ],
)
def test_the_class_of_a_result_may_be_of_any_kind(outputs: dict[str, Any], kind: Any, expected: object) -> None:
    for _ in range(2):  # the second time it is prepared already
        assert Result(outputs).as_model(kind) == expected


@dataclass
class _Only:
    answer: str


@dataclass
class _OnlyInherited(_Only):
    more: str = ""


def test_the_only_output_may_be_a_field_that_is_inherited() -> None:
    assert Result(answer="Paris").as_model(_OnlyInherited) == _OnlyInherited("Paris")


class _Plain:
    pass


@dataclass
class _Undefined:
    x: "Missing"  # type: ignore[name-defined]  # noqa: F821, UP037


@pytest.mark.parametrize(("kind", "reason"), [(_Plain, "_Plain"), (_Undefined, "Missing")])
def test_what_cannot_be_the_class_of_a_result_is_named(kind: type[object], reason: str) -> None:
    with pytest.raises(ValidationError, match=rf"{kind.__name__} cannot be the type of a result: .*{reason}"):
        Result(x=1).as_model(kind)


def test_a_result_that_does_not_fit_the_class_names_what_does_not() -> None:
    with pytest.raises(ValidationError) as failed:
        Result(person={"name": "Ada"}).as_model(_Person)
    assert [fault.path for fault in failed.value.errors] == ["born"]
