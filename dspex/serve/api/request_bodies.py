"""Bodies and query strings of requests, read within bounds and checked: every fault of a request at once."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from pydantic_core import from_json
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.types import Message

from dspex.errors import FieldError, ValidationError
from dspex.serve.api.problem_details import HttpRefusal
from dspex.store.lifecycle.status import Status

__all__ = ["PAGE_DEFAULT", "PAGE_MOST", "Filters", "SubmitBody", "accepted_types", "body_within", "chunks_within",
           "filters_of", "media_type", "page_size", "plain_text", "preferred_wait", "read_cursor", "read_id",
           "read_json", "read_query", "read_submit", "true_or_false", "within"]  # fmt: skip

#: The most executions of one page.
PAGE_MOST = 500
PAGE_DEFAULT = 50
#: What a body may have beside the inputs: metadata and the names of members.
ENVELOPE_BYTES = 8 * 1024
#: So many unknown members of a body are named each; of more, one.
MOST_UNKNOWN = 1000
_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?(\d{1,6}(?:\.\d{1,3})?)\"?", re.IGNORECASE)
_A_TIME = "a time with an offset such as 2026-01-31T08:00:00Z"
_MEMBERS = ("inputs", "priority", "run_at", "timeout", "metadata", "stream", "webhook")
_FILTERS = ("program", "status", "error", "batch", "since", "cursor", "limit", "tenant")


@dataclass(frozen=True, slots=True)
class SubmitBody:
    """The body of a submit: its ``inputs`` as parsed JSON, and the options of the submit."""

    inputs: Any
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Filters:
    """The query of a list of executions."""

    program: str | None = None
    status: Status | None = None
    error: str | None = None
    batch: UUID | None = None
    since: datetime | None = None
    tenant: str | None = None
    metadata: Mapping[str, str] | None = None
    before: UUID | None = None
    limit: int = PAGE_DEFAULT


def media_type(request: Request) -> str:
    """The media type of a request's body, in lower case and without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def accepted_types(request: Request) -> list[str]:
    """The media types that a request accepts by name, in lower case and without parameters."""
    named = ",".join(request.headers.getlist("accept")).split(",")
    return [each.partition(";")[0].strip().lower() for each in named]


def preferred_wait(request: Request, most: float) -> float | None:
    """The seconds of ``Prefer: wait=30``, at most ``most``; None without it."""
    found = _WAIT.search(",".join(request.headers.getlist("prefer")))
    return None if found is None else min(float(found[1]), most)


async def chunks_within(request: Request, most: int, pause_seconds: float) -> AsyncIterator[bytes]:
    """The parts of a body of at most ``most`` bytes, whose sender never pauses for longer. Raises HttpRefusal."""
    left, goes_on = _declared(request, most), True
    while goes_on:
        part, goes_on = await _part(request, pause_seconds)
        left -= len(part)
        if left < 0:
            raise _too_large(most)
        if part:
            yield part


async def body_within(request: Request, most: int, pause_seconds: float) -> bytes:
    """A body of at most ``most`` bytes. Raises HttpRefusal."""
    left, parts, goes_on = _declared(request, most), [], True
    while goes_on:  # a generator would cost more than all of it: most bodies have one part
        part, goes_on = await _part(request, pause_seconds)
        left -= len(part)
        if left < 0:
            raise _too_large(most)
        parts.append(part)
    return b"".join(parts)


def _declared(request: Request, most: int) -> int:
    """``most``. Raises HttpRefusal for a body that says that it has more bytes."""
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared) > most:
        raise _too_large(most)
    return most


async def _part(request: Request, pause_seconds: float) -> tuple[bytes, bool]:
    """The next part of a body, and whether others follow. Raises HttpRefusal."""
    try:
        async with asyncio.timeout(pause_seconds):
            message = await request.receive()
    except TimeoutError:
        detail = f"no part of the body came within {pause_seconds:g} s"
        raise HttpRefusal(408, "request_timeout", detail, headers={"Connection": "close"}) from None
    if message["type"] != "http.request":
        raise HttpRefusal(400, "body_incomplete", "the connection ended before the body did")
    return message.get("body", b""), message.get("more_body", False)


def within(request: Request, pause_seconds: float) -> Request:
    """The request, whose body is read as :func:`body_within` reads it, by its reader. Reading raises HttpRefusal."""
    goes_on = True

    async def receive() -> Message:
        nonlocal goes_on
        if not goes_on:
            return await request.receive()
        part, goes_on = await _part(request, pause_seconds)
        return {"type": "http.request", "body": part, "more_body": goes_on}

    return Request(request.scope, receive)


async def read_json(request: Request, most: int, pause_seconds: float) -> Any:
    """The JSON of a body. Raises HttpRefusal for another media type, and for what is no JSON."""
    kind = media_type(request)
    if kind != "application/json" and not kind.endswith("+json"):
        raise HttpRefusal(415, "unsupported_media_type", "send the body as Content-Type: application/json")
    body = await body_within(request, most, pause_seconds)
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise HttpRefusal(400, "malformed_json", f"the body is not JSON: {str(error)[:200]}") from None


