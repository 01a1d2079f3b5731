"""What a provider's batch API looks like to the leader: the shape that each format has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from lm15.transports import TransportRequest

from workers.lm.bundles.batch_http import BatchHttp
from workers.lm.replies.error_body import read_error

__all__ = ["BatchFormat", "BatchResult", "Line", "Lines", "ProviderBatch"]


class Line(NamedTuple):
    """A request of a bundle: its name, and the request that an ordinary call would send."""

    custom_id: str
    request: TransportRequest


#: Begins to read the requests of a bundle; it can be called again.
Lines = Callable[[], AsyncIterator[Line]]


@dataclass(frozen=True, slots=True)
class ProviderBatch:
    """A batch at the provider. ``state`` is the provider's word; ``body`` is its whole description."""

    provider_id: str
    state: str
    is_over: bool
    body: dict[str, Any]

    @property
    def reason(self) -> str:
        """Why the provider did not carry it out, in its words."""
        errors = self.body.get("errors")
        listed = errors.get("data") if isinstance(errors, dict) else errors
        return "; ".join(read_error({"error": self.body.get("error"), "errors": listed}).texts)


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What came of a request: the reply of an ordinary call, or nothing in time (``status`` is 0)."""

    custom_id: str
    status: int
    body: bytes = b""


class BatchFormat(Protocol):
    """A provider's batch API. Methods raise BatchRefused and BatchUnreachable.

    ``has_files``: requests are uploaded before the batch is created, which costs nothing. ``has_names``: a batch can be
    found by the name that it was given.
    """

    most_requests: int
    most_bytes: int
    has_files: bool
    has_names: bool

    def base(self, request: TransportRequest) -> str:
        """The address of the API, from the request of an ordinary call."""
        ...

    async def find_upload(self, http: BatchHttp, name: str) -> str | None:
        """The id of a file that was uploaded under this name."""
        ...

    async def upload(self, http: BatchHttp, name: str, lines: Lines) -> str:
        """Upload the requests. Returns the id of the file."""
        ...

    async def create(self, http: BatchHttp, name: str, file_id: str | None, lines: Lines) -> ProviderBatch:
        """Create the batch, which costs money."""
        ...

    def created(self, http: BatchHttp, name: str) -> AsyncIterator[ProviderBatch]:
        """The batches at the provider that may be the one of this name, the newest first."""
        ...

    def is_named(self, state: ProviderBatch, name: str) -> bool | None:
        """Whether a batch has this name; None where batches have no names."""
        ...

    async def state(self, http: BatchHttp, provider_id: str) -> ProviderBatch: ...

    async def cancel(self, http: BatchHttp, provider_id: str) -> None: ...

    def results(self, http: BatchHttp, state: ProviderBatch) -> AsyncIterator[BatchResult | None]:
        """The results of a batch that is over; None for one that cannot be read."""
        ...
