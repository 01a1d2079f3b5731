"""A worker is killed in the middle of programs of many calls: only those in flight are made, and paid for, again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

import dspex
from dspex.client.client import Client
from tests.compat.pattern import PATTERNS
from tests.compat.server import CompatServer
from tests.compat.sides import INTERPRETER, program_of, stored_form
from tests.integration.test_compat import LONG, RECORDED
from tests.processes import WorkerProcess
from tests.waiting import wait_for

#: These run with all other tests, the others with `make chaos`.
REPRESENTATIVES = ("dspy_parallel", "react_inside")


@pytest.fixture(scope="module")
def server() -> Iterator[CompatServer]:
    with CompatServer() as running:
        yield running


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in REPRESENTATIVES else pytest.mark.chaos) for name in LONG]
)
def test_what_was_answered_before_the_kill_is_not_paid_for_again(
    name: str, server: CompatServer, client: Client, start_worker: Callable[..., WorkerProcess]
) -> None:
    environment = {
        "COMPAT_API_BASE": server.url, "COMPAT_HOSTED": "1", "OPENAI_API_KEY": "test",
        "DSPEX_PROGRAM_PACKAGES": "tests.compat", "DSPEX_CODE_INTERPRETER": INTERPRETER, "DSPEX_LEASE_SECONDS": 1,
    }  # fmt: skip
    pattern, plain = PATTERNS[name], RECORDED[name]
    program = replace(program_of(pattern, server.url), retry=dspex.Retry(backoff=0.05))
    client.deploy(program)
    answered = len(plain["requests"]) // 2
    server.begin(pattern.answers, [list(step) for step in pattern.steps])  # type: ignore[misc]
    server.hold_after(answered)

    doomed = start_worker(**environment)
    execution = client.submit(name, {field: stored_form(value) for field, value in pattern.inputs.items()})
    wait_for(lambda: server.held > 0 and len(execution.calls) == answered, "a call in flight, after half of them")
    doomed.kill()
    in_flight = server.held
    server.release()
    start_worker(**environment)

    execution.result(timeout=60)
    assert stored_result(client, execution) == plain["outputs"]
    assert len(server.requests()) == len(plain["requests"]) + in_flight
    assert [call.tool for call in execution.tool_calls] == [tool for tool, _ in pattern.steps if tool != "finish"]
    assert execution.attempts == 2
    assert execution.audit_trail.verify()


def stored_result(client: Client, execution: dspex.Execution) -> dict[str, Any]:
    found = json.loads(client._session.row(execution.id)["result"])
    return {name: value for name, value in found.items() if value is not None}
