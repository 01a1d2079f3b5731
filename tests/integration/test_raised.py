"""Whatever a program raises fails its own execution, once, and the error says what was raised."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import dspex
from dspex.client.client import Client
from dspex.client.execution import Execution
from dspex.embedded.embedded_servers import EmbeddedServers
from tests.conftest import client_with_worker
from tests.model_server import ModelServer, Step, model_server
from tests.processes import WorkerProcess
from tests.waiting import wait_for

__all__ = ["model_server"]

QA = dspex.signature(":string question -> :string answer")
OWN = "tests.raising_programs"
#: The lease is renewed often: an attempt that was broken off would be begun again soon.
SETTINGS = {"DSPEX_PROGRAM_PACKAGES": OWN, "DSPEX_LEASE_SECONDS": "2"}

#: Modules that cannot be imported, built or set up, by name; and one that can.
BROKEN = {
    "panics_at_import": "class Panic(BaseException): ...\n\nraise Panic('a secret text')",
    "exits_at_import": "import sys\nsys.exit(1)",
    "panics_when_built": "class Panic(BaseException): ...\n\ndef build():\n    raise Panic('a secret text')",
    "exits_when_built": "import sys\n\ndef build():\n    sys.exit(1)",
    "panics_when_set_up": (
        "import dspex\n\nclass Panic(BaseException): ...\n\n"
        "@dspex.setup\ndef index():\n    raise Panic('a secret text')\n\ndef build(): ..."
    ),
    "imports_what_panics": "from .panics_when_set_up import index\n\ndef build(): ...",
}
GOOD = "import dspy\n\ndef build():\n    return dspy.Predict('question -> answer')\n"

Ask = Callable[..., Execution]
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def desk(servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client, and one worker for all tests of this module."""
    with client_with_worker(servers, tmp_path_factory, **SETTINGS) as client:
        yield client


@pytest.fixture
def ask(desk: Client, model_server: ModelServer) -> Ask:
    """Deploys a program with these settings and runs it until it has failed, in its only attempt."""

    def run(**settings: Any) -> Execution:
        name = f"program_{next(_numbers)}"
        given = {"model": "openai/test", "api_base": model_server.url, "timeout": 60, "signature": QA, **settings}
        desk.deploy(dspex.Program(name, **given))
        execution = desk.submit(name, {"question": "?"})
        wait_for(lambda: desk.get(execution.id).status.is_final, "its end")
        found = desk.get(execution.id)
        assert found.audit_trail.kinds.count("claimed") == 1
        assert found.audit_trail.kinds[-1] == "failed"
        assert "a secret text" not in str(found.error)
        return found

    return run


def calls(server: ModelServer) -> int:
    return len(server.calls()["requests"])


@pytest.mark.parametrize(
    ("module", "how"),
    [
        *((module, how) for module in ("Panics", "SyncPanics")
          for how in ("Panic", "SystemExit", "KeyboardInterrupt", "GeneratorExit")),
        *(("SyncPanics", how) for how in ("StopIteration", "CancelledError", "TimeoutError")),
    ],
)  # fmt: skip
def test_what_a_program_raises_is_reported(ask: Ask, model_server: ModelServer, module: str, how: str) -> None:
    execution = ask(module=f"{OWN}:{module}", module_options={"how": how})
    assert execution.error is not None
    assert execution.error.code == "program_error"
    assert f"raised {how} at raising_programs.py:" in str(execution.error)
    assert calls(model_server) == 1


def test_a_tool_that_is_called_once_is_not_called_again_when_it_panics(
    ask: Ask, model_server: ModelServer, tmp_path: Path
) -> None:
    called = tmp_path / "called"
    step = {"next_thought": "t", "next_tool_name": "panic_once", "next_tool_args": {"path": str(called)}}
    model_server.script(Step(outputs=step))
    execution = ask(module="react", tools=[f"{OWN}:panic_once"])
    assert "raised Panic at raising_programs.py:" in str(execution.error)
    assert called.read_text() == "called\n"
    assert calls(model_server) == 1


def test_an_asynchronous_reward_that_panics(ask: Ask, model_server: ModelServer) -> None:
    options = {"n": 2, "threshold": 1, "reward": f"{OWN}:panic_reward"}
    assert "raised Panic at raising_programs.py:" in str(ask(module="best_of_n", module_options=options).error)
    assert calls(model_server) == 1


def test_an_action_that_panics(ask: Ask, model_server: ModelServer) -> None:
    execution = ask(actions=[f"{OWN}:panic_action"])
    assert execution.error is not None
    assert (execution.error.code, str(execution.error)[:5]) == ("program_error", "Panic")
    assert calls(model_server) == 1


@pytest.mark.parametrize("of", [":string question -> :string answer", ":string question -> :any answer"])
def test_an_output_that_contains_itself_does_not_fit(ask: Ask, of: str) -> None:
    execution = ask(signature=of, module=f"{OWN}:Circular", module_options={"name": "answer"})
    assert execution.error is not None
    assert (execution.error.code, execution.error.details["fields"]) == ("output_unfit", ["answer"])


def test_what_contains_itself_besides_the_outputs_is_left_out(desk: Client, model_server: ModelServer) -> None:
    module, options = f"{OWN}:Circular", {"name": "more"}
    api_base = model_server.url
    desk.deploy(
        dspex.Program("circular", QA, model="openai/test", api_base=api_base, module=module, module_options=options)
    )
    execution = desk.submit("circular", {"question": "?"})
    assert execution.result(60).answer
    assert execution.extra == {"plain": [1]}


def test_a_worker_starts_without_the_programs_whose_code_raises(
    client: Client, start_worker: Callable[..., WorkerProcess], model_server: ModelServer, tmp_path: Path
) -> None:
    """All of them are queued when it starts."""
    package = tmp_path / "raising_shop"
    package.mkdir()
    submitted = {}
    for name, code in {**BROKEN, "good": GOOD}.items():
        (package / f"{name}.py").write_text(code)
        program = dspex.Program(
            name, QA, model="openai/test", api_base=model_server.url, module=f"raising_shop.{name}:build"
        )
        client.deploy(program)
        submitted[name] = client.submit(name, {"question": "?"})
    worker = start_worker(DSPEX_PROGRAM_PACKAGES="raising_shop", PYTHONPATH=tmp_path)
    assert submitted["good"].result(60).answer
    for name, at in (("panics_when_built", "Panic"), ("exits_when_built", "SystemExit")):
        with pytest.raises(dspex.ExecutionFailed, match=f"raised {at} at {name}.py:"):
            submitted[name].result(60)
    lacking = {name: submitted[name].refresh().status for name in BROKEN if not name.endswith("built")}
    assert set(lacking.values()) == {"queued"}
    log = worker.log.read_text()
    for name in lacking:
        assert f"program '{name}'" in log
    setup = "its setup function raising_shop.panics_when_set_up:index raised Panic"
    for name in ("panics_when_set_up", "imports_what_panics"):
        assert f"program '{name}': {setup}" in log
