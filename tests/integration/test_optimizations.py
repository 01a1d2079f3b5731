"""Optimisations as executions: the same best state as here, also when their workers are killed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dspy
import pytest
from dspy.utils import DummyLM

import dspex
from dspex.client.client import Client
from dspex.client.improvement.optimization_page import optimization_page
from tests.model_server import ModelServer, Step, model_server
from tests.processes import WorkerProcess
from tests.waiting import wait_for
from workers.adapters.dspy.modules import build_module

__all__ = ["model_server"]

ROWS = [{"question": f"What is {n} and {n}?", "answer": str(2 * n)} for n in range(8)]
#: What both the server and DSPy's own dummy answer.
ANSWER = {"answer": "42"}
OPTIONS = {"max_bootstrapped_demos": 3, "max_labeled_demos": 3}
METRICS = """
def is_fine(example, prediction, trace=None):
    return int(example.answer) % 4 == 0 and bool(prediction.answer)
"""


@pytest.fixture
def allowed(tmp_path: Any) -> dict[str, Any]:
    (tmp_path / "sum_metrics.py").write_text(METRICS)
    return {"OPENAI_API_KEY": "none", "DSPEX_PROGRAM_PACKAGES": "sum_metrics", "PYTHONPATH": tmp_path}


def deploy(client: Client, model_server: ModelServer) -> dspex.Program:
    program = dspex.Program(
        "sums", dspex.signature(":string question -> :string answer"), model="openai/test", prompt="chat",
        api_base=model_server.api_base,
    )  # fmt: skip
    client.deploy(program)
    return program


def found_here(program: dspex.Program) -> dict[str, Any]:
    examples = [dspy.Example(**row).with_inputs("question") for row in ROWS]
    with dspy.context(lm=DummyLM([ANSWER] * 20), adapter=dspy.ChatAdapter()):
        optimiser = dspy.BootstrapFewShot(metric=lambda e, p, trace=None: int(e.answer) % 4 == 0, **OPTIONS)
        state: dict[str, Any] = optimiser.compile(build_module(program), trainset=examples).dump_state()
    return state


def test_a_killed_optimisation_finds_the_same_state_and_pays_for_nothing_twice(
    client: Client, start_worker: Callable[..., WorkerProcess], model_server: ModelServer, allowed: dict[str, Any]
) -> None:
    program = deploy(client, model_server)
    here = found_here(program)
    model_server.script(default=Step(outputs=ANSWER))
    first = start_worker(**allowed)
    client.dataset("sums", ROWS, inputs=["question"])
    job = client.optimize("sums", trainset="sums", metric="sum_metrics:is_fine", optimizer="bootstrap", options=OPTIONS)
    wait_for(lambda: model_server.calls()["answered"] >= 2, "two rollouts")
    first.kill()
    start_worker(**allowed)
    result = job.result(timeout=60)
    assert result.ended == "complete"
    best = client.program("sums", result.version)
    assert best.state is not None
    assert best.state["self"]["demos"] == here["demos"]
    assert client.submit("sums", {"question": "?"}).version == program.version, "deployed, and not the current one"
    repeated = sum(count - 1 for count in model_server.calls()["by_hash"].values())
    assert repeated <= 1, "only the call in flight at the kill"
    assert job.candidates()[0].executions >= 2
    notes = {each.version: each.note for each in client.versions("sums")}
    assert str(notes[result.version]).startswith(f"bootstrap from {program.version} on sums ")
    assert "<svg" in optimization_page(job)
    assert client.optimization(job.id).result(timeout=0).version == result.version


def test_wrong_arguments_are_refused_before_anything_is_stored(client: Client, model_server: ModelServer) -> None:
    deploy(client, model_server)
    client.dataset("sums", ROWS, inputs=["question"])
    with pytest.raises(dspex.ValidationError) as refused:
        client.optimize("sums", trainset="sums", metric="no", optimizer="luck", budget_usd=0, seed="x")  # type: ignore[arg-type]
    assert [fault.path for fault in refused.value.errors] == ["metric", "optimizer", "budget_usd", "seed"]
    assert client.list() == []
