"""The public surface: the same names on both clients, each of them documented."""

from __future__ import annotations

import inspect
import re
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

import dspex
from docs.generate import api

TWINS = [
    (dspex.Client, dspex.AsyncClient),
    (dspex.Execution, dspex.AsyncExecution),
    (dspex.Batch, dspex.AsyncBatch),
]
IDS = [plain.__name__ for plain, _ in TWINS]


def public(owner: object) -> dict[str, Any]:
    kind = owner if isinstance(owner, type) else type(owner)
    return {name: getattr(kind, name, None) for name in dir(owner) if not name.startswith("_")}


@pytest.mark.parametrize(("plain", "awaited"), TWINS, ids=IDS)
def test_twins_have_the_same_members(plain: type, awaited: type) -> None:
    ours, theirs = public(plain), public(awaited)
    assert ours.keys() == theirs.keys()
    for name, member in ours.items():
        assert isinstance(member, property) == isinstance(theirs[name], property), name
        if not isinstance(member, property):
            assert list(inspect.signature(member).parameters) == list(inspect.signature(theirs[name]).parameters), name


def test_a_client_has_no_public_attribute_beside_its_members() -> None:
    for made in (dspex.Client, dspex.AsyncClient):
        client = made(database_url="postgresql://nowhere/d", broker_url="redis://nowhere")
        assert public(client).keys() == public(type(client)).keys()


@pytest.mark.parametrize("owner", [owner for twins in TWINS for owner in twins], ids=lambda owner: owner.__name__)
def test_every_member_is_documented(owner: type) -> None:
    assert [name for name, member in public(owner).items() if not inspect.getdoc(member)] == []


@pytest.mark.parametrize("owner", [owner for twins in TWINS for owner in twins], ids=lambda owner: owner.__name__)
def test_the_reference_has_every_member(owner: type) -> None:
    section = re.split(rf"^### {owner.__name__}$", api.page(), flags=re.MULTILINE)[1]
    section = re.split(r"^###? ", section, flags=re.MULTILINE)[0]
    listed = {
        *re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE),
        *re.findall(r"^#### \w+\.(\w+)$", section, flags=re.MULTILINE),
    }
    as_in_client = re.search(r"^As in `Client`, awaited: (.*)\.$", section, flags=re.MULTILINE)
    listed |= set(re.findall(r"`(\w+)`", as_in_client[1])) if as_in_client else set()
    assert listed >= public(owner).keys()


ROW = {
    "id": UUID(int=1), "program": "qa", "version": "1", "status": "running", "priority": 5, "attempt": 2,
    "inputs": "{}", "result": None, "error": {"code": "rate_limited", "message": "wait", "type": "ModelError"},
    "metrics": {"lm_calls": 3}, "adapter_used": "dspy", "action_results": None, "metadata": None,
    "created_at": datetime(2026, 1, 1, tzinfo=UTC), "started_at": None, "finished_at": None, "batch_id": None,
    "batch_index": None, "traceparent": None,
}  # fmt: skip


def test_reading_a_snapshot_queries_nothing() -> None:
    """The database does not exist, so any query would raise BackendUnavailable."""
    with dspex.Client(database_url="postgresql://127.0.0.1:1/d", broker_url="redis://127.0.0.1:1") as client:
        session = client._session
        for execution in (dspex.Execution(session, ROW), dspex.AsyncExecution(session, ROW)):
            names = {name for name, member in public(execution).items() if isinstance(member, property)}
            queried = {"inputs", "audit_trail", "calls", "tool_calls", "feedback_entries"}
            read = {name: getattr(execution, name) for name in names - queried}
            assert (read["status"], read["attempts"], read["metrics"].lm_calls) == ("running", 2, 3)
            assert (read["error"].code, read["shown_error"].code) == ("rate_limited", "rate_limited")
        with pytest.raises(dspex.BackendUnavailable):
            dspex.Execution(session, ROW).refresh()
