"""The groups of checks: the twelve requirements, then what operating the deployment takes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from types import ModuleType

from dspex.operations.doctor.check import Check
from dspex.operations.doctor.operations import backup_checks as backups
from dspex.operations.doctor.operations import clock_checks as clocks
from dspex.operations.doctor.operations import model_checks as models
from dspex.operations.doctor.operations import monitoring_checks as monitoring
from dspex.operations.doctor.operations import postgres_checks as postgres
from dspex.operations.doctor.operations import redis_checks as redis
from dspex.operations.doctor.operations import security_checks as security
from dspex.operations.doctor.operations import storage_checks as storage
from dspex.operations.doctor.operations import version_checks as versions
from dspex.operations.doctor.operations import work_checks as work
from dspex.operations.doctor.operations import worker_checks as workers
from dspex.operations.doctor.requirements import action_checks as actions
from dspex.operations.doctor.requirements import adapter_checks as adapters
from dspex.operations.doctor.requirements import configuration_checks as configuration
from dspex.operations.doctor.requirements import documentation_checks as documentation
from dspex.operations.doctor.requirements import host_checks as host
from dspex.operations.doctor.requirements import integration_checks as integration
from dspex.operations.doctor.requirements import performance_checks as performance
from dspex.operations.doctor.requirements import resource_checks as resources
from dspex.operations.doctor.requirements import signature_checks as signatures
from dspex.operations.doctor.requirements import testing_checks as testing
from dspex.operations.doctor.requirements import type_checks as types
from dspex.operations.doctor.requirements import wire_checks as wire

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
    _requirement(signatures, "Signature system"),
    _requirement(host, "Worker host", Wave.TRY),
    _requirement(adapters, "Adapter pattern"),
    _requirement(resources, "Signatures, programs and executions as stored", Wave.TRY),
    _requirement(types, "Type system"),
    _requirement(actions, "Manual actions", Wave.TRY),
    _requirement(wire, "Wire protocol"),
    _requirement(testing, "Testing infrastructure", Wave.TRY),
    _requirement(configuration, "Configuration"),
    _requirement(integration, "Integration, end to end", Wave.TRY),
    _requirement(performance, "Performance", Wave.MEASURE),
    _requirement(documentation, "Documentation"),
    _group(versions, "Versions and schema"),
    _group(clocks, "Clocks"),
    _group(postgres, "Postgres"),
    _group(redis, "Redis"),
    _group(workers, "Workers and duties"),
    _group(models, "Programs and models"),
    _group(work, "Work under way"),
    _group(storage, "Partitions, growth and retention"),
    _group(backups, "Backups"),
    _group(monitoring, "Monitoring and alerts"),
    _group(security, "Security"),
)
