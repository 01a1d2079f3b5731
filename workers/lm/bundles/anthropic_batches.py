"""Anthropic's message batches: one request creates a batch. Batches have no names."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from lm15.transports import TransportRequest

from workers.lm.bundles.batch_format import BatchResult, Lines, ProviderBatch
from workers.lm.bundles.batch_http import BatchHttp

__all__ = ["AnthropicBatches"]

#: HTTP statuses of the types of errors: https://docs.anthropic.com/en/api/errors
_STATUSES = {
    "invalid_request_error": 400, "authentication_error": 401, "permission_error": 403, "not_found_error": 404,
    "request_too_large": 413, "rate_limit_error": 429, "api_error": 500, "overloaded_error": 529,
}  # fmt: skip
_MOST_PAGES = 20


class AnthropicBatches:
    """See :class:`workers.lm.bundles.batch_format.BatchFormat`.

    https://docs.anthropic.com/en/docs/build-with-claude/batch-processing: at most 100,000 requests and 256 MB.
    """

    most_requests = 100_000
    most_bytes = 256_000_000
    has_files = False
    has_names = False

    def base(self, request: TransportRequest) -> str:
        return request.url.partition("?")[0].removesuffix("/messages")

    async def find_upload(self, http: BatchHttp, name: str) -> str | None:
        return None

    async def upload(self, http: BatchHttp, name: str, lines: Lines) -> str:
        raise NotImplementedError

    async def create(self, http: BatchHttp, name: str, file_id: str | None, lines: Lines) -> ProviderBatch:
        return _state(await http.post("messages/batches", _body(lines)))

    async def created(self, http: BatchHttp, name: str) -> AsyncIterator[ProviderBatch]:
        after: dict[str, str] = {}
        for _ in range(_MOST_PAGES):
            found = await http.get("messages/batches", {"limit": "100", **after})
            items = [item for item in found.get("data") or [] if isinstance(item, dict)]
            for item in items:
                yield _state(item)
            if not found.get("has_more") or not items:
                return
            after = {"after_id": str(items[-1]["id"])}

    def is_named(self, state: ProviderBatch, name: str) -> bool | None:
        return None

    async def state(self, http: BatchHttp, provider_id: str) -> ProviderBatch:
        return _state(await http.get(f"messages/batches/{provider_id}"))

    async def cancel(self, http: BatchHttp, provider_id: str) -> None:
        await http.post(f"messages/batches/{provider_id}/cancel", {})

    async def results(self, http: BatchHttp, state: ProviderBatch) -> AsyncIterator[BatchResult | None]:
        # Not its `results_url`: behind a gateway that names Anthropic's own host, which must not get the gateway's key.
        async for line in http.lines(f"messages/batches/{state.provider_id}/results"):
            yield _result(line)


async def _body(lines: Lines) -> AsyncIterator[bytes]:
    """The request as it is sent, one of its requests after the other."""
    yield b'{"requests": ['
    joint = b""
    async for custom_id, request in lines():
        yield joint + b'{"custom_id": ' + json.dumps(custom_id).encode() + b', "params": ' + request.body + b"}"
        joint = b",\n"
    yield b"]}"


def _state(body: dict[str, Any]) -> ProviderBatch:
    state = str(body.get("processing_status", ""))
    return ProviderBatch(str(body["id"]), state, state == "ended", body)


def _result(line: bytes) -> BatchResult | None:
    try:
        return _read(json.loads(line))
    except (ValueError, TypeError, LookupError, AttributeError):  # a result in another form
        return None


def _read(found: Any) -> BatchResult:
    custom_id, result = str(found["custom_id"]), found["result"]
    kind = result["type"]
    if kind == "succeeded":
        return BatchResult(custom_id, 200, json.dumps(result.get("message")).encode())
    if kind == "errored":
        error: dict[str, Any] = result.get("error") or {}
        inner: dict[str, Any] = error["error"] if isinstance(error.get("error"), dict) else error
        status = _STATUSES.get(str(inner.get("type")), 500)
        return BatchResult(custom_id, status, json.dumps({"type": "error", "error": inner}).encode())
    return BatchResult(custom_id, 0)
