"""Programs as MCP tools, asked by the SDK's own client and by plain HTTP requests."""

from __future__ import annotations

import json
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest

import dspex
from dspex.client.client import Client
from dspex.settings import Backends
from tests.processes import WorkerProcess
from tests.serving import serving

# It is imported in the test that needs it: an import takes a second, in each process of the tests.
pytestmark = pytest.mark.skipif(find_spec("mcp") is None, reason="the extra mcp is not installed")

VERSION = "2025-06-18"
QA = dspex.signature('signature qa "Answer a question": :string(max_length=40) question -> :string answer')
PROGRAM = dspex.Program("qa", QA, adapter="scripted", module_options={"outputs": {"answer": "Paris"}})


async def test_a_program_is_a_tool(backends: Backends, client: Client, tmp_path: Path) -> None:
    mcp: Any = import_module("mcp")
    client.deploy(PROGRAM)
    worker = WorkerProcess(backends, tmp_path / "worker.log", {})
    try:
        worker.wait_until_ready()
        with serving(backends) as served:
            async with mcp.Client(f"{served.url}/mcp") as tools:
                (tool,) = (await tools.list_tools()).tools
                assert (tool.name, tool.description) == ("qa", "Answer a question")
                assert tool.input_schema["required"] == ["question"]
                done = await tools.call_tool("qa", {"question": "What is the capital of France?"})
                assert (done.is_error, done.structured_content) == (False, {"answer": "Paris"})
                wrong = await tools.call_tool("qa", {"question": "x" * 41})
                assert wrong.is_error
                assert "question" in wrong.content[0].text
            (execution,) = client.list(program="qa")
            assert execution.status == "completed"
    finally:
        worker.stop()


def test_a_client_that_knows_the_protocol_only(backends: Backends, client: Client) -> None:
    """JSON-RPC by hand, as clients in other languages send it."""
    client.deploy(PROGRAM)
    headers = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": VERSION}
    with serving(backends) as served:

        def ask(method: str, params: dict[str, Any]) -> Any:
            request = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
            reply = httpx.post(f"{served.url}/mcp", json=request, headers=headers, timeout=120)
            assert reply.status_code == 200, reply.text
            data = reply.text
            if reply.headers["content-type"].startswith("text/event-stream"):
                data = next(line.removeprefix("data: ") for line in data.splitlines() if line.startswith("data: {"))
            return json.loads(data)["result"]

        begun = ask(
            "initialize",
            {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": {"name": "by hand", "version": "1"}},
        )
        assert begun["serverInfo"]["name"] == "dspex"
        (tool,) = ask("tools/list", {})["tools"]
        assert (tool["name"], tool["inputSchema"]["properties"]["question"]["maxLength"]) == ("qa", 40)
        wrong = ask("tools/call", {"name": "qa", "arguments": {"question": 5}})
        assert wrong["isError"]
        assert "question" in wrong["content"][0]["text"]
    assert client.list(program="qa") == []


def test_a_tool_needs_a_key_where_requests_do(backends: Backends) -> None:
    request: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    headers = {"Accept": "application/json, text/event-stream"}
    with serving(backends, is_open=False) as served:
        refused = httpx.post(f"{served.url}/mcp", json=request, headers=headers, timeout=120)
    assert (refused.status_code, refused.json()["code"]) == (401, "not_authenticated")
