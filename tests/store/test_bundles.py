"""Bundles through the batch APIs of three providers, over HTTP: nothing is asked twice, and nothing is lost."""

from __future__ import annotations

import hashlib
import json
import os
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from click.testing import CliRunner
from sqlalchemy import Connection, text

from dspex.cli.main import cli
from dspex.sealing.keyring import Keyring
from dspex.sealing.values import Sealing
from dspex.settings import Backends, Settings, failpoints
from dspex.store import programs
from dspex.store.database import Database
from dspex.store.lifecycle import bundles, control, lm_calls
from dspex.store.lifecycle.bundles import StoredBundle
from dspex.store.lifecycle.parked import ParkedCall, parked_place
from dspex.testing.model_batches import BatchScript
from tests.model_server import ModelServer, Step, model_server
from tests.store.test_executions import PROGRAM, claim, dispatch_due, register, status, submit, trail
from tests.store.test_parked import park, waits_of
from workers.lm.bundles.batch_target import BatchTarget
from workers.lm.bundles.bundler import Bundler
from workers.lm.connect.endpoint import Endpoints

__all__ = ["model_server"]

MODELS = {"openai": ("openai/test", "/v1"), "anthropic": ("anthropic/test", ""), "gemini": ("gemini/test", "")}
FORMATS = pytest.mark.parametrize("format", MODELS)
Opened = Callable[..., Bundler]


@pytest.fixture(autouse=True)
def _deployed(database: Database) -> None:
    database.run(partial(programs.deploy, program=PROGRAM))


@pytest.fixture
async def a_bundler(database: Database) -> AsyncIterator[Opened]:
    """Makes a bundler, as the leader does."""
    opened: list[Bundler] = []

    def make(sealing: Sealing | None = None, **settings: Any) -> Bundler:
        given = {"batch_fill_seconds": 0, "batch_poll_seconds": 0.05, "batch_settle_seconds": 0.5, **settings}
        opened.append(Bundler(database, Endpoints(lambda: ""), sealing or Sealing(), Settings.load(**given)))
        return opened[-1]

    yield make
    for each in opened:
        await each.aclose()


def target(server: ModelServer, format: str = "openai", within: float = 86_400.0) -> BatchTarget:
    model, path = MODELS[format]
    return BatchTarget(model, format, within, f"{server.url}{path}")


def a_request(number: int) -> dict[str, Any]:
    return {
        "model": "openai/test",
        "messages": [{"role": "user", "parts": [{"type": "text", "text": f"What is {number}? " + 60 * "Explain. "}]}],
        "config": {"max_tokens": 50},
    }


def parked(database: Database, where: BatchTarget, count: int = 3, **values: Any) -> list[UUID]:
    """Executions, each of which waits for an answer to a request of its own."""
    worker_id = register(database)
    ids = [submit(database) for _ in range(count)]
    dispatch_due(database, window=1000)
    for number, claimed in enumerate(claim(database, worker_id, *ids)):
        hashed = hashlib.sha256(str(number).encode()).digest()
        asked = {"target": str(where), "request": json.dumps(a_request(number)), **values}
        assert park(database, claimed, ParkedCall(hashed, 0, "batch", where.model, **asked)) == "waiting"
    return ids


def all_bundles(database: Database) -> Sequence[StoredBundle]:
    return database.run(bundles.listing)


async def run_until_ended(database: Database, made: Bundler, rounds: int = 60) -> Sequence[StoredBundle]:
    """Do all steps at once, until no bundle is open."""
    for _ in range(rounds):
        database.run(lambda c: c.execute(text("UPDATE dspex.bundles SET next_at = clock_timestamp()")))
        await made.run_once(lambda: True)
        found = all_bundles(database)
        if found and all(each.state == "ended" for each in found):
            return found
    raise AssertionError([(each.state, each.trouble) for each in all_bundles(database)])


def answers(database: Database, ids: Sequence[UUID]) -> list[str]:
    found = [call for id in ids for call, _ in database.run(partial(lm_calls.of_execution, execution_id=id))]
    return [json.loads(call.response)["message"]["parts"][0]["text"] for call in found]


