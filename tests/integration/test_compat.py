"""DSPy programs of many kinds, hosted as by a worker: the same results, requests and calls as plain DSPy's.

``make compat`` compares all patterns with plain DSPy itself; here some of each kind with what it recorded.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
import pytest

import dspex
from dspex.errors import DspexError, ModelError, ProgramError, ValidationError
from tests.compat import patterns  # noqa: F401 - registers them
from tests.compat.memory import MemoryCalls, memory_run
from tests.compat.page import recorded_release
from tests.compat.pattern import PATTERNS, Pattern
from tests.compat.server import CompatServer
from tests.compat.sides import INTERPRETER, MODEL, program_of, run_hosted, stored_form
from tests.compat.table import digests
from workers.adapters.dspy.dspy_adapter import DspyAdapter
from workers.adapters.signature_limits import unkept_limits

RECORDED = json.loads((Path(__file__).parents[1] / "compat" / "plain.json").read_text())
#: Patterns of several calls, whose answers a later attempt replays.
LONG = [
    "pipeline",
    "loop",
    "several_completions",
    "gather",
    "own_threads",
    "own_pool",
    "dspy_parallel",
    "asyncio_run_gather",
    "sync_in_gather",
    "sync_after_await",
    "lm_ensemble",
    "set_lm",
    "own_refine",
    "own_best_of_n",
    "comparison",
    "critique_twice",
    "react_inside",
    "sub_agent",
    "react_async_tools",
    "code_act",
    "nested_parallel",
    "two_step",
    "program_two_step",
    "joined_threads",
    "joined_loop",
    "builtin_rlm",
]
KINDS = [
    "single",
    "nested",
    "overridden_predict",
    "bound_forward",
    "closure",
    "optional_input",
    "returns_text",
    "kept_name",
    "stateful",
    "task_group",
    "batch",
    "asyncified",
    "syncified",
    "syncified_wrapped",
    "asyncio_run",
    "own_loop",
    "sync_in_async",
    "async_inherited",
    "streamified_listener",
    "context_lm",
    "extra_headers",
    "named_by_the_program",
    "predictor_on_another",
    "program_options",
    "lm_copy",
    "lm_direct",
    "lm_history",
    "inspect_history",
    "track_usage",
    "module_callbacks",
    "context_callbacks",
    "configures_in_forward",
    "configures_in_init",
    "own_refine",
    "refine_judge",
    "majority",
    "dspy_ensemble",
    "react",
    "react_model_argument",
    "native_calls",
    "react_v2",
    "program_of_thought",
    "rlm",
    "rlm_queries",
    "models_out",
    "dataclass_out",
    "enum_out",
    "date_out",
    "tuple_out",
    "set_out",
    "tagged_models_out",
    "code_out",
    "image_out",
    "returns_model",
    "takes_models",
    "enum_in",
    "date_in",
    "images_in",
    "history_in",
    "image_in_model",
    "xml",
    "json_nested",
    "baml_nested",
    "own_adapter",
    "program_xml",
    "program_own_adapter",
    "state_chain",
    "state_react",
    "builtin_react_v2",
    "builtin_code_act",
    "builtin_code",
    "file_in",
    "joined_pool",
    "tree_out",
    "tree_in",
]


@pytest.fixture(scope="module")
def server() -> Iterator[CompatServer]:
    with CompatServer() as running:
        yield running


@pytest.fixture
async def adapter(server: CompatServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DspyAdapter]:
    monkeypatch.setenv("COMPAT_API_BASE", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    monkeypatch.setenv("COMPAT_HOSTED", "1")
    monkeypatch.setenv("DSPEX_CODE_INTERPRETER", INTERPRETER)
    monkeypatch.setenv("DSPEX_PROGRAM_PACKAGES", "tests.compat")
    made = DspyAdapter()
    yield made
    await made.close()


def _groups(names: Iterable[str]) -> dict[str, list[str]]:
    """The names by the groups of their patterns: an adapter serves a group, as one serves the programs of a worker."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(PATTERNS[name].group, []).append(name)
    return groups


@pytest.mark.skipif(dspy.__version__ != recorded_release(), reason="`make test-dspy` compares another DSPy with itself")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("names", _groups(KINDS).values(), ids=_groups(KINDS))
async def test_programs_do_what_they_do_without_dspex(
    names: list[str], server: CompatServer, adapter: DspyAdapter
) -> None:
    for name in names:
        side = await run_hosted(_ask(server), server.url, PATTERNS[name], adapter)
        assert (name, side.error, side.outputs) == (name, None, RECORDED[name]["outputs"])
        assert (name, digests(side.requests)) == (name, RECORDED[name]["requests"])
        assert (name, side.journaled) == (name, len(side.requests))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("names", _groups(LONG).values(), ids=_groups(LONG))
