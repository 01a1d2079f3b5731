"""The groups of checks: the twelve requirements, then what operating the deployment takes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from types import ModuleType

from dspex.operations.doctor.check import Check
from dspex.operations.doctor.operations import (
    backup_checks,
    clock_checks,
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
    documentation_checks,
    host_checks,
    integration_checks,
    performance_checks,
    resource_checks,
    signature_checks,
    testing_checks,
    type_checks,
    wire_checks,
)

__all__ = ["GROUPS", "Group", "Wave"]


class Wave(IntEnum):
    """When a group's checks are made: what is only looked at, what is tried on the deployment, what is measured."""

    LOOK = 1
    TRY = 2
    #: One at a time, with nothing beside it.
    MEASURE = 3


@dataclass(frozen=True, slots=True)
class Group:
    """Checks that belong together. A ``requirement`` is one of the twelve that DSPex was specified with."""

    name: str
    title: str
    checks: tuple[Check, ...]
    requirement: bool
    wave: Wave


def _group(module: ModuleType, title: str, wave: Wave = Wave.LOOK, *, requirement: bool = False) -> Group:
    checks = tuple(value for value in vars(module).values() if isinstance(value, Check))
    return Group(module.__name__.rpartition(".")[2], title, checks, requirement, wave)


def _requirement(module: ModuleType, title: str, wave: Wave = Wave.LOOK) -> Group:
    return _group(module, title, wave, requirement=True)


GROUPS = (
    _requirement(signature_checks, "Signature system"),
    _requirement(host_checks, "Worker host", Wave.TRY),
    _requirement(adapter_checks, "Adapter pattern"),
    _requirement(resource_checks, "Signatures, programs and executions as stored", Wave.TRY),
    _requirement(type_checks, "Type system"),
    _requirement(action_checks, "Manual actions", Wave.TRY),
    _requirement(wire_checks, "Wire protocol"),
    _requirement(testing_checks, "Testing infrastructure", Wave.TRY),
    _requirement(configuration_checks, "Configuration"),
    _requirement(integration_checks, "Integration, end to end", Wave.TRY),
    _requirement(performance_checks, "Performance", Wave.MEASURE),
    _requirement(documentation_checks, "Documentation"),
    _group(version_checks, "Versions and schema"),
    _group(clock_checks, "Clocks"),
    _group(postgres_checks, "Postgres"),
    _group(redis_checks, "Redis"),
    _group(worker_checks, "Workers and duties"),
    _group(model_checks, "Programs and models"),
    _group(work_checks, "Work under way"),
    _group(storage_checks, "Partitions, growth and retention"),
    _group(backup_checks, "Backups"),
    _group(monitoring_checks, "Monitoring and alerts"),
    _group(security_checks, "Security"),
)