def upload_a_file(server: ModelServer, name: str) -> None:
    """Upload an empty file, as another user of the account does."""
    form = f'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b\r\n\
Content-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n\r\n--b--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    with urllib.request.urlopen(urllib.request.Request(f"{server.url}/v1/files", form.encode(), headers)):
        pass


# -------------------------------------------------------------------------------------------------------------- answers


@FORMATS
async def test_requests_are_answered_once_and_their_executions_go_on(
    database: Database, model_server: ModelServer, a_bundler: Opened, format: str
) -> None:
    model_server.script_batches(BatchScript(looks=2))
    ids = parked(database, target(model_server, format), 20)
    (ended,) = await run_until_ended(database, a_bundler())
    assert (ended.requests, ended.answered, ended.failed) == (20, 20, 0)
    assert len(answers(database, ids)) == 20
    assert all(status(database, id) == "queued" and trail(database, id).verify() for id in ids)
    seen = model_server.batches()
    assert (seen["batches"], seen["requests"], seen["asked_twice"]) == (1, 20, 0)


@FORMATS
async def test_odd_results_do_no_harm(
    database: Database, model_server: ModelServer, a_bundler: Opened, format: str
) -> None:
    model_server.script_batches(BatchScript(twice=True, odd=True, unknown=format != "gemini", truncated=1, html=1))
    ids = parked(database, target(model_server, format))
    (ended,) = await run_until_ended(database, a_bundler())
    assert (ended.answered, ended.failed) == (3, 0)
    assert len(answers(database, ids)) == 3
    assert model_server.batches()["asked_twice"] == 0


async def test_an_unknown_price_is_not_shown_as_nothing(
    database: Database, model_server: ModelServer, a_bundler: Opened, backends: Backends
) -> None:
    parked(database, target(model_server))
    await run_until_ended(database, a_bundler())

    def shown() -> list[str]:
        urls = {"DSPEX_DATABASE_URL": backends.database_url, "DSPEX_BROKER_URL": backends.broker_url, "COLUMNS": "200"}
        printed = CliRunner().invoke(cli, ["bundles"], env=urls, standalone_mode=False).output
        return printed.splitlines()[-1].split()[-2:]

    assert shown() == ["unknown", "unknown"]
    database.run(lambda c: c.execute(text("UPDATE dspex.bundles SET cost_usd = 0.0000025, list_cost_usd = 1.5")))
    assert shown() == ["$0.0000025", "$1.50"]
    database.run(lambda c: c.execute(text("UPDATE dspex.bundles SET cost_usd = 0, list_cost_usd = 0, answered = 0")))
    assert shown() == ["$0", "$0"]


@pytest.mark.parametrize("format", ["gemini", "openai"])
async def test_replies_of_megabytes_are_read_whole(
    database: Database, model_server: ModelServer, a_bundler: Opened, format: str
) -> None:
    """They arrive in pieces: Gemini's has all results, OpenAI's lists the files of all other batches."""
    model_server.script(default=Step(content=50_000 * "word "))
    for number in range(100):
        upload_a_file(model_server, f"{number}-{5_000 * 'x'}.jsonl")
    ids = parked(database, target(model_server, format), 10)
    (ended,) = await run_until_ended(database, a_bundler())
    assert (ended.answered, ended.failed) == (10, 0)
    assert {len(answer) for answer in answers(database, ids)} == {len(50_000 * "word ")}


@FORMATS
async def test_errors_of_requests_are_what_they_would_have_been(
    database: Database, model_server: ModelServer, a_bundler: Opened, format: str
) -> None:
    model_server.script(Step(status=400, match="What is 1?"))
    ids = parked(database, target(model_server, format))
    (ended,) = await run_until_ended(database, a_bundler())
    assert (ended.answered, ended.failed) == (2, 1)
    errors = [wait.error for id in ids for wait in waits_of(database, id)]
    assert [error and error["code"] for error in errors] == ["invalid_request"]
    assert {status(database, id) for id in ids} == {"queued"}, "the next attempt raises it"


@FORMATS
async def test_what_a_batch_did_not_come_to_is_given_up(
    database: Database, model_server: ModelServer, a_bundler: Opened, format: str
) -> None:
    model_server.script_batches(BatchScript(leave_out=1))
    ids = parked(database, target(model_server, format))
    (ended,) = await run_until_ended(database, a_bundler())
    assert (ended.answered, ended.failed) == (2, 1)
    errors = [wait.error for id in ids for wait in waits_of(database, id)]
    assert [error and error["code"] for error in errors] == ["batch_late"]


