"""What becomes of a reply, byte by byte: an answer, or the right error."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from lm15 import Response

from dspex.errors import ModelError
from tests.raw_replies import RawReply, chat, events, failure, read
from workers.attempt.fallback import may_fall_back
from workers.lm.cost import is_usage_known
from workers.lm.model_errors import model_error
from workers.lm.replies.finish_reasons import ENDINGS, ending
from workers.lm.replies.reply_fault import ReplyFault
from workers.lm.replies.retry_after import asked_delay
from workers.lm.replies.schema_keywords import RefusedKeywords, with_reduced_schema

BOTH = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])


def piece(text: str | None = None, finish_reason: Any = None, **more: Any) -> dict[str, Any]:
    delta = {} if text is None else {"content": text}
    return {
        "id": "1",
        "model": "test",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
        **more,
    }


def text_of(response: Response) -> str:
    return str(response.text)


# ------------------------------------------------------------------------------------------- why an answer ended


def streamed_or_whole(finish_reason: Any, streamed: bool) -> RawReply:
    body = events(piece("Par"), piece("is", finish_reason)) if streamed else chat("Paris", finish_reason)
    return RawReply(body)


@BOTH
@pytest.mark.case("lm-12-finish-reason-abort-or-error")
@pytest.mark.parametrize(
    "word",
    ["abort", "error", "insufficient_system_resource", "network_error", "cancelled", "engine_overloaded_try_later"],
)
async def test_an_answer_that_the_provider_broke_off_is_none(word: str, streamed: bool) -> None:
    error = await failure(streamed_or_whole(word, streamed), streamed=streamed)
    assert (error.code, error.retryable) == ("provider_unavailable", True)


@BOTH
@pytest.mark.case("lm-12-finish-reason-abort-or-error")
@pytest.mark.parametrize("word", ["length", "max_tokens", "model_length", "MAX_TOKENS", "repetition", "token_budget"])
async def test_a_limit_by_any_name_cuts_the_answer(word: str, streamed: bool) -> None:
    response, notes = await read(streamed_or_whole(word, streamed), streamed=streamed)
    assert (text_of(response), response.finish_reason, notes.finish_reason) == ("Paris", "length", None)


@BOTH
@pytest.mark.parametrize("word", ["stop", "eos_token", "end_turn", "COMPLETE"])
async def test_a_complete_answer_by_any_name(word: str, streamed: bool) -> None:
    response, _ = await read(streamed_or_whole(word, streamed), streamed=streamed)
    assert (text_of(response), response.finish_reason) == ("Paris", "stop")


@pytest.mark.case("lm-12-finish-reason-abort-or-error")
@pytest.mark.parametrize(("word", "noted"), [("banana", "banana"), (None, "none"), ("", "none"), (7, "none")])
async def test_an_answer_is_complete_only_if_the_provider_says_so(word: Any, noted: str) -> None:
    response, notes = await read(RawReply(chat("Paris", word)))
    assert (response.finish_reason, notes.as_data()) == ("length", {"finish_reason": noted})


@BOTH
@pytest.mark.parametrize("word", ["content_filter", "sensitive", "SAFETY"])
async def test_an_answer_that_was_withheld(word: str, streamed: bool) -> None:
    error = await failure(streamed_or_whole(word, streamed), streamed=streamed)
    assert (error.code, error.retryable) == ("content_filtered", False)


@pytest.mark.parametrize("word", ENDINGS)
def test_every_word_means_one_thing(word: str) -> None:
    assert ending(word.upper()) == ENDINGS[word]


def calling(arguments: Any, finish_reason: Any, streamed: bool) -> RawReply:
    call = {"index": 0, "id": "1", "type": "function", "function": {"name": "pay", "arguments": arguments}}
    message = {"role": "assistant", "tool_calls": [call]}
    if not streamed:
        body = chat(None, finish_reason)
        body["choices"][0]["message"] = message
        return RawReply(body)
    return RawReply(events({"id": "1", "choices": [{"delta": message}]}, piece(None, finish_reason)))


@BOTH
@pytest.mark.parametrize("word", ["length", "tool_calls", "stop"])
async def test_a_call_of_a_tool_that_was_cut_off_is_none(word: str, streamed: bool) -> None:
    error = await failure(calling('{"cents": 12', word, streamed), streamed=streamed)
    assert (error.code, error.retryable) == ("output_unparseable", True)


@BOTH
@pytest.mark.parametrize("arguments", ['{"cents": 12}', {"cents": 12}], ids=["text", "object"])
async def test_arguments_of_a_call_in_both_forms(arguments: Any, streamed: bool) -> None:
    response, _ = await read(calling(arguments, "tool_calls", streamed), streamed=streamed)
    assert [(call.name, call.input) for call in response.tool_calls] == [("pay", {"cents": 12})]


@pytest.mark.parametrize("word", ["tool_calls", "stop", None])
async def test_a_whole_call_of_a_tool_is_complete(word: str | None) -> None:
    response, _ = await read(calling('{"cents": 12}', word, streamed=False))
    assert response.finish_reason == "tool_call"


# ------------------------------------------------------------------------------------- errors with a status of 200


@BOTH
@pytest.mark.case("http-01-error-text-with-200")
@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"error": {"message": "Rate limit exceeded: free-models-per-min", "code": 429}}, "rate_limited"),
        ({"error": {"message": "Rate limit reached"}}, "rate_limited"),
        ({"error": "rate_limit_exceeded"}, "rate_limited"),
        ({"error": {"message": "No auth credentials found", "code": 401}}, "authentication"),
        ({"error": {"message": "Insufficient credits", "code": 402}}, "billing"),
        ({"error": {"message": "bad", "code": "400"}}, "invalid_request"),
        ({"error": {"message": "model 'x' not found", "code": 404}}, "unsupported"),
        ({"error": {"message": "timed out", "code": 504}}, "model_timeout"),
        ({"error": {"message": "flagged", "code": "content_filter"}}, "content_filtered"),
        ({"error": {"message": "Internal Server Error", "code": 500}}, "provider_unavailable"),
        ({"error": "overloaded"}, "provider_unavailable"),
        ({"error": "x"}, "provider_unavailable"),
        ({"error": ["x"]}, "provider_unavailable"),
        ({"errors": [{"message": "x", "code": 429}]}, "rate_limited"),
        ({"object": "error", "message": "x", "type": "InternalServerError", "code": 500}, "provider_unavailable"),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "x"}}, "provider_unavailable"),
        ({"detail": "busy"}, "provider_unavailable"),
        ({"detail": "Unauthorized"}, "authentication"),
        ({"message": "no healthy upstream"}, "provider_unavailable"),
        ({}, "provider_unavailable"),
        ({"choices": None}, "provider_unavailable"),
        ({"id": "1", "choices": []}, "provider_unavailable"),
        ({"id": "1", "choices": [None]}, "provider_unavailable"),
        ({"choices": [{"error": {"message": "x", "code": 429}}]}, "rate_limited"),
        ({"choices": [{"index": 0, "message": None, "finish_reason": "stop"}]}, "provider_unavailable"),
        ({"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}, "choices": None}, "billing"),
        ({"message": "slow down", "code": "429"}, "rate_limited"),
        ({"status": 429, "title": "Too Many Requests"}, "rate_limited"),
        ({"model": "m", "message": {"content": "Paris"}, "done": True}, "provider_unavailable"),  # Ollama's own API
        ({"choices": [{"text": "Paris", "finish_reason": "stop"}]}, "provider_unavailable"),
        ([], "provider_unavailable"),
        ([{"error": {"message": "x", "code": 429}}], "rate_limited"),
        ('"busy"', "provider_unavailable"),
        ("7", "provider_unavailable"),
        ("null", "provider_unavailable"),
        ("[" * 100_000, "provider_unavailable"),
        (json.dumps(chat()).encode("utf-16"), "provider_unavailable"),
        ("<html>Bad gateway</html>", "provider_unavailable"),
        ("", "provider_unavailable"),
        ('{"choices": [', "provider_unavailable"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_a_body_that_is_no_answer(body: Any, code: str, streamed: bool) -> None:
    error = await failure(RawReply(body), streamed=streamed)
    assert error.code == code
    assert error.retryable is (code in ("rate_limited", "provider_unavailable", "model_timeout"))


@pytest.mark.parametrize("protocol", ["anthropic", "gemini"])
@pytest.mark.parametrize(
    "body", [{}, {"error": "overloaded"}, {"detail": "busy"}, {"candidates": []}, {"content": None}]
)
async def test_other_protocols_are_checked_alike(body: Any, protocol: str) -> None:
    for streamed in (False, True):
        error = await failure(RawReply(body), protocol=protocol, streamed=streamed)
        assert (error.code, error.retryable) == ("provider_unavailable", True)


@BOTH
@pytest.mark.parametrize("error", [None, False, "", {}, {"message": None, "code": None}, {"code": 0, "message": ""}])
async def test_an_error_that_states_none_is_none(error: Any, streamed: bool) -> None:
    body = events(piece("Paris", "stop", error=error)) if streamed else chat(error=error, detail=None)
    response, _ = await read(RawReply(body), streamed=streamed)
    assert text_of(response) == "Paris"


@BOTH
@pytest.mark.parametrize(
    "logprobs",
    [
        {"content": [{"token": "a", "logprob": None}]},
        {"content": [{"token": "a", "logprob": float("-inf")}]},
        {"content": [{"token": "a", "logprob": "x"}]},
        {"content": [{"token": "a", "logprob": -1, "top_logprobs": 7}]},
        {"content": [{"token": "a", "logprob": -1, "bytes": ["x"]}]},
        [1],
        "x",
    ],
    ids=str,
)
async def test_an_answer_is_not_lost_for_its_probabilities(logprobs: Any, streamed: bool) -> None:
    body = piece("Paris", "stop") if streamed else chat()
    body["choices"][0]["logprobs"] = logprobs
    response, _ = await read(RawReply(events(body) if streamed else body), streamed=streamed)
    assert text_of(response) == "Paris"


@BOTH
async def test_a_choice_that_was_not_asked_for_is_no_part_of_the_answer(streamed: bool) -> None:
    other = {"index": 1, "delta": {"content": "Lyon"}, "message": {"content": "Lyon"}, "finish_reason": "stop"}
    if streamed:
        reply = RawReply(events({"id": "1", "choices": [other]}, piece("Paris", "stop")))
    else:
        reply = RawReply(chat(choices=[other, chat()["choices"][0]]))
    response, _ = await read(reply, streamed=streamed)
    assert text_of(response) == "Paris"


@BOTH
@pytest.mark.parametrize("message", [{"refusal": "No."}, {"content": [{"type": "refusal", "refusal": "No."}]}], ids=str)
async def test_a_refusal_in_a_whole_reply_is_one(message: Any, streamed: bool) -> None:
    body = chat(None)  # plain JSON to a streamed request, too
    body["choices"][0]["message"] |= message
    error = await failure(RawReply(body), streamed=streamed)
    assert (error.code, error.retryable) == ("content_filtered", False)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "Pa"}, {"type": "output_text", "text": "ris"}], "Paris"),
        ([{"type": "thinking", "thinking": "Lyon?"}, {"type": "text", "text": "Paris"}], "Paris"),
        (["Paris"], "Paris"),
        ({"answer": "Paris"}, '{"answer": "Paris"}'),
        ("a\r\nb\u2028 \U0001f378 \ud835 \u0000", "a\r\nb\u2028 \U0001f378 \ud835 \u0000"),
    ],
)
async def test_the_text_of_a_message_in_other_forms(content: Any, text: str) -> None:
    for streamed in (False, True):  # plain JSON to a streamed request, too
        response, _ = await read(RawReply(chat(content)), streamed=streamed)
        assert text_of(response) == text


@pytest.mark.parametrize("content", [7, True, [7]])
async def test_a_message_without_text_is_unreadable(content: Any) -> None:
    assert (await failure(RawReply(chat(content)))).code == "provider_unavailable"
    body = events(piece("Par"), piece(content), piece(None, "stop"))
    assert (await failure(RawReply(body), streamed=True)).code == "provider_unavailable"


# ----------------------------------------------------------------------------------------------------- in a stream


@pytest.mark.case("http-08-error-inside-stream")
@pytest.mark.parametrize(
    ("last", "code"),
    [
        ({"error": {"message": "busy", "code": 503}}, "provider_unavailable"),
        ({"error": {"message": "busy", "type": "overloaded_error"}}, "provider_unavailable"),
        ({"error": "overloaded"}, "provider_unavailable"),
        ({"error": {"message": "x", "code": "rate_limit_exceeded"}}, "rate_limited"),
        ({"object": "error", "message": "x", "code": 500}, "provider_unavailable"),
        ({"detail": "busy"}, "provider_unavailable"),
        (piece(finish_reason="error"), "provider_unavailable"),
        ({"id": "1", "choices": [{"error": {"code": 502, "message": "x"}, "delta": {}}]}, "provider_unavailable"),
        ("event: error\ndata: {}\n\n", "provider_unavailable"),
        ("event: error\ndata: something broke\n\n", "provider_unavailable"),
        ("data: not JSON\n\n", "provider_unavailable"),
        ('{"error": {"message": "x", "code": 429}}\n', "rate_limited"),
        ("", "provider_unavailable"),  # no finish_reason
        ({"id": "1", "choices": [], "usage": {"prompt_tokens": 1}}, "provider_unavailable"),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
@pytest.mark.parametrize("done", [True, False], ids=["done", "closed"])
async def test_a_stream_that_breaks_off_is_no_answer(last: Any, code: str, done: bool) -> None:
    error = await failure(RawReply(events(piece("Pa"), piece("r"), last, done=done)), streamed=True)
    assert (error.code, error.retryable) == (code, True)


@pytest.mark.parametrize("done", [True, False], ids=["done", "closed"])
async def test_nothing_takes_back_a_complete_answer(done: bool) -> None:
    late = {"error": {"message": "usage could not be counted", "code": 500}}
    body = events(
        ": OPENROUTER PROCESSING\n\n", piece("Paris"), piece(None, "stop"), late, "data: rubbish\n\n", done=done
    )
    response, _ = await read(RawReply(body), streamed=True)
    assert (text_of(response), response.finish_reason) == ("Paris", "stop")


async def test_a_refusal_in_a_stream_is_one() -> None:
    refused = {"id": "1", "choices": [{"index": 0, "delta": {"refusal": "I'm sorry."}, "finish_reason": None}]}
    error = await failure(RawReply(events(refused, piece(None, "stop"))), streamed=True)
    assert (error.code, error.retryable) == ("content_filtered", False)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
async def test_events_in_any_form(end: str) -> None:
    body = "\ufeff" + events(piece("Par"), piece("is", "stop")).replace("\n", end).replace("data: {", "data:{")
    for size in (1, 3, 1000):
        response, _ = await read(RawReply(body, piece=size), streamed=True)
        assert text_of(response) == "Paris"


@pytest.mark.parametrize(
    "body",
    [
        events(piece("Par"), piece("is", "stop")).replace("\n\n", "\n"),  # no blank lines
        events(piece("Par"), piece("is", "stop"), done=False).replace("data: ", "").replace("\n\n", "\n"),
        json.dumps([piece("Par"), piece("is", "stop")]),
        events(chat()),  # a whole reply as one event
        events({"id": "1", "choices": None}, {"id": "1", "choices": [None]}, "data: 7\n\n", piece("Paris", "stop")),
        events({"id": "1", "choices": [{"index": 0, "delta": None}]}, piece("Paris"), piece(None, "stop")),
        events(piece("Par", "null"), piece("is", "stop")),  # DashScope
        "retry: 100\nid: 7\n\n" + events("event: message\n", piece("Paris", "stop")),
        'data: {"id": "1",\ndata: "choices": [{"delta": {"content": "Paris"}, "finish_reason": "stop"}]}\n\n',
    ],
)
async def test_streams_in_other_forms(body: str) -> None:
    response, _ = await read(RawReply(body), streamed=True)
    assert (text_of(response), response.finish_reason) == ("Paris", "stop")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("data: [DONE]\n\n" + events(piece("Paris", "stop")), "provider_unavailable"),
        (events(piece("Par"), "data: [DONE]\n\n", piece("is", "stop")), "provider_unavailable"),
        (json.dumps(piece("Par")) + "\n", "provider_unavailable"),
        (json.dumps(piece("Par")) + '\n{"error": "rate limit exceeded"}\n', "rate_limited"),
        (": ping\n\n: ping\n\n", "provider_unavailable"),
        (events("event: error\n\n", piece("Par")), "provider_unavailable"),
        ("event: error\ndata: rate limit exceeded\n\n", "rate_limited"),
    ],
)
async def test_streams_that_end_too_early(body: str, code: str) -> None:
    error = await failure(RawReply(body), streamed=True)
    assert (error.code, error.retryable) == (code, True)


async def test_text_in_parts_in_a_stream() -> None:
    parts: Any = [{"type": "thinking", "thinking": "Lyon?"}, {"type": "text", "text": "Paris"}]
    response, _ = await read(RawReply(events(piece(parts), piece(None, "stop"))), streamed=True)
    assert text_of(response) == "Paris"


async def test_plain_json_to_a_streamed_request() -> None:
    claude: dict[str, Any] = {"id": "1", "type": "message", "model": "test", "stop_reason": "end_turn"}
    claude |= {"content": [{"type": "text", "text": "Paris"}], "usage": {"input_tokens": 5, "output_tokens": 7}}
    google: dict[str, Any] = {"candidates": [{"content": {"parts": [{"text": "Paris"}]}, "finishReason": "STOP"}]}
    google["usageMetadata"] = {"promptTokenCount": 5, "candidatesTokenCount": 7}
    array = [{"candidates": [{"content": {"parts": [{"text": "Pa"}]}}]}, google]
    for protocol, body, text in (
        ("openai", json.dumps(chat(), indent=2), "Paris"),
        ("anthropic", claude, "Paris"),
        ("gemini", google, "Paris"),
        ("gemini", array, "PaParis"),
    ):
        response, _ = await read(RawReply(body), protocol=protocol, streamed=True)
        assert (text_of(response), response.finish_reason, response.usage.output_tokens) == (text, "stop", 7)


@pytest.mark.parametrize(
    ("word", "code"),
    [("SAFETY", "content_filtered"), ("MALFORMED_RESPONSE", "output_unparseable"), ("OTHER", "provider_unavailable")],
)
@BOTH
async def test_gemini_says_why(word: str, code: str, streamed: bool) -> None:
    body = {"candidates": [{"content": {"parts": [{"text": "Par"}]}, "finishReason": word}]}
    reply = RawReply(events(body, done=False) if streamed else body)
    assert (await failure(reply, protocol="gemini", streamed=streamed)).code == code


async def test_claude_says_why() -> None:
    begin = {"type": "message_start", "message": {"id": "1", "model": "test", "usage": {"input_tokens": 5}}}
    more = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Paris"}}
    for word, finish_reason in (("end_turn", "stop"), ("max_tokens", "length"), ("new_word", "length")):
        end = {"type": "message_delta", "delta": {"stop_reason": word}, "usage": {"output_tokens": "7"}}
        body = events(begin, more, end, {"type": "message_stop"}, done=False)
        response, _ = await read(RawReply(body), protocol="anthropic", streamed=True)
        assert (text_of(response), response.finish_reason, response.usage.output_tokens) == ("Paris", finish_reason, 7)
    error = await failure(RawReply(events(begin, more, done=False)), protocol="anthropic", streamed=True)
    assert (error.code, error.retryable) == ("provider_unavailable", True)


# ------------------------------------------------------------------------------------------------------------ usage


@BOTH
@pytest.mark.case("http-10-usage-null")
@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": "5", "completion_tokens": "7"}, (5, 7)),
        ({"prompt_tokens": 5.0, "completion_tokens": 7.0}, (5, 7)),
        ({"prompt_tokens": 5, "completion_tokens": 7, "prompt_tokens_details": None, "cost": 0.1}, (5, 7)),
        ({"prompt_tokens": 5, "completion_tokens": 7.5}, (None, None)),
        ({"prompt_tokens": -1, "completion_tokens": 7}, (None, None)),
        ({"prompt_tokens": 10**30, "completion_tokens": 7}, (None, None)),
        ({"prompt_tokens": True, "completion_tokens": 7}, (None, None)),
        ({"prompt_tokens": "many", "completion_tokens": 7}, (None, None)),
        ({"prompt_tokens": [], "completion_tokens": {}}, (None, None)),
        ({"prompt_tokens": 5, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": -2}}, (None, None)),
        ({"prompt_tokens": 5, "completion_tokens": 7, "completion_tokens_details": "none"}, (None, None)),
        ({"prompt_tokens": 5}, (5, None)),
        ({}, (None, None)),
        ("5 tokens", (None, None)),
        ([5], (None, None)),
        (None, (None, None)),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_an_answer_is_never_lost_for_its_accounting(usage: Any, tokens: tuple[Any, Any], streamed: bool) -> None:
    body = events(piece("Paris"), piece(None, "stop", usage=usage)) if streamed else chat(usage=usage)
    response, _ = await read(RawReply(body), streamed=streamed)
    assert text_of(response) == "Paris"
    assert (response.usage.input_tokens, response.usage.output_tokens) == tokens
    assert is_usage_known(response, "declared") is (None not in tokens)


@BOTH
async def test_a_number_that_json_does_not_have_costs_no_answer(streamed: bool) -> None:
    body = events(piece("Paris", "stop", score=float("nan"))) if streamed else chat(score=float("nan"))
    response, _ = await read(RawReply(body), streamed=streamed)
    assert text_of(response) == "Paris"


async def test_usage_of_other_protocols() -> None:
    google = {"candidates": [{"content": {"parts": [{"text": "Paris"}]}, "finishReason": "STOP"}]}
    claude = {"model": "test", "content": [{"type": "text", "text": "Paris"}], "stop_reason": "end_turn"}
    for protocol, body in (
        ("gemini", {**google, "usageMetadata": {"promptTokenCount": -1, "candidatesTokenCount": 3}}),
        ("gemini", {**google, "usageMetadata": "none"}),
        ("anthropic", {**claude, "usage": {"input_tokens": "x", "output_tokens": 1}}),
        ("anthropic", {**claude, "usage": []}),
    ):
        response, _ = await read(RawReply(body), protocol=protocol)
        assert (text_of(response), response.usage.input_tokens) == ("Paris", None)


# ------------------------------------------------------------------------------------------------- codes and status


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (500, {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}, "rate_limited"),
        (400, {"error": {"message": "x", "code": 429}}, "rate_limited"),
        (500, {"error": {"message": "x", "code": "invalid_api_key"}}, "authentication"),
        (429, {"error": {"message": "x", "code": "insufficient_quota"}}, "billing"),
        (400, {"error": {"message": "Your credit balance is too low", "type": "invalid_request_error"}}, "billing"),
        (401, {"error": {"message": "x", "type": "invalid_request_error"}}, "authentication"),
        (
            400,
            {"error": {"code": 400, "status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}},
            "authentication",
        ),
        (
            400,
            {"error": {"code": "content_filter", "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
            "content_filtered",
        ),
        (404, {"error": {"message": "The model `x` does not exist", "code": None}}, "unsupported"),
        (404, {"detail": "Not Found"}, "invalid_request"),
        (409, "", "invalid_request"),
        (418, "", "model_error"),
        (520, "", "provider_unavailable"),
        (529, "", "provider_unavailable"),
        (524, "", "model_timeout"),
        (307, "", "invalid_request"),
        (402, "Payment Required", "billing"),
        (403, "<html>", "authentication"),
        (404, "404 page not found", "invalid_request"),
        (503, "no healthy upstream", "provider_unavailable"),
        (429, "Too Many Requests", "rate_limited"),
        (
            422,
            {"detail": [{"loc": ["body", "response_format"], "msg": "extra fields not permitted"}]},
            "invalid_request",
        ),
    ],
    ids=lambda value: json.dumps(value)[:50],
)
async def test_codes_in_the_body_count_before_the_status(status: int, body: Any, code: str) -> None:
    for streamed in (False, True):
        assert (await failure(RawReply(body, status), streamed=streamed)).code == code


async def test_no_word_of_an_error_gets_out() -> None:
    body = {"error": {"message": "Smith", "detail": "Smith", "param": "Smith"}, "detail": "Smith", "message": "Smith"}
    for status in (200, 400, 500):
        assert "smith" not in str((await failure(RawReply(body, status))).as_dict()).lower()


# ------------------------------------------------------------------------------------------------------ retry after


@pytest.mark.case("http-06-retry-after-date")
@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"Retry-After": "7"}, 7, 7),
        ({"Retry-After": " 7.5 "}, 7.5, 7.5),
        ({"retry-after-ms": "1500", "Retry-After": "2"}, 1.5, 1.5),
        ({"Retry-After": "{moment}"}, 3500, 3600),
        ({"Retry-After": "{moment}000"}, 3500, 3600),
        ({"Retry-After": "{date}"}, 3500, 3600),
    ],
    ids=str,
)
def test_the_delay_that_a_provider_asks_for(headers: dict[str, str], least: float, most: float) -> None:
    moment = int(time.time()) + 3600
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(moment))
    given = [(name, value.format(moment=moment, date=date)) for name, value in headers.items()]
    assert least <= (asked_delay(given) or -1) <= most


@pytest.mark.case("http-06-retry-after-date")
@pytest.mark.parametrize(
    "value",
    [
        "",
        "soon",
        "-1",
        "NaN",
        "inf",
        "1e999",
        "7, 9",
        "1000000000",
        "1764100000000000",
        "Mon, 01 Jan 2001 00:00:00 GMT",
    ],
)
def test_a_delay_that_makes_no_sense_is_none(value: str) -> None:
    assert asked_delay([("Retry-After", value)]) is None


@pytest.mark.case("http-06-retry-after-date")
async def test_a_delay_is_bounded_and_the_error_says_so() -> None:
    error = await failure(RawReply("", 429, headers=[("Retry-After", "86400"), ("x-request-id", "req-1")]))
    assert (error.retry_after, error.details["request_id"]) == (86_400, "req-1")
    fault = ReplyFault(retry_after=86_400)
    bounded = model_error(fault, model="m/x", longest_wait=900)
    assert (bounded.retry_after, bounded.details["retry_after_asked"]) == (900, 86_400)
    assert "86400" in str(bounded)


# ----------------------------------------------------------------------------------------------------------- schemas


@pytest.mark.case("http-05-schema-keyword-unknown-to-vllm")
@pytest.mark.case("http-04-pattern-breaks-llama-cpp")
@pytest.mark.parametrize(
    ("status", "text"),
    [
        (400, 'Grammar error: Unimplemented keys: ["uniqueItems"]'),  # vLLM, TGI
        (500, "The provided JSON schema contains features not supported by xgrammar."),  # vLLM
        (400, "JSON schema conversion failed:\nPattern must start with '^' and end with '$'"),  # llama.cpp
        (400, "failed to parse grammar"),  # llama.cpp
        (400, "Invalid schema for response_format 'answer': In context=(), 'uniqueItems' is not permitted."),  # OpenAI
        (400, "Invalid JSON payload received. Unknown name \"uniqueItems\" at 'generation_config.response_schema'"),
        (400, "output_config.format.schema: For 'array' type, property 'uniqueItems' is not supported"),  # Anthropic
        (422, "invalid JSON schema in format"),  # Ollama
        (400, "Failed to compile json grammar"),  # SGLang
    ],
)
async def test_a_refused_schema_is_recognised(status: int, text: str) -> None:
    error = await failure(RawReply({"error": {"message": text}}, status))
    assert (error.code, error.retryable) == ("invalid_request", False)
    assert "JSON Schema" in str(error)
    assert may_fall_back(error)


def test_a_schema_is_reduced_to_what_every_server_knows() -> None:
    tags = {"type": "array", "items": {"type": "string", "pattern": "^a$"}, "uniqueItems": True, "minItems": 1}
    schema = {
        "type": "object",
        "title": "Answer",
        "properties": {"tags": tags, "pattern": {"oneOf": [{"type": "integer", "minimum": 3}, {"type": "null"}]}},
        "required": ["tags", "pattern"],
        "additionalProperties": False,
    }
    request = {"system": "Tag it.", "config": {"response_format": {"type": "json_schema", "schema": schema}}}
    found = with_reduced_schema(request)
    assert found is not None
    reduced, keywords = found
    assert keywords == {"pattern", "uniqueItems", "minItems", "title", "oneOf", "minimum"}
    assert reduced["config"]["response_format"]["schema"] == {
        "type": "object",
        "properties": {
            "tags": {"type": "array", "items": {"type": "string"}},
            "pattern": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        },
        "required": ["tags", "pattern"],
        "additionalProperties": False,
    }
    assert '"uniqueItems": true' in reduced["system"]
    assert with_reduced_schema(reduced) is None
    assert with_reduced_schema({"config": {"response_format": {"type": "json_object"}}}) is None
    assert with_reduced_schema({}) is None


def with_schema(**keywords: Any) -> dict[str, Any]:
    return {"config": {"response_format": {"type": "json_schema", "schema": {"type": "integer", **keywords}}}}


@pytest.mark.case("http-05-schema-keyword-unknown-to-vllm")
def test_refused_keywords_are_remembered() -> None:
    refused = RefusedKeywords()
    assert refused.reduced(with_schema(minimum=1)) is None
    refused.add(frozenset({"minimum"}))
    again = refused.reduced(with_schema(minimum=2, maximum=3))
    assert again is not None
    assert again.request == with_schema()
    assert refused.reduced(with_schema(maximum=3)) is None
    assert refused.reduced(with_schema()) is None


def test_an_error_of_a_model_can_be_read_without_its_reply() -> None:
    error = model_error(ReplyFault("max_tokens"), model="m/x")
    assert isinstance(error, ModelError)
    assert error.details["mentions"] == ["max_tokens"]
