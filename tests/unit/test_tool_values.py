"""What tools return, as the journal keeps it."""

from __future__ import annotations

import collections
import dataclasses
import enum
import io
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import dspy
import pytest
from pydantic import BaseModel, Field

from dspex.client.model_call import without_classes
from workers.adapters.dspy.values.tool_values import NotKeptError, kept, made_again


class Color(enum.Enum):
    RED = "red"


class Flight(BaseModel):
    number: str = Field(alias="flightNumber")
    day: date
    color: Color = Color.RED


@dataclasses.dataclass(frozen=True)
class Seat:
    row: int
    letter: str


class Point(NamedTuple):
    x: int
    y: int


VALUES: list[Any] = [
    None, True, 3, -0.5, "text", [1, [2]], {"a": {"b": []}}, (1, "a"), {3, 1}, frozenset({"a"}), {1: "one"},
    {"dspex:class": "builtins:tuple", "value": [1]}, b"\xff", date(2026, 1, 2), datetime(2026, 1, 2, tzinfo=UTC),
    timedelta(hours=1), Decimal("1.20"), UUID(int=7), Color.RED, Flight(flightNumber="A1", day=date(2026, 1, 2)),
    Seat(3, "C"), Point(1, 2), [Flight(flightNumber="A1", day=date(2026, 1, 2))], {"seat": (Seat(1, "A"), None)},
    dspy.Prediction(answer="Paris", seat=Seat(1, "A")), dspy.Example(question="Where?"),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_is_made_again_as_it_was(value: Any) -> None:
    again = made_again(json.loads(json.dumps(kept(value))))
    assert again == value
    assert type(again) is type(value)


CIRCULAR: list[Any] = []
CIRCULAR += [CIRCULAR, CIRCULAR]


NO_DATA = [CIRCULAR, {"a": CIRCULAR}, io.StringIO(), object(), float("nan"), collections.deque([1]), [print], len]


@pytest.mark.parametrize("value", NO_DATA, ids=lambda value: type(value).__name__)
def test_what_is_no_data_is_not_kept(value: Any) -> None:
    with pytest.raises(NotKeptError):
        kept(value)


@pytest.mark.parametrize(
    "name", ["subprocess:Popen", "builtins:eval", "no_such_module:Thing", "os:system", "tests.unit.missing:Seat", "", 3]
)
def test_the_journal_makes_nothing_but_data(name: Any) -> None:
    with pytest.raises(NotKeptError):
        made_again({"dspex:class": name, "value": ["true"]})


def test_clients_see_valueswithout_classes() -> None:
    value = {"trips": (Seat(1, "A"), date(2026, 1, 2))}
    assert without_classes(kept(value)) == {"trips": [{"row": 1, "letter": "A"}, "2026-01-02"]}
