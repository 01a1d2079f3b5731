"""Executions as recorded data, which a test replays: ``dspex export-test`` writes the test."""

from __future__ import annotations

import pprint
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dspex.errors import ExecutionCancelled, ExecutionFailed
from dspex.program.program import Program
from dspex.sealing.values import PLACEHOLDER, Sealing
from dspex.store.lifecycle.status import Status

if TYPE_CHECKING:
    from dspex.client.client import Client
    from dspex.client.execution import Execution
    from dspex.testing.model_double import ModelDouble

__all__ = ["exported_test", "recorded_execution", "replayed"]

#: How long a replay may take.
REPLAY_SECONDS = 120.0


def recorded_execution(client: Client, execution: Execution) -> dict[str, Any]:
    """What a test needs of an execution: its program, inputs, the answers of its model calls, and how it ended.

    Secret values are ``"<secret>"``; an answer of a program with secret fields is None.
    """
    session = client._session
    program = client.program(execution.program, execution.version)
    row = session.row(execution.id)
    shown = session.sealing.shown
    error = execution.shown_error
    calls = session.model_calls(execution.id, sealing=Sealing())
    result = row["result"]
    return {
        "id": str(execution.id),
        "program": {"name": program.name, "content": program.content},
        "inputs": shown(program.signature, "inputs", row["inputs"], execution.id),
        "calls": [
            {"model": call.model, "answer": None if call.answer == PLACEHOLDER else call.answer} for call in calls
        ],
        "status": str(execution.status),
        "result": None if result is None else shown(program.signature, "outputs", result, execution.id),
        "error": None if error is None else {"code": error.code, "cause": execution.cause_code, "message": str(error)},
    }


def replayed(
    recorded: Mapping[str, Any], client: Client, model: ModelDouble, *, program: Program | None = None
) -> Execution:
    """Run the recorded inputs again, with the recorded answers, and return the final execution.

    ``program`` is run in place of the recorded one: the program as it is now.
    """
    given = program or Program.from_content(recorded["program"]["name"], recorded["program"]["content"])
    deployed = model.serve(replace(given, retry=replace(given.retry, backoff=0.0)))
    client.deploy(deployed)
    model.replay(recorded)
    execution = client.submit(deployed, recorded["inputs"])
    try:
        execution.result(REPLAY_SECONDS)
    except (ExecutionFailed, ExecutionCancelled):
        execution.refresh()
    return execution


def exported_test(recorded: Mapping[str, Any]) -> str:
    """The text of a test module that replays a recorded execution and expects what was recorded."""
    name = re.sub(r"\W+", "_", recorded["program"]["name"]).lower()
    data = pprint.pformat(dict(recorded), width=110, sort_dicts=False)
    if recorded["status"] == Status.COMPLETED:
        sealed = any(call["answer"] is None for call in recorded["calls"])
        expected = "assert execution.result(0)" if sealed else _SAME.format(part='["result"]')
    else:
        expected = _SAME.format(part='["error"]["cause"]')
    return _TEMPLATE.format(
        id=recorded["id"], program=recorded["program"]["name"], data=data, name=name,
        short=recorded["id"].replace("-", "")[-8:], status=recorded["status"], expected=expected,
    )  # fmt: skip


_SAME = "assert recorded_execution(dspex_client, execution){part} == RECORDED{part}"
_TEMPLATE = '''\
"""Execution {id} of program {program!r}, {status}; from `dspex export-test`."""

from dspex.testing import recorded_execution, replayed

RECORDED = {data}


def test_{name}_{short}(dspex_client, dspex_worker, dspex_model):
    # With program=..., the program as it is now runs in place of the recorded one.
    execution = replayed(RECORDED, dspex_client, dspex_model)
    assert execution.status == {status!r}
    {expected}
'''
