"""Settings for retention: how long data is kept in Postgres."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field

__all__ = ["StorageSettings", "storage_faults"]


class StorageSettings(BaseModel):
    """Retention."""

    retention_days: int | None = Field(
        None, ge=1, le=36_500, description="After how many days settled executions are removed. Not set: never."
    )
    audit_retention_days: int | None = Field(
        None,
        ge=1,
        le=36_500,
        description="After how many days audit trails are removed, if they are kept longer than executions.",
    )
    request_retention_days: int | None = Field(
        None,
        ge=1,
        le=36_500,
        description="After how many days the requests to models and the arguments of tools are removed that programs "
        'with `record="full"` keep, if sooner than executions.',
    )
    retention_export: Path | None = Field(
        None, description="A directory. Audit trails are removed only after they are exported to a file in it."
    )

    @property
    def audit_kept_days(self) -> int | None:
        """How many days audit trails are kept: as long as executions, unless set otherwise."""
        return self.retention_days if self.audit_retention_days is None else self.audit_retention_days


def storage_faults(settings: StorageSettings) -> list[str]:
    """Faults in the combination of these settings."""
    days, audit = settings.retention_days, settings.audit_retention_days
    faults = []
    if audit is not None and days is None:
        faults.append(
            "DSPEX_AUDIT_RETENTION_DAYS is set but DSPEX_RETENTION_DAYS is not: audit trails cannot be removed before "
            "executions"
        )
    if audit is not None and days is not None and audit < days:
        faults.append(
            f"DSPEX_AUDIT_RETENTION_DAYS ({audit}) is less than DSPEX_RETENTION_DAYS ({days}): "
            "audit trails are kept at least as long as executions"
        )
    requests = settings.request_retention_days
    if requests is not None and days is not None and requests > days:
        faults.append(
            f"DSPEX_REQUEST_RETENTION_DAYS ({requests}) is more than DSPEX_RETENTION_DAYS ({days}): "
            "requests are removed with their executions"
        )
    if settings.retention_export is not None and not settings.retention_export.is_absolute():
        faults.append(
            "DSPEX_RETENTION_EXPORT is not an absolute path: its meaning would depend on the working directory of "
            "each worker"
        )
    return faults