@pytest.mark.parametrize("format", ["openai", "gemini"])
async def test_a_batch_that_the_provider_failed_says_why(
    database: Database, model_server: ModelServer, a_bundler: Opened, format: str
) -> None:
    why = "Enqueued token limit reached for model test."
    model_server.script_batches(BatchScript(failed=why))
    ids = parked(database, target(model_server, format))
    (ended,) = await run_until_ended(database, a_bundler())
    assert ended.failed == 3
    assert why in str(ended.provider_state)
    errors = [wait.error for id in ids for wait in waits_of(database, id)]
    assert [error is not None and why in error["message"] for error in errors] == [True] * 3


# ---------------------------------------------------------------------------------------------------- never paid twice


@FORMATS
async def test_a_batch_that_was_created_and_not_acknowledged_is_found(
    database: Database, model_server: ModelServer, a_bundler: Opened, format: str
) -> None:
    model_server.script_batches(BatchScript(drop_create=1))
    ids = parked(database, target(model_server, format))
    (ended,) = await run_until_ended(database, a_bundler(batch_settle_seconds=60))
    assert ended.answered == 3
    assert len(answers(database, ids)) == 3
    seen = model_server.batches()
    assert (seen["batches"], seen["requests"]) == (1, 3)


@pytest.mark.parametrize("status", [409, 500])
async def test_an_answer_that_leaves_open_whether_a_batch_was_created_is_no_refusal(
    database: Database, model_server: ModelServer, a_bundler: Opened, status: int
) -> None:
    model_server.script_batches(BatchScript(drop_create=1, create_status=status))
    parked(database, target(model_server))
    (ended,) = await run_until_ended(database, a_bundler(batch_settle_seconds=60))
    assert (ended.answered, model_server.batches()["batches"]) == (3, 1)


async def test_batches_without_names_are_created_one_after_the_other(
    database: Database, model_server: ModelServer, a_bundler: Opened
) -> None:
    """The answer to the first creation is lost: the second waits until the first is known."""
    model_server.script_batches(BatchScript(drop_create=2))
    ids = parked(database, target(model_server, "anthropic"), 6)
    made = a_bundler(batch_settle_seconds=60, batch_requests=3)
    ended = await run_until_ended(database, made)
    assert [each.answered for each in ended] == [3, 3]
    assert len(answers(database, ids)) == 6
    assert model_server.batches()["batches"] == 2


async def test_a_file_that_was_uploaded_is_used(
    database: Database, model_server: ModelServer, a_bundler: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failpoints, "_actions", {})
    monkeypatch.setattr(failpoints, "_armed", False)
    parked(database, target(model_server))
    made = a_bundler()
    failpoints.arm(f"{failpoints.AFTER_BUNDLE_UPLOADED}=error@1")
    await made.run_once(lambda: True)
    assert [each.state for each in all_bundles(database)] == ["created"]
    await run_until_ended(database, made)
    seen = model_server.batches()
    assert (seen["files"], seen["batches"]) == (1, 1)


async def test_a_batch_that_was_not_created_is_created_once_it_would_show(
    database: Database, model_server: ModelServer, a_bundler: Opened
) -> None:
    ids = parked(database, target(model_server))
    made = a_bundler()
    await made.run_once(lambda: True)
    assert [each.state for each in all_bundles(database)] == ["uploaded"]
    before = "clock_timestamp() - interval '1 hour'"
    database.run(lambda c: c.execute(text(f"UPDATE dspex.bundles SET state = 'creating', intended_at = {before}")))
    (ended,) = await run_until_ended(database, made)
    assert ended.answered == 3
    assert model_server.batches()["batches"] == 1
    assert len(answers(database, ids)) == 3


