"""A result: the outputs by name, as attributes and as a mapping."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest
from pydantic import BaseModel

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


def test_a_result_that_does_not_fit_the_class_names_what_does_not() -> None:
    with pytest.raises(ValidationError) as failed:
        Result(person={"name": "Ada"}).as_model(_Person)
    assert [fault.path for fault in failed.value.errors] == ["born"]
