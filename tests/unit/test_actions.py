"""Manual actions around a program: their order, their policies, what they tell, and the meter."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping
from functools import partial
from typing import Any
from uuid import uuid4

import pytest

import dspex
from dspex.program.actions import Action
from workers.actions import ActionFunction, ActionRun, Actions, Proceed
from workers.actions.resources import resource_management
from workers.actions.validation import complex_validation
from workers.adapters.contract import ModelUse, Run
from workers.attempt import sync_threads
from workers.attempt.current import new_task

NOTHING = ModelUse(0, 0.0)
SIGNATURE = ":string review, :integer words = 5 -> :string summary"


class Trail:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def record(self, kind: str, **data: Any) -> None:
        self.events.append((kind, data))


def run_of(*actions: str | Action, inputs: Mapping[str, Any] | None = None) -> Run:
    program = dspex.Program("p", dspex.signature(SIGNATURE), adapter="scripted", actions=list(actions))
    return Run(uuid4(), 1, program, inputs or {"review": "long and dull", "words": 5}, None, Trail())  # type: ignore[arg-type]


async def around(
    run: Run, program: Proceed, use: ModelUse = NOTHING, **functions: ActionFunction
) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """The outputs and the results; what fails has the results in its ``told``."""
    actions = Actions(run, run.trail, lambda: use, {})
    known = {"complex_validation": complex_validation, "resource_management": resource_management}
    try:
        functions = {
            a.name: known.get(a.name) or functions[a.name.partition(":")[2]] for a in run.program.manual_actions
        }
        outputs = await actions.around(program, functions)
    except Exception as error:
        error.told = actions.results  # type: ignore[attr-defined]
        raise
    return outputs, actions.results


async def answers() -> Mapping[str, Any]:
    return {"summary": "dull"}


async def test_actions_are_around_the_program_in_order() -> None:
    seen: list[str] = []

    def named(name: str) -> ActionFunction:
        async def action(run: ActionRun, proceed: Proceed) -> Mapping[str, Any]:
            seen.append(f"{name} before")
            outputs = await proceed()
            seen.append(f"{name} after {outputs['summary']}")
            return {"words": run.inputs["words"]}

        return action

    run = run_of("mine:first", "mine:second")
    outputs, results = await around(run, answers, first=named("first"), second=named("second"))
    assert outputs == {"summary": "dull"}
    assert seen == ["first before", "second before", "second after dull", "first after dull"]
    assert results["mine:first"] == {
        "ok": True,
        "result": {"words": 5},
        "duration_ms": results["mine:first"]["duration_ms"],
    }
    assert [data["action"] for kind, data in run.trail.events] == ["mine:second", "mine:first"]  # type: ignore[attr-defined]


async def test_a_program_runs_once_whether_its_action_asks_for_it_or_not() -> None:
    times = 0

    async def program() -> Mapping[str, Any]:
        nonlocal times
        times += 1
        return {"summary": "dull"}

    async def silent(run: ActionRun, proceed: Proceed) -> Mapping[str, Any]:
        return {}

    async def eager(run: ActionRun, proceed: Proceed) -> Mapping[str, Any]:
        first, second = await proceed(), await proceed()
        return {"same": first == second}

    await around(run_of("mine:silent"), program, silent=silent)
    _, results = await around(run_of("mine:eager"), program, eager=eager)
    assert times == 2
    assert results["mine:eager"]["result"] == {"same": True}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("raised", [ValueError("odd"), dspex.ActionFailed("no", retryable=True, result={"n": 1})])
async def test_a_failing_action_fails_the_attempt_or_only_warns(when: str, raised: Exception) -> None:
    async def failing(run: ActionRun, proceed: Proceed) -> Mapping[str, Any]:
        if when == "after":
            await proceed()
        raise raised

    with pytest.raises(dspex.ActionFailed) as caught:
        await around(run_of("mine:failing"), answers, failing=failing)
    assert caught.value.retryable is (raised.__class__ is dspex.ActionFailed)
    told = caught.value.told["mine:failing"]  # type: ignore[attr-defined]
    assert told["ok"] is False
    assert told["error"]["code"] == ("action_failed" if isinstance(raised, dspex.ActionFailed) else "action_error")

    outputs, results = await around(run_of(Action("mine:failing", on_failure="warn")), answers, failing=failing)
    assert outputs == {"summary": "dull"}
    assert results["mine:failing"]["ok"] is False


async def test_the_programs_failure_cannot_be_swallowed() -> None:
    async def fails() -> Mapping[str, Any]:
        raise dspex.ModelError("away", code="provider_unavailable")

    async def swallowing(run: ActionRun, proceed: Proceed) -> Mapping[str, Any]:
        try:
            await proceed()
        except dspex.ModelError:
            return {"swallowed": True}
        return {}

    with pytest.raises(dspex.ModelError) as caught:
        await around(run_of("mine:swallowing"), fails, swallowing=swallowing)
    assert caught.value.told["mine:swallowing"]["result"] == {"swallowed": True}  # type: ignore[attr-defined]


@pytest.mark.parametrize("told", [[1], {"at": object()}, {"long": "x" * 300_000}, {"nan": float("nan")}])
async def test_what_cannot_be_kept_is_the_actions_failure(told: Any) -> None:
    async def odd(run: ActionRun, proceed: Proceed) -> Any:
        return told

    with pytest.raises(dspex.ActionFailed, match="its result"):
        await around(run_of("mine:odd"), answers, odd=odd)


async def test_rules_about_inputs_are_checked_before_the_program_runs() -> None:
    async def must_not_run() -> Mapping[str, Any]:
        raise AssertionError

    rules = {"rules": ["review.length > words", "summary.length <= review.length"]}
    run = run_of(Action("complex_validation", options=rules), inputs={"review": "no", "words": 5})
    with pytest.raises(dspex.ActionFailed, match=r"review\.length > words") as caught:
        await around(run, must_not_run)
    assert (caught.value.code, caught.value.retryable) == ("rule_violated", False)


async def test_another_attempt_may_satisfy_a_rule_about_outputs() -> None:
    run = run_of(Action("complex_validation", options={"rules": ['summary == "short"']}))
    with pytest.raises(dspex.ActionFailed) as caught:
        await around(run, answers)
    assert caught.value.retryable
    report = caught.value.told["complex_validation"]["result"]  # type: ignore[attr-defined]
    assert report["rules"] == [{"rule": 'summary == "short"', "holds": False}]
    assert report["outputs"]["summary"] == {"type": ":string", "present": True, "length": 4, "depth": 0, "bytes": 6}
    assert "dull" not in str(report)


async def test_cpu_is_counted_in_the_attempts_tasks_and_threads_and_nowhere_else(
    request: pytest.FixtureRequest,
) -> None:
    own_threads = sync_threads.SyncThreads(2)
    sync_threads.install(own_threads)
    request.addfinalizer(partial(sync_threads.install, None))
    request.addfinalizer(own_threads.close)
    asyncio.get_running_loop().set_task_factory(new_task)
    own = elsewhere = 0.0
    ended = asyncio.Event()

    async def others() -> None:
        nonlocal elsewhere
        while not ended.is_set():
            elsewhere += sum(_work() for _ in range(10))
            await asyncio.sleep(0)

    async def program() -> Mapping[str, Any]:
        nonlocal own

        async def child() -> float:
            pieces = 0.0
            for _ in range(10):
                pieces += _work()
                await asyncio.sleep(0)
            return pieces

        own = sum(await asyncio.gather(child(), sync_threads.run_sync(lambda: sum(_work() for _ in range(10)))))
        return {"summary": "dull"}

    busy = asyncio.create_task(others())
    _, results = await around(run_of("resource_management"), program)
    ended.set()
    await busy
    used = results["resource_management"]["result"]
    assert own <= used["cpu_seconds"] < elsewhere  # 20 pieces of work, beside more than 100
    assert used["memory_mb"] > 1


async def test_an_attempt_that_exceeds_a_limit_is_ended_at_its_next_step() -> None:
    steps = 0

    async def program() -> Mapping[str, Any]:
        nonlocal steps
        try:
            while True:
                _work()
                steps += 1
                await asyncio.sleep(0)
        except dspex.ActionFailed:
            raise dspex.ProgramError("what an adapter makes of it") from None

    action = Action("resource_management", options={"max_cpu_seconds": 0.01})
    with pytest.raises(dspex.ActionFailed, match="max_cpu_seconds") as caught:
        await around(run_of(action), program)
    assert caught.value.code == "resource_exceeded"
    assert steps > 0

    warned = Action("resource_management", on_failure="warn", options={"max_lm_calls": 1})
    outputs, results = await around(run_of(warned), answers, ModelUse(2, 1.0))
    assert outputs == {"summary": "dull"}
    assert results["resource_management"]["error"]["code"] == "resource_exceeded"


def test_a_program_says_what_is_wrong_with_its_actions() -> None:
    with pytest.raises(dspex.ValidationError) as caught:
        run_of(
            Action("complex_validation", options={"rules": ["sumary == 1"]}),
            Action("resource_management", on_failure="ignore", options={"max_cpu": 1, "max_lm_calls": -1}),
            "no function",
        )
    assert {error.path for error in caught.value.errors} == {
        "actions.complex_validation.rules[0]",
        "actions.resource_management.on_failure",
        "actions.resource_management.max_cpu",
        "actions.resource_management.max_lm_calls",
        "actions",
    }


def test_actions_are_part_of_a_programs_content() -> None:
    action = Action("complex_validation", on_failure="warn", options={"rules": ["words > 1"]})
    program = run_of(action, "resource_management").program
    again = dspex.Program.from_content("p", program.content)
    assert again == program
    assert again.version == program.version
    assert again.manual_actions == (action, Action("resource_management"))


def _work() -> float:
    """A piece of work, and the CPU seconds it took."""
    began = time.thread_time()
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 2000)
    return time.thread_time() - began
