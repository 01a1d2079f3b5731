"""The health check of a worker: the checks of a producer, and the models."""

from __future__ import annotations

import logging
from functools import partial

from dspex.errors import BackendUnavailable
from dspex.operations.health.backend_checks import backend_groups, gap_seconds
from dspex.operations.health.check_groups import HealthCheck
from dspex.operations.health.conditions import HealthReport
from dspex.operations.health.language_checks import language_group
from dspex.settings import Settings
from dspex.store.database import Database
from dspex.store.operations import health
from workers.observe.model_health import models_group

__all__ = ["check_and_record", "health_check"]

log = logging.getLogger("dspex.workers")


def health_check(settings: Settings, *, by_beat: bool = False) -> HealthCheck:
    """A check of everything that a worker can reach."""
    groups = backend_groups(settings.backends(), interval_seconds=settings.health_interval_seconds, by_beat=by_beat)
    gap = gap_seconds(settings.health_interval_seconds)
    return HealthCheck([*groups, language_group(), models_group(settings)], gap_seconds=gap)


def check_and_record(settings: Settings, check: HealthCheck, *, interval_seconds: float) -> HealthReport:
    """Check every component and store the report in Postgres; without Postgres it is only returned.

    The next check is due in ``interval_seconds``.
    """
    report = check.report(kept_seconds=0)
    kept = {**report.as_dict(), "interval_seconds": interval_seconds}
    database = Database(settings.backends().database_url, pool_size=1, application_name="dspex health")
    try:
        database.run(partial(health.record, overall=str(report.overall), worker_id=None, report=kept))
    except BackendUnavailable as error:
        log.warning("a health report is not stored: %s", error)
    finally:
        database.close()
    return report
