"""A finished model call is kept, replayed in its place, and counted once."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import pytest

from dspex.errors import ModelError
from dspex.store.lifecycle.lm_calls import LMCall
from workers.adapters.contract import Answer
from workers.attempt.attempt_trail import AttemptTrail
from workers.lm.journal import AttemptJournal
from workers.lm.model_calls import ModelCalls

EXECUTION = uuid4()
R, S = (hashlib.sha256(name.encode()).hexdigest() for name in ("R", "S"))


class Table:
    """The stored calls of one execution."""

    def __init__(self) -> None:
        self.calls: dict[tuple[bytes, int, int], LMCall] = {}

    async def store_call(self, call: LMCall) -> None:
        self.calls.setdefault((call.request_hash, call.occurrence, call.attempt), call)

    async def reject_calls(self, execution_id: UUID, attempt: int, request_hashes: Sequence[bytes]) -> None:
        for key, call in self.calls.items():
            if key[0] in request_hashes and call.attempt <= attempt:
                self.calls[key] = replace(call, rejected=True)

    async def earlier_use(self, execution_id: UUID, attempt: int) -> Sequence[LMCall]:
        return [call for call in self.calls.values() if call.attempt < attempt]

    def attempt(self, number: int, *, keeps: bool = True, keeps_requests: bool = False) -> AttemptCalls:
        """The calls of another attempt, which knows what is stored."""
        trail = AttemptTrail(datetime.now(UTC))
        journal = AttemptJournal(EXECUTION, number, self)
        journal.recall(sorted(self.calls.values(), key=lambda call: call.occurrence))
        return AttemptCalls(ModelCalls(journal, trail, keeps=keeps, keeps_requests=keeps_requests), journal, trail)


class AttemptCalls(NamedTuple):
    calls: ModelCalls
    journal: AttemptJournal
    trail: AttemptTrail


def says(text: str) -> Callable[[], Awaitable[Answer]]:
    async def call() -> Answer:
        return Answer({"text": text}, prompt_tokens=10, completion_tokens=5, cost_usd=0.25)

    return call


async def never() -> Answer:
    raise AssertionError("a call that is paid for already")


async def busy() -> Answer:
    raise ModelError("busy", code="rate_limited", retryable=True)


async def test_a_later_attempt_replays_in_order_whatever_was_asked_between() -> None:
    table = Table()
    first = table.attempt(1)
    for request, text in ((R, "R0"), (S, "S0"), (R, "R1")):
        await first.calls.perform(request, "m", says(text))
    again = table.attempt(2)
    assert [(await again.calls.perform(request, "m", never))["text"] for request in (S, R, R)] == ["S0", "R0", "R1"]
    assert await again.calls.perform(R, "m", says("R2")) == {"text": "R2"}
    assert again.journal.totals() == {
        "lm_calls": 4, "prompt_tokens": 40, "completion_tokens": 20, "cost_usd": 1.0, "replayed_lm_calls": 3,
        "unpriced_lm_calls": 0,
    }  # fmt: skip


async def test_equal_requests_at_once_are_replayed_in_the_order_they_began() -> None:
    table, first_may_answer = Table(), asyncio.Event()

    async def slow() -> Answer:
        await first_may_answer.wait()
        return Answer({"text": "first"})

    async def fast() -> Answer:
        first_may_answer.set()
        return Answer({"text": "second"})

    journal = table.attempt(1).calls
    assert [a["text"] for a in await asyncio.gather(journal.perform(R, "m", slow), journal.perform(R, "m", fast))] == [
        "first",
        "second",
    ]
    again = table.attempt(2)
    assert [(await again.calls.perform(R, "m", never))["text"] for _ in range(2)] == ["first", "second"]


async def test_a_call_that_failed_takes_no_place() -> None:
    table = Table()
    first = table.attempt(1)
    with pytest.raises(ModelError):
        await first.calls.perform(R, "m", busy)
    await first.calls.perform(R, "m", says("paid"))
    again = table.attempt(2)
    assert await again.calls.perform(R, "m", never) == {"text": "paid"}
    assert first.journal.totals()["lm_calls"] == 1


async def test_only_the_answers_at_fault_are_asked_for_anew_and_never_replayed_again() -> None:
    table = Table()
    first = table.attempt(1)
    await first.calls.perform(R, "m", says("good"))
    await first.calls.perform(S, "m", says("bad"))
    first.calls.reject([S])
    first.journal.blame()
    await first.journal.discard()
    second = table.attempt(2)
    assert await second.calls.perform(R, "m", never) == {"text": "good"}
    assert await second.calls.perform(S, "m", says("better")) == {"text": "better"}
    third = table.attempt(3)  # the second failed for something else
    assert await third.calls.perform(R, "m", never) == {"text": "good"}
    assert await third.calls.perform(S, "m", never) == {"text": "better"}
    assert third.journal.totals()["lm_calls"] == 3  # the bad one was paid for too


async def test_every_answer_is_at_fault_when_the_adapter_rejects_none() -> None:
    table = Table()
    first = table.attempt(1)
    await first.calls.perform(R, "m", says("one"))
    first.journal.blame()
    await first.journal.discard()
    assert await table.attempt(2).calls.perform(R, "m", says("another")) == {"text": "another"}


async def test_an_adapter_is_not_blamed_for_the_answers_of_the_one_before() -> None:
    table = Table()
    first = table.attempt(1)
    await first.calls.perform(R, "m", says("of no use to the first adapter, which cannot tell why"))
    first.journal.blame()
    await first.calls.perform(S, "m", says("good"))
    await first.journal.discard()
    second = table.attempt(2)
    assert await second.calls.perform(S, "m", never) == {"text": "good"}
    assert await second.calls.perform(R, "m", says("anew")) == {"text": "anew"}


async def test_without_keeping_nothing_is_stored() -> None:
    table = Table()
    first = table.attempt(1, keeps=False)
    await first.calls.perform(R, "m", says("secret"))
    assert not table.calls
    assert first.journal.totals()["lm_calls"] == 1


@pytest.mark.parametrize("text", ["\x00", "a\\u0000b", "half \ud800 a pair", "🐈‍⬛ “text”\r\n", "x" * 5_000_000])
async def test_an_answer_is_kept_as_it_is(text: str) -> None:
    table = Table()
    await table.attempt(1).calls.perform(R, "m", says(text))
    (stored,) = table.calls.values()
    stored.response.encode()  # what Postgres is sent
    assert await table.attempt(2).calls.perform(R, "m", never) == {"text": text}


async def test_every_call_is_on_record() -> None:
    first = Table().attempt(1)
    with pytest.raises(ModelError):
        await first.calls.perform(R, "m", busy)
    await first.calls.perform(R, "m", says("bad"))
    await first.calls.perform(S, "m", says("repaired"), repair=True)
    events: list[dict[str, Any]] = json.loads(first.trail.encode())
    assert [event["kind"] for event in events] == ["lm_call"] * 3
    assert [event["data"].get("error") for event in events] == ["rate_limited", None, None]
    assert [event["data"].get("repair") for event in events] == [None, None, True]
    assert events[1]["data"]["prompt_tokens"] == 10


@pytest.mark.parametrize("keeps_requests", [True, False])
async def test_a_request_is_kept_with_its_answer_on_request_and_replayed_without(keeps_requests: bool) -> None:
    table = Table()
    asked = {"messages": [], "note": "\ud800"}
    first = table.attempt(1, keeps_requests=keeps_requests)
    assert await first.calls.perform(R, "m", says("yes"), request=asked) == {"text": "yes"}
    (stored,) = table.calls.values()
    assert json.loads(stored.response) == {"text": "yes"}
    assert (None if stored.request is None else json.loads(stored.request)) == (asked if keeps_requests else None)
    assert await table.attempt(2).calls.perform(R, "m", never, request=asked) == {"text": "yes"}


async def test_calls_of_an_unknown_price_are_counted() -> None:
    async def call() -> Answer:
        return Answer({"text": "?"}, prompt_tokens=1, completion_tokens=1, cost_usd=None)

    made = Table().attempt(1)
    assert made.journal.totals()["cost_usd"] == 0.0, "no call, no cost"
    await made.calls.perform(R, "m", call)
    assert (made.journal.totals()["cost_usd"], made.journal.totals()["unpriced_lm_calls"]) == (None, 1)
    await made.calls.perform(S, "m", says("priced"))
    assert (made.journal.totals()["cost_usd"], made.journal.totals()["unpriced_lm_calls"]) == (0.25, 1)


async def test_answers_of_another_execution_are_lent_and_not_paid_for_again() -> None:
    original, replay = Table(), Table()
    await original.attempt(1).calls.perform(R, "m", says("a"))
    for number in (1, 2):
        attempt = replay.attempt(number)
        attempt.journal.lend(original.calls.values())
        assert (await attempt.calls.perform(R, "m", never))["text"] == "a"
        assert (await attempt.calls.perform(S, "m", says("b") if number == 1 else never))["text"] == "b"
        totals = attempt.journal.totals()
        assert (totals["lm_calls"], totals["cost_usd"], totals["replayed_lm_calls"]) == (1, 0.25, number)
        assert (totals["lent"]["lm_calls"], totals["lent"]["cost_usd"]) == (1, 0.25)
    attempt.calls.rewind()
    assert "lent" not in attempt.journal.totals()
    assert (await attempt.calls.perform(R, "m", never))["text"] == "a"
