"""Media in a request that a provider's API has no place for: refused before the request is sent, and paid for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dspex.errors import ModelError
from dspex.program.media import untaken_media

__all__ = ["refuse_untaken_media"]

#: What lm15's kinds of media are called here.
_KINDS = {"image": "image", "audio": "audio", "document": "file", "video": "video", "binary": "file"}
#: Kinds that a provider of OpenAI's chat API takes as data only.
_BY_DATA = frozenset({"audio", "file"})


def refuse_untaken_media(request: Mapping[str, Any], *, model: str, dialect: str) -> None:
    """``dialect`` is the protocol by which the request is sent. Raises ModelError ``unsupported``."""
    for part in _media(request):
        kind = _KINDS[part["type"]]
        why = untaken_media(dialect, kind)
        if why is None and dialect == "openai-chat" and kind in _BY_DATA and "url" in part:
            why = f"{kind} by address is not passed to it: give it as data and media_type"
        if why is not None:
            raise ModelError(f"model {model!r}: {why}", code="unsupported", retryable=False, model=model)


def _media(request: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for message in request.get("messages", ()):
        for part in message.get("parts", ()):
            if part.get("type") in _KINDS:
                yield part
