"""The forms of replies: OpenAI's chat API, Anthropic's and Google's. Each is checked, and brought into the form that
lm15 reads: a whole reply, and the events of a stream.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from workers.lm.replies.call_notes import current_notes
from workers.lm.replies.error_body import error_in, read_error
from workers.lm.replies.error_rules import (
    ABORTED,
    FILTER,
    GARBLED,
    NO_ANSWER,
    REFUSED,
    SERVER,
    STREAM,
    UNREADABLE,
    ErrorRule,
)
from workers.lm.replies.finish_reasons import Ending, ending
from workers.lm.replies.reply_fault import ReplyFault
from workers.lm.replies.usage_counts import CHAT, CLAUDE, GOOGLE, plain_usage

__all__ = ["FORMS", "ReplyForm", "StreamCheck"]

Body = dict[str, Any]
#: An event of a stream has one of these.
_EVENTS = frozenset({"choices", "candidates", "usage", "usageMetadata", "id", "object", "type", "promptFeedback"})


class ReplyForm(Protocol):
    """One provider's protocol. Every method raises ReplyFault for what is no answer."""

    def whole(self, body: Body) -> Body:
        """The reply, checked."""
        ...

    def event(self, body: Body) -> tuple[Body, bool]:
        """An event of a stream, checked, and whether it says why the answer ended."""
        ...

    def events(self, body: Body) -> Iterator[Body]:
        """A whole reply, checked, as the events of a stream."""
        ...


class StreamCheck:
    """Checks one stream: its events, and that it said why it ended."""

    def __init__(self, form: ReplyForm) -> None:
        self._form = form
        self.is_finished = False

    def event(self, body: object, *, is_error: bool = False) -> Body | None:
        """The event to pass on. Once the answer is complete, nothing takes it back."""
        if not isinstance(body, dict):
            if is_error and not self.is_finished:
                raise fault_of(body, SERVER)
            return None
        if self.is_finished and (is_error or error_in(body)):
            return None
        if is_error or not _EVENTS.intersection(body):
            raise fault_of(body, SERVER)
        checked, is_last = self._form.event(body)
        self.is_finished |= is_last
        return checked

    def end(self) -> None:
        """The stream is over."""
        if not self.is_finished:
            raise ReplyFault(rule=STREAM)


class ChatForm:
    """OpenAI's chat API, as many servers give it."""

    _WORDS: Mapping[Ending, str] = {
        "complete": "stop",
        "cut": "length",
        "unknown": "length",
        "tool_call": "tool_calls",
        "filtered": "content_filter",
    }

    def whole(self, body: Body) -> Body:
        _refuse_errors(body)
        choice = _first(body, "choices")
        _refuse_errors(choice)
        message = choice.get("message")
        if not isinstance(message, dict):
            raise fault_of(body, NO_ANSWER)
        message = {**message, "content": _chat_text(message.get("content")), **_calls(message)}
        why = choice.get("finish_reason")
        calls = message.get("tool_calls")
        why = "tool_calls" if calls and ending(why) in ("complete", "unknown") else _word(self._WORDS, why)
        if calls and why == "length":
            _refuse_cut_calls(calls)
        choices = [{**choice, "message": message, "finish_reason": why}]
        return {**body, "choices": choices, "usage": plain_usage(body.get("usage"), CHAT)}

    def event(self, body: Body) -> tuple[Body, bool]:
        _refuse_errors(body)
        checked = {**body, "usage": plain_usage(body.get("usage"), CHAT)} if "usage" in body else body
        choices = body.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            return checked, False
        choice = choices[0]
        _refuse_errors(choice)
        delta = choice.get("delta")
        if isinstance(delta, dict):
            if delta.get("refusal"):
                raise ReplyFault(rule=REFUSED)
            if isinstance(delta.get("content"), list | dict):
                delta = {**delta, "content": _chat_text(delta["content"])}
        why = choice.get("finish_reason")
        if not why and delta is choice.get("delta") and checked is body:
            return body, False  # most events
        word = _word(self._WORDS, why) if why else None
        return {**checked, "choices": [{**choice, "delta": delta, "finish_reason": word}]}, bool(why)

    def events(self, body: Body) -> Iterator[Body]:
        whole = self.whole(body)
        choice = whole["choices"][0]
        calls = choice["message"].get("tool_calls") or []
        delta = {**choice["message"], "tool_calls": [{**call, "index": at} for at, call in enumerate(calls)]}
        yield {**whole, "choices": [{**choice, "delta": delta}]}


