"""The walk of examples/support_desk, from feedback to a better version, with real workers."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from dspex.client.client import Client
from tests.model_server import ModelServer, Step, model_server
from tests.processes import WorkerProcess

__all__ = ["model_server"]

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "examples" / "support_desk"
FINDS_IT = {"PYTHONPATH": f"{PROJECT}{os.pathsep}{ROOT}", "DSPEX_PROGRAM_PACKAGES": "support_desk"}


def test_the_support_desk_makes_its_classifier_better(
    model_server: ModelServer, client: Client, start_worker: Callable[..., WorkerProcess], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The walk of the tutorial's second part."""
    monkeypatch.syspath_prepend(str(PROJECT))
    improve = import_module("support_desk.improve")
    plain = replace(improve.PLAIN, model="openai/test", api_base=model_server.api_base, prompt="chat")
    monkeypatch.setattr(improve, "PLAIN", plain)
    # Most tickets are about faults, which the model says once it was given examples.
    for name in ("TRAINING", "HELD_OUT"):
        monkeypatch.setattr(improve, name, _mostly_faults(getattr(improve, name)))
    model_server.script(
        Step(match='"assistant"', times=1000, outputs={"queue": "fault"}), default=Step(outputs={"queue": "billing"})
    )
    start_worker(**FINDS_IT, OPENAI_API_KEY="none")
    improve.walk(client, tmp_path / "page.html")
    assert "<svg" in (tmp_path / "page.html").read_text()
    current = client.program(plain.name)
    assert current.version != plain.version
    assert current.state is not None
    assert current.state["self"]["demos"]
    assert [each.note for each in client.versions(plain.name)][-1] == "without examples"


def _mostly_faults(tickets: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [each for each in tickets if each[1] == "fault"] + [each for each in tickets if each[1] == "billing"][:1]
