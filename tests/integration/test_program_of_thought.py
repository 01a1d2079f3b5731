"""Programs that run the model's code: in Deno's real sandbox, where it can be had."""

from __future__ import annotations

import hashlib
import json
import shutil
import urllib.request
from collections.abc import AsyncIterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
from uuid_utils.compat import uuid7

import dspex
from dspex.client.client import Client
from dspex.errors import ProgramError
from dspex.program.program import Program
from dspex.store import workers
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

#: Python that tries to leave the sandbox through Deno, and shows in its error what it reached.
ESCAPE = """
def tried(name, do):
    try:
        return f"{name} reached {do()}"
    except BaseException as error:
        return f"{name} {'refused' if 'NotCapable' in str(error) else 'failed'}"

def deno():
    import js
    return js.Deno

def parsed(text):
    import js
    return js.JSON.parse(text)

raise NameError(", ".join([
    tried("file", lambda: deno().readTextFileSync("SECRET_FILE")),
    tried("listing", lambda: deno().readDirSync("/etc").next()),
    tried("variable", lambda: deno().env.get("TEAM_KEY")),
    tried("network", lambda: deno().listen(parsed('{"port": 0}'))),
    tried("command", lambda: deno().Command.new("id").outputSync()),
    tried("writing", lambda: deno().writeTextFileSync("SECRET_FILE", "x")),
    tried("nothing", lambda: 1),
]))
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
        urllib.request.urlopen("https://registry.npmjs.org/pyodide/0.29.4", timeout=30).close()
    except OSError:
        return False
    return True


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # DSPy leaves the sandbox's pipes open
@pytest.mark.skipif(find_spec("deno") is None and shutil.which("deno") is None, reason="Deno is not installed")
async def test_the_models_code_runs_and_reaches_nothing_outside_its_sandbox(
    model_server: ModelServer, adapter: DspyAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not npm_is_reachable():
        pytest.skip("the sandbox's Python comes from npm, which is out of reach")
    put_in_denos_cache(tmp_path / "deno", STREAMS, READ_LINES)
    monkeypatch.setenv("DENO_DIR", str(tmp_path / "deno"))
    monkeypatch.setenv("TEAM_KEY", "a-key-of-a-model")
    secret = tmp_path / "secret"
    secret.write_text("a-secret-of-the-worker")
    model_server.script(
        Step(outputs={"reasoning": "Hm.", "generated_code": ESCAPE.replace("SECRET_FILE", str(secret))}),
        Step(outputs={"reasoning": "Oh.", "generated_code": "import math\nSUBMIT({'answer': math.comb(10, 3)})"}),
        Step(outputs={"reasoning": "So.", "answer": 120}),
    )
    outputs = await adapter.execute(a_run(program(model_server), {"question": "How many ways?"}))
    assert outputs == {"answer": 120}
    _, again, last = (json.dumps(request) for request in model_server.calls()["requests"])
    assert "NameError" in again  # the model is told what was wrong with its first code
    tried = ("file", "listing", "variable", "network", "command", "writing")
    assert [name for name in tried if f"{name} refused" not in again] == []
    assert "nothing reached 1" in again
    assert "a-key-of-a-model" not in again
    assert secret.read_text() == "a-secret-of-the-worker"
    assert '{\\"output\\": {\\"answer\\": 120}}' in last.replace("\\\\", "\\")


async def test_without_an_interpreter_nothing_is_paid_for(
    model_server: ModelServer, adapter: DspyAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("workers.adapters.code_interpreter.find_spec", lambda _: None)
    with pytest.raises(ProgramError, match=r"dspex\[code\]") as refused:
        await adapter.execute(a_run(program(model_server), {"question": "How many ways?"}))
    assert refused.value.code == "interpreter_missing"
    assert model_server.calls()["total"] == 0


def test_what_no_live_worker_can_run_is_not_deployed(client: Client) -> None:
    asking = Program("asking", dspex.signature("question -> answer"), module="rlm", model="openai/test")
    client.deploy(asking)  # no worker is alive: one with an interpreter may be started
    register(client)
    with pytest.raises(ProgramError, match="none of the 1 live workers has an interpreter") as refused:
        client.deploy(asking)
    assert refused.value.code == "interpreter_missing"
    register(client, code_interpreter="deno")
    assert client.deploy(asking).program == asking


def test_a_module_that_the_workers_dspy_lacks_is_not_deployed(client: Client) -> None:
    acting = Program("acting", dspex.signature("question -> answer"), module="code_act", model="openai/test")
    register(client, dspy="3.5.0", code_interpreter="deno")
    with pytest.raises(ProgramError, match=r"DSPy 3\.5\.0.* has no module 'code_act': use module 'rlm'") as refused:
        client.deploy(acting)
    assert refused.value.code == "module_missing"
    register(client, dspy="3.4.1", code_interpreter="deno")
    assert client.deploy(acting).program == acting


def register(client: Client, **options: str) -> None:
    worker = partial(workers.register, id=uuid7(), host="h", pid=7, version="0", concurrency=1, lease_seconds=60)
    client._session.database.run(partial(worker, **options))
