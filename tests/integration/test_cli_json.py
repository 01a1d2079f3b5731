"""What ``--json`` prints has the documented shape: docs/reference/cli.schema.json."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import best_match

import dspex
from docs.generate.cli import commands
from dspex.cli.main import cli
from dspex.client.client import Client
from dspex.settings import Backends
from tests.integration.test_cli import PROGRAMS, Shell
from tests.processes import WorkerProcess, environment_of

SCHEMA = json.loads(Path(__file__).parents[2].joinpath("docs/reference/cli.schema.json").read_text())


def check(shape: str, data: Any) -> None:
    schema = {"$ref": f"#/$defs/{shape}", "$defs": SCHEMA["$defs"]}
    fault = best_match(Draft202012Validator(schema, format_checker=FormatChecker()).iter_errors(data))
    assert fault is None, f"{shape}{fault.json_path}: {fault.message}"


@pytest.fixture
def json_of(backends: Backends, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command in this process, and gives what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DSPEX_DATABASE_URL", backends.database_url)
    monkeypatch.setenv("DSPEX_BROKER_URL", backends.broker_url)
    Path("programs.py").write_text(PROGRAMS)
    Path("rows.jsonl").write_text('{"question": "one"}\n{"question": 2}\n')
    Path("qa.sig").write_text("question, n: int = 3 -> answer")
    Path("wrong.sig").write_text("question -> ")

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(cli, [*arguments, "--json"], catch_exceptions=False)
        return done.stdout

    return run


def test_every_command_with_json_has_a_documented_shape() -> None:
    taking = {" ".join(path) for path, command in commands() if any("--json" in p.opts for p in command.params)}
    assert taking - set(SCHEMA["$defs"]) == set()
    Draft202012Validator.check_schema(SCHEMA)


def test_what_is_printed_has_its_shape(
    json_of: Callable[..., str], client: Client, start_worker: Callable[..., WorkerProcess]
) -> None:
    start_worker()
    first: list[tuple[str, ...]] = [
        ("compile", "qa.sig"), ("compile", "wrong.sig"), ("deploy", "programs.py"), ("run", "qa", "question=?"),
        ("batch", "qa", "rows.jsonl", "-o", "out.jsonl"),
    ]  # fmt: skip
    for arguments in first:
        check(arguments[0], json.loads(json_of(*arguments)))
    for line in json_of("run", "qa", "question=?", "--stream").splitlines():
        check("stream", json.loads(line))
    done = client.submit("qa", {"question": "?"})
    done.result(timeout=60)
    assert [call.replayed for call in done.calls] == [[]]
    failed = client.submit("doomed", {"question": "?"})
    with pytest.raises(dspex.ExecutionFailed):
        failed.result(timeout=60)
    queued, id = client.submit("qa", {"question": "?"}, run_at=failed.created_at.replace(year=2999)), str(failed.id)
    batch = client.submit_many("qa", [{"question": "?"}])
    then: list[tuple[str, ...]] = [
        ("show", id), ("show", id, "--calls"), ("show", str(done.id), "--calls"), ("list",),
        ("list", "--batch", str(batch.id)), ("list", "--error", "provider_unavailable", "--metadata", "a=b"),
        ("batches",), ("programs",), ("retry", "--batch", str(batch.id)), ("cancel", str(queued.id), id),
        ("cancel", "--batch", str(batch.id)), ("retry", id, str(queued.id)), ("retry", "--failed"), ("pause", "qa"),
        ("resume", "qa"), ("adapters",), ("workers",), ("config",), ("migrate",), ("health",), ("report",), ("alerts",),
        ("alerts", "check"), ("retention",),
    ]  # fmt: skip
    for arguments in then:
        check(arguments[0] if arguments[1:] != ("check",) else "alerts check", json.loads(json_of(*arguments)))
    for arguments in (
        ("create", "k", "--scope", "read", "--tenant", "acme", "--expires", "1d"),
        ("list",),
        ("revoke", "k"),
    ):
        check(f"keys {arguments[0]}", json.loads(json_of("keys", *arguments)))
    check_improvements(json_of, client, str(done.id))
    check("audit verify", json.loads(json_of("audit", "verify")))
    check("audit anchor", json.loads(json_of("audit", "anchor", "--file", "anchors.jsonl")))
    check("audit verify", json.loads(json_of("audit", "verify", "--anchor", "anchors.jsonl")))


def check_improvements(json_of: Callable[..., str], client: Client, judged: str) -> None:
    client.get(judged).feedback(score=1)
    other = client.deploy(replace(client.program("qa"), timeout=7), current=False).program.version
    arguments: tuple[str, ...]
    for arguments in (
        ("versions", "qa"), ("diff", "qa", client.program("qa").version, other), ("rollout", "qa", other),
        ("rollout", "qa", "--end"), ("dataset", "judged", "--from", "qa", "--feedback", "any"), ("dataset",),
        ("replay", "qa", other, "--limit", "2"), ("promote", "qa", other),
    ):  # fmt: skip
        check(arguments[0], json.loads(json_of(*arguments)))
    evaluations = [json.loads(json_of("evaluate", "qa", "judged", "--metric", "exact")) for _ in range(2)]
    for evaluation in evaluations:
        check("evaluate", evaluation)
    check("compare", json.loads(json_of("compare", *(evaluation["id"] for evaluation in evaluations))))


@pytest.mark.parametrize(
    ("arguments", "code"), [(("show", "x"), 2), (("list", "--limit", "x"), 2), (("run", "nobody"), 2), (("lst",), 2)]
)
def test_an_error_is_a_line_of_json(backends: Backends, tmp_path: Path, arguments: tuple[str, ...], code: int) -> None:
    done = Shell(backends, tmp_path)(*arguments, "--json")
    told = json.loads(done.stderr.splitlines()[-1])
    check("error", told)
    assert (done.returncode, told["exit_code"], done.stdout) == (code, code, "")


def test_a_reader_that_has_gone_is_no_error(backends: Backends, client: Client) -> None:
    reader = subprocess.Popen(
        [sys.executable, "-m", "dspex.cli", "list", "--json"],
        env=environment_of(backends, {}), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert reader.stdout is not None
    assert reader.stderr is not None
    reader.stdout.close()
    assert (reader.wait(60), reader.stderr.read()) == (141, b"")
    reader.stderr.close()
