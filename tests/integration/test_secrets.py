"""Secrets from files and a provider, used by real processes and shown by none of them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import dspex
from dspex.settings import Backends
from dspex.store import workers
from dspex.store.database import Database
from tests.model_server import ModelServer, model_server
from tests.processes import dspex_command, environment_of, run_module
from tests.waiting import wait_for

__all__ = ["model_server"]

API_KEY = "sk-of-the-worker-9c1d"
WEBHOOK = "https://hooks.example/secret-path-77aa"
PROVIDER = """
SECRETS = {secrets!r}

def fetch(name):
    return SECRETS.get(name)
"""


def test_secrets_of_files_and_a_provider_are_used_and_never_shown(
    backends: Backends, model_server: ModelServer, tmp_path: Path
) -> None:
    secrets = [str(urlsplit(url).password) for url in backends] + [API_KEY, WEBHOOK]
    (tmp_path / "database_url").write_text(backends.database_url + "\n")
    (tmp_path / "key").write_text(API_KEY)
    (tmp_path / "our_vault.py").write_text(
        PROVIDER.format(secrets={"DSPEX_BROKER_URL": backends.broker_url, "DSPEX_ALERT_WEBHOOK_URL": WEBHOOK})
    )
    environment = environment_of(
        backends,
        {
            "DSPEX_DATABASE_URL": "",
            "DSPEX_BROKER_URL": "",
            "DSPEX_DATABASE_URL_FILE": tmp_path / "database_url",
            "DSPEX_SECRETS": "our_vault:fetch",
            "MY_MODEL_KEY_FILE": tmp_path / "key",
            "PYTHONPATH": tmp_path,
        },
    )
    log = tmp_path / "worker.log"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            dspex_command("worker", "--processes", "1", "--loglevel", "DEBUG"),
            env=environment, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    database = Database(backends.database_url, pool_size=1)
    try:
        wait_for(lambda: database.run(workers.listing), "the worker to register")
        with dspex.Client(database_url=backends.database_url, broker_url=backends.broker_url) as client:
            client.deploy(
                dspex.Program(
                    "qa", dspex.signature("question -> answer"), model="openai/test", api_base=model_server.api_base,
                    api_key_env="MY_MODEL_KEY",
                )
            )  # fmt: skip
            assert client.execute("qa", {"question": "Who knows?"}, timeout=60).answer
        assert API_KEY in model_server.calls()["keys"]
        arguments = Path(f"/proc/{worker.pid}/cmdline").read_text()
        shown = [
            run_module(*command, environment=environment, directory=tmp_path)
            for command in (
                ("dspex.cli", "config", "--json"),
                ("celery", "-A", "workers.app", "inspect", "conf"),
            )
        ]
    finally:
        worker.terminate()
        worker.wait()
        database.close()
    origins = {row["variable"]: row["from"] for row in json.loads(shown[0].stdout)["settings"]}
    assert origins["DSPEX_DATABASE_URL"] == f"file {tmp_path / 'database_url'}"
    assert origins["DSPEX_BROKER_URL"] == "provider our_vault:fetch"
    assert "broker_url" in shown[1].stdout
    everything = log.read_text() + arguments + "".join(done.stdout + done.stderr for done in shown)
    assert [secret for secret in secrets if secret in everything] == []
