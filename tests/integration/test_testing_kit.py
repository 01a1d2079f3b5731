"""dspex.testing, used as a project uses it: pytest in other processes, with the fixtures of the installed plugin.

The project is examples/support_desk with its own tests, and some more.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from tests.forked import forking_python
from tests.processes import fork_server_address, run_module

EXAMPLE = Path(__file__).parents[2] / "examples" / "support_desk"
PROJECT = """
import asyncio
import socket

import dspex
import pytest
import uvloop
from click.testing import CliRunner
from dspex.cli.main import cli
from dspex.testing import kill_during

SIGNATURE = ':string ticket -> :enum("billing", "bug") queue, :float confidence'
TRIAGE = dspex.Program("triage", SIGNATURE, model="openai/gpt-5")


def test_answers_come_from_the_signature_or_a_script(dspex_client, dspex_worker, dspex_model):
    program = dspex_model.serve(TRIAGE)
    dspex_client.deploy(program)
    assert dspex_client.execute("triage", {"ticket": "one"}, timeout=120).queue in ("billing", "bug")
    dspex_model.script(answers=[{"queue": "billing", "confidence": 0.5}])
    scripted = dspex_client.execute("triage", {"ticket": "two"}, timeout=120)
    assert dict(scripted) == {"queue": "billing", "confidence": 0.5}
    assert dspex_model.calls == 2
    dspex_model.script(fail="authentication")
    with pytest.raises(dspex.ExecutionFailed) as failed:
        dspex.Client().execute("triage", {"ticket": "three"}, timeout=120)
    assert failed.value.code == "authentication"


def test_every_model_of_a_program_is_the_double(dspex_client, dspex_worker, dspex_model):
    program = dspex.Program("triage", SIGNATURE, model="openai/gpt-5", models={"judge": "anthropic/claude-haiku-4-5"},
                            fallback=[dspex.Model("openai/gpt-5-mini", options={"extra_headers": {"A": "${B}"}})])
    dspex_client.deploy(dspex_model.serve(program))
    dspex_model.script(fail="authentication")
    assert dspex_client.execute("triage", {"ticket": "one"}, timeout=120).queue in ("billing", "bug")
    assert [request["model"] for request in dspex_model.requests] == ["test", "fallback-1"]


def test_a_killed_worker_loses_nothing(dspex_client, dspex_worker, dspex_model):
    dspex_client.deploy(dspex_model.serve(TRIAGE))
    dspex_model.script(delay=2.0)
    execution = dspex_client.submit("triage", {"ticket": "one"})
    assert kill_during(execution, "lm_call") == dspex_worker.pid
    dspex_worker.restart()
    assert execution.result(timeout=120).queue in ("billing", "bug")
    assert execution.attempts == 2


def test_a_paused_worker_goes_on(dspex_client, dspex_worker):
    dspex_client.deploy(dspex.Program("plain", "a -> b", adapter="scripted"))
    dspex_worker.pause()
    execution = dspex_client.submit("plain", {"a": "?"})
    with pytest.raises(dspex.ExecutionTimedOut):
        execution.result(timeout=0.3)
    dspex_worker.resume()
    assert execution.result(timeout=120)


def test_another_host_is_refused(dspex_client, dspex_worker, dspex_stack):
    with dspex_stack.loopback_only() as tried:
        with pytest.raises(ConnectionRefusedError), socket.socket() as other:
            other.connect(("192.0.2.1", 9))
        with pytest.raises(ConnectionRefusedError):
            socket.getaddrinfo("api.example.com", 443)
        with pytest.raises(ConnectionRefusedError):
            uvloop.run(asyncio.open_connection("192.0.2.3", 9))
        dspex_client.deploy(
            dspex.Program("paid", "a -> b", model="openai/gpt-5", api_key_env="DSPEX_TESTING_MODEL_KEY",
                          api_base="http://192.0.2.2/v1", retry=dspex.Retry(max_attempts=1))
        )
        with pytest.raises(dspex.ExecutionFailed):
            dspex_client.execute("paid", {"a": "?"}, timeout=120)
    assert list(tried) == ["192.0.2.1:9", "192.0.2.2:80", "192.0.2.3:9", "api.example.com:443"]


def exported(execution):
    printed = CliRunner().invoke(cli, ["export-test", str(execution.id)])
    assert printed.exit_code == 0, printed.output
    names = {}
    exec(compile(printed.stdout, "test_exported.py", "exec"), names)
    return next(value for name, value in names.items() if name.startswith("test_"))


def test_a_recorded_result_becomes_a_test(dspex_client, dspex_worker, dspex_model):
    signature = ":string ticket, :string(secret=true) card -> :datetime due, :reasoning_chain why, :list(:integer) days"
    program = dspex_model.serve(dspex.Program("plan", signature, model="openai/gpt-5"))
    dspex_client.deploy(program)
    execution = dspex_client.submit(program, {"ticket": "it's \\"quoted\\"\\n", "card": "4111"})
    assert execution.result(timeout=120).days == [3]
    exported(execution)(dspex_client, dspex_worker, dspex_model)


def test_a_recorded_failure_becomes_a_test(dspex_client, dspex_worker, dspex_model):
    dspex_client.deploy(dspex_model.serve(TRIAGE))
    dspex_model.script(fail="content_filtered", times=100)
    execution = dspex_client.submit("triage", {"ticket": "one"})
    with pytest.raises(dspex.ExecutionFailed):
        execution.result(timeout=120)
    dspex_model.forget()
    exported(execution)(dspex_client, dspex_worker, dspex_model)


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.mark.asyncio
async def test_with_pytest_asyncio(dspex_client, dspex_worker):
    async with dspex.AsyncClient() as client:
        await client.deploy(dspex.Program("awaited", "a -> b", adapter="scripted"))
        assert await client.execute("awaited", {"a": "?"}, timeout=120)


@pytest.mark.anyio
async def test_with_anyio(dspex_client, dspex_worker):
    async with dspex.AsyncClient() as client:
        await client.deploy(dspex.Program("awaited", "a -> b", adapter="scripted"))
        assert await client.execute("awaited", {"a": "?"}, timeout=120)
"""

PAYING = """
import socket


def test_it_calls_another_host(dspex_no_paid_calls):
    try:
        with socket.socket() as other:
            other.connect(("192.0.2.1", 9))
    except ConnectionRefusedError:
        return
"""


def test_a_project_tests_its_programs(tmp_path: Path, fork_server: None) -> None:
    project = tmp_path / "support_desk"
    shutil.copytree(EXAMPLE, project)
    (project / "tests" / "test_triage.py").write_text(PROJECT)
    (project / "tests" / "test_paying.py").write_text(PAYING)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DSPEX_")}
    two_processes = ("--dist", "load", "--tx", f"2*popen//python={forking_python(fork_server_address())}")  # as -n 2
    done = run_module(
        "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:schemathesis", "--durations=5", *two_processes,
        "-W", "ignore::pytest.PytestAssertRewriteWarning", "tests",  # a fork has imported what pytest would rewrite
        environment=environment, directory=project, timeout=280,
    )  # fmt: skip
    assert re.search("^13 passed, (1 warning, )?1 error", done.stdout, re.M), done.stdout + done.stderr
    assert "connections to other hosts were tried, and refused: 192.0.2.1:9" in done.stdout