class ClaudeForm:
    """Anthropic's messages."""

    _WORDS: Mapping[Ending, str] = {
        "complete": "end_turn",
        "cut": "max_tokens",
        "unknown": "max_tokens",
        "tool_call": "tool_use",
        "filtered": "refusal",
    }

    def whole(self, body: Body) -> Body:
        _refuse_errors(body)
        content = body.get("content")
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        if not isinstance(content, list):
            raise fault_of(body, NO_ANSWER)
        why = _word(self._WORDS, body.get("stop_reason"))
        return {**body, "content": content, "stop_reason": why, "usage": plain_usage(body.get("usage"), CLAUDE)}

    def event(self, body: Body) -> tuple[Body, bool]:
        _refuse_errors(body)
        if body.get("type") != "message_delta":
            return body, False
        delta = body.get("delta")
        why = delta.get("stop_reason") if isinstance(delta, dict) else None
        if not why:
            return {**body, "usage": plain_usage(body.get("usage"), CLAUDE)}, False
        delta = {**delta, "stop_reason": _word(self._WORDS, why)}
        return {**body, "delta": delta, "usage": plain_usage(body.get("usage"), CLAUDE)}, True

    def events(self, body: Body) -> Iterator[Body]:
        whole = self.whole(body)
        yield {"type": "message_start", "message": whole}
        for index, block in enumerate(whole["content"]):
            if not isinstance(block, dict):
                continue
            yield {"type": "content_block_start", "index": index, "content_block": block}
            for kind, name in (("text_delta", "text"), ("thinking_delta", "thinking")):
                if block.get(name):
                    yield {"type": "content_block_delta", "index": index, "delta": {"type": kind, name: block[name]}}
        yield {
            "type": "message_delta",
            "delta": {"stop_reason": whole["stop_reason"]},
            "usage": whole["usage"],
        }
        yield {"type": "message_stop"}


class GoogleForm:
    """Gemini's generateContent."""

    _WORDS: Mapping[Ending, str] = {
        "complete": "STOP",
        "cut": "MAX_TOKENS",
        "unknown": "MAX_TOKENS",
        "tool_call": "STOP",
    }

    def whole(self, body: Body) -> Body:
        checked, _ = self._checked(body, is_whole=True)
        return checked

    def event(self, body: Body) -> tuple[Body, bool]:
        return self._checked(body, is_whole=False)

    def events(self, body: Body) -> Iterator[Body]:
        yield self.whole(body)

    def _checked(self, body: Body, *, is_whole: bool) -> tuple[Body, bool]:
        _refuse_errors(body)
        feedback = body.get("promptFeedback")
        blocked = feedback.get("blockReason") if isinstance(feedback, dict) else None
        if blocked and blocked != "BLOCK_REASON_UNSPECIFIED":
            raise ReplyFault(rule=FILTER, provider_code="promptFeedback")
        checked = dict(body)
        if "usageMetadata" in body:
            checked["usageMetadata"] = plain_usage(body["usageMetadata"], GOOGLE)
        if not is_whole and not body.get("candidates"):
            return checked, False
        candidate = _first(body, "candidates")
        why = candidate.get("finishReason")
        if not why and not is_whole:
            return checked, False
        candidate = {**candidate, "finishReason": _word(self._WORDS, why)}
        return {**checked, "candidates": [candidate]}, True


#: By lm15's name of the protocol.
FORMS: Mapping[str, ReplyForm] = {"openai-chat": ChatForm(), "anthropic": ClaudeForm(), "gemini": GoogleForm()}


def fault_of(body: object, rule: ErrorRule) -> ReplyFault:
    """The fault that a reply with a status of success describes; ``rule`` if it does not say what went wrong."""
    found = read_error(body)
    meant = found.rule(200)
    return ReplyFault(found.text, rule=rule if meant is SERVER else meant, provider_code=found.code)


def _refuse_errors(body: Body) -> None:
    if error_in(body):
        raise fault_of(body, SERVER)


def _first(body: Body, name: str) -> Body:
    """The answer, of which there may be several."""
    found = body.get(name)
    if not isinstance(found, list) or not found or not isinstance(found[0], dict):
        raise fault_of(body, NO_ANSWER)
    return found[0]


def _word(words: Mapping[Ending, str], why: object) -> str:
    """The word that lm15 knows. Raises ReplyFault for an answer that is not one."""
    meaning = ending(why)
    if meaning == "unknown":
        notes = current_notes.get()
        if notes is not None:
            notes.finish_reason = why if isinstance(why, str) and why.isidentifier() and len(why) < 64 else "none"
    if meaning in words:
        return words[meaning]
    rules = {"broken_off": ABORTED, "garbled": GARBLED, "filtered": FILTER}
    raise ReplyFault(rule=rules[meaning], provider_code=str(why))


def _chat_text(content: object) -> str | None:
    """The text of a message, which some servers give in parts or as the JSON that it is."""
    if content is None or isinstance(content, str):
        return content
    if isinstance(content, dict):
        return json.dumps(content, ensure_ascii=False)
    if isinstance(content, list):
        return "".join(map(_part_text, content))
    raise ReplyFault(rule=UNREADABLE)


def _part_text(part: object) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or not isinstance(part.get("type", "text"), str):
        raise ReplyFault(rule=UNREADABLE)
    text = part.get("text")
    return text if isinstance(text, str) and part.get("type", "text").endswith("text") else ""


def _calls(message: Body) -> Body:
    calls = message.get("tool_calls")
    if calls is None:
        return {}
    if not isinstance(calls, list):
        raise ReplyFault(rule=UNREADABLE)
    return {"tool_calls": calls}


def _refuse_cut_calls(calls: list[Any]) -> None:
    """A call of a tool whose arguments were cut off is no call."""
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        arguments = function.get("arguments") if isinstance(function, dict) else None
        if isinstance(arguments, str):
            try:
                json.loads(arguments)
            except ValueError:
                raise ReplyFault(rule=GARBLED) from None
