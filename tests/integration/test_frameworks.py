"""The applications of docs/how-to/use-in-web-frameworks.md, where their frameworks are installed."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import pytest

import dspex
from dspex.client.client import Client
from dspex.settings import Backends
from tests.docs.pages import ROOT, blocks
from tests.processes import WorkerProcess

PAGE = ROOT / "docs" / "how-to" / "use-in-web-frameworks.md"


@pytest.fixture
def page_module(
    backends: Backends, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], ModuleType]]:
    """Imports a file of the page, with the settings of this test's backends."""
    monkeypatch.setenv("DSPEX_DATABASE_URL", backends.database_url)
    monkeypatch.setenv("DSPEX_BROKER_URL", backends.broker_url)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    for block in blocks(PAGE):
        if block.path:
            (tmp_path / block.path).parent.mkdir(exist_ok=True)
            (tmp_path / block.path).write_text(block.text)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if name.startswith("desk_"):
            if isinstance(client := getattr(sys.modules[name], "client", None), Client):
                client.close()
            del sys.modules[name]


def deploy(client: Client) -> None:
    client.deploy(dspex.Program("triage", dspex.signature("ticket -> queue"), adapter="scripted"))


def test_fastapi(
    client: Client, start_worker: Callable[..., WorkerProcess], page_module: Callable[[str], ModuleType]
) -> None:
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    start_worker()
    deploy(client)
    with TestClient(page_module("desk_api.main").app) as web:
        made = web.post("/tickets", params={"ticket": "I paid twice"}, headers={"Idempotency-Key": "1"})
        again = web.post("/tickets", params={"ticket": "I paid twice"}, headers={"Idempotency-Key": "1"})
        assert (made.status_code, again.json()) == (202, made.json())
        events = web.get(f"/tickets/{made.json()['id']}/events").text.strip().split("\n\n")
        fields = [dict(line.split(": ", 1) for line in event.splitlines()) for event in events]
        assert fields[-1]["event"] == "done"
        rest = web.get(f"/tickets/{made.json()['id']}/events", headers={"Last-Event-ID": fields[-2]["id"]}).text
        assert rest.count("event: ") == 1
        assert "queue" in json.loads(fields[-1]["data"])["value"]
        assert web.get(f"/tickets/{'0' * 8}/events").status_code == 404


def test_django(client: Client, backends: Backends, page_module: Callable[[str], ModuleType], tmp_path: Path) -> None:
    django = pytest.importorskip("django")
    from django.conf import settings

    deploy(client)
    url = urlsplit(backends.database_url)
    database: dict[str, Any] = {
        "ENGINE": "django.db.backends.postgresql", "NAME": url.path[1:], "USER": url.username, "PASSWORD": url.password,
        "HOST": url.hostname, "PORT": url.port,
    }  # fmt: skip
    settings.configure(DATABASES={"default": database}, INSTALLED_APPS=["desk_site"], USE_TZ=True)
    (tmp_path / "desk_site" / "__init__.py").touch()
    (tmp_path / "desk_site" / "models.py").write_text(
        "from django.db import models\n\n\nclass Ticket(models.Model):\n    text = models.TextField()\n"
        "    execution = models.UUIDField(null=True)\n\n    class Meta:\n        db_table = 'public\".\"tickets'\n"
    )
    django.setup()
    from django.db import connection, transaction

    triage = page_module("desk_site.triage")
    later = page_module("desk_site.on_commit")
    model = page_module("desk_site.models").Ticket
    try:
        with connection.schema_editor() as editor:
            editor.create_model(model)
        ticket = triage.create_ticket("I paid twice")
        assert client.get(ticket.execution).inputs == {"ticket": "I paid twice"}
        with pytest.raises(RuntimeError), transaction.atomic():  # noqa: PT012 - it is rolled back
            gone = triage.create_ticket("It is gone")
            raise RuntimeError
        with pytest.raises(dspex.ExecutionNotFound):
            client.get(gone.execution)
        assert model.objects.count() == 1
        with transaction.atomic():
            later.submit_later(ticket)
            assert len(client.list()) == 1
        assert len(client.list()) == 2
    finally:
        with connection.schema_editor() as editor:
            editor.delete_model(model)
        connection.close()
