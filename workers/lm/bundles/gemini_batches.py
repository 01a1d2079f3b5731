"""Gemini's batch mode, with the requests in the request that creates the batch."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

from lm15.transports import TransportRequest

from workers.lm.bundles.batch_format import BatchResult, Lines, ProviderBatch
from workers.lm.bundles.batch_http import BatchHttp

__all__ = ["GeminiBatches"]

_MODEL = re.compile(r"/(models/[^/:?]+):")
_OVER = frozenset({"SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"})
#: HTTP statuses of google.rpc.Code.
_STATUSES = {1: 499, 3: 400, 4: 504, 5: 404, 7: 403, 8: 429, 9: 400, 13: 500, 14: 503, 16: 401}
_LATE = frozenset({1, 4})
_MOST_PAGES = 20


class GeminiBatches:
    """See :class:`workers.lm.bundles.batch_format.BatchFormat`.

    https://ai.google.dev/gemini-api/docs/batch-mode: at most 20 MB when the requests are not in a file.
    """

    most_requests = 50_000
    most_bytes = 20_000_000
    has_files = False
    has_names = True

    def base(self, request: TransportRequest) -> str:
        return request.url.partition("/models/")[0]

    async def find_upload(self, http: BatchHttp, name: str) -> str | None:
        return None

    async def upload(self, http: BatchHttp, name: str, lines: Lines) -> str:
        raise NotImplementedError

    async def create(self, http: BatchHttp, name: str, file_id: str | None, lines: Lines) -> ProviderBatch:
        model = ""
        async for line in lines():
            found = _MODEL.search(line.request.url)
            model = found[1] if found else ""
            break
        return _state(await http.post(f"{model}:batchGenerateContent", _body(name, lines)))

    async def created(self, http: BatchHttp, name: str) -> AsyncIterator[ProviderBatch]:
        page: dict[str, str] = {}
        for _ in range(_MOST_PAGES):
            found = await http.get("batches", {"pageSize": "100", **page})
            for item in found.get("operations") or []:
                if isinstance(item, dict):
                    yield _state(item)
            if not found.get("nextPageToken"):
                return
            page = {"pageToken": str(found["nextPageToken"])}

    def is_named(self, state: ProviderBatch, name: str) -> bool | None:
        return _metadata(state.body).get("displayName") == _display_name(name)

    async def state(self, http: BatchHttp, provider_id: str) -> ProviderBatch:
        return _state(await http.get(provider_id))

    async def cancel(self, http: BatchHttp, provider_id: str) -> None:
        await http.post(f"{provider_id}:cancel", {})

    async def results(self, http: BatchHttp, state: ProviderBatch) -> AsyncIterator[BatchResult | None]:
        response = state.body.get("response") or {}
        inlined = response.get("inlinedResponses") or []
        if isinstance(inlined, dict):
            inlined = inlined.get("inlinedResponses") or []
        for item in inlined:
            yield _result(item)


def _display_name(name: str) -> str:
    return f"dspex-{name}"


async def _body(name: str, lines: Lines) -> AsyncIterator[bytes]:
    """The request as it is sent, one of its requests after the other."""
    head = json.dumps(_display_name(name)).encode()
    yield b'{"batch": {"displayName": ' + head + b', "inputConfig": {"requests": {"requests": ['
    joint = b""
    async for custom_id, request in lines():
        key = json.dumps({"key": custom_id}).encode()
        yield joint + b'{"request": ' + request.body + b', "metadata": ' + key + b"}"
        joint = b",\n"
    yield b"]}}}}"


def _metadata(body: dict[str, Any]) -> dict[str, Any]:
    metadata = body.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def _state(body: dict[str, Any]) -> ProviderBatch:
    state = str(_metadata(body).get("state", "")).removeprefix("BATCH_STATE_").removeprefix("JOB_STATE_")
    return ProviderBatch(str(body["name"]), state, state in _OVER or bool(body.get("done")), body)


def _result(item: Any) -> BatchResult | None:
    try:
        return _read(item)
    except (TypeError, LookupError, AttributeError):  # a result in another form
        return None


def _read(item: Any) -> BatchResult:
    custom_id = str(item["metadata"]["key"])
    if isinstance(item.get("response"), dict):
        return BatchResult(custom_id, 200, json.dumps(item["response"]).encode())
    error = item.get("error") or {}
    code = error.get("code")
    if code in _LATE:
        return BatchResult(custom_id, 0)
    return BatchResult(custom_id, _STATUSES.get(code or 13, 500), json.dumps({"error": error}).encode())
