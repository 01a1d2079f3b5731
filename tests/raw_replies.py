"""Replies of model servers as exact bytes, read as a worker reads them: without a server, for unit tests."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from lm15 import LM15Error, Request, Response
from lm15.result import AsyncResponseStream
from lm15.serde import request_from_dict
from lm15.transports import TransportRequest

from dspex.errors import ModelError
from workers.lm.connect.providers import at_address
from workers.lm.model_errors import model_error
from workers.lm.replies.call_notes import CallNotes, current_notes
from workers.lm.replies.tool_calls import refuse_broken_calls

__all__ = ["RawReply", "chat", "events", "failure", "read"]

MODELS = {"openai": "openai/test", "anthropic": "anthropic/test", "gemini": "gemini/test"}
REQUEST = {"model": "test", "messages": [{"role": "user", "parts": [{"type": "text", "text": "?"}]}]}


@dataclass
class RawReply:
    """A reply. Given as JSON, text or bytes; ``pieces`` of so many bytes arrive one by one."""

    body: Any
    status: int = 200
    headers: Sequence[tuple[str, str]] = (("Content-Type", "application/json"),)
    piece: int = 7
    http_version: str = "HTTP/1.1"
    reason: str = ""
    requests: list[TransportRequest] = field(default_factory=list)

    @asynccontextmanager
    async def stream(self, request: TransportRequest) -> AsyncIterator[Any]:
        self.requests.append(request)
        yield self

    async def read(self) -> bytes:
        return self._bytes()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        body = self._bytes()
        for place in range(0, len(body), self.piece):
            yield body[place : place + self.piece]

    def _bytes(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        return (self.body if isinstance(self.body, str) else json.dumps(self.body)).encode()


def chat(content: Any = "Paris", finish_reason: Any = "stop", **more: Any) -> dict[str, Any]:
    """A reply of OpenAI's chat API. ``more`` are members of the body."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    return {"id": "1", "object": "chat.completion", "model": "test", "choices": [choice], "usage": usage, **more}


def events(*bodies: Any, done: bool = True) -> str:
    """Server-sent events: text as it stands, anything else as the data of one event."""
    parts = [body if isinstance(body, str) else f"data: {json.dumps(body)}\n\n" for body in bodies]
    return "".join(parts) + ("data: [DONE]\n\n" if done else "")


async def read(reply: RawReply, *, protocol: str = "openai", streamed: bool = False) -> tuple[Response, CallNotes]:
    """The response that lm15 gives the engine, and what was noted. Raises ModelError as the engine does."""
    notes = CallNotes()
    current_notes.set(notes)
    client = at_address(MODELS[protocol], "http://model.test/v1", "key", reply).client
    request = request_from_dict(REQUEST)
    try:
        response = await (_streamed(client, request) if streamed else client.complete(request))
        refuse_broken_calls(response)
    except (LM15Error, ValueError, TypeError, LookupError, AttributeError) as error:
        raise model_error(error, model=MODELS[protocol]) from error
    return response, notes


async def _streamed(client: Any, request: Request) -> Response:
    async with AsyncResponseStream(client.stream(request), request) as stream:
        async for _ in stream:
            pass
        return await stream.response()


async def failure(reply: RawReply, *, protocol: str = "openai", streamed: bool = False) -> ModelError:
    with pytest.raises(ModelError) as caught:
        await read(reply, protocol=protocol, streamed=streamed)
    return caught.value
