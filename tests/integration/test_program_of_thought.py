"""Programs that run the model's code: in Deno's real sandbox, where it can be had."""

from __future__ import annotations

import hashlib
import json
import shutil
import urllib.request
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import dspex
from dspex.errors import ProgramError
from dspex.program.program import Program
from tests.model_server import ModelServer, Step, model_server
from tests.recording import a_run
from workers.adapters.dspy.dspy_adapter import DspyAdapter

__all__ = ["model_server"]

#: What DSPy's runner imports from deno.land, which not every network reaches; the rest comes from npm.
STREAMS = "https://deno.land/std@0.186.0/io/mod.ts"
READ_LINES = """
export async function* readLines(reader) {
  const decoder = new TextDecoder();
  const buffer = new Uint8Array(65536);
  let rest = "";
  for (let count = await reader.read(buffer); count !== null; count = await reader.read(buffer)) {
    const lines = (rest + decoder.decode(buffer.subarray(0, count), { stream: true })).split("\\n");
    rest = lines.pop();
    yield* lines;
  }
}
"""


@pytest.fixture
async def adapter() -> AsyncIterator[DspyAdapter]:
    made = DspyAdapter()
    yield made
    await made.close()


def program(server: ModelServer) -> Program:
    signature = dspex.signature(":string question -> :integer answer")
    return Program("calculator", signature, module="program_of_thought", model="openai/test", api_base=server.url)


def put_in_denos_cache(directory: Path, url: str, text: str) -> None:
    place = directory / "remote" / "https" / "deno.land"
    place.mkdir(parents=True)
    told = {"headers": {"content-type": "application/javascript"}, "url": url, "time": 1_700_000_000}
    path = url.removeprefix("https://deno.land")
    (place / hashlib.sha256(path.encode()).hexdigest()).write_text(f"{text}\n// denoCacheMetadata={json.dumps(told)}")


def npm_is_reachable() -> bool:
    try:
        urllib.request.urlopen("https://registry.npmjs.org/pyodide/0.29.4", timeout=5).close()
    except OSError:
        return False
    return True


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # DSPy leaves the sandbox's pipes open
@pytest.mark.skipif(find_spec("deno") is None and shutil.which("deno") is None, reason="Deno is not installed")
async def test_the_models_code_is_run(
    model_server: ModelServer, adapter: DspyAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not npm_is_reachable():
        pytest.skip("the sandbox's Python comes from npm, which is out of reach")
    put_in_denos_cache(tmp_path, STREAMS, READ_LINES)
    monkeypatch.setenv("DENO_DIR", str(tmp_path))
    model_server.script(
        Step(outputs={"reasoning": "Hm.", "generated_code": "SUBMIT({'answer': undefined})"}),
        Step(outputs={"reasoning": "Oh.", "generated_code": "import math\nSUBMIT({'answer': math.comb(10, 3)})"}),
        Step(outputs={"reasoning": "So.", "answer": 120}),
    )
    outputs = await adapter.execute(a_run(program(model_server), {"question": "How many ways?"}))
    assert outputs == {"answer": 120}
    _, again, last = (json.dumps(request) for request in model_server.calls()["requests"])
    assert "NameError" in again  # the model is told what was wrong with its first code
    assert '{\\"output\\": {\\"answer\\": 120}}' in last.replace("\\\\", "\\")


async def test_without_an_interpreter_nothing_is_paid_for(
    model_server: ModelServer, adapter: DspyAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("workers.adapters.dspy.modules.agents.find_spec", lambda _: None)
    with pytest.raises(ProgramError, match=r"dspex\[code\]") as refused:
        await adapter.execute(a_run(program(model_server), {"question": "How many ways?"}))
    assert refused.value.code == "interpreter_missing"
    assert model_server.calls()["total"] == 0
