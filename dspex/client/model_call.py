"""The model calls of an execution as the journal has them, and which attempts they were replayed in."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dspex.client.audit_trail import AuditEvent
from dspex.errors import EncryptionError
from dspex.sealing.values import PLACEHOLDER, SEALED, Sealing
from dspex.store.lifecycle.lm_calls import BATCH, CLASS, TOOL, VALUE, LMCall

__all__ = ["ModelCall", "ToolCall", "model_calls", "tool_calls", "without_classes"]

#: The characters of a request's hash in the events of a trail.
_HASH_LENGTH = 16


@dataclass(frozen=True, slots=True)
class ModelCall:
    """A model call that returned an answer: it was paid for once, however often it was replayed.

    ``attempt`` made it, from ``at`` on (UTC). ``answer`` is the text that the model wrote and ``response`` the whole
    stored answer; they are ``"<secret>"`` and empty where they are sealed and the client has no key. ``request`` is
    None unless the program was deployed with ``record="full"``, and once DSPEX_REQUEST_RETENTION_DAYS have passed.
    ``cost_usd`` is None when the price is unknown.
    ``replayed`` are the attempts that were given this answer without a call. ``rejected``: the answer did not fit, so
    it is never replayed.
    """

    model: str
    attempt: int
    at: datetime
    duration_ms: float
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None
    request_id: str | None
    rejected: bool
    replayed: Sequence[int]
    request: Mapping[str, Any] | None
    answer: str
    response: Mapping[str, Any]

    @property
    def prompt(self) -> str | None:
        """The text of the request: each message with its role. None where the request is not kept."""
        return None if self.request is None else _prompt(self.request)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool that returned a result, which later attempts were given without a call.

    ``attempt`` made it, from ``at`` on (UTC). ``arguments`` are None unless the program was deployed with
    ``record="full"``, and once DSPEX_REQUEST_RETENTION_DAYS have passed. Both are ``"<secret>"`` where they are sealed
    and the client has no key. Values of classes are as JSON has them. A tool that raised, and one whose result is no
    data, such as an open file, is only in the audit trail.
    """

    tool: str
    attempt: int
    at: datetime
    duration_ms: float
    arguments: Any
    result: Any


def model_calls(
    stored: Sequence[tuple[LMCall, datetime]], trail: Iterable[AuditEvent], sealing: Sealing
) -> list[ModelCall]:
    """The calls of an execution in order of time. A ``sealing`` without a key opens no sealed answer."""
    replays = _replays([call for call, _ in stored], trail)
    return [_model_call(call, at, replays[call.place], sealing) for call, at in stored]


def tool_calls(stored: Iterable[tuple[LMCall, datetime]], sealing: Sealing) -> list[ToolCall]:
    """The calls of tools of an execution in order of time. A ``sealing`` without a key opens nothing sealed."""
    return [_tool_call(call, at, sealing) for call, at in stored if call.is_tool]


def _tool_call(call: LMCall, at: datetime, sealing: Sealing) -> ToolCall:
    stored = _opened(call, "call", call.response, sealing)
    result = PLACEHOLDER if stored is None else without_classes(stored.get("result"))
    arguments: Any = None
    if call.request is not None:
        asked = _opened(call, "request", call.request, sealing)
        arguments = PLACEHOLDER if asked is None else without_classes(asked)
    return ToolCall(call.model.removeprefix(TOOL), call.attempt, at, call.duration_ms, arguments, result)


def without_classes(value: Any) -> Any:
    """A value of a tool, without the names of the classes that a worker makes again from it."""
    if isinstance(value, Mapping):
        if CLASS in value:
            return without_classes(value[VALUE])
        return {name: without_classes(item) for name, item in value.items()}
    return [without_classes(item) for item in value] if isinstance(value, list) else value


def _model_call(call: LMCall, at: datetime, replayed: Sequence[int], sealing: Sealing) -> ModelCall:
    stored = _opened(call, "call", call.response, sealing)
    response = {name: value for name, value in (stored or {}).items() if name != BATCH}
    return ModelCall(
        model=call.model,
        attempt=call.attempt,
        at=at,
        duration_ms=call.duration_ms,
        prompt_tokens=call.prompt_tokens,
        completion_tokens=call.completion_tokens,
        cost_usd=call.cost_usd,
        request_id=call.request_id,
        rejected=call.rejected,
        replayed=replayed,
        request=None if call.request is None else _opened(call, "request", call.request, sealing),
        answer=PLACEHOLDER if stored is None else _answer(response),
        response=response,
    )


def _opened(call: LMCall, sealed_as: str, text: str, sealing: Sealing) -> dict[str, Any] | None:
    """The stored answer or request; None when it is sealed and cannot be opened here."""
    stored = json.loads(text)
    if SEALED not in stored:
        return dict(stored)
    if sealing.keyring is None:
        return None
    try:
        return sealing.open_whole(stored, f"{call.execution_id}:{sealed_as}:{call.place}")
    except EncryptionError:
        return None


def _answer(response: Mapping[str, Any]) -> str:
    """The text of an answer. The engine's answers have messages of parts; an adapter may store any other object."""
    message = response.get("message")
    if isinstance(message, Mapping) and isinstance(message.get("parts"), list):
        return _text(message["parts"])
    text = response.get("text")
    return text if isinstance(text, str) else json.dumps(response, ensure_ascii=False)


def _prompt(request: Mapping[str, Any]) -> str:
    """The messages of a request of the engine; an adapter may have any other request."""
    messages = request.get("messages")
    if not isinstance(messages, list) or not all(isinstance(each, Mapping) for each in messages):
        return json.dumps(request, ensure_ascii=False)
    system = request.get("system")
    first = [f"system: {system if isinstance(system, str) else _text(system)}"] if system else []
    return "\n".join([*first, *(f"{each.get('role')}: {_text(each.get('parts', []))}" for each in messages)])


def _text(parts: Iterable[Any]) -> str:
    return "\n".join(filter(None, map(_part, parts)))


def _part(part: Any) -> str:
    """The text of a part; a tool call as ``name(arguments)``; nothing for reasoning."""
    match part:
        case {"type": "text" | "refusal", "text": str(text)}:
            return text
        case {"type": "tool_call", "name": str(name)}:
            return f"{name}({json.dumps(part.get('input'), ensure_ascii=False)})"
        case {"type": "thinking"}:
            return ""
    return json.dumps(part, ensure_ascii=False)


def _replays(calls: Sequence[LMCall], trail: Iterable[AuditEvent]) -> defaultdict[str, list[int]]:
    """The attempts that each call was replayed in, by the call's place.

    The trail counts how often an attempt replayed equal requests. They were answered in the order in which the journal
    gives them (lm_calls.OF_EXECUTIONS), rejected answers last: these were replayed before they were rejected.
    """
    found: defaultdict[str, list[int]] = defaultdict(list)
    replayed = (event for event in trail if event.kind == "lm_call" and event.data.get("replayed"))
    counts = Counter((event.attempt, event.data.get("request")) for event in replayed)
    for (attempt, request), count in sorted(counts.items()):
        known = [call for call in calls if call.attempt < attempt and call.request_hash.hex()[:_HASH_LENGTH] == request]
        for call in sorted(known, key=lambda each: _turn(each, known))[:count]:
            found[call.place].append(attempt)
    return found


def _turn(call: LMCall, known: Sequence[LMCall]) -> tuple[bool, int, int]:
    """The place of a call in the order of replays."""
    later = sum(other.occurrence == call.occurrence and other.attempt > call.attempt for other in known)
    return call.rejected, later, call.occurrence
