"""Settings of what is kept in Postgres, and for how long."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field

__all__ = ["StorageSettings", "storage_faults"]


class StorageSettings(BaseModel):
    """Retention."""

    retention_days: int | None = Field(
        None, ge=1, le=36_500, description="Executions older than this go, once settled. Not set: all are kept."
    )
    audit_retention_days: int | None = Field(
        None,
        ge=1,
        le=36_500,
        description="The same for audit trails, to keep them longer than executions.",
    )
    retention_export: Path | None = Field(
        None, description="A directory: audit trails go only after they were exported to a file in it."
    )

    @property
    def audit_kept_days(self) -> int | None:
        """How long audit trails are kept: as long as executions, unless the settings say longer."""
        return self.retention_days if self.audit_retention_days is None else self.audit_retention_days


def storage_faults(settings: StorageSettings) -> list[str]:
    """What is wrong with these settings together."""
    days, audit = settings.retention_days, settings.audit_retention_days
    faults = []
    if audit is not None and days is None:
        faults.append("DSPEX_AUDIT_RETENTION_DAYS is set but DSPEX_RETENTION_DAYS is not: trails go after executions")
    if audit is not None and days is not None and audit < days:
        faults.append(
            f"DSPEX_AUDIT_RETENTION_DAYS ({audit}) is less than DSPEX_RETENTION_DAYS ({days}): "
            "the trail of an execution is kept at least as long as it is"
        )
    if settings.retention_export is not None and not settings.retention_export.is_absolute():
        faults.append("DSPEX_RETENTION_EXPORT is not an absolute path: it would depend on where a worker was started")
    return faults