async def read_submit(request: Request, most: int, pause_seconds: float) -> SubmitBody:
    """The body of a submit. Raises HttpRefusal, ValidationError with all faults of its members."""
    data = await read_json(request, most + ENVELOPE_BYTES, pause_seconds)
    if not isinstance(data, dict):
        raise ValidationError.of("request", [FieldError("/", "an object with the member inputs", _kind(data))])
    unknown = [name for name in data if name not in _MEMBERS]
    is_few = len(unknown) <= MOST_UNKNOWN
    got = "an unknown member" if is_few else f"one of {len(unknown)} unknown members"
    faults = [
        FieldError("/" + name[:60], f"only the members {', '.join(_MEMBERS)}", got)
        for name in (unknown if is_few else unknown[:1])
    ]
    if not isinstance(data.get("inputs"), dict):
        faults.append(FieldError("/inputs", "an object with the inputs of the program", _kind(data.get("inputs"))))
    options = {name: data[name] for name in _MEMBERS[1:] if data.get(name) is not None}
    if not isinstance(options.get("stream", False), bool):
        faults.append(FieldError("/stream", "true or false", _kind(options["stream"])))
    if "metadata" in options and not isinstance(options["metadata"], dict):
        faults.append(FieldError("/metadata", "an object", _kind(options["metadata"])))
    if "run_at" in options:
        try:
            options["run_at"] = _time(options["run_at"])
        except ValueError as error:
            faults.append(FieldError("/run_at", str(error)))
    if faults:
        raise ValidationError.of("request", faults)
    return SubmitBody(data["inputs"], options)


def filters_of(query: QueryParams, *, extra: Collection[str] = ()) -> Filters:
    """The filters of a query string. Raises ValidationError with all faults; ``extra`` names are read elsewhere."""
    found: dict[str, Any] = {"metadata": {}}
    faults = _repeated(query)
    for name, value in query.multi_items():
        try:
            if name.startswith("metadata.") and len(name) > len("metadata."):
                found["metadata"][plain_text(name).removeprefix("metadata.")] = plain_text(value)
            elif name in _READERS:
                if value:
                    member, reader = _READERS[name]
                    found[member] = reader(value)
            elif name not in extra:
                faults.append(FieldError(name[:60], f"only {', '.join(_FILTERS)} and metadata.NAME", "unknown"))
        except ValueError as error:
            faults.append(FieldError(name, str(error), value[:60]))
    if faults:
        raise ValidationError.of("query", faults)
    return Filters(**found)


def read_query(query: QueryParams, readers: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """The values of a query string by name, as ``readers`` read them. Raises ValidationError with all faults."""
    found: dict[str, Any] = {}
    faults = _repeated(query)
    for name, value in query.multi_items():
        try:
            if name not in readers:
                expected = f"only {', '.join(readers)}" if readers else "no query"
                faults.append(FieldError(name[:60], expected, "unknown"))
            elif value:
                found[name] = readers[name](value)
        except ValueError as error:
            faults.append(FieldError(name, str(error), value[:60]))
    if faults:
        raise ValidationError.of("query", faults)
    return found


def _repeated(query: QueryParams) -> list[FieldError]:
    """The faults of names that have several values: all of them but the last would be ignored."""
    given = Counter(name for name, value in query.multi_items() if value)
    return [FieldError(name[:60], "one value", f"{count} values") for name, count in given.items() if count > 1]


def _status(text: str) -> Status:
    try:
        return Status(text)
    except ValueError:
        raise ValueError(f"one of {', '.join(Status)}") from None


def read_id(text: str) -> UUID:
    """An id. Raises ValueError."""
    try:
        return UUID(text)
    except ValueError:
        raise ValueError("an id") from None


def read_cursor(text: str) -> UUID:
    """The id that a cursor is. Raises ValueError."""
    try:
        return UUID(text)
    except ValueError:
        raise ValueError("the cursor of an earlier response") from None


def true_or_false(text: str) -> bool:
    """Whether a query says yes. Raises ValueError."""
    if (said := text.lower()) not in ("true", "1", "false", "0"):
        raise ValueError("true or false")
    return said in ("true", "1")


def page_size(text: str) -> int:
    """The size of a page. Raises ValueError."""
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= PAGE_MOST):
        raise ValueError(f"an integer from 1 to {PAGE_MOST}")
    return int(text)


def _time(text: object) -> datetime:
    """A time with an offset. Raises ValueError."""
    try:
        at = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise ValueError(_A_TIME)
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise ValueError("a time of the years 1 to 9999") from None


def plain_text(text: str) -> str:
    """Text that Postgres can store. Raises ValueError."""
    if "\0" in text:
        raise ValueError("text without U+0000")
    return text


_READERS: Mapping[str, tuple[str, Any]] = {
    "program": ("program", plain_text), "status": ("status", _status), "error": ("error", plain_text),
    "batch": ("batch", read_id), "since": ("since", _time), "tenant": ("tenant", plain_text),
    "cursor": ("before", read_cursor), "limit": ("limit", page_size),
}  # fmt: skip


def _kind(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "text", bool: "a boolean", type(None): "nothing"}
    return names.get(type(value), "a number")


def _too_large(most: int) -> HttpRefusal:
    detail = f"the body is larger than {most} bytes"
    return HttpRefusal(413, "body_too_large", detail, headers={"Connection": "close"})
