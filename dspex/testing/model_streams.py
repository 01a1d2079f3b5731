"""The model server's answers in pieces, as each provider's server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from dspex.testing.model_dialects import ANTHROPIC, GEMINI, OPENAI, ServedProtocol

__all__ = ["is_streamed", "stream_completion"]


def is_streamed(request: web.Request, body: dict[str, Any]) -> bool:
    """Whether the client asks for the answer in pieces."""
    return bool(body.get("stream")) or request.path.endswith(":streamGenerateContent")


async def stream_completion(
    request: web.Request,
    dialect: ServedProtocol,
    completion: dict[str, Any],
    headers: dict[str, str],
    *,
    piece: int,
    hold_after: int | None,
    cut_after: int | None,
    released: asyncio.Event,
) -> web.StreamResponse:
    """The completion, so many characters at a time; after so many pieces it waits to be released, or is cut off."""
    begin, more, end = _EVENTS[dialect]
    reply = web.StreamResponse(headers={**headers, "Content-Type": "text/event-stream"})
    await reply.prepare(request)
    await reply.write(b"".join(map(_event, begin(dialect.reply(completion)))))
    content = completion["choices"][0]["message"]["content"]
    for number, place in enumerate(range(0, len(content), piece)):
        if number == hold_after:
            await released.wait()
        if number == cut_after:
            assert request.transport is not None
            request.transport.close()
            return reply
        await reply.write(_event(more(content[place : place + piece])))
    await reply.write(b"".join(map(_event, end(dialect.reply(completion)))))
    if dialect is OPENAI:
        await reply.write(b"data: [DONE]\n\n")
    return reply


_Data = dict[str, Any]
_Events = tuple[Callable[[_Data], list[_Data]], Callable[[str], _Data], Callable[[_Data], list[_Data]]]


def _event(data: _Data) -> bytes:
    named = f"event: {data['type']}\n" if "type" in data else ""
    return f"{named}data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def _openai_more(text: str) -> _Data:
    delta = {"role": "assistant", "content": text}
    return {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


def _openai_end(reply: _Data) -> list[_Data]:
    common = {"id": reply["id"], "model": reply["model"], "object": "chat.completion.chunk"}
    last = {"index": 0, "delta": {}, "finish_reason": reply["choices"][0]["finish_reason"]}
    return [{**common, "choices": [last]}, {**common, "choices": [], "usage": reply["usage"]}]


def _anthropic_begin(reply: _Data) -> list[_Data]:
    usage = {**reply["usage"], "output_tokens": 1}
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    return [{"type": "message_start", "message": {**reply, "content": [], "stop_reason": None, "usage": usage}}, block]


def _anthropic_more(text: str) -> _Data:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}


def _anthropic_end(reply: _Data) -> list[_Data]:
    why = {"stop_reason": reply["stop_reason"], "stop_sequence": None}
    return [
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": why, "usage": reply["usage"]},  # cumulative
        {"type": "message_stop"},
    ]


def _gemini_more(text: str) -> _Data:
    return {"candidates": [{"index": 0, "content": {"role": "model", "parts": [{"text": text}]}}]}


def _gemini_end(reply: _Data) -> list[_Data]:
    last = {**reply["candidates"][0], "content": {"role": "model", "parts": [{"text": ""}]}}
    return [{**reply, "candidates": [last]}]


#: What comes before the pieces, a piece, and what comes after them.
_EVENTS: Mapping[ServedProtocol, _Events] = {
    OPENAI: (lambda reply: [], _openai_more, _openai_end),
    ANTHROPIC: (_anthropic_begin, _anthropic_more, _anthropic_end),
    GEMINI: (lambda reply: [], _gemini_more, _gemini_end),
}
