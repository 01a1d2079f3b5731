"""What a reader makes of a stream's entries and of rows: no gaps, no repeats, whatever is lost on the way."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any
from uuid import UUID

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from dspex.client.follow import Reading, StreamEvent, position
from dspex.client.stream_entries import Position
from dspex.errors import ValidationError
from dspex.store.lifecycle.status import Status
from workers.attempt.stream import AttemptStream, Streams

ID = UUID(int=1)
Entries = list[tuple[Position, dict[str, Any]]]


class Consumer:
    """What a user makes of events."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.values: dict[str, Any] = {}
        self.kinds: list[str] = []
        self.statuses: list[tuple[int, Status]] = []
        self.cursor: str | None = None

    def take(self, events: Iterable[StreamEvent]) -> None:
        for event in events:
            assert self.cursor is None or position(event.cursor) >= position(self.cursor)
            self.cursor = event.cursor
            self.kinds.append(event.kind)
            if event.kind == "reset":
                self.texts, self.values = {}, {}
            elif event.kind == "partial":
                assert event.field is not None
                assert event.text
                self.texts[event.field] = self.texts.get(event.field, "") + event.text
            elif event.kind == "field":
                assert event.field is not None
                self.values[event.field] = event.value
            elif event.status is not None:
                self.statuses.append((event.attempt, event.status))


def a_stream(attempt: int = 1) -> AttemptStream:
    return Streams("redis://127.0.0.1:1").open(ID, attempt)  # nothing is connected


def published(stream: AttemptStream) -> Entries:
    return [(position(id), json.loads(entry)) for id, entry in stream.news()]


@pytest.mark.parametrize(
    ("refusal", "again"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", True),
        ("MISCONF Redis is configured to save RDB snapshots", True),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", False),
        ("The ID specified in XADD is equal or smaller than the target stream top item", False),
    ],
)
def test_what_redis_refused_is_published_again_unless_the_stream_is_not_its_own(refusal: str, again: bool) -> None:
    streams = Streams("redis://127.0.0.1:1")  # nothing is connected
    stream = streams.open(ID, 1)
    stream.answer().text("answer", "Yes")
    sent = list(stream.news())
    assert len(sent) == 2
    streams._answered([stream] * 2, [redis.ResponseError(refusal)] * 2)
    assert [entry for _, entry in stream.news()] == ([entry for _, entry in sent] if again else [])


def a_row(status: Status, attempt: int = 1) -> Mapping[str, Any]:
    return {"status": status, "attempt": attempt}


def events_of(reading: Reading, entries: Entries) -> Iterator[StreamEvent]:
    for at, entry in entries:
        yield from reading.entry(at, entry)


def take_all(reading: Reading, consumer: Consumer, entries: Entries) -> None:
    consumer.take(events_of(reading, entries))


HAPPENINGS = ["publish", "lose", "read", "come back", "come back for one event", "answer anew", "field"]
steps = st.lists(
    st.tuples(st.sampled_from(["write", "say"]), st.text(min_size=1, max_size=5))
    | st.tuples(st.sampled_from(HAPPENINGS), st.just("")),
    max_size=30,
)


@given(steps)
def test_a_reader_has_every_event_of_the_answer(taken: list[tuple[str, str]]) -> None:
    stream, consumer, reading = a_stream(), Consumer(), Reading()
    answer, redis, said = stream.answer(), list[tuple[Position, dict[str, Any]]](), ""
    complete = False
    for what, text in [*taken, ("publish", ""), ("read", "")]:
        match what:
            case "write" | "say" if not complete:
                answer.text("answer", text)
                said += text
                redis += published(stream) if what == "say" else []
            case "field" if not complete:
                answer.field("answer", said)
                complete = True
            case "answer anew":
                answer, said, complete = stream.answer(), "", False
            case "publish":
                redis += published(stream)
            case "lose":  # Redis was emptied, which the worker finds out when it publishes
                redis.clear()
                stream.rewind()
            case "read":
                take_all(reading, consumer, redis)
            case "come back":
                reading = Reading(position(consumer.cursor))
                take_all(reading, consumer, redis)
            case "come back for one event":
                events = events_of(Reading(position(consumer.cursor)), redis)
                consumer.take(islice(events, 1))
                reading = Reading(position(consumer.cursor))
    if complete:
        assert consumer.values == {"answer": said}
    assert complete or not said or consumer.texts == {"answer": said}
    assert consumer.statuses == [(1, Status.RUNNING)]


