"""docs/how-to/configure.md and secure-connections.md: their examples do what the pages describe."""

from __future__ import annotations

import os
import re
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from dspex.settings import Settings, connection_warnings
from tests.docs.pages import ROOT, blocks


def last(page: str, language: str) -> str:
    """The last example in a language, of a page."""
    return [block.text for block in blocks(ROOT / "docs" / "how-to" / page) if block.language == language][-1]


def test_the_toml_example_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dspex.toml").write_text(last("configure.md", "toml"))
    settings = Settings.load(database_url="postgresql://h/d?sslmode=verify-full", broker_url="rediss://h/0")
    assert settings.model_limits["openai/gpt-4o-mini"].per_minute == 500
    assert settings.origins["lease_seconds"] == "dspex.toml"


def test_the_urls_are_those_of_verified_tls() -> None:
    text = (ROOT / "docs" / "how-to" / "secure-connections.md").read_text()
    urls = [url.replace("…", "p") for url in re.findall(r"^DSPEX_\w+_URL=(\S+)$", text, re.MULTILINE)]
    assert len(urls) == 2
    assert connection_warnings(*urls) == []


def test_the_command_for_redis_users_puts_the_hashes_in(tmp_path: Path) -> None:
    command = last("secure-connections.md", "bash").replace("/etc/redis/users.acl", str(tmp_path / "users.acl"))
    passwords = {f"{name}_PASSWORD": f"of the {name}" for name in ("WORKER", "PRODUCER", "READER", "ADMIN")}
    environment = {"PATH": os.environ["PATH"], **passwords}
    subprocess.run(["bash", "-euc", command], cwd=ROOT / "deploy" / "redis", env=environment, check=True)
    users = (tmp_path / "users.acl").read_text()
    assert all(f" on #{sha256(password.encode()).hexdigest()} " in users for password in passwords.values())
    assert users.count(" off ") == 0
    assert users.startswith("user default off\n")
