"""``dspex cancel``, ``retry``, ``pause``, ``resume`` and ``audit verify``, as somebody types them. No worker runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

import dspex
from dspex.client.client import Client
from dspex.embedded.ports import free_port
from dspex.settings import Backends
from dspex.store.database import Database
from tests.integration.test_alerts import hook
from tests.integration.test_cli import Shell

__all__ = ["hook"]

QA = dspex.Program("qa", dspex.signature("question -> answer"), adapter="scripted")


@pytest.fixture
def shell(backends: Backends, tmp_path: Path) -> Shell:
    return Shell(backends, tmp_path)


def test_cancel_and_retry(client: Client, shell: Shell) -> None:
    client.deploy(QA)
    first, second = (str(client.submit("qa", {"question": "?"}).id) for _ in range(2))
    done = shell("cancel", first, second)
    assert (done.returncode, done.stdout) == (0, f"{first}  cancelled\n{second}  cancelled\n")
    assert shell("retry", first).stdout == "1 queued again\n"
    refused = shell("retry", first)
    assert refused.returncode == 1
    assert refused.stderr == f"transition_refused: execution '{first}' is queued: only failed and cancelled " \
        "executions are retried\n"  # fmt: skip
    assert json.loads(shell("retry", "--failed", "--json").stdout) == {"retried": 0, "refused": []}
    assert shell("retry", first, "--failed").returncode == 2


def test_one_that_is_not_there_does_not_keep_the_others_from_it(client: Client, shell: Shell) -> None:
    client.deploy(QA)
    last, nobody = str(client.submit("qa", {"question": "?"}).id), "01a20332-1a1e-73dc-8d8e-0c9a0068509e"
    done = shell("cancel", nobody, last)
    assert (done.returncode, done.stdout) == (2, f"{nobody}  not found\n{last}  cancelled\n")
    tried = shell("retry", nobody, last, "--json")
    assert tried.returncode == 2
    told = json.loads(tried.stdout)
    assert (told["retried"], [error["code"] for error in told["refused"]]) == (1, ["execution_not_found"])


@pytest.mark.parametrize(
    "arguments",
    [
        ("retry", "--failed"), ("audit", "verify"), ("list",), ("batches",), ("approvals",),
        ("list", "--status", "failed", "--json"),
    ],
)  # fmt: skip
def test_a_program_that_is_not_deployed_is_an_error(client: Client, shell: Shell, arguments: tuple[str, ...]) -> None:
    client.deploy(QA)
    nothing = shell(*arguments, "--program", "qa")
    assert (nothing.returncode, nothing.stderr) == (0, "")
    done = shell(*arguments, "--program", "qaa")
    assert done.returncode == 2, done.stdout
    assert "no program 'qaa' is deployed; did you mean 'qa'?" in done.stderr


@pytest.mark.parametrize("arguments", [("retry",), ("list",), ("cancel",), ("list", "--program", "qa")])
def test_a_batch_that_is_not_stored_is_an_error(client: Client, shell: Shell, arguments: tuple[str, ...]) -> None:
    client.deploy(QA)
    batch = client.submit_many("qa", [{"question": "?"}])
    assert shell("list", "--status", "failed", "--batch", str(batch.id)).returncode == 0
    assert shell(*arguments, "--batch", str(batch.id)).returncode == 0
    unknown = "01a20332-1a1e-73dc-8d8e-0c9a00000000"
    done = shell(*arguments, "--batch", unknown)
    assert done.returncode == 2, done.stdout
    assert f"no execution of a batch '{unknown}' is stored; `dspex batches` lists the batches" in done.stderr


def test_a_whole_batch_is_cancelled(client: Client, shell: Shell) -> None:
    client.deploy(QA)
    batch = client.submit_many("qa", ({"question": str(n)} for n in range(2500)))
    other = client.submit("qa", {"question": "?"})
    client.cancel(batch.ids[1200])
    assert json.loads(shell("cancel", "--batch", str(batch.id), "--json").stdout) == {
        "batch_id": str(batch.id), "cancelled": 2499
    }  # fmt: skip
    assert batch.progress.cancelled == 2500
    assert client.get(other.id).status == "queued"
    again = shell("cancel", "--batch", str(batch.id))
    assert (again.returncode, again.stdout.split()[0]) == (0, "0")
    assert shell("cancel", "--batch", str(other.id)).returncode == 2
    assert shell("cancel").returncode == 2
    assert not client.verify_audit()


def test_pause_and_resume(client: Client, shell: Shell) -> None:
    client.deploy(QA)
    execution = client.submit("qa", {"question": "?"})
    assert shell("pause", "qa").stdout == "paused: qa (by an operator)\n"
    assert "paused: qa" in shell("list").stderr
    assert "the program is paused (by an operator): `dspex resume qa`" in shell("show", str(execution.id)).stdout
    assert json.loads(shell("resume", "qa", "--json").stdout) == {"paused": [], "reasons": {}}


def test_the_executions_of_a_tenant(client: Client, shell: Shell) -> None:
    client.deploy(QA)
    mine = client.submit("qa", {"question": "?"}, tenant="acme")
    client.submit("qa", {"question": "?"})
    listed = json.loads(shell("list", "--tenant", "acme", "--json").stdout)
    assert [(each["id"], each["tenant"]) for each in listed] == [(str(mine.id), "acme")]


def test_a_shell_completes_the_names_of_programs(client: Client, shell: Shell) -> None:
    client.deploy(QA)
    line = {"COMP_WORDS": "dspex run q", "COMP_CWORD": "2", "_DSPEX_COMPLETE": "bash_complete"}
    done = shell(**line)
    assert (done.returncode, done.stdout, done.stderr) == (0, "plain,qa\n", "")
    assert shell(**line | {"COMP_WORDS": "dspex pause z"}).stdout.strip() == ""


def test_audit_verify(client: Client, database: Database, shell: Shell) -> None:
    client.deploy(QA)
    ids = [client.submit("qa", {"question": "?"}).id for _ in range(3)]
    whole = shell("audit", "verify")
    assert (whole.returncode, whole.stdout) == (0, "3 trails verified, 0 broken\n")
    with database.transaction() as connection:
        for statement in (
            "ALTER TABLE dspex.audit_events DISABLE TRIGGER USER",
            f"UPDATE dspex.audit_events SET events = '[]' WHERE execution_id = '{ids[1]}'",
            "ALTER TABLE dspex.audit_events ENABLE TRIGGER USER",
        ):
            connection.execute(text(statement))
    broken = shell("audit", "verify", "--json")
    assert broken.returncode == 1
    fault = "entry 1 was changed: its hash does not match its content"
    assert json.loads(broken.stdout) == {"verified": 3, "broken": [{"id": str(ids[1]), "faults": [fault]}]}
    assert f"{ids[1]}  {fault}\n3 trails verified, 1 broken\n" == shell("audit", "verify", "--program", "qa").stdout
    assert shell("audit", "verify", "--since", "2999-01-01").stdout == "0 trails verified, 0 broken\n"


def test_audit_anchor(shell: Shell, hook: Any, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{hook.server_port}/notary"
    made = json.loads(shell("audit", "anchor", "--file", "anchors.jsonl", "--url", url, "--json").stdout)
    assert json.loads((tmp_path / "anchors.jsonl").read_text()) == made
    assert [json.loads(body) for _, body in hook.posts] == [made]
    as_it_was = shell("audit", "verify", "--anchor", "anchors.jsonl")
    assert as_it_was.returncode == 0
    assert "0 of 0 executions are on days that are as they were, 0 days differ, 0 are not known" in as_it_was.stdout
    (tmp_path / "anchors.jsonl").write_text(json.dumps(made | {"days": {"2026-01-01": [1, "00"]}}))
    damaged = shell("audit", "verify", "--anchor", "anchors.jsonl")
    assert (damaged.returncode, damaged.stdout) == (1, "")
    assert "anchors.jsonl" in damaged.stderr
    not_sent = shell("audit", "anchor", "--url", f"http://127.0.0.1:{free_port()}/notary")
    assert not_sent.returncode == 1
    assert not_sent.stderr.startswith("export_failed: the anchor could not be sent to 127.0.0.1: ")
