"""OpenAI's batch API, which compatible servers have, too: a file, then a batch of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from lm15.transports import TransportRequest
from yarl import URL

from workers.lm.bundles.batch_format import BatchResult, Lines, ProviderBatch
from workers.lm.bundles.batch_http import BatchHttp

__all__ = ["OpenAIBatches"]

_OVER = frozenset({"completed", "failed", "expired", "cancelled"})
#: Errors of requests that the provider did not come to.
_LATE = frozenset({"batch_expired", "batch_cancelled", "batch_canceled"})
#: The metadata of a batch that names its bundle.
_NAME = "dspex_bundle"
_MOST_PAGES = 20


class OpenAIBatches:
    """See :class:`workers.lm.bundles.batch_format.BatchFormat`.

    https://platform.openai.com/docs/guides/batch: at most 50,000 requests and 200 MB.
    """

    most_requests = 50_000
    most_bytes = 200_000_000
    has_files = True
    has_names = True

    def base(self, request: TransportRequest) -> str:
        return request.url.partition("?")[0].removesuffix("/chat/completions").removesuffix("/responses")

    async def find_upload(self, http: BatchHttp, name: str) -> str | None:
        found = await http.get("files", {"purpose": "batch", "limit": "1000", "order": "desc"})
        ids = [file["id"] for file in _items(found) if file.get("filename") == _file_name(name)]
        return str(ids[0]) if ids else None

    async def upload(self, http: BatchHttp, name: str, lines: Lines) -> str:
        form = aiohttp.FormData()
        form.add_field("purpose", "batch")
        form.add_field("file", _file(lines), filename=_file_name(name), content_type="application/jsonl")
        return str((await http.upload("files", form))["id"])

    async def create(self, http: BatchHttp, name: str, file_id: str | None, lines: Lines) -> ProviderBatch:
        endpoint = ""
        async for line in lines():
            endpoint = _endpoint(line.request.url)
            break
        body = {
            "input_file_id": file_id,
            "endpoint": endpoint,
            "completion_window": "24h",
            "metadata": {_NAME: name},
        }
        return _state(await http.post("batches", body, {"Idempotency-Key": name}))

    async def created(self, http: BatchHttp, name: str) -> AsyncIterator[ProviderBatch]:
        after: dict[str, str] = {}
        for _ in range(_MOST_PAGES):
            found = await http.get("batches", {"limit": "100", **after})
            items = _items(found)
            for item in items:
                yield _state(item)
            if not found.get("has_more") or not items:
                return
            after = {"after": str(items[-1]["id"])}

    def is_named(self, state: ProviderBatch, name: str) -> bool | None:
        metadata = state.body.get("metadata")
        return isinstance(metadata, dict) and metadata.get(_NAME) == name

    async def state(self, http: BatchHttp, provider_id: str) -> ProviderBatch:
        return _state(await http.get(f"batches/{provider_id}"))

    async def cancel(self, http: BatchHttp, provider_id: str) -> None:
        await http.post(f"batches/{provider_id}/cancel", {})

    async def results(self, http: BatchHttp, state: ProviderBatch) -> AsyncIterator[BatchResult | None]:
        for member in ("output_file_id", "error_file_id"):
            if file_id := state.body.get(member):
                async for line in http.lines(f"files/{file_id}/content"):
                    yield _result(line)


def _file_name(name: str) -> str:
    return f"dspex-{name}.jsonl"


async def _file(lines: Lines) -> AsyncIterator[bytes]:
    async for custom_id, request in lines():
        head = {"custom_id": custom_id, "method": "POST", "url": _endpoint(request.url)}
        yield json.dumps(head).encode()[:-1] + b', "body": ' + request.body + b"}\n"


def _endpoint(url: str) -> str:
    """The path of the API behind the version, as batches name it."""
    return "/v1/responses" if URL(url).path.endswith("/responses") else "/v1/chat/completions"


def _items(found: dict[str, Any]) -> list[dict[str, Any]]:
    items = found.get("data")
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _state(body: dict[str, Any]) -> ProviderBatch:
    state = str(body.get("status", ""))
    return ProviderBatch(str(body["id"]), state, state in _OVER, body)


def _result(line: bytes) -> BatchResult | None:
    try:
        return _read(json.loads(line))
    except (ValueError, TypeError, LookupError, AttributeError):  # a result in another form
        return None


def _read(found: Any) -> BatchResult:
    custom_id, response, error = str(found["custom_id"]), found.get("response"), found.get("error")
    if isinstance(error, dict) and error.get("code") in _LATE:
        return BatchResult(custom_id, 0)
    if isinstance(response, dict) and "body" in response:
        return BatchResult(custom_id, int(response.get("status_code") or 200), json.dumps(response["body"]).encode())
    return BatchResult(custom_id, 500, json.dumps({"error": error or {"message": "no response"}}).encode())
