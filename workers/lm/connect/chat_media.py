"""Audio and files in OpenAI's chat API, which lm15 sends over its other protocols only.

Servers that do not take them refuse the request. A file's own name has no place in lm15's parts: names are an
extension of the request, which :func:`without_names` takes out before it is sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from lm15.providers import openai_chat
from lm15.providers.common import media_data_uri
from lm15.types import AudioPart, DocumentPart, Message

__all__ = ["FILE_NAMES", "install", "without_names"]

_content_parts = openai_chat._chat_content_parts

#: The extension of a request with the names of its files, in order; "" for one without a name.
FILE_NAMES = "dspex_file_names"
#: The names that are left for the request of this context.
_names: ContextVar[Iterator[str] | None] = ContextVar("file_names", default=None)


def install() -> None:
    """Send these parts from now on, in this process."""
    openai_chat._chat_content_parts = _with_media


def without_names(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """The request without the names of its files, which are sent with its files from now on in this context."""
    extensions = request.get("config", {}).get("extensions") or {}
    _names.set(iter(extensions.get(FILE_NAMES, ())))
    if FILE_NAMES not in extensions:
        return request
    others = {name: value for name, value in extensions.items() if name != FILE_NAMES}
    config = {name: value for name, value in request["config"].items() if name != "extensions"}
    return {**request, "config": {**config, **({"extensions": others} if others else {})}}


def _with_media(msg: Message, *, force_array: bool = False, provider: str = "openai-chat") -> Any:
    if msg.role != "user" or not any(_is_ours(part) for part in msg.parts):
        return _content_parts(msg, force_array=force_array, provider=provider)
    content: list[dict[str, Any]] = []
    for part in msg.parts:
        if _is_ours(part):
            content.append(_block(part))
        else:
            alone = Message(role="user", parts=(part,))
            content += _content_parts(alone, force_array=True, provider=provider)  # type: ignore[arg-type]
    return content


def _is_ours(part: Any) -> bool:
    return isinstance(part, AudioPart | DocumentPart) and part.data is not None


def _block(part: Any) -> dict[str, Any]:
    if isinstance(part, AudioPart):
        kind = part.media_type.partition("/")[2].removeprefix("x-")
        return {"type": "input_audio", "input_audio": {"data": _base64(part), "format": _FORMATS.get(kind, kind)}}
    name = next(_names.get() or iter(()), "") or _FILE_NAME
    return {"type": "file", "file": {"file_data": media_data_uri(part), "filename": name}}


def _base64(part: AudioPart) -> str:
    return media_data_uri(part).partition("base64,")[2]


#: OpenAI wants one; LiteLLM, over which DSPy sends files, says this.
_FILE_NAME = "my_file.pdf"
_FORMATS = {"mpeg": "mp3"}
