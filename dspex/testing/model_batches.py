"""The batch APIs of OpenAI, Anthropic and Gemini, as the model server serves them, with what can go wrong there.

A batch is over once it was looked at ``looks`` times. Its answers are those that the model server would give to the
requests one by one. ``POST /batches/script`` sets a :class:`BatchScript`; ``GET /batches/counts`` shows what was
uploaded, created and answered, so that a test can see what would have been paid.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import BodyPartReader, web

from dspex.testing.model_dialects import ANTHROPIC, GEMINI, OPENAI, ServedProtocol

__all__ = ["BatchScript", "add_batch_api"]

#: Answers a request: the HTTP status and the reply.
Answer = Callable[[ServedProtocol, dict[str, Any], str], tuple[int, dict[str, Any]]]


@dataclass
class BatchScript:
    """How batches are served from now on.

    ``looks``       a batch is over once it was looked at so often; None: never, until that changes
    ``leave_out``   so many requests of each batch expire unanswered
    ``twice``       each result comes twice, the second time as an error
    ``odd``         results in forms that no documentation has come first
    ``failed``      batches fail with this reason, before a request is answered
    ``unknown``     a result for a request that is in no batch comes first
    ``truncated``   so many reads of results are cut off in the last line
    ``html``        so many reads of results are a page in HTML with the status 200
    ``lost``        looks at a batch find nothing
    ``status``      the HTTP status of every request to the batch API that is not 0
    ``drop_create``    so many requests that create a batch create it, and the connection is cut
    ``create_status``  instead of being cut, they are answered with this HTTP status
    ``keeps``       requests to cancel a batch are refused, because it ends
    """

    looks: int | None = 1
    leave_out: int = 0
    twice: bool = False
    odd: bool = False
    failed: str | None = None
    unknown: bool = False
    truncated: int = 0
    html: int = 0
    lost: bool = False
    status: int = 0
    drop_create: int = 0
    create_status: int = 0
    keeps: bool = False


@dataclass
class _Batch:
    id: str
    dialect: ServedProtocol
    name: str
    requests: list[tuple[str, dict[str, Any], str]]
    script: BatchScript
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    looks: int = 0
    cancelled: bool = False
    failed: str | None = None
    results: list[tuple[str, int, dict[str, Any]]] | None = None


class _State:
    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.forget()

    def forget(self) -> None:
        self.script = BatchScript()
        self.files: dict[str, tuple[str, bytes]] = {}
        self.batches: dict[str, _Batch] = {}
        self.asked: Counter[str] = Counter()
        self.answered = 0

    def create(self, dialect: ServedProtocol, name: str, requests: list[tuple[str, dict[str, Any], str]]) -> _Batch:
        prefix = {OPENAI: "batch_", ANTHROPIC: "msgbatch_", GEMINI: "batches/"}[dialect]
        made = _Batch(f"{prefix}{len(self.batches) + 1}", dialect, name, requests, self.script)
        self.batches[made.id] = made
        self.asked.update(json.dumps(body, sort_keys=True) for _, body, _ in requests)
        return made

    def look(self, batch: _Batch) -> bool:
        """Whether it is over now."""
        batch.looks += 1
        over = batch.cancelled or (self.script.looks is not None and batch.looks >= self.script.looks)
        if over and batch.results is None:
            batch.failed = self.script.failed
            answered = [] if batch.cancelled or batch.failed else batch.requests[self.script.leave_out :]
            batch.results = [(id, *self.answer(batch.dialect, body, model)) for id, body, model in answered]
            self.answered += len(answered)
            random.Random(batch.id).shuffle(batch.results)  # noqa: S311 - the same order for the same batch
        return batch.results is not None

    def read(self, batch: _Batch, line: Callable[[str, int, dict[str, Any]], dict[str, Any]]) -> bytes:
        """The results as lines."""
        if self.script.html:
            self.script.html -= 1
            return b"<html><body>Bad gateway</body></html>"
        results = list(batch.results or [])
        if self.script.unknown:
            results.insert(0, ("no-such-request", 200, {"id": "x"}))
        if self.script.twice:
            results += _errors(batch)
        text = "".join(
            json.dumps(each) + "\n" for each in [*_odd(self.script), *(line(*each) for each in results)]
        ).encode()
        if self.script.truncated and len(text) > 20:
            self.script.truncated -= 1
            return text[:-20]
        return text


def _errors(batch: _Batch) -> list[tuple[str, int, dict[str, Any]]]:
    """An error for each request that was answered."""
    return [(id, 500, batch.dialect.error(500, {})) for id, _, _ in batch.results or []]


def _odd(script: BatchScript) -> list[Any]:
    """Results in other forms than the documented ones."""
    if not script.odd:
        return []
    names = {"custom_id": "no-such-request", "metadata": {"key": "no-such-request"}}
    return [
        [], "text", 1, None, {**names, "response": {"status_code": "many", "body": {}}, "result": "none"},
        {**names, "error": "gone", "result": {"type": "errored", "error": "gone"}},
        {**names, "error": {"code": ["x"]}, "result": {"type": "errored", "error": ["gone"]}},
    ]  # fmt: skip


def add_batch_api(app: web.Application, answer: Answer) -> Callable[[], None]:
    """Serve the batch APIs in this application. Returns a function that forgets everything."""
    state = _State(answer)

    @web.middleware
    async def scripted(request: web.Request, handler: Any) -> web.StreamResponse:
        is_batch = any(part in request.path for part in ("/files", "/batches", "batchGenerate"))
        if is_batch and state.script.status and not request.path.startswith("/batches/"):
            return web.json_response({"error": {"message": "scripted"}}, status=state.script.status)
        reply: web.StreamResponse = await handler(request)
        return reply

    app.middlewares.append(scripted)
    _add_control(app, state)
    _add_openai(app, state)
    _add_anthropic(app, state)
    _add_gemini(app, state)
    return state.forget


def _add_control(app: web.Application, state: _State) -> None:
    async def script(request: web.Request) -> web.Response:
        state.script = BatchScript(**await request.json())
        return web.json_response({})

    async def counts(_: web.Request) -> web.Response:
        return web.json_response(
            {
                "files": len(state.files),
                "batches": len(state.batches),
                "requests": sum(len(batch.requests) for batch in state.batches.values()),
                "asked_twice": sum(count - 1 for count in state.asked.values()),
                "answered": state.answered,
                "cancelled": sum(batch.cancelled for batch in state.batches.values()),
                "sizes": [len(batch.requests) for batch in state.batches.values()],
            }
        )

    app.router.add_post("/batches/script", script)
    app.router.add_get("/batches/counts", counts)


async def _created(request: web.Request, state: _State, body: dict[str, Any]) -> web.Response:
    """The reply to the request that created a batch; it may never arrive."""
    if state.script.drop_create:
        state.script.drop_create -= 1
        if state.script.create_status:
            return web.json_response({"error": {"message": "scripted"}}, status=state.script.create_status)
        assert request.transport is not None
        request.transport.abort()
    return web.json_response(body)


def _of(state: _State, id: str) -> _Batch:
    if state.script.lost or id not in state.batches:
        text = json.dumps({"error": {"message": "no such batch"}})
        raise web.HTTPNotFound(text=text, content_type="application/json")
    return state.batches[id]


# -------------------------------------------------------------------------------------------------------------- OpenAI


def _add_openai(app: web.Application, state: _State) -> None:
    async def upload(request: web.Request) -> web.Response:
        parts: dict[str, tuple[str, bytes]] = {}
        async for part in await request.multipart():  # in memory: an upload may be cut off
            assert isinstance(part, BodyPartReader)
            parts[str(part.name)] = (part.filename or "", bytes(await part.read()))
        id = f"file-{len(state.files) + 1}"
        state.files[id] = parts["file"]
        purpose = parts["purpose"][1].decode()
        return web.json_response({"id": id, "object": "file", "filename": parts["file"][0], "purpose": purpose})

    async def files(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": id, "filename": name} for id, (name, _) in state.files.items()]})

    async def create(request: web.Request) -> web.Response:
        given = await request.json()
        lines = [json.loads(line) for line in state.files[given["input_file_id"]][1].splitlines()]
        requests = [(line["custom_id"], line["body"], "") for line in lines]
        assert {line["url"] for line in lines} == {given["endpoint"]}
        made = state.create(OPENAI, given["metadata"]["dspex_bundle"], requests)
        return await _created(request, state, _openai(made))

    async def listing(_: web.Request) -> web.Response:
        found = [_openai(batch) for batch in reversed(state.batches.values()) if batch.dialect is OPENAI]
        return web.json_response({"data": found, "has_more": False})

    async def one(request: web.Request) -> web.Response:
        batch = _of(state, request.match_info["id"])
        state.look(batch)
        return web.json_response(_openai(batch))

    async def cancel(request: web.Request) -> web.Response:
        batch = _of(state, request.match_info["id"])
        if state.script.keeps:
            return web.json_response({"error": {"message": "it ends"}}, status=400)
        batch.cancelled = True
        return web.json_response(_openai(batch))

    async def content(request: web.Request) -> web.Response:
        batch = _of(state, request.match_info["id"].removeprefix("output-"))
        return web.Response(body=state.read(batch, _openai_line))

    app.router.add_post("/v1/files", upload)
    app.router.add_get("/v1/files", files)
    app.router.add_post("/v1/batches", create)
    app.router.add_get("/v1/batches", listing)
    app.router.add_get("/v1/batches/{id}", one)
    app.router.add_post("/v1/batches/{id}/cancel", cancel)
    app.router.add_get("/v1/files/{id}/content", content)


def _openai(batch: _Batch) -> dict[str, Any]:
    over = batch.results is not None
    status = "in_progress" if not over else "cancelled" if batch.cancelled else "completed"
    output: dict[str, Any] = {"output_file_id": f"output-{batch.id}"} if over else {}
    if batch.failed:
        status, output = "failed", {"errors": {"object": "list", "data": [{"code": "x", "message": batch.failed}]}}
    return {"id": batch.id, "object": "batch", "status": status, "metadata": {"dspex_bundle": batch.name}, **output}


def _openai_line(custom_id: str, status: int, reply: dict[str, Any]) -> dict[str, Any]:
    return {"custom_id": custom_id, "response": {"status_code": status, "body": reply}, "error": None}


# ----------------------------------------------------------------------------------------------------------- Anthropic


def _add_anthropic(app: web.Application, state: _State) -> None:
    async def create(request: web.Request) -> web.Response:
        given = json.loads(await request.text())
        requests = [(each["custom_id"], each["params"], "") for each in given["requests"]]
        return await _created(request, state, _anthropic(state.create(ANTHROPIC, "", requests)))

    async def listing(request: web.Request) -> web.Response:
        mine = [batch for batch in reversed(state.batches.values()) if batch.dialect is ANTHROPIC]
        return web.json_response({"data": [_anthropic(batch) for batch in mine], "has_more": False})

    async def one(request: web.Request) -> web.Response:
        batch = _of(state, request.match_info["id"])
        state.look(batch)
        return web.json_response(_anthropic(batch))

    async def cancel(request: web.Request) -> web.Response:
        batch = _of(state, request.match_info["id"])
        batch.cancelled = True
        return web.json_response(_anthropic(batch))

    async def results(request: web.Request) -> web.Response:
        return web.Response(body=state.read(_of(state, request.match_info["id"]), _anthropic_line))

    app.router.add_post("/v1/messages/batches", create)
    app.router.add_get("/v1/messages/batches", listing)
    app.router.add_get("/v1/messages/batches/{id}", one)
    app.router.add_post("/v1/messages/batches/{id}/cancel", cancel)
    app.router.add_get("/v1/messages/batches/{id}/results", results)


def _anthropic(batch: _Batch) -> dict[str, Any]:
    over = batch.results is not None
    url = f"https://api.anthropic.com/v1/messages/batches/{batch.id}/results"  # as behind a gateway
    return {
        "id": batch.id,
        "processing_status": "ended" if over else "in_progress",
        "request_counts": {"processing": 0 if over else len(batch.requests), "succeeded": len(batch.results or [])},
        "created_at": batch.created_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "results_url": url if over else None,
    }


def _anthropic_line(custom_id: str, status: int, reply: dict[str, Any]) -> dict[str, Any]:
    if status < 400:
        return {"custom_id": custom_id, "result": {"type": "succeeded", "message": reply}}
    return {"custom_id": custom_id, "result": {"type": "errored", "error": reply}}


# -------------------------------------------------------------------------------------------------------------- Gemini


def _add_gemini(app: web.Application, state: _State) -> None:
    async def create(request: web.Request) -> web.Response:
        given = json.loads(await request.text())["batch"]
        model = request.match_info["model"]
        items = given["inputConfig"]["requests"]["requests"]
        requests = [(item["metadata"]["key"], item["request"], model) for item in items]
        return await _created(request, state, _gemini(state.create(GEMINI, given["displayName"], requests)))

    async def listing(_: web.Request) -> web.Response:
        mine = [_gemini(batch) for batch in reversed(state.batches.values()) if batch.dialect is GEMINI]
        return web.json_response({"operations": mine})

    async def one(request: web.Request) -> web.Response:
        batch = _of(state, f"batches/{request.match_info['id']}")
        state.look(batch)
        return web.json_response(_gemini(batch))

    async def cancel(request: web.Request) -> web.Response:
        _of(state, f"batches/{request.match_info['id']}").cancelled = True
        return web.json_response({})

    app.router.add_post(r"/v1beta/models/{model:[^:/]+}:batchGenerateContent", create)
    app.router.add_get("/v1beta/batches", listing)
    app.router.add_get("/v1beta/batches/{id}", one)
    app.router.add_post(r"/v1beta/batches/{id:[^:/]+}:cancel", cancel)


def _gemini(batch: _Batch) -> dict[str, Any]:
    over = batch.results is not None
    state = "RUNNING" if not over else "FAILED" if batch.failed else "CANCELLED" if batch.cancelled else "SUCCEEDED"
    ended = {"error": {"code": 9, "message": batch.failed}} if batch.failed else {"response": _gemini_results(batch)}
    return {
        "name": batch.id,
        "metadata": {"displayName": batch.name, "state": f"BATCH_STATE_{state}"},
        "done": over,
        **(ended if over else {}),
    }


def _gemini_results(batch: _Batch) -> dict[str, Any]:
    results = [*(batch.results or []), *(_errors(batch) if batch.script.twice else [])]
    items = [*_odd(batch.script), *(_gemini_item(*each) for each in results)]
    return {"inlinedResponses": {"inlinedResponses": items}}


def _gemini_item(custom_id: str, status: int, reply: dict[str, Any]) -> dict[str, Any]:
    if status < 400:
        return {"metadata": {"key": custom_id}, "response": reply}
    code = {400: 3, 429: 8}.get(status, 13)
    return {"metadata": {"key": custom_id}, "error": {"code": code, "message": reply["error"]["message"]}}
