"""Media that a provider's API has no place for: refused before a request is sent."""

from __future__ import annotations

from typing import Any

import pytest

from dspex.errors import ModelError
from workers.lm.connect.request_media import refuse_untaken_media


def part(kind: str, **members: Any) -> dict[str, Any]:
    return {"type": kind, **members}


def refuse(dialect: str, *parts: dict[str, Any]) -> None:
    messages = [{"role": "user", "parts": [part("text", text="What is it?"), *parts]}]
    refuse_untaken_media({"messages": messages}, model="m", dialect=dialect)


@pytest.mark.parametrize(
    ("dialect", "given", "words"),
    [
        ("anthropic", part("audio", media_type="audio/wav", data="AAAA"), "takes no audio: give a transcript as text"),
        ("openai-chat", part("audio", media_type="audio/wav", url="https://x/a.wav"), "give it as data and media_type"),
        ("openai-chat", part("document", media_type="a/pdf", url="https://x/a.pdf"), "give it as data and media_type"),
    ],
)
def test_what_an_api_does_not_take_is_refused_with_what_to_write(
    dialect: str, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(ModelError, match=words) as refused:
        refuse(dialect, given)
    assert (refused.value.code, refused.value.retryable) == ("unsupported", False)


@pytest.mark.parametrize(
    ("dialect", "given"),
    [
        ("anthropic", part("image", media_type="image/png", data="AAAA")),
        ("anthropic", part("document", media_type="application/pdf", url="https://x/a.pdf")),
        ("openai-chat", part("audio", media_type="audio/wav", data="AAAA")),
        ("gemini", part("audio", media_type="audio/wav", url="https://x/a.wav")),
    ],
)
def test_what_an_api_takes_is_sent(dialect: str, given: dict[str, Any]) -> None:
    refuse(dialect, given)
