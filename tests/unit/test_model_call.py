"""The model calls of an execution: their answers as text, the attempts they were replayed in, and sealed ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from dspex.client.audit_trail import AuditEvent
from dspex.client.model_call import ModelCall, model_calls, tool_calls
from dspex.sealing.keyring import Keyring
from dspex.sealing.values import SEALED, Sealing
from dspex.store.lifecycle.lm_calls import LMCall

ID = UUID(int=7)
AT = datetime(2026, 1, 1, tzinfo=UTC)
KEY = bytes(range(32))


def call(
    attempt: int, request: int = 0, occurrence: int = 0, *, rejected: bool = False, response: Any = None,
    asked: Any = None, model: str = "m",
) -> LMCall:  # fmt: skip
    stored = json.dumps(response or {"text": f"of attempt {attempt}"})
    kept = None if asked is None else json.dumps(asked)
    place = (ID, bytes([request] * 32), occurrence, attempt)
    return LMCall(*place, model, stored, 1, 2, 0.5, 3.0, "r", rejected, request=kept)


def replay(attempt: int, request: int = 0) -> AuditEvent:
    return AuditEvent("lm_call", AT, attempt, {"request": bytes([request] * 8).hex(), "replayed": True})


def read(calls: Sequence[LMCall], events: Sequence[AuditEvent] = (), sealing: Sealing | None = None) -> list[ModelCall]:
    return model_calls([(each, AT) for each in calls], events, sealing or Sealing())


def part(kind: str, **members: Any) -> dict[str, Any]:
    return {"type": kind, **members}


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ({"message": {"parts": [part("thinking", text="hm"), part("text", text="a\r\nb")]}}, "a\r\nb"),
        ({"message": {"parts": [part("tool_call", name="add", input={"a": 1})]}}, 'add({"a": 1})'),
        ({"message": {"parts": []}}, ""),
        ({"text": "of an adapter"}, "of an adapter"),
        ({"choices": ["?"]}, '{"choices": ["?"]}'),
        ({"message": "unknown"}, '{"message": "unknown"}'),
    ],
)
def test_an_answer_is_the_text_that_the_model_wrote(response: Mapping[str, Any], answer: str) -> None:
    (found,) = read([call(1, response=response)])
    assert (found.answer, found.response) == (answer, response)
    assert (found.model, found.attempt, found.at, found.cost_usd, found.request_id) == ("m", 1, AT, 0.5, "r")


def test_a_call_has_its_request_where_that_is_kept() -> None:
    request = {
        "system": "Answer in French.",
        "messages": [
            {"role": "user", "parts": [part("text", text="Hello?")]},
            {"role": "assistant", "parts": [part("tool_call", name="add", input={})]},
        ],
    }
    kept, other, without = read(
        [call(1, response={"text": "Bonjour"}, asked=request), call(1, 1, asked={"n": 1}), call(1, 2)]
    )
    assert (kept.request, kept.answer, kept.response) == (request, "Bonjour", {"text": "Bonjour"})
    assert kept.prompt == "system: Answer in French.\nuser: Hello?\nassistant: add({})"
    assert other.prompt == '{"n": 1}'
    assert (without.request, without.prompt) == (None, None)


def test_a_call_has_the_attempts_that_it_was_replayed_in() -> None:
    calls = [call(1), call(1, 1), call(2, 2)]
    events = [replay(2), replay(3), replay(3, 2), AuditEvent("lm_call", AT, 3, {"request": "00" * 8})]
    assert [found.replayed for found in read(calls, events)] == [[2, 3], [], [3]]


def test_equal_requests_are_replayed_in_the_order_in_which_they_were_made() -> None:
    first, second = call(1), call(1, occurrence=1)
    assert [found.replayed for found in read([first, second], [replay(2)])] == [[2], []]
    assert [found.replayed for found in read([first, second], [replay(2), replay(2)])] == [[2], [2]]


def test_a_rejected_answer_was_replayed_before_it_was_rejected() -> None:
    calls = [call(1, rejected=True), call(2)]
    found = read(calls, [replay(2), replay(3)])
    assert [each.replayed for each in found] == [[2], [3]]
    assert [each.rejected for each in found] == [True, False]


def test_a_sealed_call_is_shown_to_a_client_with_the_key_only() -> None:
    keyring = Keyring([KEY])
    place = call(1).place

    def sealed_as(kind: str, content: Any) -> Any:
        return {SEALED: keyring.seal(json.dumps(content).encode(), f"{ID}:{kind}:{place}")}

    sealed = call(1, response=sealed_as("call", {"text": "a secret"}), asked=sealed_as("request", {"n": 1}))
    (opened,) = read([sealed], sealing=Sealing(keyring))
    assert (opened.answer, opened.request) == ("a secret", {"n": 1})
    for other in (Sealing(), Sealing(Keyring([KEY[::-1]]))):
        (found,) = read([sealed], sealing=other)
        assert (found.answer, found.response, found.request) == ("<secret>", {}, None)


def test_a_call_of_a_tool_has_its_arguments_as_long_as_they_are_kept() -> None:
    keyring = Keyring([KEY])
    kept = call(1, response={"result": 3}, asked={"a": 1}, model="tool:add")
    token = keyring.seal(b'{"a": 1}', f"{ID}:request:{kept.place}")
    sealed = call(1, response={"result": 3}, asked={SEALED: token}, model="tool:add")
    removed = call(1, response={"result": 3}, model="tool:add")
    found = tool_calls([(each, AT) for each in (kept, sealed, removed, call(1))], Sealing())
    assert [each.arguments for each in found] == [{"a": 1}, "<secret>", None]
    assert [(each.tool, each.result) for each in found] == [("add", 3)] * 3
