"""The forms of replies: OpenAI's chat API, Anthropic's and Google's. Each is checked, and brought into the form that
lm15 reads: a whole reply, and the events of a stream.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from lm15.providers.common import openai_token_logprobs

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
    }

    def whole(self, body: Body) -> Body:
        body = _without_error(body)
        choice = _choice(body)
        if choice is None or not isinstance(choice.get("message"), dict):
            raise fault_of(body, NO_ANSWER)
        message = _message(choice["message"])
        why = choice.get("finish_reason")
        if message.get("tool_calls") and ending(why) in ("complete", "unknown"):
            why = "tool_calls"
        choices = [{**choice, "message": message, "finish_reason": _word(self._WORDS, why)}]
        return {**body, "choices": choices, "usage": plain_usage(body.get("usage"), CHAT)}

    def event(self, body: Body) -> tuple[Body, bool]:
        body = _without_error(body)
        checked = {**body, "usage": plain_usage(body.get("usage"), CHAT)} if "usage" in body else body
        choice = _choice(body)
        if choice is None:
            return ({**checked, "choices": []} if body.get("choices") else checked), False
        if not choice.get("delta") and isinstance(choice.get("message"), dict):
            return next(self.events(body)), True  # a whole reply as one event
        delta = _message(choice["delta"]) if isinstance(choice.get("delta"), dict) else {}
        why = choice.get("finish_reason")
        if not why or why in ("null", "none"):
            why = None
        if why is None and checked is body and body["choices"][0] is choice and choice.get("delta") is delta:
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
    }

    def whole(self, body: Body) -> Body:
        body = _without_error(body)
        content = body.get("content")
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        if not isinstance(content, list):
            raise fault_of(body, NO_ANSWER)
        why = _word(self._WORDS, body.get("stop_reason"))
        return {**body, "content": content, "stop_reason": why, "usage": plain_usage(body.get("usage"), CLAUDE)}

    def event(self, body: Body) -> tuple[Body, bool]:
        body = _without_error(body)
        if body.get("type") != "message_delta":
            return body, False
        checked = {**body, "usage": plain_usage(body.get("usage"), CLAUDE)}
        delta = body.get("delta")
        if not isinstance(delta, dict) or not delta.get("stop_reason"):
            return checked, False
        return {**checked, "delta": {**delta, "stop_reason": _word(self._WORDS, delta["stop_reason"])}}, True

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
        body = _without_error(body)
        feedback = body.get("promptFeedback")
        blocked = feedback.get("blockReason") if isinstance(feedback, dict) else None
        if blocked and blocked != "BLOCK_REASON_UNSPECIFIED":
            raise ReplyFault(rule=FILTER, provider_code="promptFeedback")
        checked = dict(body)
        if "usageMetadata" in body:
            checked["usageMetadata"] = plain_usage(body["usageMetadata"], GOOGLE)
        if not is_whole and not body.get("candidates"):
            return checked, False
        candidates = body.get("candidates")
        candidate = candidates[0] if isinstance(candidates, list) and candidates else None
        if not isinstance(candidate, dict):
            raise fault_of(body, NO_ANSWER)
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


def _without_error(body: Body) -> Body:
    """The body without an ``error`` that states none, which lm15 would take for one. Raises ReplyFault for one."""
    if error_in(body):
        raise fault_of(body, SERVER)
    return {**body, "error": None} if body.get("error") is not None else body


def _choice(body: Body) -> Body | None:
    """The first choice: requests ask for one. Choices with another index have no part in it."""
    choices = body.get("choices")
    if not isinstance(choices, list):
        return None
    found = next((choice for choice in choices if isinstance(choice, dict) and _is_first(choice)), None)
    if found is None:
        return None
    found = _without_error(found)
    return found if found.get("logprobs") is None or _are_readable(found["logprobs"]) else {**found, "logprobs": None}


def _is_first(choice: Body) -> bool:
    index = choice.get("index")
    return not isinstance(index, int) or index <= 0


def _are_readable(logprobs: object) -> bool:
    """Whether lm15 can read the probabilities of the tokens. An answer is not lost for them."""
    try:
        openai_token_logprobs(logprobs.get("content") if isinstance(logprobs, dict) else None)
    except (TypeError, ValueError, AttributeError):
        return False
    return True


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


def _message(given: Body) -> Body:
    """A message, or a piece of one in a stream, as lm15 reads it."""
    if given.get("refusal"):
        raise ReplyFault(rule=REFUSED)
    changed: Body = {}
    if not (given.get("content") is None or isinstance(given["content"], str)):
        changed["content"] = _chat_text(given["content"])
    if given.get("tool_calls") is not None:
        changed["tool_calls"] = _calls(given["tool_calls"])
    return {**given, **changed} if changed else given


def _chat_text(content: object) -> str:
    """The text of a message that is in parts, or the JSON that it is."""
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
    if part.get("type") == "refusal":
        raise ReplyFault(rule=REFUSED)
    text = part.get("text")
    return text if isinstance(text, str) and part.get("type", "text").endswith("text") else ""


def _calls(calls: object) -> list[Any]:
    """Calls of tools, whose arguments are JSON as text."""
    if not isinstance(calls, list):
        raise ReplyFault(rule=UNREADABLE)
    return [_call(call) if isinstance(call, dict) else call for call in calls]


def _call(call: Body) -> Body:
    function = call.get("function")
    arguments = function.get("arguments") if isinstance(function, dict) else None
    if arguments is None or isinstance(arguments, str):
        return call
    return {**call, "function": {**call["function"], "arguments": json.dumps(arguments)}}
