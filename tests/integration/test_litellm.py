"""Models through LiteLLM: only when they are asked for, loaded beside the loop, told as every other model."""

from __future__ import annotations

import json
import os
import textwrap
from pathlib import Path

import pytest

from dspex.errors import ModelError
from dspex.program.program import Program
from dspex.signatures import signature
from tests.model_server import ModelServer, Step, model_server
from tests.processes import run_module
from workers.lm.connect import litellm
from workers.lm.connect.endpoint import Endpoints

__all__ = ["model_server"]

ROOT = Path(__file__).parents[2]

SCRIPT = """
import asyncio, json
from dataclasses import replace
from dspex.errors import ModelError
from dspex.program.program import Program
from dspex.signatures import signature
from tests.recording import MemoryJournal, a_run
from workers.adapters.dspy.dspy_adapter import DspyAdapter
from workers.lm.connect import litellm

def program(**changes):
    return Program("p", ":string question -> :string answer", model="litellm/openai/test", api_base=ADDRESS, **changes)

async def main():
    told, adapter, journal = {}, DspyAdapter(), MemoryJournal()
    await adapter.prepare(program())
    told["held_up"] = litellm._loading().done()
    told["early"] = (await adapter.execute(a_run(program(), {"question": "early"}, journal)))["answer"]
    (answer,) = journal.answers
    told["tokens"] = [answer.prompt_tokens > 0, answer.completion_tokens > 0]
    told["request_id"] = answer.request_id
    again = journal.recall()
    await adapter.execute(a_run(program(), {"question": "early"}, again, attempt=2))
    told["replayed"] = again.replayed
    told["errors"] = []
    for number in range(5):
        try:
            await adapter.execute(replace(a_run(program(), {"question": f"failing {number}"}), deadline=0.0))
        except ModelError as error:
            told["errors"].append([error.code, error.retryable, error.retry_after, "failing" in str(error.as_dict())])
    from litellm import exceptions
    classes = [c for c in vars(exceptions).values() if isinstance(c, type) and issubclass(c, Exception)]
    own = [c for c in classes if c.__module__ == "litellm.exceptions"]
    told["unmapped"] = [c.__name__ for c in own if not any(k.__name__ in litellm.ERRORS for k in c.__mro__)]
    await adapter.close()
    print(json.dumps(told))

asyncio.run(main())
"""


def test_models_through_litellm(model_server: ModelServer, fork_server: None) -> None:
    """In a process of its own: it is never loaded in one that did not ask for it."""
    model_server.script(
        Step(status=401, match="failing 0"),
        Step(status=429, retry_after=7, match="failing 1"),
        Step(status=429, error={"code": "insufficient_quota"}, match="failing 2"),
        Step(status=400, error={"code": "context_length_exceeded"}, match="failing 3"),
        Step(status=500, match="failing 4"),
    )
    script = f"ADDRESS = {model_server.api_base!r}\n" + textwrap.dedent(SCRIPT)
    run = run_module("-c", script, environment=os.environ, directory=ROOT)
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout.splitlines()[-1])
    assert not told["held_up"], "the worker is ready before LiteLLM is; what needs it waits"
    assert told["early"]
    assert told["tokens"] == [True, True]
    assert str(told["request_id"]).startswith("req-")
    assert told["replayed"] == 1
    assert told["errors"] == [
        ["authentication", False, None, False],
        ["rate_limited", True, 7.0, False],
        ["billing", False, None, False],
        ["context_window_exceeded", False, None, False],
        ["provider_unavailable", True, None, False],
    ]
    assert told["unmapped"] == []


async def test_without_the_extra_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(litellm, "find_spec", lambda name: None)
    of = Program("p", signature(":string question -> :string answer"), model="litellm/bedrock/some-model")
    with pytest.raises(ModelError, match=r"dspex\[litellm\]") as caught:
        await Endpoints(lambda: "").prepare(of)
    assert (caught.value.code, caught.value.retryable) == ("unsupported", False)
