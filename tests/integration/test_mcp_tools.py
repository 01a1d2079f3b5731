"""Tools of MCP servers: a real server of the protocol's own SDK, started by the worker's setting."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import pytest_asyncio

import dspex
from dspex.embedded.ports import free_port
from dspex.errors import ModuleNotAllowed, ProgramError
from tests.compat.memory import MemoryCalls, memory_run
from tests.compat.server import CompatServer
from tests.waiting import wait_for
from workers.adapters.dspy.dspy_adapter import DspyAdapter

pytestmark = [
    pytest.mark.skipif(find_spec("mcp") is None, reason="the extra mcp is not installed"),
    pytest.mark.asyncio(loop_scope="module"),  # the server is started once: that takes two seconds
]

QA = dspex.signature("question -> answer")
ASKED = {"question": "How warm is Paris?"}
WEATHER = "mcp+stdio://weather"
SERVER = """
import os, sys
from pathlib import Path
from mcp.server.mcpserver import MCPServer

server = MCPServer("weather")

@server.tool()
def weather(city: str) -> str:
    "The weather of a city."
    with Path(sys.argv[1]).open("a") as calls:
        calls.write(f"{city} {os.environ['UNIT']}\\n")
    return f"20 degrees in {city}"

@server.tool()
def broken(city: str) -> str:
    "Never works."
    raise ValueError("no weather")

server.run("stdio")
"""

#: Served over HTTP, to those who know the token.
GUARDED = """
import sys
import uvicorn
from mcp.server.mcpserver import MCPServer

server = MCPServer("weather")

@server.tool()
def weather(city: str) -> str:
    "The weather of a city."
    return f"20 degrees in {city}"

app = server.streamable_http_app()

async def guarded(scope, receive, send):
    if scope["type"] == "http" and dict(scope["headers"]).get(b"authorization") != b"Bearer t0ken":
        await send({"type": "http.response.start", "status": 401, "headers": []})
        await send({"type": "http.response.body"})
        return
    await app(scope, receive, send)

uvicorn.run(guarded, host="127.0.0.1", port=int(sys.argv[1]), log_level="critical")
"""


@pytest.fixture(scope="module")
def model() -> Iterator[CompatServer]:
    with CompatServer() as running:
        yield running


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weather") / "calls.txt"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def adapter(called: Path) -> AsyncIterator[DspyAdapter]:
    script = called.with_name("weather_server.py")
    script.write_text(SERVER)
    server = {"command": [sys.executable, str(script), str(called)], "environment": ["UNIT"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSPEX_MCP_SERVERS", json.dumps({WEATHER: server}))
        patch.setenv("UNIT", "celsius")
        made = DspyAdapter()
        yield made
        await made.close()


def agent(model: CompatServer, *tools: str) -> dspex.Program:
    return dspex.Program("agent", QA, module="react", tools=tools, model="openai/test", api_base=model.url)


async def test_an_agent_calls_the_tools_of_a_server_once(
    model: CompatServer, adapter: DspyAdapter, called: Path
) -> None:
    calls = MemoryCalls()
    of = agent(model, f"{WEATHER}#weather")
    model.begin({}, [("weather", {"city": "Paris"}), ("finish", {})])
    run, _ = memory_run(of, ASKED, calls)
    first = await adapter.execute(run)
    assert run.extra["trajectory"]["observation_0"] == "20 degrees in Paris"
    again, _ = memory_run(of, ASKED, calls, attempt=2)
    assert await adapter.execute(again) == first
    assert called.read_text() == "Paris celsius\n"  # noqa: ASYNC240


async def test_an_error_of_a_server_is_an_observation(model: CompatServer, adapter: DspyAdapter) -> None:
    model.begin({}, [("broken", {"city": "Paris"}), ("finish", {})])
    run, _ = memory_run(agent(model, WEATHER), ASKED)
    await adapter.execute(run)
    assert run.extra["trajectory"]["observation_0"].startswith("Execution error in broken: ")


def is_open(port: int) -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def guarded_server(tmp_path: Path) -> Iterator[str]:
    script, port = tmp_path / "guarded_server.py", free_port()
    script.write_text(GUARDED)
    with subprocess.Popen([sys.executable, str(script), str(port)]) as process:
        wait_for(lambda: is_open(port), "the server of tools")
        yield f"mcp+http://127.0.0.1:{port}/mcp"
        process.kill()


async def test_the_header_of_a_server_has_a_secret_of_the_environment(
    model: CompatServer, guarded_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MCP_TOKEN", "t0ken")
    headers = {"Authorization": "Bearer ${MCP_TOKEN}"}
    monkeypatch.setenv("DSPEX_MCP_SERVERS", json.dumps({guarded_server: {"headers": headers}}))
    adapter = DspyAdapter()
    model.begin({}, [("weather", {"city": "Paris"}), ("finish", {})])
    run, _ = memory_run(agent(model, guarded_server), ASKED)
    await adapter.execute(run)
    assert run.extra["trajectory"]["observation_0"] == "20 degrees in Paris"
    await adapter.close()


async def test_servers_are_those_of_the_worker(model: CompatServer, adapter: DspyAdapter) -> None:
    with pytest.raises(ModuleNotAllowed, match="DSPEX_MCP_SERVERS"):
        await adapter.prepare(agent(model, "mcp+https://mcp.example.com/mcp"))
    with pytest.raises(ProgramError, match="has no tool 'news'") as refused:
        await adapter.prepare(agent(model, f"{WEATHER}#news"))
    assert refused.value.code == "code_not_found"
