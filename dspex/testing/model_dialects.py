"""The protocols of the model server: requests are read as OpenAI's, and replies are written in the request's protocol.

So a script serves a step in the same way for each protocol. What the client sent is in ``requests`` of ``/calls``, as
it came.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["ANTHROPIC", "GEMINI", "OPENAI", "ServedProtocol"]


_ANTHROPIC_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    529: "overloaded_error",
}
_GOOGLE_ERRORS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}


class ServedProtocol(Protocol):
    """``paths`` are served, as aiohttp writes them; ``key_header`` carries the credential."""

    @property
    def paths(self) -> tuple[str, ...]: ...

    @property
    def key_header(self) -> str: ...

    @property
    def request_id_header(self) -> str: ...

    def asked(self, body: dict[str, Any], model: str) -> dict[str, Any]:
        """The request as OpenAI's chat API has it."""
        ...

    def reply(self, completion: dict[str, Any]) -> dict[str, Any]:
        """The reply, from OpenAI's."""
        ...

    def error(self, status: int, given: dict[str, Any]) -> dict[str, Any]: ...


@dataclass(frozen=True)
class ServedOpenAI:
    paths: tuple[str, ...] = (
        "/v1/chat/completions",
        "/openai/v1/chat/completions",
        "/openai/deployments/{model}/chat/completions",
    )
    key_header: str = "Authorization"
    request_id_header: str = "x-request-id"

    def asked(self, body: dict[str, Any], model: str) -> dict[str, Any]:
        return body

    def reply(self, completion: dict[str, Any]) -> dict[str, Any]:
        return completion

    def error(self, status: int, given: dict[str, Any]) -> dict[str, Any]:
        return {"error": {"message": f"scripted status {status}", "type": "error", **given}}


@dataclass(frozen=True)
class ServedAnthropic:
    paths: tuple[str, ...] = ("/v1/messages",)
    key_header: str = "x-api-key"
    request_id_header: str = "request-id"

    def asked(self, body: dict[str, Any], model: str) -> dict[str, Any]:
        schema = body.get("output_config", {}).get("format", {}).get("schema")
        said = [{"role": m["role"], "content": _text(m["content"])} for m in body["messages"]]
        system = [{"role": "system", "content": _text(body["system"])}] if "system" in body else []
        return {"model": body["model"], "messages": [*system, *said], **_schema(schema)}

    def reply(self, completion: dict[str, Any]) -> dict[str, Any]:
        choice, usage = completion["choices"][0], completion["usage"]
        reasons = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}
        return {
            "id": completion["id"].replace("chatcmpl-", "msg_"),
            "type": "message",
            "role": "assistant",
            "model": completion["model"],
            "content": [{"type": "text", "text": choice["message"]["content"]}],
            "stop_reason": reasons[choice["finish_reason"]],
            "stop_sequence": None,
            "usage": {"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"]},
        }

    def error(self, status: int, given: dict[str, Any]) -> dict[str, Any]:
        kind = _ANTHROPIC_ERRORS.get(status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": f"scripted status {status}", **given}}


@dataclass(frozen=True)
class ServedGemini:
    paths: tuple[str, ...] = (
        r"/v1beta/models/{model:[^:/]+}:generateContent",
        r"/v1beta/models/{model:[^:/]+}:streamGenerateContent",
    )
    key_header: str = "x-goog-api-key"
    request_id_header: str = "x-request-id"

    def asked(self, body: dict[str, Any], model: str) -> dict[str, Any]:
        roles = {"model": "assistant", "user": "user"}
        said = [{"role": roles[c["role"]], "content": _text(c["parts"])} for c in body["contents"]]
        system = body.get("systemInstruction")
        told = [{"role": "system", "content": _text(system["parts"])}] if system else []
        schema = body.get("generationConfig", {}).get("responseJsonSchema")
        return {"model": model, "messages": [*told, *said], **_schema(schema)}

    def reply(self, completion: dict[str, Any]) -> dict[str, Any]:
        choice, usage = completion["choices"][0], completion["usage"]
        reasons = {"stop": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}
        content = {"role": "model", "parts": [{"text": choice["message"]["content"]}]}
        return {
            "candidates": [{"index": 0, "content": content, "finishReason": reasons[choice["finish_reason"]]}],
            "usageMetadata": {
                "promptTokenCount": usage["prompt_tokens"],
                "candidatesTokenCount": usage["completion_tokens"],
                "totalTokenCount": usage["total_tokens"],
            },
            "modelVersion": completion["model"],
            "responseId": completion["id"],
        }

    def error(self, status: int, given: dict[str, Any]) -> dict[str, Any]:
        named = _GOOGLE_ERRORS.get(status, "UNKNOWN")
        return {"error": {"code": status, "message": f"scripted status {status}", "status": named, **given}}


OPENAI, ANTHROPIC, GEMINI = ServedOpenAI(), ServedAnthropic(), ServedGemini()


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _schema(schema: dict[str, Any] | None) -> dict[str, Any]:
    return {"response_format": {"json_schema": {"schema": schema}}} if schema is not None else {}
