"""The example of the page about secret fields: it runs, and what it stores is sealed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dspex.client import Client
from dspex.encryption import new_key
from dspex.settings import Backends

PAGE = Path(__file__).parents[2] / "docs/how-to/encrypt-fields.md"


def test_how_to_encrypt_fields(backends: Backends, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("DATABASE_URL", backends.database_url), ("BROKER_URL", backends.broker_url)):
        monkeypatch.setenv(f"DSPEX_{name}", value)
    monkeypatch.setenv("DSPEX_ENCRYPTION_KEY", new_key())
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(code, PAGE.name, "exec"), names)
    (stored,) = client.list()
    assert stored.inputs == {"request": "Pay the rent", "account": "<secret>"}
