"""Calls that an execution waits for: registered under the right number, replayed, failed or made after all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

import dspex
from dspex.errors import DspexError, ModelError, ValidationError
from dspex.program.calls.routes import CallsRoute, read_span
from dspex.program.calls.tool_policy import policy_of
from dspex.store.lifecycle.lm_calls import BATCH, LMCall
from dspex.store.lifecycle.parked import KnownCall
from tests.unit.test_journal import EXECUTION, R, S, Table, never, says
from workers.adapters.contract import BatchAim, Decision
from workers.attempt.attempt_trail import AttemptTrail
from workers.attempt.waiting.attempt_waits import AttemptWaits
from workers.attempt.waiting.parking import Parking
from workers.lm.journal import AttemptJournal
from workers.lm.model_calls import LATE, ModelCalls

pytestmark = pytest.mark.asyncio

AIM = BatchAim("{}", 60.0, falls_back=True)
STRICT = BatchAim("{}", 60.0, falls_back=False)
REQUEST: Mapping[str, Any] = {"messages": []}


def nothing() -> None:
    """No program is ended."""


@dataclass
class Attempt:
    """One attempt: its calls, its waits, and what it is parked for."""

    number: int = 1
    table: Table = field(default_factory=Table)
    waits: Sequence[KnownCall] = ()

    def __post_init__(self) -> None:
        self.trail = AttemptTrail(datetime.now(UTC))
        self.parking = Parking(nothing)
        self.journal = AttemptJournal(EXECUTION, self.number, self.table)
        self.journal.recall(sorted(self.table.calls.values(), key=lambda call: call.occurrence))
        self.journal.recall_waits(self.waits)
        self.calls = ModelCalls(self.journal, self.trail, parking=self.parking)
        self.outside = AttemptWaits(self.journal, self.trail, self.parking, None, depth=0, sealed=None)

    async def ask(self, request: str, aim: BatchAim = AIM, call: Any = never) -> dict[str, Any]:
        return await self.calls.perform(request, "m", call, batch=aim, request=REQUEST)

    async def left(self, *calls: Awaitable[Any]) -> list[tuple[str, int]]:
        """Make these calls at once, until the program is left. Returns what it waits for."""
        asked = asyncio.gather(*calls, return_exceptions=True)
        await asked
        assert self.parking.is_leaving
        return [(call.request_hash.hex(), call.occurrence) for call in self.parking.calls]

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event["data"] | {"kind": event["kind"]} for event in json.loads(self.trail.encode())]


def a_wait(request: str, occurrence: int, attempt: int = 1, **values: Any) -> KnownCall:
    known: dict[str, Any] = {"child_id": None, "error": None, "error_attempt": None, "decision": None, **values}
    return KnownCall(bytes.fromhex(request), occurrence, attempt, "batch", "m", **known)


def failed(code: str, attempt: int = 2) -> dict[str, Any]:
    error = ModelError("no", code=code, retryable=True).as_dict()
    return {"error": error, "error_attempt": attempt}


async def test_equal_calls_at_once_have_each_their_number() -> None:
    attempt = Attempt()
    assert await attempt.left(attempt.ask(R), attempt.ask(R), attempt.ask(S)) == [(R, 0), (R, 1), (S, 0)]


async def test_an_answer_from_a_batch_is_recorded_as_a_call_once() -> None:
    table = Table()
    made = LMCall(EXECUTION, bytes.fromhex(R), 0, 1, "m", json.dumps({"text": "yes", BATCH: True}), 10, 5, 0.1, 0.0,
                  None, list_cost_usd=0.2)  # fmt: skip
    await table.store_call(made)
    second = Attempt(2, table)
    assert await second.ask(R) == {"text": "yes"}
    assert [(each["batch"], each["cost_usd"]) for each in second.events] == [(True, 0.1)]
    assert second.journal.totals()["saved_usd"] == pytest.approx(0.1)
    third = Attempt(3, table)
    assert await third.ask(R) == {"text": "yes"}
    assert [each["replayed"] for each in third.events] == [True]


async def test_a_call_that_is_still_waited_for_keeps_its_number() -> None:
    attempt = Attempt(2, waits=[a_wait(R, 1), a_wait(S, 0)])
    assert await attempt.left(attempt.ask(R), attempt.ask(R)) == [(R, 1), (R, 2)]
    assert [call.again for call in attempt.parking.calls] == [True, False]


async def test_the_error_of_a_request_is_raised_in_the_attempt_that_it_is_for() -> None:
    attempt = Attempt(2, waits=[a_wait(R, 0, **failed("rate_limited"))])
    with pytest.raises(DspexError) as caught:
        await attempt.ask(R)
    assert (caught.value.code, caught.value.retryable) == ("rate_limited", True)
    later = Attempt(3, waits=[a_wait(R, 0, **failed("rate_limited"))])
    assert await later.left(later.ask(R)) == [(R, 0)], "it is asked again"


async def test_a_late_call_is_made_the_ordinary_way_or_fails() -> None:
    waits = [a_wait(R, 0, **failed(LATE))]
    assert await Attempt(2, waits=waits).ask(R, AIM, says("ordinary")) == {"text": "ordinary"}
    with pytest.raises(DspexError) as caught:
        await Attempt(2, waits=waits).ask(R, STRICT)
    assert (caught.value.code, caught.value.retryable) == (LATE, False)


async def test_answers_that_a_program_does_not_ask_for_again_are_noted() -> None:
    table = Table()
    first = Attempt(1, table)
    await first.calls.perform(R, "m", says("one"))
    second = Attempt(2, table)
    await second.left(second.ask(S))
    assert second.journal.unused == 1


async def test_a_decision_is_waited_for_once_and_then_journaled() -> None:
    arguments = {"cents": 5}
    first = Attempt()
    ((hashed, occurrence),) = await first.left(first.outside.decision("d", "refund", arguments, 60.0))
    (call,) = first.parking.calls
    assert (call.kind, call.subject, json.loads(str(call.request)), call.expires_seconds) == (
        "approval", "refund", arguments, 60.0,
    )  # fmt: skip
    table = Table()
    decided = a_wait(hashed, occurrence, decision={"approved": False, "by": "anna", "note": "no"})
    second = Attempt(2, table, [decided])
    expected = Decision(False, "anna", "no")
    assert await second.outside.decision("d", "refund", arguments, 60.0) == expected
    assert [(each["tool"], each["approved"]) for each in second.events] == [("refund", False)]
    assert await Attempt(3, table).outside.decision("d", "refund", arguments, 60.0) == expected


async def test_an_intention_is_new_once() -> None:
    table = Table()
    first = Attempt(1, table)
    assert await first.outside.intend("d", "charge")
    assert await first.outside.intend("e", "charge")
    second = Attempt(2, table)
    assert not await second.outside.intend("d", "charge")
    assert second.journal.totals()["lm_calls"] == 0


async def test_equal_calls_of_a_tool_have_the_same_places_in_every_attempt() -> None:
    attempt = Attempt()
    assert [attempt.outside.tool_place(digest) for digest in ("d", "d", "e")] == [0, 1, 0]
    attempt.outside.withdraw()
    assert attempt.outside.tool_place("d") == 0


async def test_calls_of_a_program_that_was_left_are_refused() -> None:
    attempt = Attempt()
    await attempt.left(attempt.ask(R))
    for call in (attempt.ask(S), attempt.calls.perform(R, "m", says("no"))):
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_tools_say_how_they_are_called() -> None:
    @dspex.tool(once=True, timeout=30)
    def charge(order: str) -> str:
        return order

    assert (policy_of(charge).once, policy_of(charge).timeout, policy_of(len).once) == (True, 30, False)
    assert charge("a") == "a"
    with pytest.raises(ValidationError, match="on_unknown"):
        dspex.tool(on_unknown="hope")
    with pytest.raises(ValidationError, match="timeout"):
        dspex.tool(timeout=0)
    with pytest.raises(RuntimeError):
        dspex.idempotency_key()


async def test_routes_are_read_as_they_are_written() -> None:
    assert CallsRoute.read(str(CallsRoute("batch", 86_400.0, "fail"))) == CallsRoute("batch", 86_400.0, "fail")
    assert [read_span(given) for given in ("24h", "1.5 d", 60, "soon", True)] == [86_400, 129_600, 60, None, None]
    signature = dspex.signature("question -> answer")
    plain = dspex.Program("qa", signature, adapter="scripted")
    assert "route" not in plain.content, "programs keep their version"
    for wrong in ({"route": "slow"}, {"within": "soon"}, {"otherwise": "hope"}, {"route": "batch", "journal": False}):
        with pytest.raises(ValidationError):
            dspex.Program("qa", signature, adapter="scripted", **wrong)


async def test_a_wait_is_ended_with_its_task() -> None:
    attempt = Attempt()
    waiting = asyncio.create_task(attempt.ask(R))
    await asyncio.sleep(0)
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    assert not attempt.parking.is_leaving