def test_a_later_attempt_begins_anew_and_says_so() -> None:
    first, second, consumer, reading = a_stream(1), a_stream(2), Consumer(), Reading()
    first.answer().text("answer", "Par")
    first.end(Status.QUEUED)
    second.answer().text("answer", "Lon")
    take_all(reading, consumer, published(first) + published(second))
    assert consumer.kinds == ["status", "partial", "status", "status", "reset", "partial"]
    assert consumer.texts == {"answer": "Lon"}
    assert consumer.statuses == [(1, Status.RUNNING), (1, Status.QUEUED), (2, Status.RUNNING)]


def test_an_answer_that_another_took_the_place_of_is_not_listened_to() -> None:
    stream, consumer = a_stream(), Consumer()
    old, new = stream.answer(), stream.answer()
    new.text("answer", "new")
    old.text("answer", "old")
    take_all(Reading(), consumer, published(stream))
    assert consumer.texts == {"answer": "new"}


def test_a_value_that_is_no_json_is_not_streamed() -> None:
    stream, endless = a_stream(), list[Any]()
    endless.append(endless)
    answer = stream.answer()
    for number, value in enumerate((object(), endless, {(1, 2): 3}, 5)):
        answer.field(str(number), value)
    assert [entry["field"] for _, entry in published(stream) if "field" in entry] == ["3"]


def test_a_field_with_a_hole_in_its_text_is_streamed_once_it_is_complete() -> None:
    stream, consumer = a_stream(), Consumer()
    answer = stream.answer()
    entries = published(stream)
    for piece in ("one ", "two ", "three"):
        answer.text("answer", piece)
        entries += published(stream)
    del entries[2]  # Redis was full
    answer.field("answer", "one two three")
    take_all(Reading(), consumer, entries + published(stream))
    assert consumer.texts == {"answer": "one "}
    assert consumer.values == {"answer": "one two three"}


def test_what_the_row_has_is_streamed_once() -> None:
    consumer, reading = Consumer(), Reading()
    for row in (a_row(Status.QUEUED, 0), a_row(Status.QUEUED, 0), a_row(Status.RUNNING), a_row(Status.RUNNING)):
        consumer.take(reading.row(row))
    stream = a_stream()
    stream.answer().field("answer", "Par")
    take_all(reading, consumer, published(stream))
    consumer.take(reading.row(a_row(Status.COMPLETED)))
    consumer.take(
        reading.recorded(["answer", "rating"], {"answer": "Paris", "rating": 3}, {"answer": "!", "rating": 3})
    )
    consumer.take(reading.finish(Status.COMPLETED, value="result"))
    assert consumer.kinds == ["status", "status", "field", "field", "field", "status", "done"]
    assert consumer.values == {"answer": "!", "rating": 3}


@pytest.mark.parametrize("told", range(1, 6))
def test_a_reader_that_comes_back_at_the_end_gets_the_rest(told: int) -> None:
    def end_of(reading: Reading) -> list[StreamEvent]:
        return [
            *reading.row(a_row(Status.COMPLETED)),
            *reading.recorded(["a", "b", "c"], {"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 2, "c": 3}),
            *reading.finish(Status.COMPLETED, value="result"),
        ]

    events = end_of(Reading())
    assert [event.kind for event in events] == ["field", "field", "field", "status", "done"]
    assert end_of(Reading(position(events[told - 1].cursor))) == events[told:]


def test_fields_of_an_attempt_that_is_not_the_recorded_one_are_void() -> None:
    stream, consumer, reading = a_stream(1), Consumer(), Reading()
    stream.answer().field("answer", "Paris")
    take_all(reading, consumer, published(stream))
    consumer.take(reading.row(a_row(Status.COMPLETED, 2)))
    consumer.take(reading.recorded(["answer"], {"answer": "Paris"}, {"answer": "Paris"}))
    assert consumer.kinds == ["status", "field", "reset", "field"]


@pytest.mark.parametrize("cursor", ["", "1", "1-", "-1", "a-b", "1-2-3", "1-99999999999999999999", "-1-1"])
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(ValidationError, match="cursor"):
        position(cursor)
