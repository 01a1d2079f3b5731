"""Text stays text: DSPy's markers of media in an input, a demo or a tool's result are sent to the model as they stand.

DSPy writes an image into a prompt as ``<<CUSTOM-TYPE-START-IDENTIFIER>>[…]<<CUSTOM-TYPE-END-IDENTIFIER>>``, and makes a
part of the request of whatever stands between such markers, also when a user typed them: an image at ``file:///…`` or
at an address inside the network. So markers in text are escaped before DSPy looks for its own, and restored afterwards.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

import dspy
from dspy.adapters.types.base_type import CUSTOM_TYPE_END_IDENTIFIER, CUSTOM_TYPE_START_IDENTIFIER
from dspy.adapters.utils import serialize_for_json

__all__ = ["UserTextPrompt", "stored_media"]

#: What both markers begin with, before and after the place where the escape goes.
_HEAD, _TAIL = "<<CUSTOM", "-TYPE-"
_MARKER = re.compile(rf"{_HEAD}(~*){_TAIL}")
_ESCAPED = re.compile(rf"{_HEAD}~(~*){_TAIL}")
_ADDRESS = re.compile(r"https?://|data:")


class UserTextPrompt:
    """Put before a prompt, it keeps text in the values of fields from becoming anything but text.

    Not a ``dspy.Adapter`` itself: DSPy gives each of those a ``parse`` of its own, which would hide the prompt's.
    """

    def format(
        self, signature: type[dspy.Signature], demos: list[dict[str, Any]], inputs: dict[str, Any]
    ) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = inspect.unwrap(super().format.__func__)(self, signature, demos, inputs)  # type: ignore[misc]
        for message in messages:
            if message["role"] == "user":  # DSPy looks for markers in these only, so only these are escaped
                message["content"] = _restored(message["content"])
        return messages

    def format_user_message_content(
        self, signature: type[dspy.Signature], inputs: dict[str, Any], *rest: Any, **named: Any
    ) -> str:
        """The content, with the markers of text escaped. An agent's steps so far come through here twice."""
        write = super().format_user_message_content  # type: ignore[misc]
        content: str = write(signature, inputs, *rest, **named)
        if _HEAD not in content:
            return content
        return _Escaped(write(signature, {name: _escaped(value) for name, value in inputs.items()}, *rest, **named))


class _Escaped(str):
    """Text whose markers are escaped already, except the markers of media."""

    __slots__ = ()


def stored_media(text: str) -> dspy.Image | dspy.Audio | None:
    """The image or audio that a saved state has in an example, as DSPy saves it; None for any other text."""
    if not _is_media(text):
        return None
    payload = text.removeprefix(CUSTOM_TYPE_START_IDENTIFIER).removesuffix(CUSTOM_TYPE_END_IDENTIFIER)
    try:
        match json.loads(payload):
            case [{"type": "image_url", "image_url": {"url": str(url)}}] if _ADDRESS.match(url):
                return dspy.Image(url=url)
            case [{"type": "input_audio", "input_audio": {"data": str(data), "format": str(kind)}}]:
                return dspy.Audio(data=data, audio_format=kind)
    except (ValueError, RecursionError):
        pass
    return None


def _escaped(value: Any) -> Any:
    """The value with the markers in its texts and keys escaped, and media written as DSPy writes them."""
    match value:
        case _Escaped():
            return str(value)
        case str():
            return _escaped_text(value)
        case list():
            return [_escaped(item) for item in value]
        case tuple():
            return tuple(map(_escaped, value))
        case dict():
            return {_escaped(name): _escaped(item) for name, item in value.items()}
    plain = serialize_for_json(value)
    return _escaped_leaves(plain, frozenset(_media_in(value, set()))) if _HEAD in str(plain) else value


def _escaped_leaves(plain: Any, media: frozenset[str]) -> Any:
    match plain:
        case str() if plain in media:
            inner = plain.removeprefix(CUSTOM_TYPE_START_IDENTIFIER).removesuffix(CUSTOM_TYPE_END_IDENTIFIER)
            return CUSTOM_TYPE_START_IDENTIFIER + _escaped_text(inner) + CUSTOM_TYPE_END_IDENTIFIER
        case str():
            return _escaped_text(plain)
        case list():
            return [_escaped_leaves(item, media) for item in plain]
        case dict():
            return {_escaped(name): _escaped_leaves(item, media) for name, item in plain.items()}
    return plain


def _media_in(value: Any, seen: set[int]) -> Iterator[str]:
    """How DSPy writes the media that are in an object of a program's own class."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, dspy.Type):
        text = serialize_for_json(value)
        if isinstance(text, str) and _is_media(text):
            yield text
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple | set) else ()
    for item in (*inner, *getattr(value, "__dict__", {}).values()):
        yield from _media_in(item, seen)


def _is_media(text: str) -> bool:
    return text.startswith(CUSTOM_TYPE_START_IDENTIFIER) and text.endswith(CUSTOM_TYPE_END_IDENTIFIER)


def _escaped_text(text: str) -> str:
    return _MARKER.sub(rf"{_HEAD}~\1{_TAIL}", text)


def _restored(content: Any) -> Any:
    """The content, a text or parts, with the text of its markers as it was."""
    match content:
        case str():
            return _ESCAPED.sub(rf"{_HEAD}\1{_TAIL}", content)
        case list():
            return [_restored(item) for item in content]
        case dict():
            return {_restored(name): _restored(item) for name, item in content.items()}
    return content
