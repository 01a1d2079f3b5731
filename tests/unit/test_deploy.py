"""The deploy files name what exists: settings, commands, versions, each other."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from jsonschema import Draft7Validator

from dspex.cli.main import cli
from dspex.program.program import Program
from dspex.settings import Settings

ROOT = Path(__file__).parents[2]
MANIFESTS = sorted((ROOT / "deploy/kubernetes").rglob("*.yaml"))
CHART = ROOT / "deploy/helm"
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "deploy/Dockerfile"
FILES = [DOCKERFILE, COMPOSE, *MANIFESTS, CHART / "values.yaml", *sorted(CHART.glob("templates/*"))]
#: Names in secrets that are not settings of a process, but of the one that is given it under another name.
ROLES = {
    "DSPEX_MIGRATE_DATABASE_URL", "DSPEX_READER_DATABASE_URL", "DSPEX_READER_BROKER_URL", "DSPEX_PRODUCER_DATABASE_URL",
    "DSPEX_PRODUCER_BROKER_URL",
}  # fmt: skip


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.name))
def test_every_variable_is_a_setting(file: Path) -> None:
    known = {f"DSPEX_{name.upper()}" for name in Settings.model_fields}
    for name in set(re.findall(r"\bDSPEX_[A-Z_]+", file.read_text())) - ROLES:
        assert name.removesuffix("_FILE") in known, name


def commands() -> Iterator[tuple[str, list[str]]]:
    """The arguments that `dspex` is given, by who gives them."""
    for name, service in yaml.safe_load(COMPOSE.read_text())["services"].items():
        if "dspex" in str(service.get("image", "")):
            yield f"compose {name}", service["command"]
    for file in MANIFESTS:
        for given in yaml.safe_load_all(file.read_text()):
            for container in containers(given):
                yield f"kubernetes {container['name']}", container["args"]


def containers(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(manifest.get("spec", {}).get("template", {}).get("spec", {}).get("containers", []))


@pytest.mark.parametrize(("who", "arguments"), list(commands()))
def test_every_command_is_one(who: str, arguments: list[str]) -> None:
    context = click.Context(cli)
    command = cli.get_command(context, arguments[0])
    assert command is not None
    command.make_parser(context).parse_args(arguments[1:])  # raises for an option that does not exist


def test_only_workers_have_keys_of_models() -> None:
    compose = yaml.safe_load(COMPOSE.read_text())["services"]
    given = {name: [*service.get("environment", {}), *map(str.upper, service.get("secrets", []))]
             for name, service in compose.items() if "dspex" in str(service.get("image", ""))}  # fmt: skip
    for file in MANIFESTS:
        for manifest in yaml.safe_load_all(file.read_text()):
            for container in containers(manifest):
                files = [item["path"] for volume in manifest["spec"]["template"]["spec"].get("volumes", [])
                         for item in volume.get("secret", {}).get("items", [])]  # fmt: skip
                given[container["name"]] = [*(variable["name"] for variable in container.get("env", [])), *files]
    assert {name for name, names in given.items() if any("API_KEY" in each for each in names)} == {"worker"}
    assert {"beat", "flower", "migrate"} <= given.keys()


def test_the_command_line_sees_files_to_deploy() -> None:
    cli = yaml.safe_load(COMPOSE.read_text())["services"]["cli"]
    (volume,) = cli["volumes"]
    assert volume.endswith(f":{cli['working_dir']}:ro")
    folder = ROOT / "deploy/kubernetes/programs"
    (job,) = yaml.safe_load_all((folder / "deploy-programs.yaml").read_text())
    (container,) = containers(job)
    command, file = container["args"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in job["spec"]["template"]["spec"]["volumes"]}
    generated = {made["name"]: made["files"] for made in
                 yaml.safe_load((folder / "kustomization.yaml").read_text())["configMapGenerator"]}  # fmt: skip
    directory, _, name = file.rpartition("/")
    assert command == "deploy"
    assert generated[volumes[mounts[directory]]["configMap"]["name"]] == [name]
    deployed = runpy.run_path(str(folder / name))
    assert any(isinstance(value, Program) for value in deployed.values())


def test_the_chart_has_valid_values_and_the_version_of_the_manifests() -> None:
    """`make check-deploy` renders it with Helm, and compares it with the manifests."""
    chart, values = (yaml.safe_load((CHART / name).read_text()) for name in ("Chart.yaml", "values.yaml"))
    schema = json.loads((CHART / "values.schema.json").read_text())
    Draft7Validator.check_schema(schema)
    Draft7Validator(schema).validate(values)
    assert schema["properties"].keys() - {"global"} == values.keys()
    (image,) = yaml.safe_load((ROOT / "deploy/kubernetes/kustomization.yaml").read_text())["images"]
    assert (chart["appVersion"], values["image"]["repository"]) == (image["newTag"], image["newName"])


def test_the_image_has_the_versions_that_are_tested() -> None:
    tested, image = (
        set(re.findall(r"^(\S+==\S+)", (ROOT / lock).read_text(), re.MULTILINE))
        for lock in ("requirements.lock", "deploy/requirements.lock")
    )
    assert image
    assert image <= tested


def test_a_worker_and_a_gateway_have_longer_to_stop_than_their_work_to_finish() -> None:
    by_name = {file.stem: list(yaml.safe_load_all(file.read_text())) for file in MANIFESTS}
    grace = float(by_name["settings"][0]["data"]["DSPEX_GRACE_SECONDS"])
    assert by_name["worker"][0]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= grace + 60
    assert by_name["serve"][0]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= grace + 10
    compose = yaml.safe_load(COMPOSE.read_text())
    default = Settings.load(database_url=None, broker_url=None).grace_seconds
    assert float(compose["services"]["serve"]["stop_grace_period"].removesuffix("s")) >= default + 10
    worker = compose["services"]["worker"]
    stop = float(worker["stop_grace_period"].removesuffix("s"))
    assert stop >= float(worker["environment"]["DSPEX_GRACE_SECONDS"]) + 60
