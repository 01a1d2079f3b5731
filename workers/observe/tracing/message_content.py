"""Prompts and answers in the form of OpenTelemetry's conventions for generative AI.

Requests and answers come in lm15's canonical form. Images, audio and files are named, and their data is left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["call_content", "is_content_wanted", "tool_content"]

#: OpenTelemetry's own variable, which is off by default.
_VARIABLE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_ON = frozenset({"1", "true", "span_only", "span_and_event"})
_SETTINGS = ("frequency_penalty", "max_tokens", "presence_penalty", "seed", "temperature", "top_k", "top_p")


def is_content_wanted() -> bool:
    """Whether spans are to have prompts and answers."""
    return os.environ.get(_VARIABLE, "").strip().lower() in _ON


def call_content(request: Mapping[str, Any] | None, response: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a model call's span. What another adapter asks in a form of its own is left out."""
    found: dict[str, Any] = {}
    if request is not None and _has_messages(request):
        if system := request.get("system"):
            parts = [{"type": "text", "content": system}] if isinstance(system, str) else _parts(system)
            found["gen_ai.system_instructions"] = _json(parts)
        found["gen_ai.input.messages"] = _json([_message(each) for each in request["messages"]])
        config = request.get("config", {})
        found |= {f"gen_ai.request.{name}": config[name] for name in _SETTINGS if config.get(name) is not None}
    if isinstance(response.get("message"), Mapping):
        reason = str(response.get("finish_reason", ""))
        found["gen_ai.output.messages"] = _json([{**_message(response["message"]), "finish_reason": reason}])
        found["gen_ai.response.finish_reasons"] = [reason]
        if isinstance(response.get("model"), str):
            found["gen_ai.response.model"] = response["model"]
    return found


def tool_content(arguments: Mapping[str, Any], result: Any) -> dict[str, Any]:
    """The attributes of a tool call's span."""
    return {"gen_ai.tool.call.arguments": _json(arguments), "gen_ai.tool.call.result": _json(result)}


def _has_messages(request: Mapping[str, Any]) -> bool:
    messages = request.get("messages")
    return isinstance(messages, list) and all(isinstance(each, Mapping) for each in messages)


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    return {"role": str(message.get("role", "assistant")), "parts": _parts(message.get("parts", ()))}


def _parts(parts: Iterable[Any]) -> list[dict[str, Any]]:
    return [_part(part) for part in parts if isinstance(part, Mapping)]


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    match part.get("type"):
        case "text" | "refusal":
            return {"type": "text", "content": part.get("text", "")}
        case "thinking":
            return {"type": "reasoning", "content": part.get("text", "")}
        case "data":
            return {"type": "text", "content": _json(part.get("value"))}
        case "tool_call":
            arguments = part.get("input")
            return {"type": "tool_call", "id": part.get("id"), "name": part.get("name"), "arguments": arguments}
        case "tool_result":
            result = _parts(part.get("content", ()))
            return {"type": "tool_call_response", "id": part.get("id"), "response": result}
        case kind:
            return {"type": str(kind), "mime_type": part.get("media_type")}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
