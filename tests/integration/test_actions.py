"""Manual actions in a real worker: the seed's workflow, a user's own action, and what their failures do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import dspex
from dspex.client.client import Client
from tests.integration.test_execution import HAPPY_PATH, scripted
from tests.processes import WorkerProcess

OWN = """
from dspex import ActionFailed

async def count_words(run, proceed):
    outputs = await proceed()
    words = len(outputs["answer"].split())
    if words > run.options.get("most", 100):
        raise ActionFailed("too many words", retryable=True, result={"words": words})
    return {"words": words}
"""


def test_actions_run_around_a_program_in_a_worker(
    client: Client, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    (tmp_path / "shop_actions.py").write_text(OWN)
    start_worker(DSPEX_PROGRAM_PACKAGES="shop_actions", PYTHONPATH=tmp_path)

    # As the seed has it: validation and resources, results under both names.
    seed = ":string operation, :map parameters -> :string result, :map execution_metrics"
    client.deploy(scripted("seed", seed, actions=["complex_validation", "resource_management"]))
    execution = client.submit("seed", {"operation": "complex", "parameters": {"complexity": "high"}})
    execution.result(timeout=60)
    assert set(execution.action_results) == {"complex_validation", "resource_management"}
    assert execution.action_results["complex_validation"]["result"]["valid"] is True
    used = execution.action_results["resource_management"]["result"]
    assert used["lm_calls"] == 1
    assert used["cpu_seconds"] > 0
    around = HAPPY_PATH.index("result_serialization")
    assert execution.audit_trail.kinds == [*HAPPY_PATH[:around], *["manual_action"] * 2, *HAPPY_PATH[around:]]
    assert execution.audit_trail.verify()

    # A user's own that fails: by its policy the attempts fail, each with calls of its own, or it is only recorded.
    own = dspex.Action("shop_actions:count_words", options={"most": 2})
    outputs = {"outputs": {"answer": "far too many words"}}
    retry = dspex.Retry(max_attempts=2, backoff=0)
    client.deploy(scripted(actions=[own], module_options=outputs, retry=retry))
    failing = client.submit("qa", {"question": "?"})
    with pytest.raises(dspex.ExecutionFailed, match="action_failed"):
        failing.result(timeout=60)
    assert failing.action_results["shop_actions:count_words"]["result"] == {"words": 4}
    assert failing.metrics.lm_calls == 2
    assert failing.metrics.replayed_lm_calls == 0

    client.deploy(
        scripted(actions=[dspex.Action(own.name, on_failure="warn", options=own.options)], module_options=outputs)
    )
    warned = client.submit("qa", {"question": "?"})
    assert warned.result(timeout=60).answer == "far too many words"
    assert warned.action_results[own.name]["ok"] is False

    # One that this worker may not import.
    client.deploy(scripted(actions=["os:system"]))
    with pytest.raises(dspex.ExecutionFailed) as refused:
        client.execute("qa", {"question": "?"}, timeout=60)
    assert refused.value.code == "module_not_allowed"
