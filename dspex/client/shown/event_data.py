"""An event of a stream as JSON-friendly data: a line of ``dspex stream --json``, an event of the HTTP gateway."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import fields
from typing import Any

from dspex.client.follow import StreamEvent
from dspex.sealing.values import PLACEHOLDER
from dspex.signatures import Signature

__all__ = ["event_data"]


def event_data(event: StreamEvent, signature: Signature, *, hidden: Collection[str] = ()) -> dict[str, Any]:
    """The members of an event that mean something for its kind; the values of ``hidden`` fields are ``<secret>``."""
    data = {field.name: getattr(event, field.name) for field in fields(event)}
    data["error"] = event.error and event.error.as_dict()
    if event.kind == "done":
        data["value"] = _hide(json.loads(signature.encode("outputs", dict(event.value))), hidden)
    elif event.field in hidden and event.kind in ("partial", "field"):
        data |= {"text": PLACEHOLDER} if event.kind == "partial" else {"value": PLACEHOLDER}
    elif event.validated and event.field is not None:
        data["value"] = json.loads(signature.encode("outputs", {event.field: event.value}))[event.field]
    own = ("value", "validated") if event.kind == "field" else ()
    return {name: value for name, value in data.items() if name in own or not (value is None or value is False)}


def _hide(values: dict[str, Any], hidden: Collection[str]) -> dict[str, Any]:
    return {name: PLACEHOLDER if name in hidden else value for name, value in values.items()}
