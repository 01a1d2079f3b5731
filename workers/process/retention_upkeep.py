"""Upkeep of the database, as a task of beat."""

from __future__ import annotations

import logging

from dspex.operations.retention.upkeep import upkeep
from dspex.settings import Settings
from dspex.store.database import Database

__all__ = ["keep_up"]

log = logging.getLogger("dspex.workers")


def keep_up(settings: Settings) -> str:
    """Do each step that is due and log it. Returns a summary. Raises BackendUnavailable."""
    database = Database(settings.backends().database_url, pool_size=1, application_name="dspex upkeep")
    done = waits = 0
    try:
        for step in upkeep(database, settings):
            log.log(logging.WARNING if step.waits else logging.INFO, "upkeep: %s", step.what)
            done, waits = done + (not step.waits), waits + step.waits
    finally:
        database.close()
    return f"{done} done, {waits} to be tried again"
