"""Whatever another client writes where DSPex reads: each reader returns a value of its shape, or refuses it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
import redis
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dspex.client.follow import Reading
from dspex.client.stream_entries import read_entry
from dspex.errors import MessageRefused
from dspex.publish.channels import read_ids
from dspex.publish.refused_data import RefusedData
from dspex.wait.driver import entries_of
from workers.consume.message import CONTENT_TYPE, read_message
from workers.lm.limits.buckets import two_numbers

few = settings(max_examples=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
#: Objects with the names that an entry of a stream has, and any values.
PIECES = st.dictionaries(st.sampled_from(["status", "answer", "field", "at", "text", "value"]), JSON)
STATUSES = st.sampled_from(["running", "completed", "queued", "over", ""]).map(lambda status: {"status": status})
IDS = st.tuples(st.integers(0, 2**64), st.integers(0, 2**64)).map(lambda id: f"{id[0]}-{id[1]}".encode())


def refused(read: Callable[..., Any], *arguments: object) -> Any:
    """What ``read`` returns; None when it refuses the arguments for a reason that is counted."""
    try:
        return read(*arguments)
    except MessageRefused as error:
        return error.details["reason"] and None  # a refusal without a reason is a KeyError


@few
@given(st.binary() | st.lists(st.uuids()).map(lambda ids: " ".join(map(str, ids)).encode()) | st.text() | JSON)
@example(b"\xff\xfe")
@example(b"x" * 2_000_000)
@example("\ud800")
def test_a_message_of_a_channel_is_ids_or_refused(data: object) -> None:
    found = refused(read_ids, data)
    assert found is None or all(isinstance(id, UUID) for id in found)


@few
@given(st.lists(st.uuids()))
def test_ids_are_read_as_they_are_written(ids: list[UUID]) -> None:
    assert read_ids(" ".join(map(str, ids)).encode()) == ids


@few
@given(
    st.lists(
        st.tuples(
            IDS | st.binary(max_size=8) | st.none(),
            st.dictionaries(
                st.just(b"e") | st.binary(max_size=2),
                st.binary() | (JSON | PIECES | STATUSES).map(lambda value: json.dumps(value).encode()),
                max_size=2,
            ) | st.none(),
        ),
        max_size=6,
    )
)  # fmt: skip
@example([(b"1-1", {b"e": b"\xff"})])
@example([(b"1-1", {b"e": b"[" * 100_000})])
@example([(b"1-1", {b"e": b'{"answer": 1}'})])
@example([(b"1-1", {b"e": b'{"answer": 1, "field": "x", "at": -1, "text": ""}'})])
@example([(b"1-1", {b"x": b"1"})])
def test_an_entry_of_a_stream_is_a_piece_of_an_answer_or_refused(entries: list[tuple[Any, Any]]) -> None:
    """What is not refused makes events, and nothing else happens."""
    reading = Reading()
    for id, fields in entries:
        found = refused(read_entry, id, fields)
        for event in reading.entry(*found) if found else ():
            assert event.attempt == found[0][0]


@few
@given(JSON | st.just([[b"key", [(b"1-1", {b"e": b"{}"}), (None, None), 5]]]))
def test_a_reply_of_another_shape_has_no_entries(reply: object) -> None:
    assert all(len(entry) == 2 for entry in entries_of(reply))


@few
@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()) | JSON.map(lambda e: json.dumps([[e], {}, {}])))
@example(b"[" * 200_000)
def test_the_body_of_a_message_is_ids_or_refused(body: bytes | str) -> None:
    found = refused(read_message, body, CONTENT_TYPE)
    assert found is None or all(isinstance(id, UUID) for id in found)


@few
@given(JSON | st.binary() | st.lists(st.integers(), min_size=2, max_size=2))
def test_a_reply_about_model_calls_is_two_numbers_or_refused(reply: object) -> None:
    try:
        wait_ms, _ = two_numbers(reply)
    except redis.RedisError:
        return
    assert wait_ms >= 0


def test_a_flood_of_refusals_is_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    refusals = RefusedData("dspex:done", logging.getLogger("dspex"))
    for _ in range(1000):
        refusals.note("ids")
    assert refusals.count == 1000
    assert [record.getMessage() for record in caplog.records] == [
        "refused 1 pieces of data in dspex:done, the last for 'ids'"
    ]