async def test_a_leader_that_was_paused_changes_nothing(
    database: Database, model_server: ModelServer, a_bundler: Opened
) -> None:
    parked(database, target(model_server))
    await a_bundler().run_once(lambda: False)
    (stale,) = all_bundles(database)
    assert database.run(partial(bundles.advance, bundle=stale, state="uploaded", file_id="f-1"))
    assert not database.run(partial(bundles.advance, bundle=stale, state="uploaded", file_id="f-2"))
    assert [each.file_id for each in all_bundles(database)] == ["f-1"]


# ---------------------------------------------------------------------------------------------------------- bad days


async def test_a_batch_that_the_provider_lost_is_given_up(
    database: Database, model_server: ModelServer, a_bundler: Opened
) -> None:
    ids = parked(database, target(model_server))
    model_server.script_batches(BatchScript(lost=True))
    (ended,) = await run_until_ended(database, a_bundler())
    assert ended.failed == 3
    assert {status(database, id) for id in ids} == {"queued"}


async def test_a_provider_without_a_batch_api_leaves_the_requests_to_ordinary_calls(
    database: Database, model_server: ModelServer, a_bundler: Opened
) -> None:
    model_server.script_batches(BatchScript(status=404))
    ids = parked(database, target(model_server))
    (ended,) = await run_until_ended(database, a_bundler())
    assert ended.failed == 3
    assert {status(database, id) for id in ids} == {"queued"}


@pytest.mark.parametrize("refusal", [401, 503])
async def test_a_revoked_key_and_a_provider_that_is_away_are_waited_for(
    database: Database, model_server: ModelServer, a_bundler: Opened, refusal: int
) -> None:
    model_server.script_batches(BatchScript(looks=None))
    ids = parked(database, target(model_server))
    made = a_bundler()
    for _ in range(5):
        database.run(lambda c: c.execute(text("UPDATE dspex.bundles SET next_at = clock_timestamp()")))
        await made.run_once(lambda: True)
    model_server.script_batches(BatchScript(status=refusal))
    database.run(lambda c: c.execute(text("UPDATE dspex.bundles SET next_at = clock_timestamp()")))
    await made.run_once(lambda: True)
    (troubled,) = all_bundles(database)
    assert (troubled.state, str(troubled.trouble)[:8]) == ("running", f"HTTP {refusal}")
    model_server.script_batches(BatchScript())
    (ended,) = await run_until_ended(database, made)
    assert (ended.answered, ended.trouble) == (3, None)
    assert {status(database, id) for id in ids} == {"queued"}


def an_hour_later(database: Database, *, minutes: int = 60) -> Iterator[int]:
    """Minute after minute passes for what Postgres has."""
    for minute in range(minutes):
        for column in ("bundles.next_at", "bundles.intended_at", "bundles.expires_at", "parked_calls.expires_at"):
            table, name = column.split(".")
            earlier = text(f"UPDATE dspex.{table} SET {name} = {name} - interval '1 minute'")
            database.run(partial(Connection.execute, statement=earlier))
        yield minute


@pytest.mark.parametrize("steps", [0, 1, 2])
async def test_a_provider_that_is_away_for_an_hour_is_asked_now_and_then(
    database: Database, model_server: ModelServer, a_bundler: Opened, steps: int
) -> None:
    """Before the upload, before the creation, and while the batch runs."""
    model_server.script_batches(BatchScript(looks=None))
    ids = parked(database, target(model_server))
    made = a_bundler()
    for _ in range(steps):
        await made.run_once(lambda: True)
    model_server.script_batches(BatchScript(looks=None, status=503))
    looks = 0
    for _ in an_hour_later(database):
        await made.run_once(lambda: True)
        (bundle,) = all_bundles(database)
        assert bundle.state != "ended"
        looks = max(looks, bundle.looks)
    assert 5 < looks < 40, "it is asked less and less often"
    model_server.script_batches(BatchScript())
    (ended,) = await run_until_ended(database, made)
    assert (ended.answered, ended.failed, ended.trouble) == (3, 0, None)
    assert len(answers(database, ids)) == 3
    seen = model_server.batches()
    assert (seen["batches"], seen["asked_twice"]) == (1, 0)


