"""The programs of examples/support_desk on the bundled model; with a scripted one: test_testing_kit.py."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from dspex.client.client import Client
from dspex.settings import Backends
from tests.model_server import ModelServer, Step, model_server
from tests.processes import WorkerProcess, environment_of, run_dspex

__all__ = ["model_server"]

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "examples" / "support_desk"
FINDS_IT = {"PYTHONPATH": f"{PROJECT}{os.pathsep}{ROOT}", "DSPEX_PROGRAM_PACKAGES": "support_desk"}


def test_the_support_desk(
    model_server: ModelServer, backends: Backends, client: Client, start_worker: Callable[..., WorkerProcess]
) -> None:
    """A module of its own with retrieval, an agent with its tools, a classifier with its saved examples."""
    model = {"SUPPORT_DESK_MODEL": "openai/test", "SUPPORT_DESK_API_BASE": model_server.url}
    programs = str(PROJECT / "support_desk" / "programs.py")
    run_dspex("deploy", programs, environment=environment_of(backends, model), directory=ROOT).check_returncode()
    start_worker(**FINDS_IT)

    model_server.script(Step(outputs={"answer": "30 days."}))
    answered = client.execute("desk_answers", {"question": "How many days do I have to send it back?"}, timeout=60)
    assert dict(answered) == {"answer": "30 days.", "source": "returns"}
    assert "within 30 days" in str(model_server.calls()["requests"][-1])

    model_server.script(
        Step(outputs={"next_thought": "?", "next_tool_name": "order_status", "next_tool_args": {"order": "1002"}}),
        Step(outputs={"next_thought": "!", "next_tool_name": "finish", "next_tool_args": {}}),
        Step(outputs={"reasoning": "So.", "reply": "On Thursday."}),
    )
    assert client.execute("desk_agent", {"request": "Where is 1002?"}, timeout=60).reply == "On Thursday."
    assert "expected on Thursday" in str(model_server.calls()["requests"][-1])

    assert client.execute("desk_triage", {"ticket": "It is broken."}, timeout=60).queue in (
        "billing",
        "delivery",
        "fault",
    )
    roles = [message["role"] for message in model_server.calls()["requests"][-1]["messages"]]
    assert roles.count("assistant") >= 3  # the examples that were found by the optimiser


def test_the_support_desk_makes_its_classifier_better(
    model_server: ModelServer, client: Client, start_worker: Callable[..., WorkerProcess], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The walk of the tutorial's second part."""
    monkeypatch.syspath_prepend(str(PROJECT))
    improve = import_module("support_desk.improve")
    plain = replace(improve.PLAIN, model="openai/test", api_base=model_server.api_base, prompt="chat")
    monkeypatch.setattr(improve, "PLAIN", plain)
    start_worker(**FINDS_IT, OPENAI_API_KEY="none")
    improve.walk(client, tmp_path / "page.html")
    assert "<svg" in (tmp_path / "page.html").read_text()
    current = client.program(plain.name)
    assert current.version != plain.version
    assert current.state is not None
    assert current.state["self"]["demos"]
    assert [each.note for each in client.versions(plain.name)][-1] == "without examples"


def test_the_support_desk_on_the_bundled_model(tmp_path: Path) -> None:
    home = tmp_path / "home"
    # One after the other: then the model reads what their prompts have in common once rather than four times.
    one_by_one = {"DSPEX_WORKER_CONCURRENCY": "1"}
    environment = {**os.environ, **FINDS_IT, **one_by_one, "DSPEX_HOME": str(home)}
    programs = ["desk_answers", "desk_triage"]  # the agent takes a minute
    command = [sys.executable, "-m", "support_desk", "--first", "2", *programs]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" of 2 right") == 2
    assert "failed:" not in done.stdout
