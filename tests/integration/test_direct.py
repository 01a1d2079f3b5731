"""The direct adapter on the wire: what it asks each provider, and what it makes of the answers."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from dspex.errors import ModelError, ProgramError
from dspex.program.program import Program
from dspex.signatures import signature
from tests.model_server import ModelServer, Step, model_server
from tests.recording import MemoryJournal, MemoryTrail, a_run
from workers.adapters.direct.direct_adapter import DirectAdapter
from workers.adapters.direct.direct_prompt import DirectPrompt
from workers.lm.connect.endpoint import Endpoints

__all__ = ["model_server"]

TRIAGE = signature(
    'signature triage "Route a support ticket": :string ticket "the message" -> :enum("billing", "bug") queue, '
    ":string(max_length=20) summary, :optional(:string) note"
)
TICKET = {"ticket": "The invoice is wrong."}
GOOD = {"queue": "billing", "summary": "Wrong invoice."}
DEMO = {"ticket": "It crashes.", "queue": "bug", "summary": "A crash."}


@pytest.fixture
async def adapter() -> AsyncIterator[DirectAdapter]:
    made = DirectAdapter()
    yield made
    await made.close()


def program(server: ModelServer, **changes: Any) -> Program:
    given: dict[str, Any] = {"model": "openai/test", "api_base": server.url, "signature": TRIAGE, **changes}
    return Program("triage", given.pop("signature"), adapter="direct", **given)


def asked(server: ModelServer) -> dict[str, Any]:
    request: dict[str, Any] = server.calls()["requests"][-1]
    return request


async def test_openai_is_asked_by_schema(model_server: ModelServer, adapter: DirectAdapter) -> None:
    model_server.script(default=Step(outputs={**GOOD, "note": None}))
    of = program(model_server, temperature=0.2, max_tokens=90)
    assert await adapter.execute(a_run(of, TICKET)) == GOOD  # a null is no value for what may be missing
    body = asked(model_server)
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("test", 0.2, 90)
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert body["messages"][0]["content"] == "Route a support ticket\nticket: the message"
    assert body["messages"][1]["content"] == TICKET["ticket"]
    schema = body["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["queue"]["enum"] == ["billing", "bug"]
    assert schema["properties"]["summary"]["maxLength"] == 20


@pytest.mark.parametrize(
    ("model", "place"),
    [
        ("anthropic/test", ("output_config", "format", "schema")),
        ("gemini/test", ("generationConfig", "responseJsonSchema")),
    ],
)
async def test_others_are_asked_by_schema_in_their_own_form(
    model_server: ModelServer, adapter: DirectAdapter, model: str, place: tuple[str, ...]
) -> None:
    outputs = await adapter.execute(a_run(program(model_server, model=model), TICKET))
    TRIAGE.check_outputs(outputs)
    found: Any = asked(model_server)
    for name in place:
        found = found[name]
    assert found["properties"]["queue"]["enum"] == ["billing", "bug"]
    # What the provider cannot say stands in words.
    assert "at most 20 characters" in found["properties"]["summary"]["description"]


async def test_a_model_without_schemas_gets_the_schema_in_its_prompt(model_server: ModelServer) -> None:
    of = program(model_server)
    endpoint = await Endpoints(lambda: "").of(of)
    for able, form in ((frozenset({"response_format"}), {"type": "json_object"}), (frozenset[str](), None)):
        weak = replace(endpoint, supports_response_schema=False, supported_params=able)
        request = DirectPrompt(of, weak).request(TICKET)
        assert '"enum": ["billing", "bug"]' in request["system"]
        assert request.get("config", {}).get("response_format") == form


async def test_examples_come_from_the_state(model_server: ModelServer, adapter: DirectAdapter) -> None:
    state = {"demos": [DEMO], "signature": {"instructions": "Route it well.", "fields": [{}] * 4}, "lm": None}
    await adapter.execute(a_run(program(model_server, state=state), TICKET))
    messages = asked(model_server)["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[0]["content"].startswith("Route it well.")
    assert messages[1]["content"] == "It crashes."
    assert json.loads(messages[2]["content"]) == {"queue": "bug", "summary": "A crash."}


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ({"demos": [{"customer": "Smith"}]}, "customer"),
        ({"demos": "none"}, "list of mappings"),
        ({"signature": {"instructions": "Do.", "fields": [{}]}}, "other fields"),
        ({"predict": {"demos": []}}, "'predict'"),
    ],
)
async def test_a_state_that_does_not_fit_is_refused(
    model_server: ModelServer, adapter: DirectAdapter, state: dict[str, Any], why: str
) -> None:
    of = program(model_server, state=state)
    with pytest.raises(ProgramError, match=why) as refused:
        await adapter.prepare(of)
    assert refused.value.code == "state_mismatch"
    with pytest.raises(ProgramError, match=why):
        await adapter.execute(a_run(of, TICKET))


async def test_media_and_conversations_are_sent_as_what_they_are(
    model_server: ModelServer, adapter: DirectAdapter
) -> None:
    seen = signature(":image picture, :history before, :string question, :integer words = 5 -> :string answer")
    inputs = {
        "picture": {"url": "data:image/png;base64,aGVsbG8="},
        "before": {"messages": [{"question": "And before?", "answer": "Nothing."}]},
        "question": "What is it?",
    }
    await adapter.execute(a_run(program(model_server, signature=seen), inputs))
    system, earlier, answer, last = asked(model_server)["messages"]
    assert system["content"] == "Given picture, before, question, words, answer with answer."
    assert earlier["content"] == "question: And before?"
    assert json.loads(answer["content"]) == {"answer": "Nothing."}
    assert last["content"][0] == {"type": "text", "text": "question: What is it?\nwords: 5"}
    assert last["content"][1]["image_url"]["url"] == "data:image/png;base64,aGVsbG8="


@pytest.mark.parametrize(
    ("bad", "faults"),
    [
        (Step(outputs={**GOOD, "queue": "sales"}), "- queue: expected one of"),
        (Step(outputs={"queue": "bug"}), "- summary: expected a value, got nothing"),
        (Step(content="I would rather not say."), "- queue: expected a value, got nothing"),
        (Step(outputs=GOOD, fault="length"), "It was cut off"),
    ],
    ids=["broken", "incomplete", "no JSON", "cut"],
)
async def test_a_bad_answer_is_sent_back_once(
    model_server: ModelServer, adapter: DirectAdapter, bad: Step, faults: str
) -> None:
    model_server.script(bad, default=Step(outputs=GOOD))
    run = a_run(program(model_server), TICKET)
    assert await adapter.execute(run) == GOOD
    assert isinstance(run.journal, MemoryJournal)
    assert isinstance(run.trail, MemoryTrail)
    assert (len(run.journal.answers), run.journal.repairs) == (2, 1)
    assert [data["repair"] for kind, data in run.trail.events if kind == "output_validation"] == [True]
    told = asked(model_server)["messages"][-1]
    assert told["role"] == "user"
    assert faults in told["content"]


async def test_an_answer_that_stays_bad_is_rejected_with_its_repair(
    model_server: ModelServer, adapter: DirectAdapter
) -> None:
    model_server.script(default=Step(content="No."))
    run = a_run(program(model_server), TICKET)
    with pytest.raises(ModelError, match="no value for queue, summary") as failed:
        await adapter.execute(run)
    assert (failed.value.code, failed.value.retryable) == ("output_unparseable", True)
    assert isinstance(run.journal, MemoryJournal)
    assert run.journal.rejected == run.journal.hashes


async def test_a_refusal_is_not_sent_back_for_repair(model_server: ModelServer, adapter: DirectAdapter) -> None:
    model_server.script(default=Step(fault="refusal"))
    with pytest.raises(ModelError, match="refused to answer") as refused:
        await adapter.execute(a_run(program(model_server), TICKET))
    assert (refused.value.code, refused.value.retryable) == ("content_filtered", False)
    assert model_server.calls()["total"] == 1


async def test_a_repair_too_long_for_the_model_leaves_the_first_failure(
    model_server: ModelServer, adapter: DirectAdapter
) -> None:
    too_long = Step(status=400, error={"code": "context_length_exceeded"})
    model_server.script(Step(content="No."), default=too_long)
    with pytest.raises(ModelError) as failed:
        await adapter.execute(a_run(program(model_server), TICKET))
    assert failed.value.code == "output_unparseable"


async def test_a_setting_that_the_model_does_not_take_is_named(
    model_server: ModelServer, adapter: DirectAdapter
) -> None:
    of = program(model_server, temperature=0.5)
    endpoint = replace(await Endpoints(lambda: "").of(of), supported_params=frozenset())
    with pytest.raises(ModelError, match="takes no temperature") as refused:
        DirectPrompt(of, endpoint)
    assert refused.value.code == "invalid_request"


async def test_what_passes_by_itself_is_asked_again(model_server: ModelServer, adapter: DirectAdapter) -> None:
    model_server.script(Step(status=503, retry_after=0), default=Step(outputs=GOOD))
    assert await adapter.execute(a_run(program(model_server), TICKET)) == GOOD
    model_server.script(default=Step(status=503))
    with pytest.raises(ModelError):
        await adapter.execute(replace(a_run(program(model_server), TICKET), deadline=time.monotonic()))
