"""A model server that costs next to nothing: OpenAI's chat API as far as a benchmark needs it, over raw sockets.

``python -m tests.performance.bench.model`` prints its URL and serves until it is killed. The first part of the path
is how many milliseconds an answer takes: ``http://127.0.0.1:PORT/200/v1`` is the base of a model of 200 ms. Every
answer has one field, ``answer``, in DSPy's sections, or as JSON where the request has a ``response_format``.
"""

from __future__ import annotations

import asyncio
import json
import resource
import socket

__all__ = ["SECTIONS"]

SECTIONS = "[[ ## answer ## ]]\nthe same to everybody\n\n[[ ## completed ## ]]"
AS_JSON = json.dumps({"answer": "the same to everybody"})


def body(content: str) -> bytes:
    """A whole HTTP response with this answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 120, "completion_tokens": 15, "total_tokens": 135}
    completion = {"id": "chatcmpl-1", "object": "chat.completion", "created": 0, "model": "fake"}
    text = json.dumps({**completion, "choices": [choice], "usage": usage}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    return head.encode() + text


ANSWER, JSON_ANSWER = body(SECTIONS), body(AS_JSON)


class Connection(asyncio.Protocol):
    """One client: requests one after the other, each with a Content-Length."""

    def __init__(self) -> None:
        self._received = b""
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end].lower()
            begin = end + 4
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
            if len(self._received) < begin + length:
                return
            request = self._received[begin : begin + length]
            self._received = self._received[begin + length :]
            answer = JSON_ANSWER if b'"response_format"' in request else ANSWER
            delay_ms = int(head.split(b"/", 2)[1])
            if delay_ms:
                self._loop.call_later(delay_ms / 1000, self._send, answer)
            else:
                self._send(answer)

    def _send(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)


async def serve() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0, backlog=2000)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
