"""Running DSPex: health, alerts, reports, audit, retention, backups, doctor, bench."""
