"""The models that deployed programs use, as a worker sees them: is there a key, and does the address answer?

The check costs nothing: it connects to the address and verifies its certificate. Whether the model behind it answers
is known from the executions that ended lately.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from dspex.errors import BackendUnavailable, ConfigurationError
from dspex.operations.health.check_groups import CHECK_SECONDS, CheckResult, CheckRound, ComponentGroup
from dspex.operations.health.conditions import MODEL, Condition
from dspex.program.program import LOCAL_MODEL
from dspex.settings import Secrets, Settings
from dspex.store.database import Database
from dspex.store.operations import health
from dspex.store.operations.health import ModelInUse

__all__ = ["models_group"]

CONNECT_SECONDS = 2.0
#: How many endpoints one check covers.
MOST_ENDPOINTS = 30
#: Error codes of failures that the model or its endpoint caused.
_THE_MODELS = frozenset({"authentication", "billing", "model_timeout", "provider_unavailable", "rate_limited"})


@dataclass(frozen=True, slots=True)
class ModelAddress:
    """A model at an address, and the programs that use it."""

    model: str
    api_base: str | None
    uses: Sequence[ModelInUse]

    @property
    def name(self) -> str:
        host = urlsplit(self.api_base).netloc.rpartition("@")[2] if self.api_base else ""
        return f"{MODEL}{self.model}" + (f" at {host}" if host else "")

    @property
    def is_providers(self) -> bool:
        """Whether lm15 calls it at its provider's own address."""
        return self.api_base is None and self.model != LOCAL_MODEL and not self.model.startswith("litellm/")


def models_group(settings: Settings) -> ComponentGroup:
    """The group of the models in use: ``models``, and a component for each endpoint."""
    return ComponentGroup(("models",), partial(_run, settings), "see the log of the worker")


def _run(settings: Settings, round: CheckRound) -> None:
    database = Database(settings.backends().database_url, pool_size=1, application_name="dspex health")
    try:
        endpoints = _endpoints(database.run(health.models_in_use))
    except BackendUnavailable:
        round.check(
            "models",
            lambda: CheckResult(Condition.UNKNOWN, {"error": "cannot be checked without postgres"}, "see postgres"),
        )
        return
    finally:
        database.close()
    seen_by = f"{socket.gethostname()}:{os.getpid()}"
    round.facts["seen_by_workers"] = {}  # what was seen here comes first
    round.check("models", lambda: CheckResult(Condition.HEALTHY, {"endpoints": len(endpoints), "seen_by": seen_by}))
    looks = [
        threading.Thread(target=round.check, args=(each.name, partial(_look, each, settings, seen_by)), daemon=True)
        for each in endpoints[:MOST_ENDPOINTS]
    ]
    for look in looks:
        look.start()
    for look, endpoint in zip(looks, endpoints, strict=False):
        look.join(max(round.began + CHECK_SECONDS - 0.3 - time.monotonic(), 0))
        if look.is_alive():  # most likely the lookup of its name: connecting has its own limit
            error = {"error": "its name or its address does not answer", "seen_by": seen_by}
            late = CheckResult(Condition.UNHEALTHY, error, "see the name server and the network of the workers")
            round.results.setdefault(endpoint.name, (late, (time.monotonic() - round.began) * 1000))


def _endpoints(uses: Iterable[ModelInUse]) -> list[ModelAddress]:
    found: dict[tuple[str, str | None], list[ModelInUse]] = {}
    for use in uses:
        found.setdefault((use.model, use.api_base), []).append(use)
    return [ModelAddress(model, api_base, uses) for (model, api_base), uses in found.items()]


def _look(endpoint: ModelAddress, settings: Settings, seen_by: str) -> CheckResult:
    failures: dict[str, int] = {}
    for use in endpoint.uses:
        for code, count in use.failures.items():
            if code in _THE_MODELS:
                failures[code] = failures.get(code, 0) + count
    details: dict[str, Any] = {
        "programs": [use.program for use in endpoint.uses],
        "completed": sum(use.completed for use in endpoint.uses),
        "failures": failures,
        "call_average_ms": endpoint.uses[0].average_ms,
        "seen_by": seen_by,
    }
    try:
        if missing := _missing_keys(endpoint, settings):
            details["error"] = f"no key: {' or '.join(missing)} is not set"
            return CheckResult(Condition.UNHEALTHY, details, "set it where workers run, and restart them")
        address = _address(endpoint, settings)
    except ConfigurationError as error:
        details["error"] = str(error)
        return CheckResult(Condition.UNHEALTHY, details, "correct the program's model, or the worker's settings")
    if address is not None:
        details["address"] = _shown(address)
        try:
            details["connect_ms"] = _connect(address, settings)
        except OSError as error:
            details["error"] = f"{details['address']} is out of reach: {_reason(error)}"
            return CheckResult(Condition.UNHEALTHY, details, "start the model's server, or fix the network to it")
    if failures and _failing_now(endpoint):
        details["error"] = "its last executions failed"
        return CheckResult(Condition.DEGRADED, details, "see `dspex list --status failed`, and `dspex show` of one")
    return CheckResult(Condition.HEALTHY, details)


def _missing_keys(endpoint: ModelAddress, settings: Settings) -> list[str]:
    """The names of missing keys. A provider without a named key needs one of its own; some need none."""
    secrets = Secrets(settings.secrets)
    named = {use.api_key_env for use in endpoint.uses if use.api_key_env}
    if missing := sorted(name for name in named if not secrets.get(name)):
        return missing
    if named or not endpoint.is_providers:
        return []
    from workers.lm.connect.model_access import key_names  # lm15 is for workers whose programs call models

    own = list(key_names(endpoint.model))
    return [] if any(secrets.get(name) for name in own) else own


def _address(endpoint: ModelAddress, settings: Settings) -> str | None:
    """The address that is called; None when it is known only during a call."""
    if endpoint.api_base is not None:
        return endpoint.api_base
    if endpoint.model == LOCAL_MODEL:
        return settings.local_model_url
    if not endpoint.is_providers:
        return None
    from workers.lm.connect.model_access import address

    return address(endpoint.model)


def _connect(address: str, settings: Settings) -> float:
    """Connect, through the environment's proxy if there is one, and verify the certificate. Returns milliseconds."""
    parts = urlsplit(address)
    host, secure = parts.hostname or "", parts.scheme == "https"
    proxy = None if proxy_bypass(host) else getproxies().get(parts.scheme)
    if proxy is not None:
        parts, secure = urlsplit(proxy), False
    began = time.perf_counter()
    port = parts.port or (443 if parts.scheme == "https" else 80)
    with socket.create_connection((parts.hostname or "", port), timeout=CONNECT_SECONDS) as connection:
        if secure:
            context = ssl.create_default_context()
            if settings.ca_file is not None:
                context.load_verify_locations(settings.ca_file)
            context.wrap_socket(connection, server_hostname=host).close()
    return round((time.perf_counter() - began) * 1000, 3)


def _shown(address: str) -> str:
    """Host and port, without a user's name, a password or a query."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    return error.strerror or str(error) or type(error).__name__


def _failing_now(endpoint: ModelAddress) -> bool:
    """Whether the last of its executions that ended, failed."""
    answered = [use.answered_seconds_ago for use in endpoint.uses if use.answered_seconds_ago is not None]
    failed = [use.failed_seconds_ago for use in endpoint.uses if use.failed_seconds_ago is not None]
    return bool(failed) and (not answered or min(failed) < min(answered))
