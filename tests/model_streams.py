"""The model server's answers in pieces, as server-sent events of OpenAI's chat API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

from aiohttp import web

__all__ = ["stream_completion"]


async def stream_completion(
    request: web.Request,
    completion: dict[str, Any],
    headers: dict[str, str],
    *,
    piece: int,
    hold_after: int | None,
    cut_after: int | None,
    released: asyncio.Event,
) -> web.StreamResponse:
    """The completion, so many characters at a time; after so many pieces it waits to be released, or is cut off."""
    reply = web.StreamResponse(headers={**headers, "Content-Type": "text/event-stream"})
    await reply.prepare(request)
    content = completion["choices"][0]["message"]["content"]
    for number, begin in enumerate(range(0, len(content), piece)):
        if number == hold_after:
            await released.wait()
        if number == cut_after:
            assert request.transport is not None
            request.transport.close()
            return reply
        await reply.write(_event({**_common(completion), "choices": [_choice(content[begin : begin + piece])]}))
    for event in _last(completion):
        await reply.write(event)
    return reply


def _last(completion: dict[str, Any]) -> Iterator[bytes]:
    choice = {"index": 0, "delta": {}, "finish_reason": completion["choices"][0]["finish_reason"]}
    yield _event({**_common(completion), "choices": [choice]})
    yield _event({**_common(completion), "choices": [], "usage": completion["usage"]})
    yield b"data: [DONE]\n\n"


def _common(completion: dict[str, Any]) -> dict[str, Any]:
    kept = {name: completion[name] for name in ("id", "created", "model")}
    return {**kept, "object": "chat.completion.chunk"}


def _choice(text: str) -> dict[str, Any]:
    return {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()
