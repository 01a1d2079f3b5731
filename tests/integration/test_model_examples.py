"""The answers of the model server without a script fit the signatures of programs, in each form of prompt."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import dspy
import pytest
from pydantic import AnyUrl, BaseModel, Field

import dspex
from dspex.testing.model_examples import schema_example
from tests.both_adapters import adapters
from tests.model_server import ModelServer, model_server
from tests.recording import MemoryJournal, a_run
from workers.adapters.contract import Adapter

__all__ = ["adapters", "model_server"]

WAYS = [("dspy", "chat"), ("dspy", "json"), ("dspy", "compact"), ("direct", None)]


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Offer(BaseModel):
    until: date
    price: Decimal
    color: Color | None = None


KINDS: dict[str, Any] = {
    "above": Annotated[float, Field(gt=5)],
    "between": Annotated[float, Field(gt=0, lt=1)],
    "at_least": Annotated[int, Field(ge=10, le=12)],
    "negative": Annotated[int, Field(le=-5)],
    "multiple": Annotated[int, Field(multiple_of=7, ge=8)],
    "numbers": Literal[1, 2],
    "words": Literal["a", "b"],
    "short": Annotated[str, Field(max_length=3)],
    "long": Annotated[str, Field(min_length=20)],
    "pattern": Annotated[str, Field(pattern=r"^[A-Z]{3}-\d{2}$")],
    "decimal": Decimal,
    "date": date,
    "maybe_date": date | None,
    "datetime": datetime,
    "time": time,
    "duration": timedelta,
    "uuid": UUID,
    "url": AnyUrl,
    "dates": list[date],
    "three": Annotated[list[str], Field(min_length=3)],
    "pair": tuple[int, str],
    "map": dict[str, date],
    "set": set[int],
    "color": Color,
    "offer": Offer,
    "offers": list[Offer],
}


@pytest.mark.parametrize(("adapter", "prompt"), WAYS)
@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer_fits_the_signature(
    model_server: ModelServer, adapters: dict[str, Adapter], adapter: str, prompt: str | None, kind: str
) -> None:
    fields = {"question": (str, dspy.InputField()), "value": (KINDS[kind], dspy.OutputField())}
    made = dspex.signature(dspy.make_signature(fields, "Answer."))
    run = a_run(
        dspex.Program("kinds", made, model="openai/test", api_base=model_server.url, adapter=adapter, prompt=prompt),
        {"question": "?"},
    )
    assert made.check_outputs(await adapters[adapter].execute(run))
    assert isinstance(run.journal, MemoryJournal)
    assert (len(run.journal.answers), run.journal.repairs) == (1, 0)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "integer"}, 1),
        ({"type": "integer", "exclusiveMinimum": 1}, 2),
        ({"type": "integer", "exclusiveMaximum": -3}, -4),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, 0.5),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.5}, 0.25),
        ({"type": "integer", "multipleOf": 5}, 5),
        ({"type": "integer", "multipleOf": 5, "maximum": 4}, 0),
        ({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "null"}]}, [1, None]),
        ({"type": "string", "contentEncoding": "base64"}, "dGV4dA=="),
    ],
)
def test_a_value_fits_its_schema(schema: dict[str, Any], value: Any) -> None:
    assert schema_example(schema, schema, "0" * 8) == value
