"""The groups of checks: first the requirements, then operation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from types import ModuleType

from dspex.operations.doctor.check import Check
from dspex.operations.doctor.operations import (
    backup_checks,
    clock_checks,
    gateway_checks,
    model_checks,
    monitoring_checks,
    postgres_checks,
    redis_checks,
    security_checks,
    storage_checks,
    version_checks,
    work_checks,
    worker_checks,
)
from dspex.operations.doctor.requirements import (
    action_checks,
    adapter_checks,
    configuration_checks,
    host_checks,
    integration_checks,
    performance_checks,
    resource_checks,
    wire_checks,
)

__all__ = ["GROUPS", "CheckGroup", "Wave"]


class Wave(IntEnum):
    """When a group runs: first those that only read, then those that execute programs, then measurements."""

    LOOK = 1
    TRY = 2
    #: One check at a time, with nothing beside it.
    MEASURE = 3


@dataclass(frozen=True, slots=True)
class CheckGroup:
    """Checks that belong together. A ``requirement`` is one that DSPex was specified with."""

    name: str
    title: str
    checks: tuple[Check, ...]
    requirement: bool
    wave: Wave


def _group(
    name: str, module: ModuleType, title: str, wave: Wave = Wave.LOOK, *, requirement: bool = False
) -> CheckGroup:
    """The checks of a module; each is named ``group.check``."""
    found = (value for value in vars(module).values() if isinstance(value, Check))
    checks = tuple(replace(check, name=f"{name}.{check.name}") for check in found)
    return CheckGroup(name, title, checks, requirement, wave)


def _requirement(name: str, module: ModuleType, title: str, wave: Wave = Wave.LOOK) -> CheckGroup:
    return _group(name, module, title, wave, requirement=True)


GROUPS = (
    _requirement("host", host_checks, "Worker host", Wave.TRY),
    _requirement("adapters", adapter_checks, "Adapters"),
    _requirement("resources", resource_checks, "Programs and executions in Postgres", Wave.TRY),
    _requirement("actions", action_checks, "Manual actions", Wave.TRY),
    _requirement("wire", wire_checks, "Messages"),
    _requirement("configuration", configuration_checks, "Configuration"),
    _requirement("integration", integration_checks, "Integration, end to end", Wave.TRY),
    _requirement("performance", performance_checks, "Performance", Wave.MEASURE),
    _group("versions", version_checks, "Versions and schema"),
    _group("clocks", clock_checks, "Clocks"),
    _group("postgres", postgres_checks, "Postgres"),
    _group("redis", redis_checks, "Redis"),
    _group("workers", worker_checks, "Workers and their duties"),
    _group("models", model_checks, "Programs and models"),
    _group("work", work_checks, "Work under way"),
    _group("gateway", gateway_checks, "Schedules and webhooks"),
    _group("storage", storage_checks, "Partitions, growth and retention"),
    _group("backups", backup_checks, "Backups"),
    _group("monitoring", monitoring_checks, "Monitoring and alerts"),
    _group("security", security_checks, "Security"),
)
