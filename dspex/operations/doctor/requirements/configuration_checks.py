"""Configuration: settings are valid, known, private, and fit the profile."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from dspex.operations.doctor.check import Finding, Need, check, met, not_applicable, not_met, warning
from dspex.operations.doctor.deployment import Deployment
from dspex.program.worker_package import hidden_package
from dspex.settings import unknown_variables
from dspex.settings.setting_names import TOML


@check("The settings are valid", fix="correct the named settings; docs/reference/settings.md describes each")
def settings(deployment: Deployment) -> Finding:
    """Every setting can be read and is within its bounds. With invalid settings nothing starts."""
    if deployment.faults:
        return not_met("; ".join(deployment.faults))
    given = sorted(deployment.settings.model_fields_set)
    return met(f"profile {deployment.settings.env}; set here: {', '.join(given) or 'nothing'}")


@check("Every DSPEX_* variable is a setting", fix="correct its name, or remove it from the environment")
def variables(_deployment: Deployment) -> Finding:
    """A variable with a misspelt name is not read, and the setting it was meant for keeps its default."""
    unknown = unknown_variables()
    return warning("; ".join(unknown)) if unknown else met("none unknown")


@check("The profile fits", Need.SETTINGS, fix="set DSPEX_ENV=production in production")
def profile(deployment: Deployment) -> Finding:
    """Servers on other machines and other people's work are production: no default URLs, no failpoints."""
    own = deployment.settings.database_url is None
    if deployment.production:
        return met("production: no default URLs, no failpoints")
    if own:
        return met(f"{deployment.settings.env}, on the embedded stack")
    return met(f"{deployment.settings.env}, on its own servers")


@check("No package of yours is named workers", fix="rename it if programs should load code from it")
def package_name(_deployment: Deployment) -> Finding:
    """DSPex's processes have a package of this name, which hides another one in the working directory or installed."""
    found = hidden_package()
    return met("none") if found is None else warning(f"hidden in DSPex's processes: {found}")


@check("dspex.toml is private if it holds a password", fix="chmod 600 dspex.toml")
def file_mode(_deployment: Deployment) -> Finding:
    """A settings file that holds a password or a key is readable by its owner only."""
    path = Path(TOML)
    if os.name != "posix" or not path.is_file():
        return not_applicable(f"no {TOML} in {Path.cwd()}")
    text = path.read_text(errors="replace")
    if not any(word in text for word in ("_url", "_key", "password", "secret")):
        return met("it holds no secret")
    mode = stat.S_IMODE(path.stat().st_mode)
    return not_met(f"mode {mode:04o}: others may read it") if mode & 0o077 else met(f"mode {mode:04o}")


@check(
    "Leases and deadlines fit together",
    Need.SETTINGS,
    fix="see docs/reference/settings.md: grace_seconds, watchdog_seconds, lease_seconds",
)
def times(deployment: Deployment) -> Finding:
    """A worker's lease is shorter than its watchdog's wait: else the worker ends itself before it is declared dead."""
    given = deployment.settings
    evidence = (
        f"lease {given.lease_seconds:g} s, watchdog {given.watchdog_seconds:g} s, grace {given.grace_seconds:g} s"
    )
    return met(evidence) if given.watchdog_seconds > given.lease_seconds else warning(evidence)
