"""A scriptable model server: OpenAI's chat API over real HTTP, with each failure that a provider can have; and Azure's,
Anthropic's and Gemini's (model_dialects.py).

Without a script it answers what the request asks for: JSON that fits the ``response_format``, or DSPy's
``[[ ## field ## ]]`` sections; the same request always gets the same answer.

``POST /script``  ``{"steps": [step, ...], "default": step}``: each step serves ``times`` requests (only those that
contain its ``match``, if it has one), in order; then ``default`` serves. Steps are described at :class:`ModelStep`.
``GET /calls``    how many calls came, were answered and were given up by the client, by request hash too.
``DELETE /calls`` forgets script and counts.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import socket
import struct
import threading
import urllib.request
from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from aiohttp import web

from dspex.testing.model_batches import BatchScript, add_batch_api
from dspex.testing.model_dialects import ANTHROPIC, GEMINI, OPENAI, ServedProtocol
from dspex.testing.model_examples import field_example, schema_example, with_limits
from dspex.testing.model_streams import is_streamed, stream_completion

__all__ = ["ModelServer", "ModelStep", "application"]


@dataclass
class ModelStep:
    """How to serve some requests.

    ``content`` is the answer's text as it stands, ``outputs`` the answer by field in the form the request asks for;
    with neither, an example that fits. ``status`` above 399 is an error with ``error`` as OpenAI's body
    (``{"code", "type", "message"}``) and perhaps ``retry_after``. ``fault`` is one of ``malformed_json``,
    ``empty_choices``, ``truncated_body``, ``reset``, ``hang``, ``content_filter``, ``refusal`` and ``length``.
    ``body`` is the reply as it stands, byte by byte, with ``status``, ``content_type`` and ``headers``.
    ``together`` holds the answer back until that many requests are served at once. A streamed answer comes ``piece``
    characters at a time; after so many pieces it waits for :meth:`ModelServer.release` (``hold_after``) or is cut off
    (``cut_after``).
    """

    delay_ms: float = 0
    content: str | None = None
    outputs: dict[str, Any] | None = None
    status: int = 200
    error: dict[str, Any] = field(default_factory=dict)
    retry_after: float | None = None
    fault: str | None = None
    body: str | None = None
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1
    match: str | None = None
    together: int = 0
    piece: int = 8
    hold_after: int | None = None
    cut_after: int | None = None


class _State:
    """The script and the counts of one server."""

    def __init__(self) -> None:
        self.arrived = asyncio.Condition()
        self.forget()

    def forget(self) -> None:
        self.steps: list[ModelStep] = []
        self.default = ModelStep()
        self.by_hash: Counter[str] = Counter()
        self.answered = self.given_up = self.running = self.most_at_once = 0
        self.requests: list[dict[str, Any]] = []
        self.keys: Counter[str] = Counter()
        self.connections: set[int] = set()
        self.released = asyncio.Event()

    def step_for(self, text: str) -> ModelStep:
        for position, step in enumerate(self.steps):
            if step.match is None or step.match in text:
                step.times -= 1
                if step.times <= 0:
                    del self.steps[position]
                return step
        return self.default

    def batch_answer(self, dialect: ServedProtocol, body: dict[str, Any], model: str) -> tuple[int, dict[str, Any]]:
        """The HTTP status and the reply of a request in a batch."""
        text = json.dumps(body, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        self.by_hash[digest] += 1
        step = self.step_for(text)
        if step.status >= 400:
            return step.status, dialect.error(step.status, step.error)
        return 200, dialect.reply(_completion(dialect.asked(body, model), step, digest))

    def counts(self) -> dict[str, Any]:
        return {
            "total": sum(self.by_hash.values()),
            "answered": self.answered,
            "given_up": self.given_up,
            "running": self.running,
            "most_at_once": self.most_at_once,
            "by_hash": dict(self.by_hash),
            "requests": self.requests[-20:],
            "keys": dict(self.keys),
            "connections": len(self.connections),
        }


def application() -> web.Application:
    state = _State()
    app = web.Application(client_max_size=64 * 1024 * 1024)

    async def complete(request: web.Request, dialect: ServedProtocol) -> web.StreamResponse:
        text = await request.text()
        body = json.loads(text)
        asked = {name: value for name, value in body.items() if name not in ("stream", "stream_options")}
        canonical = json.dumps(asked, sort_keys=True).encode()
        digest = hashlib.sha256(canonical).hexdigest()
        state.by_hash[digest] += 1
        state.requests = [*state.requests[-19:], body]
        state.connections.add(id(request.transport))
        given = request.headers.get(dialect.key_header) or request.headers.get("api-key")
        state.keys[(given or "").removeprefix("Bearer ")] += 1
        state.running += 1
        state.most_at_once = max(state.most_at_once, state.running)
        step = state.step_for(text)
        try:
            async with state.arrived:
                state.arrived.notify_all()
                await state.arrived.wait_for(lambda: state.most_at_once >= step.together)
            reply = await _serve(request, dialect, body, step, digest, state.released)
        except asyncio.CancelledError:
            state.given_up += 1
            raise
        finally:
            state.running -= 1
        state.answered += 1
        return reply

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "test", "object": "model"}]})

    async def script(request: web.Request) -> web.Response:
        given = await request.json()
        state.steps = [ModelStep(**step) for step in given.get("steps", [])]
        state.default = ModelStep(**given.get("default", {}))
        return web.json_response({"steps": len(state.steps)})

    async def release(_: web.Request) -> web.Response:
        state.released.set()
        return web.json_response({})

    async def calls(_: web.Request) -> web.Response:
        return web.json_response(state.counts())

    async def forget(_: web.Request) -> web.Response:
        state.forget()
        forget_batches()
        return web.json_response({})

    forget_batches = add_batch_api(app, state.batch_answer)

    for dialect in (OPENAI, ANTHROPIC, GEMINI):
        for path in dialect.paths:
            app.router.add_post(path, partial(complete, dialect=dialect))
    app.router.add_get("/v1/models", models)
    app.router.add_post("/script", script)
    app.router.add_post("/release", release)
    app.router.add_get("/calls", calls)
    app.router.add_delete("/calls", forget)
    return app


async def _serve(  # noqa: PLR0911 - a reply for each fault
    request: web.Request,
    dialect: ServedProtocol,
    body: dict[str, Any],
    step: ModelStep,
    digest: str,
    released: asyncio.Event,
) -> web.StreamResponse:
    if step.delay_ms:
        await asyncio.sleep(step.delay_ms / 1000)
    headers = {dialect.request_id_header: f"req-{digest[:12]}", **step.headers}
    if step.body is not None:
        raw = step.body.encode(errors="surrogateescape")
        return web.Response(body=raw, status=step.status, headers={**headers, "Content-Type": step.content_type})
    if step.status >= 400:
        if step.retry_after is not None:
            headers["Retry-After"] = f"{step.retry_after:g}"
        return web.json_response(dialect.error(step.status, step.error), status=step.status, headers=headers)
    completion = _completion(dialect.asked(body, request.match_info.get("model", "")), step, digest)
    match step.fault:
        case "hang":
            await asyncio.Event().wait()
        case "reset":
            _reset(request)
        case "malformed_json":
            return web.Response(text='{"id": "chatcmpl-1", "choices": [', content_type="application/json")
        case "empty_choices":
            completion["choices"] = []
        case None if is_streamed(request, body):
            return await stream_completion(
                request, dialect, completion, headers,
                piece=step.piece, hold_after=step.hold_after, cut_after=step.cut_after, released=released,
            )  # fmt: skip
        case None if step.cut_after is not None:
            return await _truncated(request, json.dumps(dialect.reply(completion)).encode())
        case "truncated_body":
            return await _truncated(request, json.dumps(dialect.reply(completion)).encode())
    return web.json_response(dialect.reply(completion), headers=headers)


def _completion(body: dict[str, Any], step: ModelStep, digest: str) -> dict[str, Any]:
    content = step.content if step.content is not None else _answer(body, step.outputs, digest)
    reasons = {"content_filter": "content_filter", "length": "length"}
    if step.fault == "length":
        content = content[: len(content) // 2]
    message: dict[str, Any] = {"role": "assistant", "content": "" if step.fault == "content_filter" else content}
    if step.fault == "refusal":
        message |= {"content": None, "refusal": "I'm sorry, I can't assist with that."}
    prompt = sum(len(str(message.get("content"))) for message in body["messages"])
    return {
        "id": f"chatcmpl-{digest[:12]}",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [
            {
                "index": 0,
                "message": message,
                "finish_reason": reasons.get(step.fault or "", "stop"),
            }
        ],
        "usage": {
            "prompt_tokens": prompt // 4 + 1,
            "completion_tokens": len(content) // 4 + 1,
            "total_tokens": prompt // 4 + len(content) // 4 + 2,
        },
    }


def _reset(request: web.Request) -> None:
    """Close the connection with a reset, as a crashing server or a firewall does."""
    transport = request.transport
    assert transport is not None
    sock: socket.socket = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


async def _truncated(request: web.Request, whole: bytes) -> web.StreamResponse:
    reply = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(whole))})
    await reply.prepare(request)
    await reply.write(whole[: len(whole) // 2])
    assert request.transport is not None
    request.transport.close()
    return reply


def _answer(body: dict[str, Any], outputs: dict[str, Any] | None, digest: str) -> str:
    """An answer in the form the request asks for: by schema, in DSPy's sections, or as JSON by field names."""
    wanted = body.get("response_format") or {}
    schema = (wanted.get("json_schema") or {}).get("schema")
    system = str(body["messages"][0]["content"])
    if schema is not None:
        limited = with_limits(schema, system)
        return json.dumps(outputs or schema_example(limited, limited, digest), ensure_ascii=False)
    asked = str(body["messages"][-1]["content"])
    if sections := re.findall(r"`\[\[ ## (\w+) ## \]\]`(?: \(must be formatted as a valid Python ([^)]*)\))?", asked):
        examples = {name: field_example(name, kind, system, digest) for name, kind in sections}
        values = {name: (outputs or {}).get(name, example) for name, example in examples.items()}
        values.pop("completed", None)
        sections_text = [f"[[ ## {name} ## ]]\n{_spelled(value)}" for name, value in values.items()]
        return "\n\n".join([*sections_text, "[[ ## completed ## ]]"])
    names = re.findall(r"`(\w+)`(?: \(must be formatted as a valid Python ([^)]*)\))?", asked)
    if names:
        examples = {name: field_example(name, kind, system, digest) for name, kind in names}
        return json.dumps({name: (outputs or {}).get(name, example) for name, example in examples.items()})
    return json.dumps(outputs) if outputs else f"answer {digest[:8]}"


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


