"""A finished model call is kept, replayed in its place, and counted once."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from dspex.errors import ModelError
from dspex.store.lifecycle.lm_calls import LMCall
from workers.adapters.contract import Answer
from workers.attempt.attempt_trail import AttemptTrail
from workers.lm.journal import AttemptJournal

EXECUTION = uuid4()
R, S = (hashlib.sha256(name.encode()).hexdigest() for name in ("R", "S"))


class Table:
    """The stored calls of one execution."""

    def __init__(self) -> None:
        self.calls: dict[tuple[bytes, int], LMCall] = {}

    async def store_call(self, call: LMCall) -> None:
        self.calls.setdefault((call.request_hash, call.occurrence), call)

    async def reject_calls(self, execution_id: UUID, attempt: int, request_hashes: Sequence[bytes]) -> None:
        for key, call in self.calls.items():
            if key[0] in request_hashes and call.attempt <= attempt:
                self.calls[key] = replace(call, rejected=True)

    def attempt(self, number: int) -> AttemptJournal:
        """The journal of another attempt, which knows what is stored."""
        journal = AttemptJournal(EXECUTION, number, AttemptTrail(datetime.now(UTC)), self)
        journal.recall(sorted(self.calls.values(), key=lambda call: call.occurrence))
        return journal


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
        await first.perform(request, "m", says(text))
    again = table.attempt(2)
    assert [(await again.perform(request, "m", never))["text"] for request in (S, R, R)] == ["S0", "R0", "R1"]
    assert await again.perform(R, "m", says("R2")) == {"text": "R2"}
    assert again.totals() == {
        "lm_calls": 4, "prompt_tokens": 40, "completion_tokens": 20, "cost_usd": 1.0, "replayed_lm_calls": 3,
    }  # fmt: skip


async def test_equal_requests_at_once_are_replayed_in_the_order_they_began() -> None:
    table, first_may_answer = Table(), asyncio.Event()

    async def slow() -> Answer:
        await first_may_answer.wait()
        return Answer({"text": "first"})

    async def fast() -> Answer:
        first_may_answer.set()
        return Answer({"text": "second"})

    journal = table.attempt(1)
    assert [a["text"] for a in await asyncio.gather(journal.perform(R, "m", slow), journal.perform(R, "m", fast))] == [
        "first",
        "second",
    ]
    again = table.attempt(2)
    assert [(await again.perform(R, "m", never))["text"] for _ in range(2)] == ["first", "second"]


async def test_a_call_that_failed_takes_nobodys_place() -> None:
    table = Table()
    first = table.attempt(1)
    with pytest.raises(ModelError):
        await first.perform(R, "m", busy)
    await first.perform(R, "m", says("paid"))
    again = table.attempt(2)
    assert await again.perform(R, "m", never) == {"text": "paid"}
    assert first.totals()["lm_calls"] == 1


async def test_only_the_answers_at_fault_are_asked_for_anew_and_never_replayed_again() -> None:
    table = Table()
    first = table.attempt(1)
    await first.perform(R, "m", says("good"))
    await first.perform(S, "m", says("bad"))
    first.reject([S])
    first.blame()
    await first.discard()
    second = table.attempt(2)
    assert await second.perform(R, "m", never) == {"text": "good"}
    assert await second.perform(S, "m", says("better")) == {"text": "better"}
    third = table.attempt(3)  # the second failed for something else
    assert await third.perform(R, "m", never) == {"text": "good"}
    assert await third.perform(S, "m", never) == {"text": "better"}
    assert third.totals()["lm_calls"] == 3  # the bad one was paid for too


async def test_when_nobody_can_tell_every_answer_is_at_fault() -> None:
    table = Table()
    first = table.attempt(1)
    await first.perform(R, "m", says("one"))
    first.blame()
    await first.discard()
    assert await table.attempt(2).perform(R, "m", says("another")) == {"text": "another"}


async def test_an_adapter_is_not_blamed_for_the_answers_of_the_one_before() -> None:
    table = Table()
    first = table.attempt(1)
    await first.perform(R, "m", says("of no use to the first adapter, which cannot tell why"))
    first.blame()
    await first.perform(S, "m", says("good"))
    await first.discard()
    second = table.attempt(2)
    assert await second.perform(S, "m", never) == {"text": "good"}
    assert await second.perform(R, "m", says("anew")) == {"text": "anew"}


async def test_without_keeping_nothing_is_stored() -> None:
    table = Table()
    journal = table.attempt(1)
    journal.keeps = False
    await journal.perform(R, "m", says("secret"))
    journal.blame()
    await journal.discard()
    assert not table.calls
    assert journal.totals()["lm_calls"] == 1


@pytest.mark.parametrize("text", ["\x00", "a\\u0000b", "half \ud800 a pair", "🐈‍⬛ “text”\r\n", "x" * 5_000_000])
async def test_an_answer_is_kept_as_it_is(text: str) -> None:
    table = Table()
    await table.attempt(1).perform(R, "m", says(text))
    (stored,) = table.calls.values()
    stored.response.encode()  # what Postgres is sent
    assert await table.attempt(2).perform(R, "m", never) == {"text": text}


async def test_every_call_is_on_record() -> None:
    table = Table()
    trail = AttemptTrail(datetime.now(UTC))
    journal = AttemptJournal(EXECUTION, 1, trail, table)
    with pytest.raises(ModelError):
        await journal.perform(R, "m", busy)
    await journal.perform(R, "m", says("bad"))
    await journal.perform(S, "m", says("mended"), repair=True)
    events: list[dict[str, Any]] = json.loads(trail.encode())
    assert [event["kind"] for event in events] == ["lm_call"] * 3
    assert [event["data"].get("error") for event in events] == ["rate_limited", None, None]
    assert [event["data"].get("repair") for event in events] == [None, None, True]
    assert events[1]["data"]["prompt_tokens"] == 10
