"""Programs of every kind through a real worker: modules of several steps, tools, and code of the user's own."""

from __future__ import annotations

import itertools
import json
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest

import dspex
from dspex.client.client import Client
from dspex.client.execution import Execution
from dspex.embedded.demo.demo_programs import CALLS_EACH, FIRST, PACKAGE, review_desk
from dspex.embedded.embedded_servers import EmbeddedServers
from tests.conftest import client_with_worker
from tests.model_server import ModelServer, Step, model_server
from tests.processes import WorkerProcess
from tests.recording import MemoryJournal, a_run
from tests.waiting import wait_for
from workers.adapters.dspy import dspy_adapter
from workers.adapters.dspy.dspy_adapter import DspyAdapter
from workers.adapters.dspy.modules import build_module

__all__ = ["model_server"]

QA = dspex.signature(":string question -> :string answer")
OWN = "tests.own_programs"
TOOLS = [f"{OWN}:look_up", f"{OWN}:weather", f"{OWN}:refuse"]
ALLOWED = {"DSPEX_PROGRAM_PACKAGES": OWN}

Ask = Callable[..., Execution]
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def desk(servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client, and one worker for all tests of this module, which allows the code of these tests."""
    with client_with_worker(servers, tmp_path_factory, **ALLOWED) as client:
        yield client


@pytest.fixture
def ask(desk: Client, model_server: ModelServer) -> Ask:
    """Deploys a program with these settings and runs it until it is over."""

    def run(question: str = "What is the capital of France?", **settings: Any) -> Execution:
        name = f"program_{next(_numbers)}"
        desk.deploy(
            dspex.Program(name, **{"signature": QA, "model": "openai/test", "api_base": model_server.url, **settings})
        )
        execution = desk.submit(name, {"question": question})
        wait_for(lambda: desk.get(execution.id).status.is_final, "its end")
        return desk.get(execution.id)

    return run


def step(tool: str, **arguments: Any) -> Step:
    """A step of an agent: it calls a tool."""
    return Step(outputs={"next_thought": "Hm.", "next_tool_name": tool, "next_tool_args": arguments})


def tool_calls(execution: Execution) -> list[tuple[str, bool]]:
    return [(event.data["tool"], event.data["ok"]) for event in execution.audit_trail if event.kind == "tool_call"]


@pytest.mark.parametrize("prompt", ["chat", "json", "compact"])
def test_an_agent_calls_its_tools_and_each_call_is_on_record(ask: Ask, model_server: ModelServer, prompt: str) -> None:
    model_server.script(
        step("look_up", country="France"),
        step("weather", city="Paris"),
        step("refuse", reason="a test"),
        step("look_up", city="Paris"),
        step("finish"),
        Step(outputs={"reasoning": "It is known.", "answer": "Paris"}),
    )
    execution = ask(module="react", tools=TOOLS, prompt=prompt)
    assert execution.result().answer == "Paris"
    assert tool_calls(execution) == [("look_up", True), ("weather", True), ("refuse", False), ("look_up", False)]
    assert execution.metrics.lm_calls == 6
    told = json.dumps(model_server.calls()["requests"][-1])
    assert "Execution error in refuse: ValueError: refused: a test" in told
    assert "degrees" in told
    assert "Traceback" not in told  # neither paths of this machine nor anything that differs on another
    assert "France" not in json.dumps([dict(event.data) for event in execution.audit_trail])


def test_a_model_calls_only_the_tools_of_its_program(ask: Ask, model_server: ModelServer) -> None:
    """`system` is a function of an allowed package, and no tool of the program."""
    for name in ("system", f"{OWN}:system"):
        model_server.script(step(name, command="id"), step(name, command="id"), Step(outputs={"answer": "Paris"}))
        execution = ask(module="react", tools=TOOLS, retry=dspex.Retry(max_attempts=1))
        assert tool_calls(execution) == []
        assert model_server.calls()["total"] >= 2  # it was sent back to the model


def test_an_agent_that_was_killed_pays_for_no_step_twice(
    model_server: ModelServer, client: Client, start_worker: Callable[..., WorkerProcess]
) -> None:
    steps = [step("look_up", country="France"), step("weather", city="Paris"), step("look_up", country="Italy")]
    model_server.script(*steps, default=Step(fault="hang"))
    program = dspex.Program(
        "agent", QA, module="react", tools=TOOLS, model="openai/test", api_base=model_server.url,
        retry=dspex.Retry(backoff=0.05),
    )  # fmt: skip
    client.deploy(program)
    worker = start_worker(**ALLOWED, DSPEX_LEASE_SECONDS=1)
    execution = client.submit("agent", {"question": "Which capitals?"})
    wait_for(lambda: model_server.calls()["running"] == 1 and model_server.calls()["answered"] == 3, "the fourth step")
    worker.kill()
    model_server.script(step("finish"), Step(outputs={"reasoning": "So.", "answer": "Paris, Rome"}))
    start_worker(**ALLOWED, DSPEX_LEASE_SECONDS=1)
    assert execution.result(timeout=60).answer == "Paris, Rome"
    done = client.get(execution.id)
    assert (done.attempts, done.metrics.replayed_lm_calls, done.metrics.lm_calls) == (2, 3, 5)
    # Only the call that nobody had answered was made again.
    assert sorted(model_server.calls()["by_hash"].values()) == [1, 1, 1, 1, 2]
    # No tool that had answered was called again.
    again = [event for event in done.audit_trail if event.kind == "tool_call" and event.attempt == 2]
    assert [event.data.get("replayed") for event in again] == [True] * 3
    assert done.audit_trail.verify()


REWARDED = {"n": 3, "reward": f"{OWN}:concise", "threshold": 2}


@pytest.mark.parametrize(
    ("settings", "calls"),
    [
        ({"module": "react", "tools": TOOLS, "module_options": {"max_iters": 3}}, 4),
        ({"module": "best_of_n", "module_options": REWARDED}, 3),
        ({"module": "refine", "module_options": REWARDED, "prompt": "compact"}, 5),
        ({"module": "multi_chain_comparison", "module_options": {"m": 4}}, 5),
        ({"module": f"{OWN}:Support"}, 2),
        ({"module": f"{OWN}:Counting"}, 1),
    ],
    ids=lambda value: value.get("module") if isinstance(value, dict) else "",
)
async def test_a_later_attempt_replays_every_call(
    model_server: ModelServer, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], calls: int
) -> None:
    """Killed after its last call and before its outcome was written: nothing is asked again."""
    monkeypatch.setenv("DSPEX_PROGRAM_PACKAGES", OWN)
    program = dspex.Program("p", QA, model="openai/test", api_base=model_server.url, **settings)
    first, adapter = MemoryJournal(), DspyAdapter()
    outputs = await adapter.execute(a_run(program, {"question": "Which?"}, first))
    again = first.recall()
    assert await adapter.execute(a_run(program, {"question": "Which?"}, again, attempt=2)) == outputs
    assert (again.replayed, model_server.calls()["total"]) == (calls, calls)
    await adapter.close()


async def test_the_program_of_the_demo(model_server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPEX_PROGRAM_PACKAGES", PACKAGE)
    program = replace(review_desk("openai/test"), prompt="compact", api_base=model_server.url)
    journal, adapter = MemoryJournal(), DspyAdapter()
    outputs = await adapter.execute(a_run(program, {"review": FIRST.text}, journal))
    await adapter.close()
    program.signature.check_outputs(outputs)
    assert len(journal.answers) == CALLS_EACH


def test_the_best_of_several_answers_is_taken(ask: Ask, model_server: ModelServer) -> None:
    answers = ["the city of Paris", "Paris, France", "the old city of Paris"]
    model_server.script(*(Step(outputs={"answer": answer}) for answer in answers))
    options = {"n": 3, "reward": f"{OWN}:concise", "threshold": 1}
    assert ask(module="best_of_n", module_options=options).result().answer == "Paris, France"
    assert model_server.calls()["requests"][0]["temperature"] == 1.0


def test_an_answer_that_is_good_enough_ends_the_search(ask: Ask, model_server: ModelServer) -> None:
    model_server.script(Step(outputs={"answer": "the city of Paris"}), Step(outputs={"answer": "Paris"}))
    options = {"n": 5, "reward": f"{OWN}:concise", "threshold": 1, "module": "chain_of_thought"}
    assert ask(module="best_of_n", module_options=options).result().answer == "Paris"
    assert model_server.calls()["total"] == 2


def test_a_refined_answer_has_the_models_own_advice(ask: Ask, model_server: ModelServer) -> None:
    model_server.script(
        Step(outputs={"answer": "the city of Paris"}),
        Step(outputs={"discussion": "Too long.", "advice": {"self": "Say the name alone."}}),
        Step(outputs={"answer": "Paris"}),
    )
    options = {"n": 3, "reward": f"{OWN}:concise", "threshold": 1}
    assert ask(module="refine", module_options=options).result().answer == "Paris"
    assert "Say the name alone." in json.dumps(model_server.calls()["requests"][-1])


def test_several_chains_of_thought_are_compared(ask: Ask, model_server: ModelServer) -> None:
    chain = Step(outputs={"reasoning": "I recall it.", "answer": "Paris"}, times=3)
    model_server.script(chain, Step(outputs={"rationale": "All agree.", "answer": "Paris"}))
    execution = ask(module="multi_chain_comparison", module_options={"m": 3, "temperature": 0.5})
    assert execution.result().answer == "Paris"
    assert execution.metrics.lm_calls == 4
    requests = model_server.calls()["requests"]
    assert {request["temperature"] for request in requests} == {0.5}
    assert json.dumps(requests[-1]).count("I'm trying to I recall it.") == 3


def test_a_module_of_the_users_own(ask: Ask, model_server: ModelServer) -> None:
    model_server.script(Step(outputs={"topic": "capitals"}), Step(outputs={"reasoning": "…", "answer": "Paris"}))
    execution = ask(module=f"{OWN}:Support", module_options={"style": "grand"})
    assert execution.result().answer == "Paris"
    asked = json.dumps(model_server.calls()["requests"][-1])
    assert "capitals: What is the capital of France?" in asked
    assert "Answer in grand words." in asked


def test_a_bad_answer_in_a_module_of_the_users_own_is_sent_back(ask: Ask, model_server: ModelServer) -> None:
    model_server.script(
        Step(outputs={"topic": "capitals"}),
        Step(outputs={"reasoning": "…", "answer": "far too long"}),
        Step(outputs={"reasoning": "…", "answer": "Paris"}),
    )
    execution = ask(module=f"{OWN}:Support", signature=":string question -> :string(max_length=8) answer")
    assert execution.result().answer == "Paris"


def test_executions_share_nothing_of_a_module_of_the_users_own(ask: Ask, model_server: ModelServer) -> None:
    """It is synchronous besides: it runs in a thread, and its calls are journaled like any other."""
    model_server.script(default=Step(outputs={"answer": "Paris"}))
    for question in ("Which?", "And which?"):
        execution = ask(question, module=f"{OWN}:Counting")
        assert (execution.result().answer, execution.metrics.lm_calls) == ("Paris 1", 1)


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("os:system", "module_not_allowed"),
        ("tests.own_programs_of_others:Support", "module_not_allowed"),
        (f"{OWN}:system", "module_not_allowed"),
        (f"{OWN}:no_module", "not_a_module"),
        (f"{OWN}:broken_factory", "program_error"),
    ],
)
def test_code_that_is_not_allowed_or_broken(ask: Ask, module: str, code: str) -> None:
    execution = ask(module=module, retry=dspex.Retry(max_attempts=2, backoff=0))
    assert execution.error is not None
    assert execution.error.code == code
    assert "a secret text" not in str(execution.error)


async def test_an_import_that_does_not_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "endless_shop.py").write_text("import sys\nsys.modules['endless_gate'].wait()\n")
    gate = threading.Event()
    monkeypatch.setitem(sys.modules, "endless_gate", cast("ModuleType", gate))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("DSPEX_PROGRAM_PACKAGES", "endless_shop")
    monkeypatch.setattr(dspy_adapter, "LOAD_SECONDS", 0.05)
    adapter = DspyAdapter()
    try:
        with pytest.raises(dspex.ProgramError, match="was not imported within") as refused:
            await adapter.prepare(dspex.Program("endless", QA, model="openai/test", module="endless_shop:Support"))
        assert refused.value.code == "code_not_found"
        await adapter.prepare(dspex.Program("plain", QA, model="openai/test"))
    finally:
        gate.set()
        await adapter.close()


@pytest.mark.parametrize("module", [f"{OWN}.nothing:Support", f"{OWN}:Nothing"])
def test_an_execution_waits_for_a_worker_that_has_its_code(desk: Client, module: str) -> None:
    name = f"program_{next(_numbers)}"
    desk.deploy(dspex.Program(name, QA, model="openai/test", module=module, retry=dspex.Retry(max_attempts=1)))
    execution = desk.submit(name, {"question": "?"})
    wait_for(lambda: desk.get(execution.id).error is not None, "its first attempt")
    found = desk.get(execution.id)
    assert (found.status, found.error and found.error.code) == ("queued", "code_not_found")
    assert desk.cancel(execution.id)


def test_a_worker_keeps_the_packages_that_it_started_with(
    client: Client, start_worker: Callable[..., WorkerProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    settings = tmp_path / "dspex.toml"
    settings.write_text('program_packages = ["early_shop"]')
    start_worker(PYTHONPATH=tmp_path)
    settings.write_text('program_packages = ["early_shop", "late_shop"]')
    for name in ("early_shop", "late_shop"):
        (tmp_path / f"{name}.py").write_text("async def note(run, proceed):\n    return await proceed()\n")
        once = dspex.Retry(max_attempts=1)
        client.deploy(dspex.Program(name, QA, adapter="scripted", actions=[f"{name}:note"], retry=once))
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "'late_shop' is deployed, but 1 of 1 live workers will refuse it" in warning
    client.execute("early_shop", {"question": "?"}, timeout=60)
    with pytest.raises(dspex.ExecutionFailed, match="late_shop"):
        client.execute("late_shop", {"question": "?"}, timeout=60)


def test_tools_and_rewards_are_held_to_the_same_list(ask: Ask) -> None:
    for settings in (
        {"module": "react", "tools": ["os:system"]},
        {"module": "best_of_n", "module_options": {"n": 2, "threshold": 1, "reward": "os:system"}},
    ):
        assert ask(**settings).error.code == "module_not_allowed"  # type: ignore[union-attr]


def test_an_optimised_state_of_several_predictors(
    ask: Ask, model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSPEX_PROGRAM_PACKAGES", OWN)
    module = f"{OWN}:Support"
    built = build_module(dspex.Program("support", QA, module=module, model="openai/test"))
    built.topic.demos = [{"question": "Where is the Louvre?", "topic": "museums"}]
    built.answer.predict.signature = built.answer.predict.signature.with_instructions("Answer like a guide.")
    state = json.loads(json.dumps(built.dump_state()))
    assert set(state) == {"topic", "answer.predict"}
    assert ask(module=module, state=state).status == "completed"
    topic, answer = (json.dumps(request) for request in model_server.calls()["requests"])
    assert "Where is the Louvre?" in topic
    assert "Answer like a guide." in answer
    del state["topic"]
    assert ask(module=module, state=state).error.code == "state_mismatch"  # type: ignore[union-attr]


def test_what_a_program_gives_besides_its_outputs_is_kept(ask: Ask, model_server: ModelServer) -> None:
    model_server.script(Step(outputs={"reasoning": "It is known.", "answer": "Paris"}))
    assert ask(module="chain_of_thought").extra == {"reasoning": "It is known."}
    last = Step(outputs={"reasoning": "So.", "answer": "P"})
    model_server.script(step("look_up", country="France"), step("finish"), last)
    execution = ask(module="react", tools=TOOLS, record="full")
    assert execution.extra["trajectory"]["observation_0"] == "Paris"
    (looked_up,) = execution.tool_calls
    assert (looked_up.tool, looked_up.arguments, looked_up.result) == ("look_up", {"country": "France"}, "Paris")
    assert all(not call.model.startswith("tool:") for call in execution.calls)
    assert ask(module="chain_of_thought", record="none").extra == {}


def test_what_is_heavy_is_loaded_once_in_a_worker_and_shown(ask: Ask, desk: Client) -> None:
    for _ in range(2):
        execution = ask(module=f"{OWN}:Lookup")
        assert (execution.result().answer, execution.extra) == ("Paris", {"sources": ["atlas"], "loaded": 1})
    wait_for(lambda: [dict(each) for each in desk.workers()[0]["setups"]] != [], "the next heartbeat")
    (shown,) = desk.workers()[0]["setups"]
    assert shown["function"] == f"{OWN}:capitals"
    assert shown.keys() == {"function", "seconds", "memory_bytes"}