async def test_a_batch_that_nobody_waits_for_is_cancelled(
    database: Database, model_server: ModelServer, a_bundler: Opened
) -> None:
    model_server.script_batches(BatchScript(looks=None))
    ids = parked(database, target(model_server))
    made = a_bundler()
    for _ in range(4):
        database.run(lambda c: c.execute(text("UPDATE dspex.bundles SET next_at = clock_timestamp()")))
        await made.run_once(lambda: True)
    assert [each.state for each in all_bundles(database)] == ["running"]
    assert len(database.run(partial(control.cancel, ids=ids)).ended) == 3
    await run_until_ended(database, made)
    assert model_server.batches()["cancelled"] == 1
    assert {status(database, id) for id in ids} == {"cancelled"}


async def test_a_bundle_that_nobody_waits_for_is_not_sent(
    database: Database, model_server: ModelServer, a_bundler: Opened
) -> None:
    ids = parked(database, target(model_server))
    made = a_bundler()
    await made.run_once(lambda: True)
    assert [each.state for each in all_bundles(database)] == ["uploaded"]
    assert len(database.run(partial(control.cancel, ids=ids)).ended) == 3
    await run_until_ended(database, made)
    assert model_server.batches()["batches"] == 0
    assert waits_of(database, ids[0]) == []


async def test_a_batch_that_ends_while_it_is_to_be_cancelled_has_answers(
    database: Database, model_server: ModelServer, a_bundler: Opened
) -> None:
    model_server.script_batches(BatchScript(looks=None))
    ids = parked(database, target(model_server))
    made = a_bundler()
    for _ in range(4):
        database.run(lambda c: c.execute(text("UPDATE dspex.bundles SET next_at = clock_timestamp()")))
        await made.run_once(lambda: True)
    past = "UPDATE dspex.bundles SET expires_at = clock_timestamp() - interval '1 second', next_at = clock_timestamp()"
    database.run(lambda c: c.execute(text(past)))
    model_server.script_batches(BatchScript(looks=None, keeps=True))
    await made.run_once(lambda: True)
    model_server.script_batches(BatchScript())
    (ended,) = await run_until_ended(database, made)
    assert (ended.answered, ended.failed) == (3, 0)
    assert len(answers(database, ids)) == 3


# --------------------------------------------------------------------------------------------- size, time and secrets


async def test_bundles_are_filled_up_to_their_size(
    database: Database, model_server: ModelServer, a_bundler: Opened
) -> None:
    parked(database, target(model_server), 25)
    await run_until_ended(database, a_bundler(batch_requests=10))
    assert sorted(model_server.batches()["sizes"]) == [5, 10, 10]
    size = len(json.dumps(a_request(0)))
    parked(database, target(model_server), 6)
    await run_until_ended(database, a_bundler(batch_bytes=int(size * 3.5 / 0.8)))
    assert sorted(model_server.batches()["sizes"])[:2] == [3, 3]


async def test_requests_wait_for_others_to_share_a_bundle(
    database: Database, model_server: ModelServer, a_bundler: Opened
) -> None:
    parked(database, target(model_server), 3)
    patient = a_bundler(batch_fill_seconds=3600)
    await patient.run_once(lambda: True)
    assert all_bundles(database) == []
    parked(database, target(model_server, within=60.0), 2)
    await run_until_ended(database, a_bundler())
    assert sorted(model_server.batches()["sizes"]) == [2, 3], "targets do not share bundles"


async def test_sealed_requests_have_sealed_answers(
    database: Database, model_server: ModelServer, a_bundler: Opened
) -> None:
    sealing = Sealing(Keyring([os.urandom(32)]))
    worker_id = register(database)
    (claimed,) = claim(database, worker_id, submit(database))
    hashed = hashlib.sha256(b"sealed").digest()
    asked = sealing.seal_call(json.dumps(a_request(1)), claimed.id, parked_place(hashed, 0))
    call = ParkedCall(hashed, 0, "batch", "openai/test", target=str(target(model_server)), request=asked)
    assert park(database, claimed, call) == "waiting"
    (ended,) = await run_until_ended(database, a_bundler(sealing))
    assert ended.answered == 1
    ((stored, _),) = database.run(partial(lm_calls.of_execution, execution_id=claimed.id))
    assert set(json.loads(stored.response)) == {"dspex:sealed"}
    opened = sealing.open_whole(json.loads(stored.response), f"{claimed.id}:call:{stored.place}")
    assert opened["message"]["parts"]
