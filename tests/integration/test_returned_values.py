"""What a program's own code returns, as a client gets it: of the user's classes, of numpy and of DSPy."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator
from typing import Any

import dspy
import numpy as np
import pydantic
import pytest
from pydantic import BaseModel, Field, HttpUrl, computed_field

import dspex
from tests.compat.memory import memory_run
from workers.adapters.dspy.dspy_adapter import DspyAdapter


class Room(BaseModel):
    """Its area is computed, and no key of the type."""

    width: int
    height: int

    @computed_field
    def area(self) -> int:
        return self.width * self.height


class House(BaseModel):
    rooms: list[Room]
    first: Room


class Named(BaseModel):
    """Read under one name, and written under another."""

    name: str = Field(alias="firstName")
    number: int = Field(default=3, validation_alias="num", serialization_alias="NUM")


@pydantic.dataclasses.dataclass
class Point:
    x: int = Field(alias="left")
    length: int = dataclasses.field(default=0, init=False)


class Link(BaseModel):
    url: HttpUrl


ADA = Named.model_validate({"firstName": "Ada", "num": 4})
ROOM = Room(width=2, height=3)
RETURNED: dict[str, tuple[Any, Any, Any]] = {
    "computed": (Room, ROOM, {"width": 2, "height": 3}),
    "computed_within": (
        House, House(rooms=[ROOM], first=ROOM),
        {"rooms": [{"width": 2, "height": 3}], "first": {"width": 2, "height": 3}},
    ),
    "aliases": (Named, ADA, {"firstName": "Ada", "num": 4}),
    "aliases_within": (list[Named], [ADA], [{"firstName": "Ada", "num": 4}]),
    "dataclass": (Point, Point(left=1), {"left": 1}),
    "url": (HttpUrl, HttpUrl("http://example.org/a"), "http://example.org/a"),
    "urls": (list[Link], [Link(url=HttpUrl("http://example.org/a"))], [{"url": "http://example.org/a"}]),
    "whole_number": (int, np.int64(4), 4),
    "truth_value": (bool, np.bool_(1), True),
    "short_float": (float, np.float32(0.5), 0.5),
    "array": (list[list[float]], np.array([[0.5, 1.5]], dtype=np.float32), [[0.5, 1.5]]),
    "numbers": (dict[str, int], {"a": np.int32(7)}, {"a": 7}),
}  # fmt: skip


class Returns(dspy.Module):  # type: ignore[misc]
    def __init__(self, name: str, form: str) -> None:
        super().__init__()
        self.name, self.form = name, form

    def forward(self, text: str) -> Any:
        value = RETURNED[self.name][1]
        forms = {"prediction": dspy.Prediction, "example": dspy.Example, "mapping": dict}
        return forms[self.form](value=value, more=value)


@pytest.fixture
async def adapter(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DspyAdapter]:
    monkeypatch.setenv("DSPEX_PROGRAM_PACKAGES", "tests.integration")
    made = DspyAdapter()
    yield made
    await made.close()


def signature_of(kind: Any) -> Any:
    annotations = {"text": str, "value": kind}
    fields = {"text": dspy.InputField(), "value": dspy.OutputField()}
    made = type(dspy.Signature)("Read", (dspy.Signature,), {"__annotations__": annotations, **fields})
    return dspex.signature(made.with_instructions("Read it."))


@pytest.mark.parametrize("form", ["prediction", "example", "mapping"])
@pytest.mark.parametrize("name", RETURNED)
async def test_what_code_returns_is_what_the_type_of_the_output_says(
    name: str, form: str, adapter: DspyAdapter
) -> None:
    kind, _, expected = RETURNED[name]
    program = dspex.Program("p", signature_of(kind), model="openai/x", api_base="http://127.0.0.1:9/v1",
                            module=f"{__name__}:Returns", module_options={"name": name, "form": form})  # fmt: skip
    run, _ = memory_run(program, {"text": "?"})
    outputs = program.signature.check_outputs(await adapter.execute(run)).values
    assert json.loads(program.signature.encode("outputs", outputs)) == {"value": expected}
    assert json.loads(json.dumps(run.extra)) == {"more": expected}