async def test_a_later_attempt_pays_for_what_was_not_answered(
    names: list[str], server: CompatServer, adapter: DspyAdapter
) -> None:
    for name in names:
        pattern, calls = PATTERNS[name], MemoryCalls()
        first = await _attempt(pattern, server, adapter, calls, 1)
        total = len(server.requests())
        del calls.calls[len(calls.calls) // 2 :]  # the attempt was killed here
        kept = sum(call.is_of_model for call in calls.calls)
        assert (name, await _attempt(pattern, server, adapter, calls, 2)) == (name, first)
        assert (name, len(server.requests())) == (name, total - kept)


@pytest.mark.parametrize("name", ["booking_agent", "records_of_tools"])
async def test_a_tool_that_answered_is_not_called_again(name: str, server: CompatServer, adapter: DspyAdapter) -> None:
    from tests.compat.patterns import agents

    pattern, calls = PATTERNS[name], MemoryCalls()
    agents.BOOKED.clear()
    first = await _attempt(pattern, server, adapter, calls, 1)
    assert agents.BOOKED == ["Paris"]
    assert await _attempt(pattern, server, adapter, calls, 2) == first
    assert (agents.BOOKED, server.requests()) == (["Paris"], [])


@pytest.mark.parametrize("name", ["broken_tool", "broken_tool_awaited"])
async def test_an_agent_shows_the_model_dspys_traceback_of_a_tool(
    name: str, server: CompatServer, adapter: DspyAdapter
) -> None:
    await _attempt(PATTERNS[name], server, adapter, MemoryCalls(), 1)
    shown = server.requests()[1]["messages"][-1]["content"]
    files = [Path(file) for file in re.findall(r'File "([^"]+)"', shown)]
    assert [file.name for file in files[-2:]] == ["tool.py", "agents.py"]
    assert not [file for file in files if "workers" in file.parts]
    assert "ValueError: no weather for Paris" in shown


@pytest.mark.parametrize(
    ("name", "code"), [("foreign_address", "model_not_allowed"), ("literal_key", "model_not_allowed")]
)
async def test_code_names_no_address_and_no_key_that_the_program_does_not(
    name: str, code: str, server: CompatServer, adapter: DspyAdapter
) -> None:
    with pytest.raises(ModelError) as refused:
        await _attempt(PATTERNS[name], server, adapter, MemoryCalls(), 1)
    assert (refused.value.code, refused.value.retryable, server.requests()) == (code, False, [])
    assert "sk-" not in str(refused.value)


async def test_outputs_that_code_is_to_blame_for_are_final(server: CompatServer, adapter: DspyAdapter) -> None:
    with pytest.raises(ProgramError) as failed:
        await _attempt(PATTERNS["returns_too_much"], server, adapter, MemoryCalls(), 1)
    assert (failed.value.code, failed.value.retryable) == ("output_unfit", False)
    assert "leave the limits of 'stars' out of the program's signature" in str(failed.value)


async def test_outputs_that_a_model_is_to_blame_for_are_asked_for_again(
    server: CompatServer, adapter: DspyAdapter
) -> None:
    raw = await _attempt(PATTERNS["model_says_too_much"], server, adapter, MemoryCalls(), 1)
    assert raw == {"stars": 16}  # the host of the attempt refuses it, and another attempt asks again
    program = program_of(PATTERNS["model_says_too_much"], server.url)
    with pytest.raises(ValidationError) as refused:
        program.signature.check_outputs(raw)
    assert "leave the limits of 'stars' out" in unkept_limits(program, refused.value)
    assert not unkept_limits(replace(program, module="predict"), refused.value)


async def test_an_error_names_the_users_own_line(
    server: CompatServer, adapter: DspyAdapter, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(DspexError) as failed:
        await _attempt(PATTERNS["fails_inside_dspy"], server, adapter, MemoryCalls(), 1)
    assert failed.value.details["at"].startswith("composition.py:")
    assert "composition.py" in caplog.text
    assert "France" not in caplog.text


async def test_a_package_that_configures_dspy_keeps_its_settings_but_not_its_model(
    server: CompatServer, adapter: DspyAdapter, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("First", "Second"):
        server.begin({}, [])
        program = dspex.Program(
            name, dspex.signature("question -> answer"), module=f"tests.compat.configured:{name}", model=MODEL,
            api_base=server.url,
        )  # fmt: skip
        run, _ = memory_run(program, {"question": "Where?"})
        await adapter.execute(run)
        (request,) = server.requests()
        assert (request["model"], request["response_format"]["type"]) == ("gpt-4o-mini", "json_schema")
    assert "tests.compat.configured calls dspy.configure(lm=" in caplog.text
    assert "JSONAdapter" not in type(dspy.settings.adapter).__name__  # other programs have their own


async def test_runs_at_once_do_not_see_each_other(server: CompatServer, adapter: DspyAdapter) -> None:
    """Their histories, settings and threads are apart."""
    names = ("lm_history", "configures_in_forward", "own_threads", "inspect_history", "sync_in_async", "context_lm")
    server.begin({}, [])
    found = await asyncio.gather(*(_run(PATTERNS[name], server, adapter, MemoryCalls(), 1) for name in names * 3))
    for name, outputs in zip(names * 3, found, strict=True):
        assert outputs == RECORDED[name]["outputs"]


async def _attempt(
    pattern: Pattern, server: CompatServer, adapter: DspyAdapter, calls: MemoryCalls, attempt: int
) -> dict[str, Any]:
    server.begin(pattern.answers, [list(step) for step in pattern.steps])  # type: ignore[misc]
    return await _run(pattern, server, adapter, calls, attempt)


async def _run(
    pattern: Pattern, server: CompatServer, adapter: DspyAdapter, calls: MemoryCalls, attempt: int
) -> dict[str, Any]:
    program = program_of(pattern, server.url)
    run, _ = memory_run(program, {name: stored_form(value) for name, value in pattern.inputs.items()}, calls, attempt)
    return dict(await adapter.execute(run))


def _ask(server: CompatServer) -> Any:
    def ask(path: str, body: Any) -> Any:
        return server.begin(body["answers"], body["steps"]) if path == "/begin" else server.requests()

    return ask
