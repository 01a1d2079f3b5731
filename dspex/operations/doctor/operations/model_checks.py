"""Programs and models: deployed programs can run, models can be reached, keys are set, spending is limited."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from dspex.operations.doctor.check import Finding, Need, check, counted, met, not_applicable, not_met, warning
from dspex.operations.doctor.deployment import Deployment
from dspex.program.adapters import adapters
from dspex.program.program import LOCAL_MODEL, Program
from dspex.settings import variable
from dspex.store.facts import work_facts
from dspex.store.workers import refused_modules

REACH_SECONDS = 4.0
#: Addresses that are tried at most.
MOST = 50


@check("Every deployed program can be read", Need.SCHEMA, fix="upgrade this machine: a newer DSPex deployed them")
def readable(deployment: Deployment) -> Finding:
    """This version can read every deployed program."""
    stored = deployment.ask(work_facts.count_programs)
    read = len(deployment.programs)
    if read != stored:
        return not_met(f"{read} of {stored} programs")
    return met(counted(read, "program")) if stored else not_applicable("no program is deployed")


@check("Models can be reached", Need.SCHEMA, fix="start the model's server, or correct the program's api_base")
def reachable(deployment: Deployment) -> Finding:
    """Each address that a deployed program names answers HTTP from this machine; its key is not tried, because a
    request may cost money. For providers' own addresses see the workers' health: `dspex health`."""
    bases = sorted({program.api_base for program in _calling(deployment) if program.api_base})[:MOST]
    if not bases:
        return not_applicable("no program names an address")
    with ThreadPoolExecutor(len(bases)) as pool:
        answers = dict(zip(bases, pool.map(_fault, bases), strict=True))
    if silent := [f"{_shown(base)} ({fault})" for base, fault in answers.items() if fault]:
        return not_met("; ".join(silent))
    return met(", ".join(map(_shown, bases)))


@check("Workers have the programs' keys", Need.SCHEMA, fix="set the variable where the workers run, and restart them")
def keys(deployment: Deployment) -> Finding:
    """Each variable that a program names for a key or a header of its models is set for the workers of this machine, as
    far as can be seen, and no execution failed for lack of a key within a day. Values are not read."""
    wanted = {name: program.name for program in _calling(deployment) for name in program.secret_names}
    if not wanted:
        return not_applicable("no program names a key")
    seen = list(_environments(deployment))
    lacking = [
        f"{name} (program {program})"
        for name, program in wanted.items()
        if any(not {name, f"{name}_FILE", variable("secrets")} & environment for environment in seen)
    ]
    failed = sorted(deployment.ask(work_facts.programs_refused_by_provider) & set(wanted.values()))
    if wrong := lacking + [f"program {program} was refused by its provider" for program in failed]:
        return not_met("; ".join(wrong))
    if not seen:
        return not_applicable("no worker of this user runs here; no execution failed for lack of a key within a day")
    return met(f"{', '.join(wanted)} for {counted(len(seen), 'worker')} on this machine")


@check(
    "Code of programs is allowed", Need.SCHEMA,
    fix="set DSPEX_PROGRAM_PACKAGES where the workers run, and restart them",
)  # fmt: skip
def packages(deployment: Deployment) -> Finding:
    """Every live worker allows the packages that deployed programs load code from: they are in its
    DSPEX_PROGRAM_PACKAGES. Without a worker, the setting here is checked."""
    named = {module for program in deployment.programs for module in program.own_modules}
    if not named:
        return not_applicable("no program loads code of its own")
    here = [{"program_packages": deployment.settings.program_packages}]
    allowing = deployment.live_workers or here
    refused = {name for program in deployment.programs for each in allowing for name in refused_modules(program, each)}
    where = "by each live worker" if deployment.live_workers else "here"
    if refused:
        return warning(f"not allowed {where}: {', '.join(sorted(refused))}")
    return met(f"{', '.join(sorted(named))}: allowed {where}")


@check("Spending is limited", Need.SCHEMA, fix="deploy with limits=dspex.Limits(max_cost_usd=…)")
def budgets(deployment: Deployment) -> Finding:
    """In production a program that calls a paid model has a budget, which stops a loop of submits."""
    calling = [program for program in _calling(deployment) if program.model != LOCAL_MODEL]
    if not calling:
        return not_applicable("no program calls a paid model")
    endless = sorted(program.name for program in calling if program.limits.max_cost_usd is None)
    evidence = f"without max_cost_usd: {', '.join(endless)}"
    if endless:
        return (warning if deployment.production else not_applicable)(f"{evidence}; production needs it")
    return met(f"{counted(len(calling), 'program')} with a budget")


def _calling(deployment: Deployment) -> list[Program]:
    """The programs that call models."""
    known = adapters()
    return [
        program
        for program in deployment.programs
        if program.model and any(name in known and known[name].capabilities.calls_models for name in program.adapters)
    ]


def _fault(base: str) -> str | None:
    """Why the address does not answer; None for any HTTP answer."""
    parts = urlsplit(base)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=REACH_SECONDS)
    try:
        connection.request("GET", f"{parts.path.rstrip('/')}/models", headers={"User-Agent": "dspex-doctor"})
        connection.getresponse()
    except (OSError, HTTPException) as error:
        return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    finally:
        connection.close()
    return None


def _shown(base: str) -> str:
    parts = urlsplit(base)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def _environments(deployment: Deployment) -> Iterator[set[str]]:
    """The names of the environment variables of each worker on this machine that this user may inspect."""
    try:
        import psutil
    except ImportError:
        return
    for worker in deployment.live_workers:
        if worker["host"] == socket.gethostname() and worker["pid"] != os.getpid():
            with suppress(psutil.Error):
                yield set(psutil.Process(worker["pid"]).environ())
