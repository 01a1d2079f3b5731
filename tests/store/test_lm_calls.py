"""The journal in Postgres: what a model answered comes back as it was."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import pytest
from sqlalchemy import text as sql
from uuid_utils.compat import uuid7

import dspex
from dspex.client.client import Client
from dspex.errors import LeaseLost
from dspex.operations.retention.upkeep import upkeep
from dspex.sealing.keyring import Keyring
from dspex.sealing.rotation import rotate
from dspex.sealing.values import SEALED, SealedAttempt, Sealing
from dspex.settings import Backends, Settings
from dspex.store import workers
from dspex.store.database import Database
from dspex.store.lifecycle.lm_calls import LMCall, of_execution
from tests.store.test_control import recover
from tests.store.test_executions import claim, register
from workers.adapters.contract import Answer
from workers.attempt.attempt_trail import AttemptTrail
from workers.attempt.ledger import Ledger
from workers.lm.journal import AttemptJournal
from workers.lm.model_calls import ModelCalls

R, S = (hashlib.sha256(name.encode()).hexdigest() for name in ("R", "S"))


@pytest.fixture
async def ledger(backends: Backends) -> AsyncIterator[Ledger]:
    opened = Ledger(backends.database_url, backends.broker_url, uuid7)
    yield opened
    await opened.close()


async def attempt(ledger: Ledger, id: UUID, number: int) -> AttemptJournal:
    journal = AttemptJournal(id, number, ledger)
    journal.recall(await ledger.calls(id))
    return journal


async def ask(
    journal: AttemptJournal, request: str, text: str, *, records: bool = False, sealed: SealedAttempt | None = None
) -> str:
    async def call() -> Answer:
        return Answer({"text": text}, prompt_tokens=2**31 - 1, cost_usd=0.1, request_id="req-1")

    calls = ModelCalls(journal, AttemptTrail(datetime.now(UTC)), keeps_requests=records, sealed=sealed)
    return str((await calls.perform(request, "openai/test", call, request={"messages": [text]}))["text"])


def stored(database: Database, id: UUID) -> dict[str, LMCall]:
    """The calls of an execution by their answers or, where these are sealed, by "sealed"."""
    found = database.run(partial(of_execution, execution_id=id))
    return {json.loads(call.response).get("text", "sealed"): call for call, _ in found}


@pytest.mark.parametrize(
    "text",
    ["\x00", "a\\u0000b", "half \ud800 a pair", "🐈‍⬛ “text”\r\n", '{"a": 1, "a": 2}', "x" * 10_000_000],
    ids=["nul", "looks like nul", "half a surrogate pair", "unicode", "json", "10 MB"],
)
async def test_an_answer_is_replayed_as_it_was(ledger: Ledger, text: str) -> None:
    id = uuid7()
    await ask(await attempt(ledger, id, 1), R, text)
    again = await attempt(ledger, id, 2)
    assert await ask(again, R, "never asked") == text
    totals = again.totals()
    assert (totals["lm_calls"], totals["replayed_lm_calls"], totals["cost_usd"]) == (1, 1, 0.1)


async def test_equal_requests_at_once_have_each_their_answer(ledger: Ledger) -> None:
    id = uuid7()
    first = await attempt(ledger, id, 1)
    given = await asyncio.gather(*(ask(first, R, f"answer {number}") for number in range(20)))
    again = await attempt(ledger, id, 2)
    assert await asyncio.gather(*(ask(again, R, "never asked") for _ in range(20))) == given
    assert again.totals()["lm_calls"] == 20


async def test_a_rejected_answer_stays_paid_for_and_is_never_replayed(ledger: Ledger) -> None:
    id = uuid7()
    first = await attempt(ledger, id, 1)
    await ask(first, R, "good")
    await ask(first, S, "bad")
    first.reject([bytes.fromhex(S)])
    first.blame()
    await first.discard()
    second = await attempt(ledger, id, 2)
    assert [await ask(second, R, "?"), await ask(second, S, "better")] == ["good", "better"]
    await first.discard()  # a worker that lost its lease and comes late
    third = await attempt(ledger, id, 3)
    assert [await ask(third, R, "?"), await ask(third, S, "?")] == ["good", "better"]
    assert third.totals()["lm_calls"] == 3


async def test_an_attempt_that_is_over_learns_it_from_its_next_answer(ledger: Ledger, client: Client) -> None:
    client.deploy(dspex.Program("qa", dspex.signature("question -> answer"), adapter="scripted"))
    id = client.submit("qa", {"question": "?"}).id
    stale = await attempt(ledger, id, 1)
    with pytest.raises(LeaseLost):
        await ask(stale, R, "late")
    assert [call.attempt for call in await ledger.calls(id)] == [1], "what was paid is kept"


async def test_a_late_answer_of_an_attempt_that_is_over_takes_no_place_and_is_counted(ledger: Ledger) -> None:
    id = uuid7()
    stale = await attempt(ledger, id, 1)
    await ask(stale, R, "first")
    live = await attempt(ledger, id, 2)
    assert await ask(live, R, "?") == "first"
    await ask(stale, R, "late")  # its worker was frozen while it waited for this
    await ask(live, R, "second")
    await ask(live, R, "third")
    await live.count_late_calls()
    assert live.totals()["lm_calls"] == 4, "all that the provider answered"
    third = await attempt(ledger, id, 3)
    assert [await ask(third, R, "?") for _ in range(5)] == ["first", "second", "third", "late", "?"]
    assert third.totals()["lm_calls"] == 5
    assert third.totals()["cost_usd"] == pytest.approx(0.5)


async def test_an_attempt_that_is_over_rejects_no_answer(ledger: Ledger, client: Client, database: Database) -> None:
    client.deploy(dspex.Program("qa", dspex.signature("question -> answer"), adapter="scripted"))
    id = client.submit("qa", {"question": "?"}).id
    claim(database, worker := register(database), id)
    stale = await attempt(ledger, id, 1)
    await ask(stale, R, "good")
    database.run(partial(workers.stop, id=worker))
    assert recover(database) == [(id, "queued")]
    stale.reject([bytes.fromhex(R)])
    stale.blame()
    await stale.discard()
    assert [call.rejected for call in await ledger.calls(id)] == [False]


async def test_a_recorded_request_is_removed_in_its_own_time_and_its_answer_stays(
    ledger: Ledger, database: Database
) -> None:
    id = uuid7()
    journal = await attempt(ledger, id, 1)
    await ask(journal, R, "old", records=True)
    await ask(journal, S, "new", records=True)
    aged = sql("UPDATE dspex.lm_calls SET created_at = now() - interval '8 days' WHERE request_hash = :hash")
    database.run(lambda connection: connection.execute(aged, {"hash": bytes.fromhex(R)}))
    assert list(upkeep(database, Settings.load())) == []
    steps = [step.what for step in upkeep(database, Settings.load(request_retention_days=7))]
    assert steps == ["removed 1 recorded requests"]
    found = stored(database, id)
    assert (found["old"].request, found["new"].request) == (None, '{"messages": ["new"]}')
    assert await ask(await attempt(ledger, id, 2), R, "never asked") == "old"


async def test_a_sealed_request_is_sealed_again_with_a_new_key(ledger: Ledger, database: Database) -> None:
    old, new = os.urandom(32), os.urandom(32)
    id = uuid7()
    before = SealedAttempt(Sealing(Keyring([old])), dspex.signature("q -> a"), id, b"salt")
    await ask(await attempt(ledger, id, 1), R, "secret", records=True, sealed=before)
    assert rotate(database, Keyring([new, old])).rows == 1
    call = stored(database, id)["sealed"]
    assert call.request is not None
    opened = Sealing(Keyring([new])).open_whole(json.loads(call.request), f"{id}:request:{call.place}")
    assert (opened, list(json.loads(call.request))) == ({"messages": ["secret"]}, [SEALED])
