"""Model calls whose answers are published while they are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm15 import Response
from lm15.result import AsyncResponseStream

from workers.adapters.contract import Stream
from workers.answers.answer_reader import AnswerReader
from workers.lm.connect.endpoint import Endpoint
from workers.lm.exchange import Exchange

__all__ = ["Preview", "complete_streamed"]


class Preview:
    """The answer of one call, as followers of the run see it."""

    def __init__(self, stream: Stream, exchange: Exchange) -> None:
        self._stream = stream
        self._exchange = exchange
        self._reader: AnswerReader | None = None

    @classmethod
    def of(cls, stream: Stream | None, exchange: Exchange | None) -> Preview | None:
        """The preview of the exchange's next call; None without a follower, or when it does not ask for the program's
        outputs."""
        if stream is None or exchange is None or not exchange.is_followed:
            return None
        return cls(stream, exchange)

    def begin(self) -> AnswerReader:
        """The call is made, for the first time or again: its answer begins."""
        self._reader = self._exchange.reader(self._stream.answer)
        return self._reader

    def reader(self, text: str) -> AnswerReader:
        """The reader of the answer with this text. A replayed answer is published at once."""
        if self._reader is None or self._reader.text != text:
            self.begin().feed(text)
        assert self._reader is not None
        return self._reader


async def complete_streamed(endpoint: Endpoint, request: Mapping[str, Any], preview: Preview) -> Response:
    """As :meth:`Endpoint.complete`, with the answer published as it comes."""
    sent = endpoint.sent(request)
    reader = preview.begin()
    async with AsyncResponseStream(endpoint.client.stream(sent), sent) as events:
        async for text in events:
            reader.feed(text)
        return await events.response()