class ModelServer:
    """The server in a thread of this process, on a free port; what it did is asked over HTTP, as from elsewhere."""

    def __init__(self, port: int = 0) -> None:
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="model-server", daemon=True)
        self.url = ""

    def __enter__(self) -> ModelServer:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    @property
    def api_base(self) -> str:
        return f"{self.url}/v1"

    def script(self, *steps: ModelStep, default: ModelStep | None = None) -> None:
        """Serve the next requests by these steps, the rest by ``default``."""
        self._ask("POST", "/script", {"steps": [asdict(s) for s in steps], "default": asdict(default or ModelStep())})

    def release(self) -> None:
        """Let every streamed answer that is held go on, and hold none from now on."""
        self._ask("POST", "/release")

    def calls(self) -> dict[str, Any]:
        return self._ask("GET", "/calls")

    def script_batches(self, script: BatchScript) -> None:
        """Serve batches so from now on."""
        self._ask("POST", "/batches/script", asdict(script))

    def batches(self) -> dict[str, Any]:
        """What was uploaded, created and answered through the batch APIs."""
        return self._ask("GET", "/batches/counts")

    def forget(self) -> None:
        self._ask("DELETE", "/calls")

    def _ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data=data, method=method)  # noqa: S310 - our own server
        with urllib.request.urlopen(request) as reply:  # noqa: S310
            answer: dict[str, Any] = json.load(reply)
        return answer

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        runner = web.AppRunner(application(), handler_cancellation=True, access_log=None, shutdown_timeout=0)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", self._port)
        self._loop.run_until_complete(site.start())
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()
