"""Model calls whose answers are published while they are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lm15 import Response
from lm15.result import AsyncResponseStream
from lm15.serde import request_from_dict

from workers.adapters.contract import Stream
from workers.answers.incremental import PartialAnswer
from workers.lm.connect.endpoint import Endpoint
from workers.lm.exchange import Exchange
from workers.lm.replay import answer_text

__all__ = ["Preview", "complete_streamed"]


class Preview:
    """The answer of one call, as followers of the run see it."""

    def __init__(self, stream: Stream, reader: Callable[..., PartialAnswer]) -> None:
        self._stream = stream
        self._reader = reader
        self._answer: PartialAnswer | None = None

    @classmethod
    def of(cls, stream: Stream | None, exchange: Exchange | None) -> Preview | None:
        """The preview of the exchange's next call; None without a follower, or when it does not ask for the program's
        outputs."""
        if stream is None or exchange is None or exchange.reader is None:
            return None
        return cls(stream, exchange.reader)

    def begin(self) -> PartialAnswer:
        """The call is made, for the first time or again: its answer begins."""
        self._answer = self._reader(self._stream.answer())
        return self._answer

    def end(self, response: Mapping[str, Any]) -> None:
        """The call is over, with this response in lm15's canonical form; a replayed answer is published at once."""
        if self._answer is None:
            self.begin().feed(answer_text(response))
        assert self._answer is not None
        self._answer.end()


async def complete_streamed(endpoint: Endpoint, request: Mapping[str, Any], preview: Preview) -> Response:
    """As :meth:`Endpoint.complete`, with the answer published as it comes."""
    sent = request_from_dict({**request, "model": endpoint.wire_model})
    answer = preview.begin()
    async with AsyncResponseStream(endpoint.client.stream(sent), sent) as events:
        async for text in events:
            answer.feed(text)
        return await events.response()
