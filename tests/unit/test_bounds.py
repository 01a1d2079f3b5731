"""What is too large, too deep or too many is refused before it is stored, by the name of its setting."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any

import pytest

import dspex
from dspex.errors import ValidationError
from dspex.program.nesting import is_deeper
from dspex.program.program import Program
from dspex.sealing.values import Sealing
from dspex.store.programs import Deployed
from dspex.submit.prepare import Preparer
from dspex.submit.size_limits import Bounds

ANY = Program("any", dspex.signature(":any thing -> :string answer"), adapter="scripted")
BOUNDS = Bounds(max_input_bytes=2000, max_input_depth=8, max_input_items=100, max_metadata_bytes=100, max_batch_rows=5)


def nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


@pytest.mark.parametrize(("levels", "most", "deeper"), [(0, 1, False), (1, 1, False), (2, 1, True), (64, 64, False),
                                                        (65, 64, True), (50_000, 64, True)])  # fmt: skip
def test_depth_is_counted_without_recursion(levels: int, most: int, deeper: bool) -> None:
    assert is_deeper(nested(levels), most) is deeper


@pytest.mark.parametrize(
    ("thing", "setting"),
    [
        ("x" * 3000, "DSPEX_MAX_INPUT_BYTES"),
        (nested(8), "DSPEX_MAX_INPUT_DEPTH"),
        (nested(100_000), "at most 100 levels"),  # the signature's own bound comes first
        ([0] * 101, "DSPEX_MAX_INPUT_ITEMS"),
        ({str(n): 0 for n in range(60)}, "DSPEX_MAX_INPUT_ITEMS"),
    ],
    ids=["large", "deep", "very deep", "long", "many keys"],
)
def test_inputs_beyond_a_bound_are_refused(thing: Any, setting: str) -> None:
    with pytest.raises(ValidationError, match=setting):
        Preparer(BOUNDS, Sealing()).prepare(ANY, {"thing": thing})


@pytest.mark.parametrize("thing", ["[" * 500, nested(7), [0] * 98, {"a": ["{", "["] * 20}])
def test_inputs_within_the_bounds_are_taken(thing: Any) -> None:
    Preparer(BOUNDS, Sealing()).prepare(ANY, {"thing": thing})


@pytest.mark.parametrize(
    ("metadata", "setting"),
    [({"a": "x" * 200}, "DSPEX_MAX_METADATA_BYTES"), ({"a": nested(9)}, "DSPEX_MAX_INPUT_DEPTH"),
     ({"a": nested(100_000)}, "DSPEX_MAX_INPUT_DEPTH")],
    ids=["large", "deep", "very deep"],
)  # fmt: skip
def test_metadata_beyond_a_bound_is_refused(metadata: Any, setting: str) -> None:
    with pytest.raises(ValidationError, match=setting):
        Preparer(BOUNDS, Sealing()).prepare(ANY, {"thing": 1}, metadata=metadata)


class _NoOffset(tzinfo):
    """A time zone that does not say what time it is."""

    def utcoffset(self, _: datetime | None) -> None:
        return None

    dst = tzname = utcoffset


@pytest.mark.parametrize(
    ("run_at", "expected"),
    [
        (datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC), "before 9999-12-31"),
        (datetime(9999, 12, 30, 23, tzinfo=timezone(timedelta(hours=-5))), "before 9999-12-31"),
        (datetime(1, 1, 1, tzinfo=UTC), "after 0001-01-02"),
        (datetime(1, 1, 2, tzinfo=timezone(timedelta(hours=14))), "after 0001-01-02"),
        (datetime(2026, 1, 1), "with a time zone"),
        (datetime(2026, 1, 1, tzinfo=_NoOffset()), "with a time zone"),
    ],
)
def test_a_time_that_cannot_be_stored_is_refused(run_at: datetime, expected: str) -> None:
    with pytest.raises(ValidationError, match=f"run_at: expected .*{expected}"):
        Preparer(BOUNDS, Sealing()).prepare(ANY, {"thing": 1}, run_at=run_at)


def test_a_program_and_a_batch_have_bounds() -> None:
    assert "DSPEX_MAX_PROGRAM_BYTES" in str(next(Bounds(max_program_bytes=1024).program_faults(b"x" * 1025)))
    assert "DSPEX_MAX_BATCH_ROWS" in str(next(BOUNDS.batch_faults(6)))
    assert not list(BOUNDS.batch_faults(5))


def test_a_program_nested_too_deep_is_refused_and_does_not_end_in_a_recursion() -> None:
    with pytest.raises(ValidationError, match="inside each other"):
        Program("deep", ANY.signature, adapter="scripted", module_options={"outputs": nested(100_000)})


@pytest.mark.parametrize("metadata", [{"a": "\ud800"}, {"\ud800": 1}, {"a": [{"b": "x\udfffy"}]}])
def test_metadata_with_a_lone_surrogate_is_refused(metadata: Any) -> None:
    with pytest.raises(ValidationError, match="metadata: expected text without NUL characters and lone surrogates"):
        Preparer(BOUNDS, Sealing()).prepare(ANY, {"thing": 1}, metadata=metadata)


@pytest.mark.parametrize("key", ["\ud800", "a\x00b", "x\udc80"])
def test_an_idempotency_key_that_cannot_be_stored_is_refused_before_anything_connects(key: str) -> None:
    with dspex.Client(database_url="postgresql://nowhere/d", broker_url="redis://nowhere") as client:
        client._session.catalogue._remember(Deployed(ANY, datetime.now(UTC), None))
        with pytest.raises(ValidationError, match="idempotency_key: expected 1 to 255 characters"):
            client.submit("any", {"thing": 1}, idempotency_key=key)


@pytest.mark.parametrize("name", ["\ud800", "a\x00b"])
def test_a_program_name_that_cannot_be_stored_is_refused_before_anything_connects(name: str) -> None:
    with (
        dspex.Client(database_url="postgresql://nowhere/d", broker_url="redis://nowhere") as client,
        pytest.raises(ValidationError, match="name: expected text without NUL"),
    ):
        client.submit(name, {"thing": 1})


@pytest.mark.parametrize(
    "given",
    [
        {"model": "openai/\ud800"},
        {"api_base": "http://\ud800"},
        {"state": {"\ud800": 1}},
        {"module_options": {"outputs": ["\ud800"]}},
        {"tools": ["a:\ud800"]},
    ],
    ids=lambda given: next(iter(given)),
)
def test_a_program_with_a_lone_surrogate_is_refused(given: dict[str, Any]) -> None:
    (field,) = given
    with pytest.raises(ValidationError, match=f"{field}: expected text without NUL characters and lone surrogates"):
        Program("any", ANY.signature, adapter="scripted", **given)
