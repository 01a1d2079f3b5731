"""``dspex init`` and ``dspex import``: a new project, and an existing module as a program."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import dspy
import pytest
from click.testing import CliRunner, Result

from dspex.cli.main import cli
from dspex.client.client import Client
from dspex.settings import Backends
from tests.processes import run_module


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


@pytest.mark.usefixtures("fork_server")
def test_a_new_project_passes_its_own_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("init", "help-desk").exit_code == 0
    done = run_module(
        "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:schemathesis", environment={"PATH": "", "PYTHONPATH": "."},
        directory=tmp_path / "help-desk",
    )  # fmt: skip
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    project = tomllib.loads((tmp_path / "help-desk" / "pyproject.toml").read_text())["project"]
    installed = {*project["dependencies"], *project["optional-dependencies"]["test"]}
    assert {"dspex[worker]", "dspex[embedded]"} <= installed, "what `dspex up` needs, which is the next step"
    again = run("init", "help-desk")
    assert (again.exit_code, "already" in again.output) == (2, True)


@pytest.mark.parametrize("name", ["workers", "class", "2nd"])
def test_a_project_has_a_name_that_can_be_imported(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("init", name).exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_an_existing_module_is_a_program(backends: Backends, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPEX_DATABASE_URL", backends.database_url)
    monkeypatch.setenv("DSPEX_BROKER_URL", backends.broker_url)
    done = run("import", "tests.compat.patterns.composition:Pipeline", "--model", "openai/test", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    program = client.program("Pipeline")
    assert (program.version, program.module) == (found["version"], "tests.compat.patterns.composition:Pipeline")
    assert [field.name for field in program.signature.input_fields] == ["question"]
    assert [field.name for field in program.signature.output_fields] == ["answer"]
    assert found["derived_from"]["answer"].startswith("output of answer")
    assert len(found["predictors"]) == 2


def test_types_and_descriptions_come_from_the_code() -> None:
    done = run("import", "tests.compat.patterns.values:TakesModels", "--model", "openai/test", "--dry-run", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert not found["deployed"]
    assert ":object" in found["signature"]


def test_a_model_that_the_code_configures_is_used_or_named_in_a_warning() -> None:
    pipeline = "tests.compat.patterns.composition:Pipeline"
    with dspy.context(lm=dspy.LM("openai/configured")):
        taken = run("import", pipeline, "--dry-run")
        replaced = run("import", pipeline, "--dry-run", "--model", "openai/other")
    assert "openai/configured  (not deployed)" in taken.output
    assert "configures DSPy with openai/configured; workers run it on openai/other" in replaced.output


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("tests.own_programs", "package.module:Class"),
        ("tests.own_programs:Nothing", "cannot be imported"),
        ("tests.own_programs:Support", "without arguments"),
        ("tests.own_programs:no_module", "no dspy.Module"),
        ("tests.own_programs:Counting", "name its model"),
    ],
)
def test_what_cannot_be_imported_is_explained(reference: str, words: str) -> None:
    done = run("import", reference, "--dry-run")
    assert (done.exit_code, words in done.output) == (2, True), done.output
