"""The programs of docs/how-to/reach-a-model.md are programs, and their addresses lead where the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dspex.program import Program
from workers.lm.endpoint import Endpoints

PAGE = Path(__file__).parents[2] / "docs/how-to/reach-a-model.md"
#: The server that each program asks, by its name.
ASKED = {
    "vllm": "http://gpu-1:8000/v1",
    "ollama": "http://127.0.0.1:11434/v1",
    "claude": "https://gateway.example/v1",
    "azure": "https://team.openai.azure.com/openai/v1",
}


async def test_the_examples_lead_where_the_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_KEY", "k")
    monkeypatch.setenv("AZURE_KEY", "k")
    names: dict[str, object] = {}
    for example in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(example, names)
    programs = {name: value for name, value in names.items() if isinstance(value, Program)}
    assert set(programs) == {*ASKED, "bedrock"}
    endpoints = Endpoints(lambda: "")
    for name, address in ASKED.items():
        assert (await endpoints.of(programs[name])).client.base_url == address
    await endpoints.aclose()
